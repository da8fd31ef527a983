from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import json
import subprocess
import sys

import pytest

from lstm_embed.errors import InputError
from lstm_embed.model import config as config_module
from lstm_embed.model.config import PRESETS, ModelConfig


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", 0, "at least 1"),
        ("noise", 1.0, "at least 0 and below 1"),
        ("temperature", 0.0, "above 0"),
        ("temperature", float("nan"), "above 0"),
        ("pooling", "median", "weighted, mean, max, last"),
        ("num_negatives", 1.5, "type int"),
        ("skip_path", "yes", "type bool"),
        ("decoder_weight", -0.1, "at least 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_range_and_its_flag(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        ModelConfig(**{field: value})
    assert repr(value) in str(caught.value)
    assert expected in str(caught.value)
    assert "--" + field.replace("_", "-") in str(caught.value)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing is left to train on"):
        ModelConfig(decoder="none", contrast_weight=0.0)
    with pytest.raises(ValueError, match="--skip-path"):
        ModelConfig(lstm_path=False, skip_path=False)
    with pytest.raises(ValueError, match="there are no states"):
        ModelConfig(lstm_path=False, output="transfer")
    with pytest.raises(ValueError, match="--mask-padding"):
        ModelConfig(mask_padding=False)
    with pytest.raises(ValueError, match="--train-max-tokens 64"):
        dataclasses.replace(PRESETS["original"](), max_tokens=65)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_json(preset: str) -> None:
    config = PRESETS[preset]()
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_field_of_a_newer_version_is_refused_by_name() -> None:
    with pytest.raises(InputError, match="attention"):
        ModelConfig.from_dict({**ModelConfig().to_dict(), "attention": True})


def test_every_field_is_documented() -> None:
    (body,) = [
        node.body
        for node in ast.parse(inspect.getsource(config_module)).body
        if isinstance(node, ast.ClassDef) and node.name == "ModelConfig"
    ]
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.AnnAssign):
            assert isinstance(after, ast.Expr), ast.unparse(node)


def test_the_config_imports_neither_torch_nor_ray() -> None:
    code = "import sys, lstm_embed.model.config; sys.exit(bool({'torch', 'ray', 'gensim'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
