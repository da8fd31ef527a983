"""The XML of a MediaWiki dump in, pages out.

Reading cannot be hurt by what it reads: document type declarations (and with them entities) are refused, a page has a
largest size, nesting and tags are bounded, so that no more than a page is ever held. What cannot be used comes out as
`Rejected` in its place, and reading goes on at the next page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from lstm_embed.dump import wikitext
from lstm_embed.dump.multistream import EXCERPT, rejected
from lstm_embed.ledger import Rejected

PAGE_LIMIT = 64 << 20
"""Characters of one page's text; a larger page is rejected. MediaWiki's own limit is 2 MiB."""
_GIVE_UP = 8
"""A unit is left when so many page limits of bytes pass without the end of a page."""
_MAX_DEPTH = 32
_MAX_TOKEN = 1 << 20
"""Bytes of one tag or comment, which the parser must hold as a whole."""
_ROOT = b"<mediawiki>"
_PAGE = b"<page>"
_FIELDS = {
    ("page", "title"): "title",
    ("page", "ns"): "namespace",
    ("page", "id"): "id",
    ("revision", "id"): "revid",
    ("revision", "text"): "text",
}
_HIDDEN_NAMESPACES = (-2, 6, 14)
"""Keys of the namespaces Media, File and Category."""
_SITE_BYTES = 1 << 22
"""Where the description of the wiki must have ended."""


class Page(NamedTuple):
    """One page as the dump holds it; of several revisions the last."""

    title: str
    namespace: int
    id: str
    redirect: bool
    revid: str
    text: str
    """Wikitext."""


@dataclass(frozen=True)
class Site:
    """What a dump says of its wiki."""

    base_url: str = ""
    """Of the main page; "" if the dump does not tell."""
    namespaces: dict[int, str] = field(default_factory=dict)
    """Local names by key."""

    def url(self, page_id: str) -> str:
        """Return the address of a page."""
        return f"{self.base_url.rpartition('/')[0]}?curid={page_id}"

    def hidden_namespaces(self) -> frozenset[str]:
        """Return the lower-case names of namespaces whose links show no text."""
        local = {self.namespaces.get(key, "").lower() for key in _HIDDEN_NAMESPACES}
        return wikitext.HIDDEN_NAMESPACES | local - {""}


class _Refused(Exception):
    """The parser must not go on; the message is a constant phrase."""


class _PageParser:
    """Expat, set up for pages: feed bytes, take pages. Good until the first thing it cannot read.

    Args:
        path: For the records of what is rejected.
        offset: Of the first byte that will be fed.
        inside: Whether that byte lies inside the root element.
        page_limit: Characters of the largest page.
    """

    def __init__(self, path: str, offset: int, inside: bool, page_limit: int) -> None:
        self.finished: list[Page | Rejected] = []
        self.site = Site()
        self.site_is_known = False
        self.page_start = -1
        """Offset of the page that is being read; -1 between pages."""
        self.root_is_closed = False
        self._file_path = path
        self._limit = page_limit
        self._refusal: tuple[str, int] | None = None
        self._path: list[str] = []
        self._values: dict[str, str] = {}
        self._redirect = False
        self._pieces: list[str] = []
        self._size = 0
        self._excess = b""
        self._namespace_key = ""
        self._fed = offset
        self._base = offset - len(_ROOT) if inside else offset
        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.buffer_size = 1 << 16
        self._expat.StartDoctypeDeclHandler = lambda *_: self._refuse("document type declaration")
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        if inside:
            self._expat.Parse(_ROOT, False)

    @property
    def place(self) -> int:
        """Offset of what is being parsed, or of what stopped the parser."""
        # Expat runs on to the end of its bytes after a handler has raised.
        return self._refusal[1] if self._refusal else self._base + max(self._expat.CurrentByteIndex, 0)

    def feed(self, data: memoryview) -> None:
        """Parse more bytes.

        Raises:
            _Refused, expat.ExpatError: with `place` where it happened.
        """
        self._fed += len(data)
        self._expat.Parse(data, False)
        if self._fed - self.place > _MAX_TOKEN + len(data):
            self._refuse("tag without end")

    def unusable_page(self, reason: str) -> Rejected:
        """Return the record of the page that is being read."""
        piece = self._excess or "".join(self._pieces).encode() or self._values.get("text", "").encode()
        return rejected(self._file_path, self.page_start, reason, piece)

    def _refuse(self, reason: str) -> None:
        self._refusal = reason, self.place
        raise _Refused(reason)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if len(self._path) > _MAX_DEPTH:
            self._refuse("elements nested too deeply")
        if name == "page":
            if self.page_start >= 0:
                self.finished.append(self.unusable_page("page not closed"))
                self._path = ["", "page"]
            self._begin_page()
        elif self.page_start >= 0:
            if name == "revision":
                self._size = 0
            self._redirect |= name == "redirect"
            if (parent, name) in _FIELDS:
                self._collect()
        elif parent == "siteinfo" and name == "base":
            self._collect()
        elif parent == "namespaces":
            self._namespace_key = attributes.get("key", "")
            self._collect()

    def _begin_page(self) -> None:
        self.page_start = self.place
        self._expat.CharacterDataHandler = None
        self._values, self._redirect, self._pieces, self._size, self._excess = {}, False, [], 0, b""

    def _collect(self) -> None:
        self._pieces = []
        self._expat.CharacterDataHandler = self._text

    def _text(self, data: str) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._pieces.append(data)
        elif not self._excess:
            self._excess = ("".join(self._pieces) or data[: self._limit]).encode()
            self._pieces = []

    def _end(self, name: str) -> None:
        if self._path:
            self._path.pop()
        parent = self._path[-1] if self._path else ""
        if self._expat.CharacterDataHandler is not None:
            self._expat.CharacterDataHandler = None
            self._store(parent, name, "".join(self._pieces))
            self._pieces = []
        if name == "page" and self.page_start >= 0:
            self.finished.append(self._finish_page())
            self._values, self._excess, self.page_start = {}, b"", -1
        elif name == "siteinfo":
            self.site_is_known = True
        self.root_is_closed = not self._path

    def _store(self, parent: str, name: str, value: str) -> None:
        if self.page_start >= 0:
            self._values[_FIELDS.get((parent, name), "")] = value
        elif name == "base":
            self.site = Site(value.strip(), self.site.namespaces)
        elif (key := _integer(self._namespace_key)) is not None:
            self.site.namespaces[key] = value.strip()

    def _finish_page(self) -> Page | Rejected:
        if self._excess:
            return self.unusable_page("page too large")
        get = self._values.get
        title, page_id, revid = get("title", ""), get("id", "").strip(), get("revid", "").strip()
        if not title or not page_id:
            return self.unusable_page("page without title or id")
        return Page(title, _integer(get("namespace", "")) or 0, page_id, self._redirect, revid, get("text", ""))


def _integer(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


def read_pages(
    chunks: Iterable[bytes | Rejected],
    path: str = "",
    *,
    is_fragment: bool = False,
    is_last: bool = True,
    page_limit: int = PAGE_LIMIT,
) -> Iterator[Page | Rejected]:
    """Yield the pages of an XML byte stream in order, and a `Rejected` for each piece that cannot be used.

    Args:
        chunks: The bytes in pieces of moderate size; a `Rejected` among them says that bytes are missing there and is
            passed on.
        path: For the records of what is rejected; their offsets count from the first byte.
        is_fragment: The bytes begin between two pages and not at the beginning of a dump.
        is_last: The bytes reach to the end of the dump, so that its root element must be closed.
        page_limit: Characters of the largest page.
    """
    parser: _PageParser | None = _PageParser(path, 0, is_fragment, page_limit)
    position = last_page = 0
    tail = b""
    is_broken = False
    for chunk in chunks:
        if isinstance(chunk, Rejected):
            if parser and parser.page_start >= 0:
                yield parser.unusable_page("page not closed")
            yield chunk
            parser, tail, is_broken = None, b"", True
            continue
        data, base, at = tail + chunk, position - len(tail), 0
        position += len(chunk)
        tail = b""
        while True:
            if parser is None:
                at = data.find(_PAGE, at)
                if at < 0:
                    tail = data[-(len(_PAGE) - 1) :]
                    break
                parser = _PageParser(path, base + at, True, page_limit)
            try:
                parser.feed(memoryview(data)[at:])
                failure = None
            except (expat.ExpatError, _Refused) as error:
                failure = _failure(parser, path, error, data[at : at + EXCERPT])
            if parser.finished:
                yield from parser.finished
                parser.finished.clear()
                last_page = position
            if failure is None:
                break
            yield failure
            at = max(parser.place + 1 - base, at)
            parser, is_broken = None, True
        if position - last_page > _GIVE_UP * page_limit:
            yield parser.unusable_page("no end of a page") if parser else rejected(path, last_page, "no page", b"")
            return
    if parser and parser.page_start >= 0:
        yield parser.unusable_page("page not closed")
    elif is_last and not is_broken and not (parser and parser.root_is_closed):
        yield rejected(path, position, "dump without end", b"")


def _failure(parser: _PageParser, path: str, error: Exception, near: bytes) -> Rejected:
    reason = str(error) if isinstance(error, _Refused) else "XML not well formed"
    if parser.page_start >= 0:
        return parser.unusable_page(reason)
    return rejected(path, parser.place, reason, near)


def read_site(chunks: Iterable[bytes | Rejected]) -> Site:
    """Return what the beginning of a dump says of its wiki; an empty `Site` if it says nothing."""
    parser = _PageParser("", 0, False, PAGE_LIMIT)
    position = 0
    for chunk in chunks:
        if isinstance(chunk, Rejected):
            break
        position += len(chunk)
        try:
            parser.feed(memoryview(chunk))
        except (expat.ExpatError, _Refused):
            break
        if parser.site_is_known or parser.page_start >= 0 or parser.finished or position > _SITE_BYTES:
            break
    return parser.site
