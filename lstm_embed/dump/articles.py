"""A MediaWiki XML dump in, articles out, as wikiextractor's default gives them.

A multistream dump is cut into units that are read alone. What cannot be used comes out as `Rejected` in its place among
the articles (`pages` and `multistream` say what that may be), and reading goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from lstm_embed.base import storage
from lstm_embed.dump import wikitext
from lstm_embed.dump.multistream import SpanReader, page_units, stream_offsets
from lstm_embed.dump.pages import PAGE_LIMIT, Page, Site, read_pages, read_site
from lstm_embed.ledger import Rejected

__all__ = [
    "Article",
    "Page",
    "Site",
    "UnitReader",
    "articles",
    "dump_units",
    "read_pages",
    "read_site",
    "read_unit",
    "stream_offsets",
]

UNIT_BYTES = 64 << 20
"""Of a dump as stored; about 300 MB of XML, half a minute's work."""


@dataclass(frozen=True, slots=True)
class Article:
    """One article as wikiextractor writes it; all fields are strings."""

    id: str
    revid: str
    url: str
    title: str
    text: str

    def to_json(self) -> str:
        """Return the article as one line of JSON, without the line end."""
        return json.dumps(asdict(self), ensure_ascii=False)


def articles(
    pages: Iterable[Page | Rejected], site: Site, skipped: Counter[str] | None = None
) -> Iterator[Article | Rejected]:
    """Yield the cleaned articles among pages: main namespace, no redirects, disambiguation pages like any other.

    Args:
        pages: From `read_pages`; what is rejected is passed on.
        site: Of the dump.
        skipped: Counts what was left out: "other namespace", "redirect", "no text" (before or after cleaning).
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
        elif text := wikitext.clean(page.text, hidden):
            yield Article(page.id, page.revid, site.url(page.id), page.title, text)
        else:
            skipped["no text"] += 1


def dump_units(path: str, unit_bytes: int = UNIT_BYTES) -> list[tuple[int, int]]:
    """Cut a dump into spans of bytes as stored that can be read alone with `read_unit`.

    A multistream `.bz2` gives spans of about `unit_bytes`, anything else one span.

    Raises:
        FileNotFoundError: if there is no file at `path`.
    """
    if path.endswith(".bz2"):
        return page_units(path, unit_bytes)
    return [(0, storage.info(path).size)]


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

    def __iter__(self) -> Iterator[Article | Rejected]:
        site = read_site(SpanReader(self._span.path))
        for result in articles(self._pages(), site, self.skipped):
            if isinstance(result, Rejected):
                result = replace(result, offset=self._span.offset(result.offset))
            yield result

    def _pages(self) -> Iterator[Page | Rejected]:
        span = self._span
        is_fragment = span.start > 0
        pages = read_pages(span, span.path, is_fragment=is_fragment, is_last=span.is_last, page_limit=self._page_limit)
        for page in pages:
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
    """
    return UnitReader(storage.resolve(path), start, end, skip_pages=skip_pages, page_limit=page_limit)
