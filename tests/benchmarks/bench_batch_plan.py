"""What the batch plan of a very large token set costs: to start, to resume at 70 %, one buffer, one step.

The token set has real parts, but all hold the rows of a few. Writing 150 million sentences takes some minutes and 10 GB:

    python tests/benchmarks/bench_batch_plan.py --sentences 150000000
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic import make_vocabulary, write_manifest

from lstm_embed.corpus.token_set import FORMAT, KIND, SCHEMA, VOCABULARY, TokenSet, count_rows
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.ledger import PartStore
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.loader import Loader

ROWS = 65_536
DIFFERENT = 8
HOLDOUT_EVERY = 50


def write_large_token_set(path: str, num_sentences: int, num_words: int) -> TokenSet:
    """Write a token set of about that many sentences."""
    rng = np.random.default_rng(0)
    counts = np.bincount(_zipf(rng, 5_000_000, num_words) - FIRST_LEARNED, minlength=num_words)
    vocabulary = make_vocabulary(num_words, counts)
    vocabulary.save(f"{path}/{VOCABULARY}")
    tables = [_table(rng, num_words) for _ in range(DIFFERENT)]
    store, records = PartStore(path, "bench"), []
    for number in range(-(-num_sentences // ROWS)):
        table, stats = tables[number % DIFFERENT]
        records.append(store.record(number, 0, last=True, rows=ROWS, input_digest=str(number), stats=stats))
        store.write_table(records[-1], table)
    write_manifest(
        path,
        KIND,
        records,
        settings={"content_format": FORMAT, "text": {"profile": "default", "max_tokens": 512}},
        holdout_every=HOLDOUT_EVERY,
        vocabulary=vocabulary.fingerprint,
        totals={"tokens": sum(record.stats["tokens"] for record in records)},
    )
    return TokenSet.open(path)


def _table(rng: np.random.Generator, num_words: int) -> tuple[pa.Table, dict[str, Any]]:
    """Return the rows of a part, and their counts."""
    lengths = np.clip(rng.lognormal(3.0, 0.55, ROWS), 1, 250).astype(np.int64)
    article = np.repeat(np.arange(ROWS), rng.geometric(1 / 8, ROWS))[:ROWS].astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    schema = pa.schema([SCHEMA.field("article"), SCHEMA.field("ids")])
    values = pa.array(_zipf(rng, int(offsets[-1]), num_words), pa.int32())
    ids = pa.ListArray.from_arrays(pa.array(offsets), values, type=schema.field("ids").type)
    stats = {"holdout": count_rows(article, lengths, HOLDOUT_EVERY), "tokens": int(offsets[-1])}
    return pa.table([pa.array(article), ids], schema=schema), stats


def _zipf(rng: np.random.Generator, size: int, num_words: int) -> np.ndarray:
    rank = (num_words ** rng.random(size)).astype(np.int64).clip(max=num_words - 1)
    return (FIRST_LEARNED + rank).astype(np.int32)


def show(what: str, started: float) -> None:
    """Print the seconds since `started` and the largest memory so far."""
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what:<58} {time.perf_counter() - started:9.4f} s   peak memory {memory:6.0f} MiB")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=15_000_000)
    parser.add_argument("--words", type=int, default=200_000)
    arguments = parser.parse_args()
    defaults = TrainingConfig(tokens="x", vectors="x", storage="x", run_name="x")
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_large_token_set(folder, arguments.sentences, arguments.words)
        show("(writing the token set)", started)
        started = time.perf_counter()
        tokens = TokenSet.open(folder)
        show(f"open the manifest: {len(tokens.parts)} parts, {tokens.num_rows:,} sentences", started)
        started = time.perf_counter()
        plan = BatchPlan.of(tokens, defaults)
        steps = plan.first_step(1)
        show(f"plan an epoch: {steps:,} steps, {len(plan.epoch(0).parts):,} buffers", started)
        started = time.perf_counter()
        plan.locate(int(2.7 * steps))
        show("locate the step at 70 % of the third epoch", started)
        for name, start in (("start", 0), ("resume at 70 %", int(0.7 * steps))):
            started = time.perf_counter()
            loader = Loader(
                tokens,
                plan,
                min_tokens=4,
                max_tokens=32,
                rank=0,
                world_size=1,
                transform=list,
            )
            source = loader.steps(start, start + 400)
            next(source)
            show(f"{name}: first step ready (its buffer read, sorted and cut)", started)
            started = time.perf_counter()
            sentences = sum(step.num_sentences for _, step in zip(range(100), source, strict=False))
            seconds = time.perf_counter() - started
            show(f"{name}: 100 more steps, {sentences / seconds:,.0f} sentences/s", started)
            source.close()


if __name__ == "__main__":
    main()
