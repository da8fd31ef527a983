"""A small model, small corpora, and the jobs of vectors without Ray, for tests of what they write."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from stages_help import chunks_here, without_ray
from synthetic import vocabulary_of

from lstm_embed.base import storage
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.embedding.config import DecodeConfig, EmbedConfig, GroupConfig
from lstm_embed.model.config import ModelConfig, OriginalConfig
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.original import OriginalModel
from lstm_embed.model.sentence_model import SentenceModel

from conftest import ROOT, json_of

WORDS = [f"w{chr(97 + number // 20)}{chr(97 + number % 20)}" for number in range(200)]
VOCABULARY = vocabulary_of(WORDS, 20_000 // np.arange(1, 201))
TOKENIZER = {"profile": "default", "language": "en", "split": "sentencex", "drop_repeated": True, "max_tokens": 512}

NUM_ARTICLES = 60
"""Of the fixture `corpus`."""


def save_model(path: Path | str, seed: int = 0) -> str:
    """Write a model folder with random weights; return its path."""
    rng = np.random.default_rng(seed)
    config = ModelConfig(
        hidden_size=16, order_size=12, decoder_hidden_size=16, spelling_size=64, position_size=64, max_tokens=24
    )
    vectors = rng.normal(size=(len(VOCABULARY), 48))
    model = SentenceModel.start(config, vectors, VOCABULARY.counts, VOCABULARY.pieces, seed=seed)
    SentenceEncoder(model, VOCABULARY, dict(TOKENIZER)).save(str(path))
    return str(path)


def save_original(path: Path | str) -> str:
    """Write a model folder of the preset `original`, small and with random weights; return its path."""
    vectors = np.random.default_rng(0).normal(size=(len(VOCABULARY), 8))
    config = OriginalConfig(hidden_size=6, max_tokens=12)
    model = OriginalModel.start(config, vectors, VOCABULARY.counts, VOCABULARY.pieces)
    SentenceEncoder(model, VOCABULARY, dict(TOKENIZER)).save(str(path))
    return str(path)


def make_text(rng: np.random.Generator, num_sentences: int | None = None) -> str:
    """Return a text of some sentences, now and then one without a word."""
    number = int(rng.integers(1, 12)) if num_sentences is None else num_sentences
    sentences = []
    for _ in range(number):
        words = rng.choice(WORDS, int(rng.integers(1, 30)))
        sentence = " ".join(words) if rng.random() > 0.04 else "…"
        sentences.append(sentence.capitalize() + ".")
    return " ".join(sentences)


def make_articles(number: int, seed: int = 0, first: int = 0) -> list[dict[str, Any]]:
    """Return articles with ids, titles, texts, and three more values each."""
    rng = np.random.default_rng(seed)
    return [
        {
            "id": str(n),
            "title": f"Title {n}",
            "text": make_text(rng),
            "year": 1900 + n,
            "score": n / 7,
            "tags": ["a", f"t{n % 3}"],
        }
        for n in range(first, first + number)
    ]


def write_articles(path: Path | str, articles: Sequence[dict[str, Any]]) -> str:
    """Write articles as JSON lines; return the path."""
    text = "".join(json.dumps(article) + "\n" for article in articles)
    storage.write_bytes(str(path), text.encode())
    return str(path)


def embed_here(config: EmbedConfig, report: Reporter = SILENT, run_chunks: Any = chunks_here) -> Summary:
    """Run an embedding job in this process."""
    from lstm_embed.embedding.embed import embed

    with without_ray(run_chunks=run_chunks):
        return embed(config, report)


def decode_here(config: DecodeConfig, report: Reporter = SILENT, run_chunks: Any = chunks_here) -> Summary:
    """Run a decoding job in this process."""
    from lstm_embed.embedding.decode import decode

    with without_ray(run_chunks=run_chunks):
        return decode(config, report)


Config = TypeVar("Config", EmbedConfig, DecodeConfig, GroupConfig)


def change(config: Config, **fields: Any) -> Config:
    """Return a config with some fields replaced."""
    return dataclasses.replace(config, **fields)


def read_rows(output: Path | str) -> pa.Table:
    """Return all rows of an output in the order of its manifest."""
    manifest = json_of(storage.join(str(output), "manifest.json"))
    tables = []
    for part in manifest["parts"]:
        with storage.open_input(storage.join(str(output), "parts", part["name"])) as file:
            tables.append(pq.read_table(file))
    return pa.concat_tables(tables)


def matrix(table: pa.Table) -> np.ndarray:
    """Return the vectors of a table, shape (n, d)."""
    column = table["embedding"].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)


def assert_same_parts(output: Path | str, expected: Path | str) -> None:
    """Check that two outputs have the same parts; vectors may differ in their last bits, as other batches may round."""
    parts, others = part_bytes(output), part_bytes(expected)
    assert list(parts) == list(others)
    for name, data in parts.items():
        one, other = (pq.read_table(pa.py_buffer(found)) for found in (data, others[name]))
        assert one.schema.equals(other.schema, check_metadata=True)
        assert one.drop_columns(["embedding"]).equals(other.drop_columns(["embedding"]))
        np.testing.assert_allclose(matrix(one), matrix(other), atol=1e-6)


def part_bytes(output: Path | str) -> dict[str, bytes]:
    """Return the parts of an output by name."""
    return {
        storage.name(file.path): storage.read_bytes(file.path)
        for file in storage.list_files(storage.join(str(output), "parts"))
    }


def all_files(output: Path | str) -> dict[str, bytes]:
    """Return every file below a local folder, hidden ones too."""
    root = Path(output)
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def start_job(job: str, flags: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a job as a user does, in a process group of its own; it prints to a file, for what it leaves would hold a pipe."""
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *flags],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **environment},
        )


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a job and what it left behind when it was killed, as the end of its container does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
