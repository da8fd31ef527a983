"""The jobs at one size of corpus and at ten times that: seconds, rates, memory of driver and workers, what they write.

    python tests/benchmarks/bench_size.py --input simplewiki --output FOLDER --megabytes 80 800

Makes a corpus of each size with `make_corpus.py` (without `--input`, from the articles of the dump that ships with gensim) and
runs the jobs over it as a user does. Units are of 4 MB at every size from 64 MB on, so that what is bounded by a unit can be
compared. Seconds are those of the work, which a job's summary prints: its start, and that of Ray, is left out. Rates are those
of the steady state: from the first unit that ends to the last; of train, without the first third of the steps; of word_vectors
and search, rows by seconds. Memory is the largest resident memory that is not shared (`RssAnon`), looked at five times a
second, of the job's own process and of the largest of Ray's workers. The same command again runs only what has no figures in
FOLDER yet.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gensim.test.utils import datapath
from processes import ROOT, descendants

DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
WORDS_SHARE = 0.2
"""Of the sentences, that word_vectors trains on."""
STEPS, STEP_SENTENCES = 200, 256
"""Of train."""
SECONDS_BETWEEN_LOOKS = 0.2

SEARCH = """
import sys, time
from lstm_embed.embedding.search import search
from lstm_embed.embedding.vectors import Embeddings, encode_queries
embeddings = Embeddings(sys.argv[2])
query = encode_queries(embeddings.encoder(sys.argv[1]), ["Tea is a drink."])
started = time.monotonic()
search(embeddings, query, 10)
print(f"search {sum(part.rows for part in embeddings.parts)} vectors {time.monotonic() - started}")
"""

Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="folder of articles that the corpora are made from")
    parser.add_argument("--output", help="folder of corpora, results and figures (default: a temporary one)")
    parser.add_argument(
        "--megabytes", type=int, nargs="*", default=[8, 80], help="sizes of the corpora, in MB (default 8 80)"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench") as temporary:
        folder = Path(arguments.output or temporary)
        source = arguments.input or articles_of_gensim(folder)
        found = [figures_of(folder / str(size), source, size) for size in arguments.megabytes]
    show(arguments.megabytes, found)


def articles_of_gensim(folder: Path) -> str:
    """Extract the articles of gensim's dump."""
    run(
        [sys.executable, str(ROOT / "jobs" / "extract.py"), "--input", datapath(DUMP), "--output", f"{folder}/articles"]
    )
    return f"{folder}/articles/parts"


def figures_of(folder: Path, source: str, megabytes: int) -> dict[str, Figures]:
    """Run the jobs that have no figures yet, over a corpus of so many MB; return the figures of all."""
    corpus, figures_path = folder / "corpus", folder / "figures.json"
    found: dict[str, Figures] = json.loads(figures_path.read_text()) if figures_path.exists() else {}
    if not corpus.exists():
        script = str(Path(__file__).with_name("make_corpus.py"))
        run([sys.executable, script, "--input", source, "--output", str(corpus), "--megabytes", str(megabytes)])
    for job, flags, output in commands(folder):
        if job not in found:
            found[job] = measure(job, flags, output)
            figures_path.write_text(json.dumps(found))
    return found


def commands(folder: Path) -> Iterator[tuple[str, list[str], Path]]:
    """Yield each job's name, its flags, and the folder it writes; a job is yielded when those before it are done."""
    tokens, words, runs, vectors = (folder / name for name in ("tokens", "words", "runs", "vectors"))
    model = runs / "run" / "model"
    yield "prepare", ["--input", f"{folder}/corpus", "--output", str(tokens), "--unit-bytes", "4000000"], tokens
    few = str(round(WORDS_SHARE * json.loads((tokens / "manifest.json").read_text())["rows"]))
    flags = ["--max-sentences", few, "--epochs", "1"]
    yield "word_vectors", ["--tokens", str(tokens), "--output", str(words), *flags], words
    flags = ["--tokens", str(tokens), "--vectors", str(words), "--storage", str(runs), "--run-name", "run"]
    yield "train", [*flags, "--num-workers", "2", "--max-steps", str(STEPS), "--buffer-sentences", "65536"], runs
    flags = ["--model", str(model), "--input", str(tokens), "--output", str(vectors), "--dtype", "float16"]
    yield "embed", flags, vectors
    yield "search", [str(model), str(vectors)], folder / "nothing"


def measure(job: str, flags: Sequence[str], output: Path) -> Figures:
    """Run a job; return its figures."""
    script = ["-c", SEARCH] if job == "search" else [str(ROOT / "jobs" / f"{job}.py")]
    command = [sys.executable, *script, *flags]
    peaks = {"driver": 0, "worker": 0}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    ended = threading.Event()
    watcher = threading.Thread(target=watch_memory, args=(process.pid, peaks, ended))
    watcher.start()
    text, _ = process.communicate()
    ended.set()
    watcher.join()
    assert process.returncode == 0, f"{' '.join(command)} exited with {process.returncode}:\n{text}"
    rows, seconds = summary_of(job, text)
    if job == "word_vectors":
        rows = float(flags[flags.index("--max-sentences") + 1])
    elif job == "train":
        rows = STEPS * STEP_SENTENCES
    files = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    return {
        "rows": int(rows),
        "seconds": seconds,
        "rate": steady_rate(output) or rows / seconds,
        "driver": peaks["driver"] / 1e6,
        "worker": peaks["worker"] / 1e6,
        "written": sum(files) / 1e6,
        "files": len(files),
    }


def summary_of(job: str, text: str) -> tuple[float, float]:
    """Return the rows and the seconds that a job's summary prints."""
    line = re.search(rf"^{job}\s+([\d,]+) \w[\w ]*?\s+([\d,.]+)", text, re.M)
    assert line, text
    rows, seconds = (float(number.replace(",", "")) for number in line.groups())
    return rows, seconds


def steady_rate(output: Path) -> float:
    """Return the rows a second of a job that logs its units or steps, in the steady state; 0 for others."""
    rates = [line["train/sentences_per_second"] for line in json_lines(output.glob("*/metrics.jsonl"))]
    if rates:
        return statistics.harmonic_mean(rates[len(rates) // 3 :])
    stages: dict[str, list[Figures]] = {}
    for line in sorted(json_lines(output.glob("log/*.jsonl")), key=lambda line: line["time"]):
        stages.setdefault(line["stage"], []).append(line)
    # One row goes through all steps of a job.
    seconds = [
        (lines[-1]["time"] - lines[0]["time"]) / sum(line["rows"] for line in lines[1:]) for lines in stages.values()
    ]
    return 1 / sum(seconds) if seconds else 0.0


def json_lines(paths: Iterable[Path]) -> list[Figures]:
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def watch_memory(pid: int, peaks: dict[str, int], ended: threading.Event) -> None:
    """Keep the largest memory of a job's process, and of any of Ray's workers below it."""
    while not ended.wait(SECONDS_BETWEEN_LOOKS):
        peaks["driver"] = max(peaks["driver"], memory_of(pid))
        peaks["worker"] = max([peaks["worker"], *map(memory_of, descendants(pid, "ray::"))])


def memory_of(pid: int) -> int:
    """Return the bytes of a process's memory that are its own; 0 if it has ended."""
    with contextlib.suppress(OSError):
        if found := re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text()):
            return int(found[1]) * 1024
    return 0


def run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=sys.stderr)


def show(sizes: Sequence[int], found: Sequence[dict[str, Figures]]) -> None:
    """Print a table: a row for each job and size, and how rate and memory relate to those of the first size."""
    print("| job | MB | rows | seconds | rows/s | driver, MB | largest worker, MB | written, MB | files |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for job, first in found[0].items():
        for size, figures in zip(sizes, found, strict=True):
            one = figures[job]
            rate, driver, worker = (
                f"{one[name]:,.0f}"
                + (f" (x {one[name] / first[name]:.2f})" if one is not first and first[name] else "")
                for name in ("rate", "driver", "worker")
            )
            print(
                f"| {job} | {size} | {one['rows']:,} | {one['seconds']:,.1f} | {rate} | {driver} | {worker} "
                f"| {one['written']:,.0f} | {one['files']:,} |"
            )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
