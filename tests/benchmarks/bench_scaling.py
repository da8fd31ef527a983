"""The jobs on clusters of several nodes, what the scheduler itself costs, and from both what many cores would take.

    python tests/benchmarks/bench_scaling.py --input simplewiki [--megabytes 24] [--workers 1 2 4]

Every worker is a node of `cluster/local_cluster.py`, pinned to one core (more workers than cores share them) and offering two
CPUs, so that what reads finds room beside what computes; the head, where the drivers run, is not pinned. Rates are those of the
steady state. CPU seconds are those of all processes of the nodes: where workers share cores, they tell what another worker
costs, which rates do not. Scheduling is measured with units and chunks that do nothing, through the functions that all stages
use. The last table is arithmetic with these figures: nothing of it was run.
"""

from __future__ import annotations

import argparse
import bz2
import contextlib
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pyarrow as pa
from bench_size import DUMP, SECONDS_BETWEEN_LOOKS, articles_of_gensim, json_lines, run, steady_rate, summary_of
from cluster_tools import LocalCluster, running_cluster
from gensim.test.utils import datapath
from processes import ROOT, descendants

from lstm_embed.ledger import PartRecord, Span, Unit
from lstm_embed.stages.pool import pool_size
from lstm_embed.stages.session import ray_session
from lstm_embed.stages.units import run_chunks, run_units

COPIES = 8
"""Of gensim's dump, one after the other, in the dump that is extracted."""
STEPS, MICRO_BATCHES = 40, 4
EMPTY_UNITS, CHUNKS_PER_UNIT = 1000, 10
SENTENCES, CORES = 150_000_000, (8, 64, 256)
DUMP_BYTES, JSON_BYTES = 22e9, 20e9
"""Of English Wikipedia: its compressed dump, and its text as JSON."""
UNITS = {"extract": DUMP_BYTES / 32e6, "prepare": JSON_BYTES / 64e6, "embed": SENTENCES / 65_536}
"""By default."""


class Run(NamedTuple):
    """A job on a cluster."""

    rows: float
    seconds: float
    rate: float
    """Rows a second, in the steady state."""
    cpu: float
    """Processor seconds of all processes of the nodes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="folder of articles that the corpus is made from (default: gensim's)")
    parser.add_argument("--megabytes", type=int, default=24, help="size of the corpus, in MB (default 24)")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2, 4], help="numbers of nodes (default 1 2 4)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as temporary:
        folder = Path(temporary)
        make_input(folder, arguments.input or articles_of_gensim(folder), arguments.megabytes)
        runs = {count: run_jobs(folder, count) for count in arguments.workers}
        pause = pause_for_vocabulary(folder / f"tokens-{min(runs)}")
        dump_bytes = (folder / "multistream.xml.bz2").stat().st_size
    show_runs(runs)
    first = runs[min(runs)]
    rows = {"extract": first["extract"].rows * DUMP_BYTES / dump_bytes, "prepare": SENTENCES, "embed": SENTENCES}
    seconds = {job: count / first[job].rate for job, count in rows.items()}
    show_arithmetic(seconds, *overheads(), pause)


def make_input(folder: Path, source: str, megabytes: int) -> None:
    """Write a multistream dump and a corpus."""
    xml = bz2.decompress(Path(datapath(DUMP)).read_bytes())
    pages = [match.start() for match in re.finditer(rb"  <page>\n", xml)][::20]
    end = xml.index(b"</mediawiki>")
    streams = [bz2.compress(xml[start:stop]) for start, stop in pairwise([*pages, end])]
    dump = [bz2.compress(xml[: pages[0]]), *streams * COPIES, bz2.compress(xml[end:])]
    (folder / "multistream.xml.bz2").write_bytes(b"".join(dump))
    script = str(Path(__file__).with_name("make_corpus.py"))
    run([sys.executable, script, "--input", source, "--output", f"{folder}/corpus", "--megabytes", str(megabytes)])


def commands(folder: Path, workers: int) -> Iterator[tuple[str, list[str], Path]]:
    """Yield each job's name, its flags, and the folder it writes."""
    articles, tokens, runs, vectors = (
        folder / f"{name}-{workers}" for name in ("articles", "tokens", "runs", "vectors")
    )
    words, model = folder / "words", runs / "run" / "model"
    dump, corpus = f"{folder}/multistream.xml.bz2", f"{folder}/corpus"
    yield "extract", ["--input", dump, "--unit-bytes", "500000", "--output", str(articles)], articles
    yield "prepare", ["--input", corpus, "--unit-bytes", "1000000", "--output", str(tokens)], tokens
    if not words.exists():
        flags = ["--max-sentences", "20000", "--epochs", "1"]
        yield "word_vectors", ["--tokens", str(tokens), "--output", str(words), *flags], words
    flags = ["--tokens", str(tokens), "--vectors", str(words), "--storage", str(runs), "--run-name", "run"]
    flags += ["--num-workers", str(workers), "--cpus-per-worker", "2", "--micro-batches-per-step", str(MICRO_BATCHES)]
    yield "train", [*flags, "--max-steps", str(STEPS), "--validation-sentences", "256"], runs
    flags = ["--num-workers", str(workers), "--dtype", "float16"]
    yield "embed", ["--model", str(model), "--input", str(tokens), "--output", str(vectors), *flags], vectors


def run_jobs(folder: Path, workers: int) -> dict[str, Run]:
    """Run all jobs on a cluster of so many nodes beside the head."""
    cores = sorted(os.sched_getaffinity(0))
    found = {}
    with running_cluster(workers=0, cpus=0) as cluster:
        for number in range(workers):
            pinned = ["taskset", "-c", str(cores[number % len(cores)])]
            cluster.add(cpus=2, wait=False, wrapper=pinned)
        cluster.wait_for_nodes(workers + 1)
        environment = {**os.environ, **cluster.environment, "RAY_ADDRESS": cluster.gcs_address}
        for job, flags, output in commands(folder, workers):
            command = [sys.executable, f"jobs/{job}.py", *flags]
            with watched_processors(cluster) as seconds_of:
                text = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows, seconds = summary_of(job, text)
            rate = steady_rate(output) or rows / seconds
            found[job] = Run(rows, seconds, rate, sum(seconds_of.values()))
            print(f"{workers} workers, {job}: {found[job]}", file=sys.stderr)
    return found


@contextlib.contextmanager
def watched_processors(cluster: LocalCluster) -> Iterator[dict[int, float]]:
    """Yield what becomes the processor seconds of each process of the nodes; Ray takes no account of those that end."""
    before, seen, ended = processor_seconds(cluster), dict[int, float](), threading.Event()

    def look() -> None:
        while not ended.wait(SECONDS_BETWEEN_LOOKS):
            for pid, seconds in processor_seconds(cluster).items():
                seen[pid] = seconds - before.get(pid, 0.0)

    watcher = threading.Thread(target=look)
    watcher.start()
    yield seen
    ended.set()
    watcher.join()


def processor_seconds(cluster: LocalCluster) -> dict[int, float]:
    """Return the processor time so far of each process of the nodes."""
    found = {}
    for pid in (pid for node in cluster.nodes.values() for pid in descendants(node, "")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            found[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return found


def pause_for_vocabulary(tokens: Path) -> float:
    """Return the seconds between the last unit that was read and the first that was given its ids."""
    times: dict[str, list[float]] = {}
    for line in json_lines(tokens.glob("log/*.jsonl")):
        times.setdefault(line["stage"], []).append(line["time"])
    return min(times["prepare"]) - max(times["read"])


def overheads() -> tuple[float, float]:
    """Return the driver's seconds for a unit and for a chunk that do nothing."""
    units = [Unit(number, (Span("nothing", 0, 1, 1, ""),)) for number in range(EMPTY_UNITS)]
    with ray_session():
        per_unit = show_overhead("unit", run_units(units, empty_unit))
        few = units[: EMPTY_UNITS // CHUNKS_PER_UNIT]
        per_chunk = show_overhead("chunk", run_chunks(few, empty_chunks, EmptyWork, workers=(1, 1), gpu=False))
    return per_unit, per_chunk


def empty_unit(unit: Unit) -> Iterator[PartRecord]:
    yield part_of(unit, 0, last=True)


def empty_chunks(unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
    for number in range(CHUNKS_PER_UNIT):
        yield part_of(unit, number, last=number == CHUNKS_PER_UNIT - 1), pa.table({"nothing": [0]})


class EmptyWork:
    """What an actor does with a chunk: nothing."""

    def __call__(self, record: PartRecord, table: pa.Table) -> PartRecord:
        return record


def part_of(unit: Unit, number: int, *, last: bool) -> PartRecord:
    return PartRecord(unit=unit.number, part=number, last=last, fingerprint="", rows=0, input_digest="")


def show_overhead(what: str, made: Iterable[object]) -> float:
    """Print what passing through costs, from the first one on; return the driver's processor seconds for each."""
    items = iter(made)
    next(items)
    clock, processor = time.monotonic(), time.process_time()
    count = sum(1 for _ in items)
    clock, processor = (time.monotonic() - clock) / count, (time.process_time() - processor) / count
    print(
        f"\nan empty {what}: {clock * 1e3:.1f} ms by the clock, {processor * 1e3:.1f} ms of the driver's processor time"
    )
    return processor


def show_runs(runs: dict[int, dict[str, Run]]) -> None:
    """Print a row for each job and number of workers."""
    print("| job | workers | seconds | rows/s | CPU seconds of the nodes |")
    print("| --- | --- | --- | --- | --- |")
    for job in runs[min(runs)]:
        for workers, found in runs.items():
            if job in found:
                one, first = found[job], runs[min(runs)][job]
                rate = f"{one.rate:,.0f} (x {one.rate / first.rate:.2f})"
                cpu = f"{one.cpu:.0f} (x {one.cpu / first.cpu:.2f})"
                print(f"| {job} | {workers} | {one.seconds:.1f} | {rate} | {cpu} |")


def show_arithmetic(core_seconds: dict[str, float], per_unit: float, per_chunk: float, pause: float) -> None:
    """Print the seconds of each stage over English Wikipedia, and what most of them are due to.

    Args:
        core_seconds: Seconds that one core takes for each stage.
        per_unit: Driver's seconds for a unit.
        per_chunk: Driver's seconds for a chunk.
        pause: Seconds for which all wait while the vocabulary is learned.
    """
    print(f"\n| {SENTENCES:,} sentences | units | " + " | ".join(f"{cores} cores" for cores in CORES) + " |")
    print("| --- " * (len(CORES) + 2) + "|")
    driver = {"extract": per_unit, "prepare": 2 * per_unit, "embed": per_unit + per_chunk}
    for job, units in UNITS.items():
        cells = []
        for cores in CORES:
            workers = pool_size("0", False, {"CPU": cores}, {})[0] if job == "embed" else cores
            even = core_seconds[job] / workers
            rounds = core_seconds[job] / units * math.ceil(units / workers)
            waits = pause if job == "prepare" else 0.0
            due = {
                "work": even,
                "the last units": rounds - even,
                "the vocabulary": waits,
                "driver": driver[job] * units,
            }
            seconds = max(rounds, due["driver"]) + waits
            cells.append(f"{seconds:,.0f} s ({max(due, key=lambda what: due[what])}; driver {due['driver']:.0f} s)")
        print(f"| {job} | {units:,.0f} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.chdir(ROOT)
    main()
