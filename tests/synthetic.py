"""Small made-up token sets and word vectors with something to learn in them, written as the real jobs write theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from safetensors.numpy import save

from lstm_embed.base import storage
from lstm_embed.corpus.pieces import MARK, SPECIAL_PIECES
from lstm_embed.corpus.token_set import FORMAT, KIND, SCHEMA, VOCABULARY, TokenSet, count_rows
from lstm_embed.corpus.vocabulary import FIRST_ID, FIRST_LEARNED, Vocabulary
from lstm_embed.ledger import PartRecord, PartStore, fingerprint, seal

NUM_TOPICS = 8


def write_token_set(
    path: str,
    *,
    num_articles: int = 60,
    num_parts: int = 3,
    num_words: int = 200,
    max_tokens: int = 20,
    max_sentences: int = 9,
    holdout_every: int = 10,
    seed: int = 0,
) -> TokenSet:
    """Write a finished token set: every article has a topic, and sentences take half their words from its words.

    Args:
        path: Its folder.
        num_articles: Articles of each part.
        num_parts: Parts.
        num_words: Words of the vocabulary, each a piece; they are all there is in the sentences.
        max_tokens: Most tokens of a sentence.
        max_sentences: Most sentences of an article.
        holdout_every: Every n-th article is held out.
        seed: Start of all chance.
    """
    path = storage.resolve(path)
    rng = np.random.default_rng(seed)
    tables = [_part(rng, num_articles, num_words, max_tokens, max_sentences) for _ in range(num_parts)]
    ids = np.concatenate([table["ids"].combine_chunks().flatten().to_numpy() for table in tables])
    vocabulary = make_vocabulary(num_words, np.bincount(ids - FIRST_LEARNED, minlength=num_words))
    vocabulary.save(storage.join(path, VOCABULARY))
    records = []
    for number, table in enumerate(tables):
        lengths = table["ids"].combine_chunks().value_lengths().to_numpy()
        holdout = count_rows(table["article"].to_numpy(), lengths, holdout_every)
        stats = {"holdout": holdout, "tokens": int(lengths.sum())}
        store = PartStore(path, f"{seed}-{number}")
        records.append(store.record(number, 0, last=True, rows=len(table), input_digest="none", stats=stats))
        store.write_table(records[-1], table)
    text = {"profile": "default", "language": "en", "split": "sentencex", "max_tokens": 512}
    write_manifest(
        path,
        KIND,
        records,
        settings={"text": text, "content_format": FORMAT},
        holdout_every=holdout_every,
        vocabulary=vocabulary.fingerprint,
        totals={"tokens": len(ids)},
    )
    return TokenSet.open(path)


def write_manifest(path: str, kind: str, records: Sequence[PartRecord], **more: Any) -> None:
    """Write the manifest of a folder of parts.

    Args:
        path: The folder.
        kind: What it holds.
        records: Those of its parts, in order.
        **more: What the manifest says besides.
    """
    manifest = {
        "format": 1,
        "kind": kind,
        "fingerprint": fingerprint([[asdict(record) for record in records], more]),
        "units": sorted({record.unit for record in records}),
        "rows": sum(record.rows for record in records),
        "totals": {},
        **more,
        "parts": [{"name": record.stem + ".parquet", **asdict(record)} for record in records],
    }
    storage.write_json(storage.join(path, "manifest.json"), manifest)


def vocabulary_of(words: Sequence[str], counts: npt.ArrayLike | None = None) -> Vocabulary:
    """Return a vocabulary of given words, which stay whole: their ids are `FIRST_LEARNED` and on.

    Behind them are their letters and the mark of a word's begin, so that other words are cut.

    Args:
        words: Distinct words.
        counts: Their counts, 1 each if there are none; all other pieces count 0.
    """
    letters = sorted({MARK, *"".join(words)})
    pieces = [*SPECIAL_PIECES, *(MARK + word for word in words), *letters]
    found = np.zeros(len(pieces), np.int64)
    found[FIRST_LEARNED : FIRST_LEARNED + len(words)] = 1 if counts is None else counts
    # As good a piece as any, so that a word is better whole.
    return Vocabulary(pieces, found, np.full(len(pieces), -5.0))


def make_vocabulary(num_words: int, counts: npt.ArrayLike | None = None) -> Vocabulary:
    """Return a vocabulary of made-up words."""
    return vocabulary_of([f"w{n}" for n in range(num_words)], counts)


def write_word_vectors(path: str, vocabulary: Vocabulary, dimension: int = 16, seed: int = 0) -> str:
    """Write a word vectors folder with random vectors; return its path."""
    path = storage.resolve(path)
    vectors = np.random.default_rng(seed).normal(size=(len(vocabulary), dimension)).astype(np.float32)
    vectors[:FIRST_ID] = 0.0
    storage.write_bytes(storage.join(path, "vectors.safetensors"), save({"vectors": vectors}))
    vocabulary.save(storage.join(path, VOCABULARY))
    storage.write_json(storage.join(path, "config.json"), {"dimension": dimension})
    seal(path, kind="word_vectors", fingerprint=fingerprint([seed, dimension, vocabulary.fingerprint]))
    return path


def _part(rng: np.random.Generator, num_articles: int, num_words: int, max_tokens: int, max_sentences: int) -> pa.Table:
    fields = [field for field in SCHEMA if field.name != "text"]
    columns: dict[str, list[object]] = {field.name: [] for field in fields}
    for article in range(num_articles):
        topic = rng.integers(NUM_TOPICS)
        words = np.arange(FIRST_LEARNED, FIRST_LEARNED + num_words)
        own = words[topic::NUM_TOPICS]
        position = 0
        for sentence in range(int(rng.integers(1, max_sentences + 1))):
            length = int(rng.integers(1, max_tokens + 1))
            ids = np.where(rng.random(length) < 0.5, rng.choice(own, length), rng.choice(words, length))
            row = {
                "article": article,
                "article_id": f"a{article}",
                "title": f"title {article}",
                "article_hash": article.to_bytes(16, "big"),
                "sentence": sentence,
                "start": position,
                "end": position + 5 * length,
                "ids": ids.astype(np.int32),
            }
            for name, value in row.items():
                columns[name].append(value)
            position += 5 * length + 1
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in fields}, pa.schema(fields))
