"""Rate of the wikitext cleaner beside others, and how its words agree with wikiextractor's.

    wikiextractor --json --processes 1 -o extracted DUMP      # in an environment of its own
    python tests/benchmarks/bench_wikitext.py DUMP --reference extracted

Times are processor seconds of one process, best of several rounds over the same pages; ratios are of one run.
"""

from __future__ import annotations

import argparse
import html
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from gensim.corpora.wikicorpus import filter_wiki

from lstm_embed.dump.multistream import SpanReader
from lstm_embed.dump.pages import Page, read_pages
from lstm_embed.dump.wikitext import clean

WORD = re.compile(r"\w+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump", help="MediaWiki dump, .xml or compressed")
    parser.add_argument("--reference", type=Path, help="folder (or file) of wikiextractor's JSON for the same dump")
    parser.add_argument("--megabytes", type=float, default=8, help="wikitext to time, in MB (default 8)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds over it (default 3)")
    arguments = parser.parse_args()

    pages = [p for p in read_pages(SpanReader(arguments.dump)) if isinstance(p, Page)]
    pages = [page for page in pages if page.namespace == 0 and not page.redirect]
    print(f"{len(pages)} articles, {sum(map(num_bytes, pages)) / 1e6:.2f} MB of wikitext")
    compare_rates(pages, arguments.megabytes * 1e6, arguments.rounds)
    if arguments.reference:
        compare_words(pages, arguments.reference)


def num_bytes(page: Page) -> int:
    return len(page.text.encode())


def compare_rates(pages: list[Page], limit: float, rounds: int) -> None:
    """Print MB/s of every cleaner that is there, and our rate divided by it."""
    chosen = []
    for page in pages:
        if limit <= 0:
            break
        limit -= num_bytes(page)
        chosen.append(page)
    total = sum(map(num_bytes, chosen)) / 1e6
    cleaners: dict[str, Callable[[str], object]] = {"this cleaner": clean, "gensim filter_wiki": filter_wiki}
    try:
        import mwparserfromhell
    except ImportError:
        pass
    else:
        cleaners["mwparserfromhell strip_code"] = lambda text: mwparserfromhell.parse(text).strip_code()
    ours = 0.0
    for name, cleaner in cleaners.items():
        rate = total / min(seconds(cleaner, chosen) for _ in range(rounds))
        ours = ours or rate
        print(f"{name:28} {rate:6.1f} MB/s   this cleaner is {ours / rate:5.2f} times as fast")


def seconds(cleaner: Callable[[str], object], pages: list[Page]) -> float:
    begin = time.process_time()
    for page in pages:
        cleaner(page.text)
    return time.process_time() - begin


def compare_words(pages: list[Page], reference: Path) -> None:
    """Print precision and recall of our words against the reference's, as bags of words."""
    files = sorted(f for f in reference.rglob("*") if f.is_file()) if reference.is_dir() else [reference]
    expected = {}
    for file in files:
        for line in file.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            expected[row["id"]] = words(html.unescape(row["text"]))  # wikiextractor writes & and < as entities
    found = {page.id: words(clean(page.text)) for page in pages}
    print(f"{len(expected)} articles in the reference, {len(expected.keys() - found.keys())} of them not found here")
    agreement("words of all articles in one bag", [(total(found), total(expected))])
    agreement("a bag for each article", [(found.get(i, Counter()), bag) for i, bag in expected.items()])


def words(text: str) -> Counter[str]:
    return Counter(WORD.findall(text.lower()))


def total(bags: dict[str, Counter[str]]) -> Counter[str]:
    result: Counter[str] = Counter()
    for bag in bags.values():
        result.update(bag)
    return result


def agreement(name: str, pairs: list[tuple[Counter[str], Counter[str]]]) -> None:
    common = sum((found & expected).total() for found, expected in pairs)
    precision = common / max(sum(found.total() for found, _ in pairs), 1)
    recall = common / max(sum(expected.total() for _, expected in pairs), 1)
    print(f"{name:34} precision {precision:.4f}  recall {recall:.4f}")


if __name__ == "__main__":
    main()
