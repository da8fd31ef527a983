"""What the batch plan of a very large token set costs: to start, to resume at 70 %, one buffer, one step.

The token set has real parts, but only a few different ones: the others are links to them.

    python tests/benchmarks/bench_batch_plan.py --sentences 150000000
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic import make_vocabulary

from lstm_embed.base import storage
from lstm_embed.corpus.token_set import FORMAT, KIND, VOCABULARY, TokenSet, count_rows
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.loader import Loader

ROWS = 65_536
DIFFERENT = 8


def write_large_token_set(path: str, num_sentences: int, num_words: int) -> TokenSet:
    """Write a token set of that many sentences in about `DIFFERENT` parts' time and space."""
    rng = np.random.default_rng(0)
    os.makedirs(f"{path}/parts")
    counts = np.bincount(_zipf(rng, 5_000_000, num_words) - FIRST_LEARNED, minlength=num_words)
    vocabulary = make_vocabulary(num_words, counts)
    vocabulary.save(f"{path}/{VOCABULARY}")
    parts = []
    for number in range(-(-num_sentences // ROWS)):
        target = f"{path}/parts/part-{number:08d}-0000.parquet"
        if number >= DIFFERENT:
            os.link(parts[number % DIFFERENT]["path"], target)
            parts.append({**parts[number % DIFFERENT], "name": storage.name(target), "input_digest": str(number)})
            continue
        lengths = np.clip(rng.lognormal(3.0, 0.55, ROWS), 1, 250).astype(np.int64)
        article = np.repeat(np.arange(ROWS), rng.geometric(1 / 8, ROWS))[:ROWS].astype(np.int32)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(_zipf(rng, int(offsets[-1]), num_words), pa.int32()))
        pq.write_table(pa.table({"article": article, "ids": ids}), target, compression="zstd")
        stats = {"holdout": count_rows(article, lengths, 50), "tokens": int(offsets[-1])}
        parts.append(
            {
                "name": storage.name(target),
                "path": target,
                "rows": ROWS,
                "stats": stats,
                "fingerprint": "bench",
                "input_digest": str(number),
            }
        )
    manifest = {
        "format": 1,
        "kind": KIND,
        "fingerprint": "bench",
        "settings": {"content_format": FORMAT, "text": {}},
        "holdout_every": 50,
        "vocabulary": vocabulary.fingerprint,
        "rows": ROWS * len(parts),
        "totals": {"tokens": sum(part["stats"]["tokens"] for part in parts)},
        "parts": parts,
    }
    storage.write_json(f"{path}/manifest.json", manifest)
    return TokenSet.open(path)


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
    parser.add_argument("--sentences", type=int, default=150_000_000)
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
