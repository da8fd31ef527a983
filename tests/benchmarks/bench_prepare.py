"""Rate of corpus preparation beside the same functions in a bare loop and beside the original's text processing.

    python tests/benchmarks/bench_prepare.py --input simplewiki

Without `--input` it takes the articles of the dump that ships with gensim, several times over. Start-up is left out: rates
are those between the first and the last unit that ends. Ratios are of one run. Where spaCy and a small English model are
installed, its sentence splitting is compared too.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import re
import resource
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

os.environ.update(
    OMP_NUM_THREADS="1", RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal", RAY_AUTH_MODE="disabled"
)

import pyarrow as pa
from gensim.test.utils import datapath

from lstm_embed.base import storage
from lstm_embed.corpus import token_set
from lstm_embed.corpus.articles import read_articles
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.input import find_files
from lstm_embed.corpus.prepare import prepare
from lstm_embed.corpus.readers.article import Article
from lstm_embed.corpus.tasks import PARQUET, cut_off, read_parts, recounted, with_ids
from lstm_embed.corpus.text import split_sentences, tokenize
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.dump.articles import ArticleRow, read_unit
from lstm_embed.ledger import Span, Unit
from lstm_embed.ledger.parts import encode_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", help="folder of articles (default: those of gensim's dump)")
    parser.add_argument("--megabytes", type=float, default=48, help="JSON to prepare, in MB (default 48)")
    parser.add_argument(
        "--workers", type=int, nargs="*", default=[1, 2], help="numbers of workers to try (default 1 2)"
    )
    parser.add_argument("--spacy-model", default="en_core_web_sm", help="spaCy model to compare with, if installed")
    parser.add_argument("--rounds", type=int, default=2, help="rounds, of which the best counts (default 2)")
    arguments = parser.parse_args()
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="bench") as folder:
        articles = gather(arguments.input, arguments.megabytes, Path(folder) / "in")
        compare_text(articles, arguments.rounds, arguments.spacy_model)
        compare_pipeline(Path(folder), arguments.workers, arguments.rounds)


def gather(given: str | None, megabytes: float, folder: Path) -> list[Article]:
    """Write about so many MB of articles as plain JSON lines; return the first of them."""
    folder.mkdir()
    limit = int(megabytes * 1e6)
    written, number = 0, 0
    while written < limit:
        with open(folder / f"wiki_{number:03d}", "wb") as file:
            while file.tell() < 4_000_000 and written < limit:
                for line in source_lines(given):
                    written += file.write(line)
                    if written >= limit or file.tell() >= 4_000_000:
                        break
        number += 1
    span = Span.whole(storage.info(str(folder / "wiki_000")))
    return [item for item in read_articles(span, PrepareConfig(input=("-",), output="-")) if isinstance(item, Article)][
        :1000
    ]


_LINES: Iterator[bytes] | None = None


def source_lines(given: str | None) -> Iterator[bytes]:
    """Return the one iterator over all lines of the source; it starts over at the end."""
    global _LINES
    if _LINES is None:
        _LINES = _endless(given)
    return _LINES


def _endless(given: str | None) -> Iterator[bytes]:
    while True:
        if given:
            for file in find_files([given]):
                with storage.open_stream(file.path) as stream:
                    yield from stream
        else:
            dump = datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
            for item in read_unit(dump):
                if isinstance(item, ArticleRow):
                    yield json.dumps({"id": item.id, "title": item.title, "text": item.text}).encode() + b"\n"


def best(work: Callable[[], object], rounds: int) -> float:
    """Return the processor seconds of the best of several rounds."""
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def original_tokens(sentence: str) -> list[str]:
    """The cleaning rules of the Keras system, a sentence at a time, from their description."""
    text = unicodedata.normalize("NFD", sentence.lower())
    text = "".join(sign for sign in text if unicodedata.category(sign) != "Mn")
    text = re.sub(r"([?.!,()])", r" \1 ", text)
    text = re.sub(r"[^a-z0-9?.!,()]+", " ", text)
    return re.sub(r" +", " ", text).strip().split(" ")


def compare_text(articles: list[Article], rounds: int, spacy_model: str) -> None:
    """Compare splitting and tokenising with the original's."""
    tokenize(["Wärme"])  # makes the tables
    texts = [article.text for article in articles]
    size = sum(len(text.encode()) for text in texts) / 1e6
    sentences = [text[a:b] for text in texts for a, b in split_sentences(text)]
    print(
        f"text: {len(texts)} articles, {size:.1f} MB, {len(sentences)} sentences (processor seconds, best of {rounds})"
    )
    expected = [list(filter(None, original_tokens(sentence))) for sentence in sentences]
    assert tokenize(sentences, "original").to_pylist() == expected
    rates = {
        "original's rules, a sentence at a time": best(lambda: [original_tokens(s) for s in sentences], rounds),
        "tokenize, profile original": best(lambda: tokenize(sentences, "original"), rounds),
        "tokenize, profile default": best(lambda: tokenize(sentences), rounds),
    }
    slowest = next(iter(rates.values()))
    for name, seconds in rates.items():
        print(f"  {name:<42} {size / seconds:8.1f} MB/s  x {slowest / seconds:.1f}")
    split = best(lambda: [split_sentences(text) for text in texts], rounds)
    print(f"  {'sentences (sentencex by line)':<42} {size / split:8.1f} MB/s")
    ours = split + rates["tokenize, profile default"]
    model = _spacy_model(spacy_model)
    if model is None:
        print(f"  spaCy with {spacy_model} is not installed: not compared")
        return
    few = texts[: max(1, len(texts) // 40)]
    few_size = sum(len(text.encode()) for text in few) / 1e6

    def with_spacy() -> None:
        for text in few:
            for sentence in model(text).sents:  # type: ignore[operator]
                original_tokens(sentence.text)

    seconds = best(with_spacy, 1)
    print(f"  {'spaCy and the original rules':<42} {few_size / seconds:8.3f} MB/s")
    print(
        f"  ours (split and tokenize) is x {size / ours / (few_size / seconds):.0f} of spaCy and the original's rules"
    )


def _spacy_model(name: str) -> object | None:
    with contextlib.suppress(ImportError, OSError):
        import spacy

        return spacy.load(name)
    return None


class Steady:
    """A reporter that measures a stage between its first and its last unit, by the clock and by the processors' work."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._seen: list[tuple[float, float, float, float]] = []

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        if stage == self._stage:
            self._seen.append((done, time.monotonic(), *processor_seconds()))

    def note(self, message: str) -> None:
        return None

    def rates(self) -> Rates:
        """Return MB by second from when the first unit ended to when the last did."""
        start, end = self._seen[1], self._seen[-1]
        done, clock, workers, others = (after - before for before, after in zip(start, end, strict=True))
        return Rates(done / clock, done / workers, done / (workers + others))


class Rates(NamedTuple):
    """MB by second of wall clock, of the workers' processor time, and of that of all processes of the job."""

    clock: float
    workers: float
    everything: float


def processor_seconds() -> tuple[float, float]:
    """Return the processor time so far of Ray's workers, and of this process and all others below it."""
    parents, seconds, names = {}, {}, {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()
            names[int(entry)] = Path(f"/proc/{entry}/cmdline").read_text()
            parents[int(entry)] = int(fields[1])
            seconds[int(entry)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    workers = others = 0.0
    for pid in parents:
        above = pid
        while above in parents and above != os.getpid():
            above = parents[above]
        if above == os.getpid() and names[pid].startswith("ray::"):
            workers += seconds[pid]
        elif above == os.getpid():
            others += seconds[pid]
    return workers, others


def compare_pipeline(folder: Path, workers: list[int], rounds: int) -> None:
    """Compare the pipeline on Ray with a loop over the same functions that commits nothing."""
    make = PrepareConfig(input=(f"{folder}/in",), output=f"{folder}/counted", unit_bytes=4_000_000)
    print(f"pipeline: JSON bytes to token parts, MB by second, steady state, best of {rounds}")
    print(f"  {'':<42} {'wall clock':>18} {'workers':>18} {'with driver and Ray':>20}")
    bare = first = None
    for count in workers:
        counted = on_ray(make, count, "read")
        given = replace(make, output=f"{folder}/once", vocabulary=f"{folder}/counted")
        found = []
        for _ in range(rounds):
            storage.remove_dir(given.output)
            found.append(on_ray(given, count, "prepare"))
        rates = Rates(*map(max, zip(*found, strict=True)))
        if bare is None:
            bare = bare_rates(given, Vocabulary.load(f"{folder}/counted/{token_set.VOCABULARY}"), rounds)
            show("bare loop over the same functions", bare, bare)
        show(f"{count} worker(s), committed parts", rates, bare)
        show(f"{count} worker(s), the pass that counts words", counted, bare)
        first = first or rates
        if count > 1:
            print(f"  {count} workers do x {rates.clock / first.clock:.2f} of {workers[0]} by the wall clock")
        storage.remove_dir(make.output)
    print(f"peak memory of the driver {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")


def show(name: str, rates: Rates, bare: Rates) -> None:
    """Print rates and what they are of the bare loop's."""
    cells = [f"{rate:8.1f} (x {rate / of:.2f})" for rate, of in zip(rates, bare, strict=True)]
    print(f"  {name:<42} {cells[0]:>18} {cells[1]:>18} {cells[2]:>20}")


def bare_rates(config: PrepareConfig, vocabulary: Vocabulary, rounds: int) -> Rates:
    """Measure the functions that make parts, called one after the other without Ray, ledger or files."""
    units = [Unit(n, (Span.whole(file),)) for n, file in enumerate(find_files(config.input))]
    found = []
    for _ in range(rounds):
        for number, unit in enumerate(units):
            if number == 1:
                clock, processor = time.monotonic(), time.process_time()
            for _, chunk, _ in read_parts(unit, config):
                tokens = chunk.table["tokens"].combine_chunks()
                lists, _ = cut_off(vocabulary.id_lists(tokens), config.max_tokens)
                table = with_ids(chunk.table, lists, config.text)
                recounted(chunk.stats, table, config.holdout_every)
                encode_table(table, compression="zstd", write_page_checksum=True, **PARQUET)
        done = sum(unit.size for unit in units[1:]) / 1e6
        clock, processor = time.monotonic() - clock, time.process_time() - processor
        found.append(Rates(done / clock, done / processor, done / processor))
    return Rates(*map(max, zip(*found, strict=True)))


def on_ray(config: PrepareConfig, workers: int, stage: str) -> Rates:
    """Run the pipeline on so many workers; measure one of its stages."""
    import ray
    import ray.data

    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        object_store_memory=80 << 20,
    )
    try:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        report = Steady(stage)
        prepare(config, report)
        return report.rates()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
