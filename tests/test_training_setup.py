"""Where a run starts: weights of an earlier model."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from synthetic import write_token_set, write_word_vectors
from training_help import make_config, make_run, run_workers, write_data

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.model.folder import save_model
from lstm_embed.training import checkpoint
from lstm_embed.training.run import Run
from lstm_embed.training.session import LocalSession
from lstm_embed.training.setup import make_model, set_up, take_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, seed=15)
    return folder


def trained(data: Path, storage: Path) -> tuple[Run, Any, TokenSet]:
    config = make_config(data, storage, max_steps=6)
    run = make_run(config)
    worker = run_workers(config, run)[0]
    return run, worker.loop.learner.model, worker.tokens


@pytest.mark.parametrize("source", ["checkpoint", "run", "model"])
def test_a_new_run_starts_from_weights_of_any_kind_of_folder_on_a_grown_vocabulary(
    data: Path, tmp_path: Path, source: str
) -> None:
    run, model, tokens = trained(data, tmp_path / "runs")
    (Path(run.path) / "run.json").write_text("{}")
    path = {
        "checkpoint": checkpoint.list_checkpoints(run.path)[0],
        "run": run.path,
        "model": str(tmp_path / "model"),
    }[source]
    save_model(str(tmp_path / "model"), model, tokens.vocabulary, tokens.tokenizer)
    grown = tmp_path / "grown"
    # Other words, other counts, another order of ids.
    larger = write_token_set(str(grown / "tokens"), num_words=260, seed=5)
    write_word_vectors(str(grown / "vectors"), larger.vocabulary)
    new = make_config(grown, tmp_path / "runs", run_name="new", init_from=path)
    fresh = set_up(new, make_run(new), LocalSession(str(tmp_path / "x"))).loop.learner.model
    for name, parameter in checkpoint.trained_parameters(fresh).items():
        assert torch.equal(parameter, dict(model.named_parameters())[name]), name
    # What neighbours teach is of the new corpus and its words.
    assert not torch.equal(fresh.neighbours, model.neighbours)
    assert (fresh.neighbours - torch.eye(32)).norm() > 0.1


def test_weights_that_do_not_fit_are_refused(data: Path, tmp_path: Path) -> None:
    run, _, _ = trained(data, tmp_path / "runs")
    path = checkpoint.list_checkpoints(run.path)[0]
    for change in ({"hidden_size": 9}, {"decoder_hidden_size": 9}):
        other = dataclasses.replace(make_config(data, tmp_path).model, **change)
        model = make_model(make_config(data, tmp_path, model=other), TokenSet.open(str(data / "tokens")))
        with pytest.raises(InputError, match="do not fit"):
            take_weights(model, path)
    with pytest.raises(FileNotFoundError, match="--init-from"):
        take_weights(model, str(tmp_path / "nothing"))
    manifest = json.loads(Path(path, "manifest.json").read_text())
    for made_by, version in ((2, "0.2"), (1, "0.1")):
        manifest["content"]["format"] = made_by
        Path(path, "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=f"is a checkpoint of lstm_embed {re.escape(version)};"):
            take_weights(model, path)
