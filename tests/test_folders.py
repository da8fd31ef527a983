"""Folders that versions wrote are read by this one; see `folders/build.py`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lstm_embed import SentenceEncoder
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.embedding.search import search
from lstm_embed.embedding.vectors import Embeddings, encode_queries
from lstm_embed.training import checkpoint
from lstm_embed.training.run import STEP, RunFolder, read_metrics
from lstm_embed.words.folder import WordVectors

from conftest import ROOT, run_job

VERSIONS = sorted(path for path in (ROOT / "tests/folders").iterdir() if path.is_dir() and path.name[0].isdigit())


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


def test_a_token_set_and_its_vocabulary_are_read(folder: Path) -> None:
    tokens = TokenSet.open(str(folder / "tokens"))
    rows = [row for part in range(len(tokens.parts)) for row in tokens.read_part(part).to_pylist()]
    assert len(rows) == tokens.num_rows == 72
    assert " ".join(tokens.vocabulary.words(rows[0]["ids"])) == "the old harbour number 0 was opened in spring"


def test_word_vectors_are_read(folder: Path) -> None:
    vectors = WordVectors.load(str(folder / "vectors"))
    assert vectors.vectors.shape == (len(vectors.vocabulary), 8)


def test_a_model_gives_the_vectors_that_were_stored_and_reads_them_back(folder: Path) -> None:
    embeddings = Embeddings(str(folder / "embeddings"))
    encoder = SentenceEncoder.load(str(folder / "runs/small/model"), embedding=embeddings.embedding)
    ((rows, stored),) = embeddings.batches(["text"])
    texts = rows["text"].to_pylist()
    assert np.allclose(encoder.encode(texts), stored, atol=1e-5)
    assert encoder.decode(stored[:1])[0].words  # what a model this small reads back
    ((hit, *_),) = search(embeddings, encode_queries(encoder, texts[3:4]), top_k=2)
    assert hit.row["text"] == texts[3]


def test_a_run_and_its_checkpoint_are_read(folder: Path) -> None:
    kept = RunFolder(str(folder / "runs/small"))
    run, done = kept.read(), kept.done()
    assert run is not None
    assert done is not None
    newest = checkpoint.newest(run.path, print, run)
    assert newest is not None
    assert newest.state.progress.step == done.step == run.end == 2
    assert [row[STEP] for row in read_metrics(run.path)] == [2]


@pytest.mark.parametrize(
    "name", ["tokens", "vectors", "runs/small", "embeddings", "groups", "decoded", "scores", "exported"]
)
def test_status_tells_how_each_folder_stands(folder: Path, name: str) -> None:
    told = run_job("status", str(folder / name)).stdout
    assert "yes" in told
    assert name.removeprefix("runs/") in told
