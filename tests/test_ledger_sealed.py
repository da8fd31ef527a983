"""Sealed folders: complete once they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.ledger import open_sealed, seal


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3"))


def test_a_sealed_folder_opens_and_a_damaged_unfinished_or_wrong_one_is_named(root: str) -> None:
    folder = storage.join(storage.resolve(root), "sealed")
    with pytest.raises(FileNotFoundError, match="no folder at"):
        open_sealed(folder, kind="model")
    storage.write_bytes(storage.join(folder, "weights", "w.bin"), b"12345")
    with pytest.raises(InputError, match="not a finished model folder"):
        open_sealed(folder, kind="model")
    seal(folder, kind="model", fingerprint="f", content={"n": 1})
    assert open_sealed(folder, kind="model")["content"] == {"n": 1}
    with pytest.raises(InputError, match="is a model folder; expected a word vectors folder"):
        open_sealed(folder, kind="word_vectors")
    storage.write_bytes(storage.join(folder, "weights", "w.bin"), b"1234x")
    with pytest.raises(InputError, match=r"w\.bin is damaged"):
        open_sealed(folder, kind="model")
    assert open_sealed(folder, kind="model", verify=False)["kind"] == "model"
    storage.remove(storage.join(folder, "weights", "w.bin"))
    with pytest.raises(InputError, match=r"w\.bin is missing"):
        open_sealed(folder, kind="model", verify=False)
    storage.write_bytes(storage.join(folder, "manifest.json"), b"{")
    with pytest.raises(InputError, match=r"manifest\.json is damaged"):
        open_sealed(folder, kind="model")


def test_a_pipe_in_place_of_a_sealed_file_counts_as_missing(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"12345")
    seal(str(tmp_path), kind="model", fingerprint="f")
    (tmp_path / "w.bin").unlink()
    os.mkfifo(tmp_path / "w.bin")
    with pytest.raises(InputError, match=r"w\.bin is missing"):
        open_sealed(str(tmp_path), kind="model")
