"""A corpus of English Wikipedia's shape and of any size, put together from the articles of a smaller one.

    python tests/benchmarks/make_corpus.py --input simplewiki --output CORPUS --megabytes 2000 [--workers 2] [--seed 0]

Writes what wikiextractor writes with `--json`: files of 1 MB, a JSON object a line. An article is a row of paragraphs drawn
from all of the input's. What English Wikipedia has and Simple English Wikipedia has not is added:

- lengths of articles: log-normal, about `MEAN_WORDS` words in the mean, half of them shorter than 390;
- lengths of sentences: about 23 words instead of 13 (English Wikipedia: 25), by joining neighbours with a semicolon;
- words that nobody has seen before: of the names inside sentences, one in `NAMES_PER_SLOT` is replaced by a made-up one whose
  number is drawn by a power law. The draws have no end of distinct numbers, which grow as the `HEAPS`-th power of the text, and
  take over where the input's own words are used up. So the vocabulary grows as that of real text does, at every size.

A file depends on its number and the seed alone: a smaller corpus is the beginning of a larger one, and the number of workers
changes nothing. Memory is bounded by the input's text, which every worker holds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lstm_embed.base import storage
from lstm_embed.corpus.articles import read_articles
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.input import find_files
from lstm_embed.corpus.readers.article import Article
from lstm_embed.ledger import Span

FILE_BYTES = 1_000_000
FILES_PER_FOLDER = 100
MEAN_WORDS, SPREAD = 700, 1.2
"""Of the words of an article: English Wikipedia says 700 of itself, and that most are far shorter."""
NAMES_PER_SLOT, HEAPS, FIRST_NAME = 15, 0.55, 300_000
LEAST_CHARACTERS = 40
"""Of a paragraph that is taken: shorter ones are headings and items."""
LONGEST_NUMBER = 2.0**62

NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z]+")
SENTENCE_END = re.compile(r"(?<=[a-z])\. (?=[A-Z][a-z])")
SYLLABLES = [consonant + vowel for consonant in "bcdfghjklmnprstvwz" for vowel in "aeiou"]


@dataclass
class Paragraphs:
    """Text to draw from."""

    templates: list[str]
    """With `%s` where a made-up name belongs."""
    slots: list[int]
    """How many names each takes."""
    words: list[int]
    """How many words each has, about."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="folder of articles, such as those of Simple English Wikipedia")
    parser.add_argument("--output", required=True, help="new folder for the corpus")
    parser.add_argument("--megabytes", type=int, default=2000, help="JSON to write, in MB (default 2000)")
    parser.add_argument("--workers", type=int, default=2, help="processes that write (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="start of all chance (default 0)")
    arguments = parser.parse_args()
    output = Path(arguments.output)
    if output.exists() and any(output.iterdir()):
        sys.exit(f"error: {output} is not empty; name a new folder (--output)")
    paragraphs = gather(arguments.input, arguments.seed)
    started, written = time.monotonic(), 0
    fork = multiprocessing.get_context("fork")  # the paragraphs are there without being copied
    with fork.Pool(arguments.workers, start_writing, (paragraphs, output, arguments.seed)) as pool:
        for size in pool.imap_unordered(write_file, range(arguments.megabytes)):
            written += size
    seconds = time.monotonic() - started
    print(f"{written / 1e6:.0f} MB in {arguments.megabytes} files, {written / 1e6 / seconds:.0f} MB/s")


def gather(path: str, seed: int) -> Paragraphs:
    """Read all paragraphs of the input and make templates of them."""
    rng = np.random.default_rng([seed])
    found = Paragraphs([], [], [])
    for file in find_files([path]):
        for article in read_articles(Span.whole(storage.info(file.path)), TextConfig()):
            lines = article.text.split("\n") if isinstance(article, Article) else []
            for line in lines:
                if len(line) >= LEAST_CHARACTERS:
                    add(found, line, rng)
    return found


def add(found: Paragraphs, line: str, rng: np.random.Generator) -> None:
    """Add a paragraph: every other sentence is joined with the next, and some names become slots."""
    sentences = SENTENCE_END.split(line)
    pairs = ["; ".join(sentences[at : at + 2]) for at in range(0, len(sentences), 2)]
    parts = NAME.split(". ".join(pairs).replace("%", "%%"))
    names = NAME.findall(". ".join(pairs))
    is_slot = rng.random(len(names)) < 1 / NAMES_PER_SLOT
    between = ["%s" if slot else name for slot, name in zip(is_slot, names, strict=True)]
    found.templates.append("".join(text for pair in zip(parts, [*between, ""], strict=True) for text in pair))
    found.slots.append(int(is_slot.sum()))
    found.words.append(line.count(" ") + 1)


_STATE: tuple[Paragraphs, Path, int]


def start_writing(paragraphs: Paragraphs, output: Path, seed: int) -> None:
    """Keep, in a worker, what all files are made from."""
    global _STATE
    _STATE = (paragraphs, output, seed)


def write_file(number: int) -> int:
    """Write one file; return its bytes."""
    paragraphs, output, seed = _STATE
    folder = output / folder_name(number // FILES_PER_FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    size, lines = 0, []
    articles = make_articles(paragraphs, np.random.default_rng([seed, number]))
    while size < FILE_BYTES:
        id_ = f"{number}{len(lines):05d}"
        title = f"Article {id_}"
        row = {"id": id_, "url": f"?curid={id_}", "title": title, "text": f"{title}\n\n{next(articles)}"}
        lines.append(json.dumps(row, ensure_ascii=False).encode() + b"\n")
        size += len(lines[-1])
    (folder / f"wiki_{number % FILES_PER_FOLDER:02d}").write_bytes(b"".join(lines))
    return size


def folder_name(number: int) -> str:
    """Return AA, AB, …, ZZ, AAA, … as wikiextractor names its folders."""
    letters = ""
    while number or len(letters) < 2:
        number, letter = divmod(number, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def make_articles(paragraphs: Paragraphs, rng: np.random.Generator) -> Iterator[str]:
    """Yield texts without end."""
    names, places = draw_names(rng), draw_places(len(paragraphs.templates), rng)
    while True:
        words = rng.lognormal(np.log(MEAN_WORDS) - SPREAD**2 / 2, SPREAD)
        text = []
        while words > 0:
            place = next(places)
            text.append(paragraphs.templates[place] % tuple(next(names) for _ in range(paragraphs.slots[place])))
            words -= paragraphs.words[place]
        yield "\n".join(text)


def draw_places(count: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield numbers of paragraphs without end."""
    while True:
        yield from rng.integers(count, size=1000).tolist()


def draw_names(rng: np.random.Generator) -> Iterator[str]:
    """Yield made-up names without end; that of number r, from `FIRST_NAME` on, has a chance of about r ** (-1 / HEAPS)."""
    while True:
        numbers = FIRST_NAME * rng.random(1000) ** (-HEAPS / (1 - HEAPS))
        yield from map(name_of, np.minimum(numbers, LONGEST_NUMBER).astype(np.int64).tolist())


def name_of(number: int) -> str:
    """Return the name of a number: its digits as syllables."""
    syllables = []
    while number:
        number, digit = divmod(number, len(SYLLABLES))
        syllables.append(SYLLABLES[digit])
    return "".join(syllables).capitalize()


if __name__ == "__main__":
    main()
