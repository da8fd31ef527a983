"""Vectors kept fresh while a corpus changes, against a rebuild; and articles erased, looked for in every file.

    python tests/benchmarks/bench_fresh.py --articles simplewiki --model MODEL [--workers 2]

Changes 3 % of the articles, inserts a file in the middle, deletes ten articles, and embeds again in place, into a new folder
that reuses the old one, and from nothing. Fails where more than 4 % of the sentences are encoded, where rows or vectors are
not those of the rebuild, or where something of ten erased articles is left. Articles are JSON lines; without `--articles` and
`--model` both are made up.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from embedding_help import make_articles, save_model, write_articles

from lstm_embed.base import storage
from lstm_embed.corpus.input import find_files
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.embed import embed
from lstm_embed.embedding.erase import erase
from lstm_embed.embedding.vectors import Embeddings
from lstm_embed.stages.session import ray_session

CHANGED, DELETED, ERASED = 0.03, 10, 10
MOST_ENCODED = 0.04
VECTOR_TOLERANCE = 1e-6
LEAST_TEXT = 20
"""Characters of a text that is looked for in files other than parquet."""

Articles = dict[str, list[dict[str, Any]]]
"""Articles of each file, by its name."""


def read_corpus(path: str) -> Articles:
    """Read the articles of files of JSON lines."""
    files = find_files((path,))
    root = os.path.commonpath([storage.parent(file.path) for file in files])
    corpus = {}
    for file in files:
        with storage.open_stream(file.path) as stream:
            name = os.path.splitext(os.path.relpath(file.path, root))[0]
            corpus[name] = [json.loads(line) for line in stream.read().splitlines() if line]
    return corpus


def made_up_corpus() -> Articles:
    articles = make_articles(3000)
    return {f"{start:04d}": articles[start : start + 50] for start in range(0, len(articles), 50)}


def write_corpus(corpus: Articles, folder: Path) -> None:
    for name, articles in corpus.items():
        write_articles(folder / f"{name}.jsonl", articles)


def change_article(article: dict[str, Any]) -> dict[str, Any]:
    """Put a word before the last character of an article."""
    text = article["text"]
    return {**article, "text": f"{text[:-1]} changed{text[-1:]}"}


def change_corpus(corpus: Articles, rng: random.Random) -> Articles:
    """Return the corpus with some articles changed, a file inserted in the middle, and some articles deleted."""
    places = [(name, number) for name, articles in corpus.items() for number in range(len(articles))]
    chosen = rng.sample(places, DELETED + int(CHANGED * len(places)))
    deleted, changed = set(chosen[:DELETED]), set(chosen[DELETED:])
    made: Articles = {}
    for name, articles in corpus.items():
        made[name] = [
            change_article(article) if (name, number) in changed else article
            for number, article in enumerate(articles)
            if (name, number) not in deleted
        ]
    middle = sorted(corpus)[len(corpus) // 2]
    new = [corpus[name][number] for name, number in rng.sample(places, max(1, len(places) // 300))]
    made[f"{middle}-inserted"] = [
        {**article, "id": f"new-{article['id']}", "text": " ".join(reversed(article["text"].split()))}
        for article in new
    ]
    return made


def rows_of(output: str) -> Iterator[tuple[list[tuple[str, int]], np.ndarray]]:
    """Yield what identifies each row, and the vectors, in batches."""
    for table, vectors in Embeddings(output).batches(["article_id", "sentence"]):
        yield list(zip(table["article_id"].to_pylist(), table["sentence"].to_pylist(), strict=True)), vectors


def check_same_vectors(output: str, rebuilt: str, scratch: Path) -> str:
    """Check that two outputs hold the same set of (article, sentence, vector)."""
    expected = Embeddings(rebuilt)
    kept = np.memmap(scratch, np.float32, "w+", shape=(expected.num_rows, expected.dimension))
    place: dict[tuple[str, int], int] = {}
    for keys, vectors in rows_of(rebuilt):
        kept[len(place) : len(place) + len(keys)] = vectors
        place.update((key, number) for number, key in enumerate(keys, len(place)))
    assert len(place) == expected.num_rows == Embeddings(output).num_rows, "the outputs have other numbers of rows"
    same, largest, found = 0, 0.0, set()
    for keys, vectors in rows_of(output):
        other = kept[[place[key] for key in keys]]
        found.update(keys)
        same += int((vectors == other).all(axis=1).sum())
        largest = max(largest, float(np.abs(vectors - other).max(initial=0.0)))
    assert found == set(place), "the outputs have other rows"
    assert largest <= VECTOR_TOLERANCE, f"vectors differ by {largest}"
    scratch.unlink()
    return f"{len(place):,} rows, {same / len(place):.4%} of the vectors bit for bit, the others within {largest:.1e}"


def contents(output: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield article id and text of each row, and a hash of its vector."""
    for table, vectors in Embeddings(output).batches(["article_id", "text"]):
        hashes = [hashlib.blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors]
        yield from zip(table["article_id"].to_pylist(), table["text"].to_pylist(), hashes, strict=True)


def erase_and_look(output: str, rng: random.Random) -> str:
    """Erase some articles; check that none of their ids, texts and vectors is in a file of the folder."""
    erased = set(rng.sample(sorted({id_ for id_, _, _ in contents(output)}), ERASED))
    own = [(text, vector) for id_, text, vector in contents(output) if id_ in erased]
    texts, vectors = {text for text, _ in own}, {vector for _, vector in own}
    for id_, text, vector in contents(output):
        if id_ not in erased:  # what another article says too stays
            texts.discard(text)
            vectors.discard(vector)
    started = time.monotonic()
    summary = erase(output, sorted(erased))
    seconds = time.monotonic() - started
    assert summary.facts["articles erased"] == ERASED
    for id_, text, vector in contents(output):
        assert id_ not in erased
        assert text not in texts
        assert vector not in vectors
    parts = {part.path for part in Embeddings(output).parts}
    others = [str(path) for path in Path(output).rglob("*") if path.is_file() and str(path) not in parts]
    for path in others:
        data = Path(path).read_bytes()
        assert not path.endswith(".parquet"), f"{path} is in no manifest"
        assert not [text for text in texts if len(text) >= LEAST_TEXT and text.encode() in data], path
        assert not [id_ for id_ in erased if json.dumps(id_).encode() in data], path
    return (
        f"{ERASED} articles erased in {seconds:.1f} s ({summary.facts['parts rewritten']} of {len(parts)} parts rewritten); "
        f"{len(texts)} texts and {len(vectors)} vectors that only they had are in none of {len(parts) + len(others)} files"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--articles", help="file, folder or glob of JSON lines, plain or compressed")
    parser.add_argument("--model", help="model folder")
    parser.add_argument("--workers", default="1", help="model workers (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory(prefix="bench-fresh-") as temporary, ray_session():
        folder = Path(temporary)
        model = given.model or save_model(folder / "model")
        corpus = read_corpus(given.articles) if given.articles else made_up_corpus()
        write_corpus(corpus, folder / "in")
        config = EmbedConfig(
            model=model, input=(str(folder / "in"),), output=str(folder / "old"), num_workers=given.workers
        )
        before = embed(config)
        print(
            f"before: {before.rows:,} sentences of {sum(map(len, corpus.values())):,} articles, {before.seconds:.0f} s"
        )
        write_corpus(changed := change_corpus(corpus, rng), folder / "in")
        del corpus, changed
        into = dataclasses.replace(config, output=str(folder / "new"), reuse=config.output)
        rebuild = dataclasses.replace(config, output=str(folder / "rebuilt"))
        for name, one in (("with --reuse", into), ("in place", config), ("rebuilt", rebuild)):
            done = embed(one)
            encoded = done.facts["encoded"] / done.rows
            print(
                f"{name}: {done.facts['encoded']:,} of {done.rows:,} sentences encoded ({encoded:.2%}), {done.seconds:.0f} s"
            )
            assert one is rebuild or encoded <= MOST_ENCODED, "too many"
        for name, one in (("with --reuse", into), ("in place", config)):
            print(f"{name}: {check_same_vectors(one.output, rebuild.output, folder / 'scratch')}")
        print(erase_and_look(config.output, rng))


if __name__ == "__main__":
    main()
