from __future__ import annotations

import ast
import inspect
import itertools
import json
import subprocess
import sys

import pytest

from lstm_embed.base.errors import InputError
from lstm_embed.model import config as config_module
from lstm_embed.model.config import PRESETS, ModelConfig, OriginalConfig, config_from_dict


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("hidden_size", 0, "1 to 65,536"),
        ("order_size", 1.5, "a valid integer"),
        ("spelling_size", 12, "a multiple of 8"),
        ("spelling_size", 520, "0 to 512"),
        ("position_size", 15, "a multiple of 2"),
        ("position_size", 0, "2 to 1,024"),
        ("word_constant", 0.0, "at least 1e-12"),
        ("order_share", 1.1, "to 1"),
        ("neighbour_strength", float("nan"), "at least 0"),
        ("embedding", "transfer", "'meaning', 'joined', 'exact' or 'order'"),
    ],
)
def test_a_wrong_value_is_named_with_its_range_and_its_flag(field: str, value: object, expected: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        ModelConfig(**{field: value})
    assert repr(value) in str(caught.value)
    assert expected in str(caught.value)
    assert "--model." + field.replace("_", "-") in str(caught.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_survives_json(preset: str) -> None:
    config = PRESETS[preset]()
    assert config_from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_original_is_a_recipe_of_its_own() -> None:
    config = PRESETS["original"]()
    assert isinstance(config, OriginalConfig)
    assert (config.padded_length, config.train_max_tokens, config.embedding) == (64, 64, "order")
    with pytest.raises(ValueError, match=r"max_tokens is 0; expected .*--model.max-tokens"):
        OriginalConfig(max_tokens=0)


def test_what_another_version_wrote_is_refused_by_name() -> None:
    for preset in PRESETS.values():
        with pytest.raises(InputError, match=r"has no field '(pooling|attention)'"):
            config_from_dict({**preset().to_dict(), "pooling": "max", "attention": True})
    # Whole, but for a field that this version added.
    values = ModelConfig(hidden_size=3).to_dict()
    assert config_from_dict({name: value for name, value in values.items() if name != "position_size"}).hidden_size == 3
    with pytest.raises(InputError, match="recipe is 'transformer'; expected one of default, original; it is damaged"):
        config_from_dict({**values, "recipe": "transformer"})
    with pytest.raises(InputError, match="recipe is None"):
        config_from_dict({"hidden_size": 3})


def test_every_field_is_documented() -> None:
    classes = [node for node in ast.parse(inspect.getsource(config_module)).body if isinstance(node, ast.ClassDef)]
    assert len(classes) == 2
    for node, after in itertools.chain.from_iterable(itertools.pairwise(one.body) for one in classes):
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            assert isinstance(after, ast.Expr), ast.unparse(node)


def test_the_config_imports_neither_torch_nor_ray() -> None:
    code = "import sys, lstm_embed.model.config; sys.exit(bool({'torch', 'ray', 'gensim'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
