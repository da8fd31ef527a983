"""A MediaWiki dump in, articles out, as wikiextractor's default gives them, with the text of lists besides.

A multistream dump, or plain XML, is cut into units that are read alone. A page that cannot be used comes out as
`Rejected` in its place among the articles, and reading goes on; a file that is no dump, or not a whole one, is an error.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.dump import wikitext
from lstm_embed.dump.multistream import SpanReader, check_end, page_units
from lstm_embed.dump.pages import PAGE_LIMIT, Page, Site, read_pages, read_site
from lstm_embed.ledger import Rejected

UNIT_BYTES = 64 << 20
"""Of a dump as stored; about 300 MB of XML, half a minute's work."""
_PROBED_PAGES = 100


@dataclass(frozen=True, slots=True)
class ArticleRow:
    """One article as wikiextractor writes it: a row of a part. All fields are strings."""

    id: str
    revid: str
    url: str
    title: str
    text: str

    def to_json(self) -> str:
        """Return the article as one line of JSON, without the line end."""
        return json.dumps(asdict(self), ensure_ascii=False)


def article_rows(
    pages: Iterable[Page | Rejected], site: Site, skipped: Counter[str] | None = None
) -> Iterator[ArticleRow | Rejected]:
    """Yield the cleaned articles among pages: main namespace, no redirects, disambiguation pages like any other.

    Args:
        pages: From `read_pages`; what is rejected is passed on.
        site: Of the dump.
        skipped: Counts what was left out: "other namespace", "redirect", "not wikitext", "no text" (before or after
            cleaning).
    """
    skipped = Counter() if skipped is None else skipped
    hidden = site.hidden_namespaces()
    for page in pages:
        if isinstance(page, Rejected):
            yield page
        elif page.namespace != 0:
            skipped["other namespace"] += 1
        elif page.redirect:
            skipped["redirect"] += 1
        elif page.model != "wikitext":
            skipped["not wikitext"] += 1
        elif text := wikitext.clean(page.text, hidden):
            yield ArticleRow(page.id, page.revid, site.url(page.id), page.title, text)
        else:
            skipped["no text"] += 1


def dump_units(path: str, unit_bytes: int = UNIT_BYTES) -> list[tuple[int, int]]:
    """Cut a dump into spans of bytes as stored that can be read alone with `read_unit`.

    A multistream `.bz2` and plain XML give spans of about `unit_bytes`, anything else one span.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        InputError: if the beginning or end of the file shows that it is no dump, a dump without text, or cut off.
    """
    read_site(SpanReader(path), path)
    pages = itertools.islice(read_pages(SpanReader(path), path), _PROBED_PAGES)
    texts = [page.text for page in pages if isinstance(page, Page)]
    if texts and not any(texts):
        raise InputError(
            f"{path} is a stub dump: its pages have titles but no text (the first {len(texts)} were looked at); "
            "extract reads the dumps named pages-articles or pages-articles-multistream"
        )
    check_end(path)
    return page_units(path, unit_bytes)


def refuse_empty(path: str, totals: dict[str, Any]) -> None:
    """Refuse a result without articles.

    Args:
        path: The dump.
        totals: Counts of the manifest: "records", "pages" and, by reason, "skipped" and "rejected".

    Raises:
        InputError: saying what its pages are.
    """
    if totals["records"]:
        return
    counts = {**totals["skipped"], **totals["rejected"]}
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items())) or "it holds no page"
    raise InputError(
        f"{path} gave no article: of {totals['pages']} pages none is an article of wikitext ({reasons}); "
        "extract reads the dumps named pages-articles or pages-articles-multistream"
    )


class UnitReader:
    """The articles of one unit, and the `Rejected` in their places; iterate once.

    The offset of a `Rejected` counts in the decompressed file; in a unit of a multistream dump, where that is not known,
    it is where the bz2 stream begins that holds the piece, as stored.
    """

    def __init__(self, path: str, start: int, end: int, *, skip_pages: int, page_limit: int) -> None:
        self.skipped: Counter[str] = Counter()
        """Pages that are no articles, by reason."""
        self.num_pages = 0
        """Pages read so far, of whatever kind."""
        self._span = SpanReader(path, start, end)
        self._skip_pages = skip_pages
        self._page_limit = page_limit

    @property
    def num_read(self) -> int:
        """Bytes of the unit read so far, as stored."""
        return self._span.num_read

    def digest(self) -> str:
        """Return the SHA-256 of the bytes of the unit read so far, as stored."""
        return self._span.digest()

    def __iter__(self) -> Iterator[ArticleRow | Rejected]:
        site = read_site(SpanReader(self._span.path), self._span.path)
        for result in article_rows(self._pages(), site, self.skipped):
            if isinstance(result, Rejected):
                result = replace(result, offset=self._span.offset(result.offset))
            yield result

    def _pages(self) -> Iterator[Page | Rejected]:
        span = self._span
        for page in read_pages(span, span.path, is_fragment=span.start > 0, page_limit=self._page_limit):
            if isinstance(page, Page):
                self.num_pages += 1
                if self.num_pages <= self._skip_pages:
                    continue
            yield page


def read_unit(
    path: str, start: int = 0, end: int = -1, *, skip_pages: int = 0, page_limit: int = PAGE_LIMIT
) -> UnitReader:
    """Read one unit of a dump.

    Args:
        path: The dump: `.xml`, or compressed with a suffix that says how.
        start: First byte as stored, from `dump_units`.
        end: Where the unit ends; -1 for the end of the file.
        skip_pages: Pages (`UnitReader.num_pages`) that were dealt with before; they are read but not cleaned. What is
            rejected among them is yielded all the same.
        page_limit: Characters of the largest page.

    Raises:
        FileNotFoundError: if there is no file at `path`.
        InputError: from the reading, if the file is no dump, cut off or damaged.
    """
    return UnitReader(storage.resolve(path), start, end, skip_pages=skip_pages, page_limit=page_limit)
