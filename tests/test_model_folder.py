"""Model folders from elsewhere, sealed as they are: what is not as declared is refused in one line before it is allocated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_help import save_model, save_original
from safetensors.numpy import load_file, save_file

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger import seal
from lstm_embed.model.folder import KIND, describe_model, load_model

Tensors = dict[str, np.ndarray]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(save_model(tmp_path / "model"))


def sealed_again(folder: Path) -> str:
    """Seal a folder that was tampered with, as whoever did it can."""
    manifest = json.loads((folder / "manifest.json").read_text())
    seal(str(folder), kind=KIND, fingerprint=manifest["fingerprint"], content=manifest["content"])
    return str(folder)


def with_config(folder: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config = change(config) or config
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    return sealed_again(folder)


def refused(path: str) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path in message
    return message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 65_536}, "order.backward_lstm.* is F32 of shape *; expected F32 of shape [262144"),
        ({"hidden_size": 300_000}, "config.json * hidden_size is 300000; expected 1 to 65,536"),
        ({"order_size": 10**9}, "order_size is 1000000000"),
        ({"order_size": 13}, "tensor order."),
        ({"spelling_size": 8}, "expected F32 of shape [56, 56]"),
        ({"max_tokens": 10**18}, "max_tokens is 1000000000000000000; expected 1 to 65,535"),
        ({"max_tokens": "many"}, "max_tokens is 'many'"),
        ({"recipe": "os.system"}, "recipe"),
        ({"more": 1}, "more"),
        ({"embedding": "both"}, "embedding is 'both'"),
    ],
)
def test_settings_that_are_not_those_of_the_weights_are_refused(
    folder: Path, settings: dict[str, Any], message: str
) -> None:
    found = refused(with_config(folder, lambda config: config["model"].update(settings)))
    assert all(part in found for part in message.split("*"))


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.pop("vocabulary") and None,
        lambda config: config.pop("tokenizer") and None,
        lambda config: config.update(model=[1]),
        lambda config: config.update(model={}),
        lambda config: config.update(tokenizer={"profile": "os.system"}),
        lambda config: config.update(provenance="me"),
        lambda config: config.update(vocabulary="ffff"),
        lambda config: [config],
        lambda config: "[" * 100_000,
        lambda config: "not JSON",
    ],
)
def test_a_config_that_says_something_else_is_refused(folder: Path, change: Callable[[Any], Any]) -> None:
    assert "damaged" in (message := refused(with_config(folder, change))) or "has fingerprint" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("word_vectors"), "does not hold word vectors for the"),
        (lambda tensors: tensors.pop("order.key.weight"), "lacks the tensor order.key.weight"),
        (lambda tensors: tensors.update(more=np.zeros(3, np.float32)), "holds a tensor more"),
        (lambda tensors: tensors.update(word_vectors=tensors["word_vectors"][1:]), "does not hold word vectors"),
        (lambda tensors: tensors.update(word_vectors=tensors["word_vectors"][0]), "does not hold word vectors"),
        (lambda tensors: tensors.update(word_vectors=np.zeros((2**40, 0), np.float32)), "does not hold word vectors"),
        (lambda tensors: tensors.update(spelling=tensors["spelling"].astype(np.float32)), "tensor spelling"),
        (lambda tensors: tensors["order.to_code.bias"].fill(np.nan), "holds NaN or infinite numbers"),
        (lambda tensors: tensors["word_vectors"].fill(np.inf), "holds NaN or infinite numbers"),
    ],
)
def test_weights_that_are_not_those_of_the_settings_are_refused(
    folder: Path, change: Callable[[Tensors], Any], message: str
) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    assert message in refused(sealed_again(folder))


def test_weights_of_another_recipe_are_refused(tmp_path: Path, folder: Path) -> None:
    other = Path(save_original(tmp_path / "original"))
    (folder / "config.json").write_bytes((other / "config.json").read_bytes())
    assert "tensor" in refused(sealed_again(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.slice(1), "expected padding and the 256 bytes"),
        (lambda table: table.slice(0, len(table) - 1), "has fingerprint"),
        (lambda table: table.drop_columns(["score"]), "its columns are piece: string, count: int64; expected those"),
        (lambda table: table.set_column(1, "count", pa.array([-1] * len(table))), "counts"),
        (lambda table: table.set_column(1, "count", table["score"]), "its columns are"),
        (lambda table: table.set_column(2, "score", pa.array([np.nan] * len(table), pa.float32())), "scores"),
        (lambda table: table.set_column(0, "piece", pa.array(["same"] * len(table))), "no repeated pieces"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(
    folder: Path, change: Callable[[pa.Table], pa.Table], message: str
) -> None:
    path = folder / "vocabulary.parquet"
    pq.write_table(change(pq.read_table(path)), path)
    assert message in refused(sealed_again(folder))


def test_a_vocabulary_of_absurd_size_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lstm_embed.corpus.vocabulary._MOST_PIECES", 100)
    with pytest.raises(InputError, match=r"it has \d+ pieces of .* bytes; expected at most 100 of"):
        Vocabulary.load(str(folder / "vocabulary.parquet"))


def test_a_description_has_all_settings_whatever_the_file_leaves_out(folder: Path) -> None:
    path = with_config(folder, lambda config: config["model"].pop("train_max_tokens") and None)
    described = describe_model(path)
    assert described["model"]["train_max_tokens"] == 32
    assert described["tokenizer"]["max_tokens"] == 512  # type: ignore[typeddict-item]
    assert load_model(path).tokenizer == described["tokenizer"]


def test_the_folder_of_a_run_names_the_model_in_it(folder: Path) -> None:
    with pytest.raises(InputError, match=r"is the folder of a training run; its model is in .*/model$"):
        load_model(str(folder.parent))
