"""How near the whole embedding job comes to the bare model, what a second worker adds, and the memory it takes.

    python tests/benchmarks/bench_embed.py --input simplewiki --vocabulary TOKENS [--hidden-size 512] [--precision bf16]
    python tests/benchmarks/bench_embed.py --input simplewiki --model MODEL

The bare loop only runs the model, on the very batches of ids the job's readers make; it runs before and after the job, and the
ratio is to the mean of both. Rates are those of the steady state, from the first part that is committed to the last. CPU
seconds stand beside wall seconds, since only they can be compared on a machine that others use too. Memory is the peak of a
process, on a tenth of the files and on all. Each figure comes from a process of its own. Without `--input` articles are made
up; without `--model` the weights are, over the words of `--vocabulary` (a token set or model): they do not change the speed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

import numpy as np
import pyarrow as pa
from embedding_help import TOKENIZER, VOCABULARY, make_articles, write_articles
from stages_help import without_ray

from lstm_embed.base import storage
from lstm_embed.corpus.input import find_files
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.embed import embed
from lstm_embed.embedding.worker import EmbedChunk
from lstm_embed.ledger import PartRecord
from lstm_embed.model.config import default
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.sentence_model import SentenceModel
from lstm_embed.stages.session import ray_session
from lstm_embed.stages.units import run_chunks

MEGABYTE = 1 << 20
WORD_SIZE = 300


def peak_memory() -> int:
    """Return the most memory this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class TimedChunk(EmbedChunk):
    """An actor that says when it was done, and what it had used by then."""

    def __call__(self, record: PartRecord, table: pa.Table) -> PartRecord:
        done = super().__call__(record, table)
        used = [time.time(), time.process_time(), os.getpid(), peak_memory()]
        return dataclasses.replace(done, stats={**done.stats, "bench": used})


def run_job(config: EmbedConfig) -> dict[str, float]:
    """Run the whole job; return its steady rates and the peak memory of an actor and of the driver."""
    seen: list[tuple[int, list[float]]] = []

    def watched(*args: Any, **more: Any) -> Iterator[PartRecord]:
        for record in run_chunks(*args, **more):
            stats = dict(record.stats)
            seen.append((record.rows, stats.pop("bench")))
            yield dataclasses.replace(record, stats=stats)

    with (
        ray_session(),
        mock.patch("lstm_embed.embedding.embed.EmbedChunk", TimedChunk),
        mock.patch("lstm_embed.stages.units.run_chunks", watched),
    ):
        embed(config)
    seen.sort(key=lambda entry: entry[1][0])
    rows = sum(count for count, _ in seen)
    wall = seen[-1][1][0] - seen[0][1][0]
    cpu, cpu_rows = 0.0, 0
    for pid in {entry[2] for _, entry in seen}:
        mine = [(count, entry[1]) for count, entry in seen if entry[2] == pid]
        cpu += mine[-1][1] - mine[0][1]
        cpu_rows += sum(count for count, _ in mine[1:])
    return {
        "rows": rows,
        "per_second": (rows - seen[0][0]) / max(wall, 1e-9),
        "per_cpu_second": cpu_rows / max(cpu, 1e-9),
        "actor_bytes": max(entry[3] for _, entry in seen),
        "driver_bytes": peak_memory(),
    }


def batches(config: EmbedConfig) -> Iterator[pa.ListArray]:
    """Yield the ids of the chunks that the job's readers make."""
    found: list[Any] = []

    def caught(units: Any, read: Any, *_: Any, **__: Any) -> Iterator[PartRecord]:
        found.extend((units, read))
        raise InterruptedError

    with (
        tempfile.TemporaryDirectory() as folder,
        without_ray(run_chunks=caught),
    ):
        try:
            embed(dataclasses.replace(config, output=folder))
        except InterruptedError:
            units, read = found
        for unit in units:
            for _, table in read(unit):
                yield table["ids"].combine_chunks()


def bare_loop(config: EmbedConfig, sentences: int) -> dict[str, float]:
    """Encode the same pre-tokenized batches, all of them read before, and do nothing else."""
    encoder = SentenceEncoder.load(config.model, precision=config.precision)
    chunks, rows = [], 0
    for ids in batches(config):
        chunks.append(ids)
        rows += len(ids)
        if rows >= sentences:
            break
    encoder.encode_ids(chunks[0][:2048], batch_tokens=config.batch_tokens)
    wall, cpu = time.time(), time.process_time()
    for ids in chunks:
        encoder.encode_ids(ids, batch_tokens=config.batch_tokens)
    wall, cpu = time.time() - wall, time.process_time() - cpu
    return {"rows": rows, "per_second": rows / wall, "per_cpu_second": rows / cpu}


def write_model(path: str, vocabulary: Vocabulary, hidden_size: int) -> str:
    """Write a model of the default recipe with random weights; return its path."""
    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), WORD_SIZE)).astype(np.float32)
    recipe = dataclasses.replace(default(), hidden_size=hidden_size)
    model = SentenceModel.start(recipe, vectors, vocabulary.counts, vocabulary.pieces)
    SentenceEncoder(model, vocabulary, dict(TOKENIZER)).save(path)
    return path


def in_another_process(job: str, config: EmbedConfig, sentences: int = 0) -> dict[str, float]:
    """Run a job or the bare loop in a process of its own and return what it measured."""
    task = json.dumps({"job": job, "config": dataclasses.asdict(config), "sentences": sentences})
    done = subprocess.run([sys.executable, __file__, "--task", task], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def run_task(task: dict[str, Any]) -> None:
    given = task["config"]
    config = EmbedConfig(**{**given, "input": tuple(given["input"]), "columns": ()})
    print(json.dumps(run_job(config) if task["job"] == "job" else bare_loop(config, task["sentences"])))


def measure(config: EmbedConfig, workers: Sequence[int], sentences: int) -> None:
    """Print the figures."""
    bare = [in_another_process("bare", config, sentences)]
    rates = {}
    for number in workers:
        one = dataclasses.replace(config, output=f"{config.output}-{number}", num_workers=str(number))
        rates[number] = found = in_another_process("job", one)
        storage.remove_dir(one.output)
        print(
            f"{number} workers: {found['per_second']:,.0f} sentences/s, {found['per_cpu_second']:,.0f} a CPU second of the "
            f"actors ({found['rows']:,} sentences)",
            flush=True,
        )
        if number == workers[0]:
            bare.append(in_another_process("bare", config, sentences))
    first = rates[workers[0]]
    mean = {name: (bare[0][name] + bare[1][name]) / 2 for name in ("per_second", "per_cpu_second")}
    print(
        f"bare loop: {mean['per_second']:,.0f} sentences/s, {mean['per_cpu_second']:,.0f} a CPU second "
        f"({bare[0]['rows']:,} sentences, before and after)"
    )
    print(
        f"whole job, {workers[0]} worker / bare loop: {first['per_second'] / mean['per_second']:.2f} wall, "
        f"{first['per_cpu_second'] / mean['per_cpu_second']:.2f} CPU"
    )
    for number in workers[1:]:
        print(f"{number} workers / {workers[0]}: {rates[number]['per_second'] / first['per_second']:.2f} wall")
    few = tuple(file.path for file in find_files(config.input)[::10])
    small = dataclasses.replace(config, input=few, output=f"{config.output}-small", num_workers=str(workers[0]))
    for found in (in_another_process("job", small), first):
        print(
            f"peak memory at {found['rows']:,} sentences: actor {found['actor_bytes'] / MEGABYTE:,.0f} MB, "
            f"driver {found['driver_bytes'] / MEGABYTE:,.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", help="articles")
    parser.add_argument("--model", help="model folder")
    parser.add_argument("--vocabulary", help="token set or model whose words a model with random weights gets")
    parser.add_argument("--hidden-size", type=int, default=128, help="of that model (default 128)")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-tokens", type=int, default=EmbedConfig.batch_tokens)
    parser.add_argument("--unit-bytes", type=int, default=EmbedConfig.unit_bytes)
    parser.add_argument("--sentences", type=int, default=150_000, help="of the bare loop (default 150000)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.task:
        return run_task(json.loads(given.task))
    with tempfile.TemporaryDirectory(prefix="bench-embed-") as folder:
        words = (
            Vocabulary.load(storage.join(given.vocabulary, "vocabulary.parquet")) if given.vocabulary else VOCABULARY
        )
        model = given.model or write_model(f"{folder}/model", words, given.hidden_size)
        if not given.input:
            articles = make_articles(20_000)
            for start in range(0, len(articles), 500):
                write_articles(f"{folder}/in/{start:05d}.jsonl", articles[start : start + 500])
        config = EmbedConfig(
            model=model,
            input=tuple(given.input or [f"{folder}/in"]),
            output=f"{folder}/out",
            precision=given.precision,
            dtype=given.dtype,
            batch_tokens=given.batch_tokens,
            unit_bytes=given.unit_bytes,
        )
        measure(config, given.workers, given.sentences)


if __name__ == "__main__":
    main()
