"""The XML of a MediaWiki dump in, pages out.

Reading cannot be hurt by what it reads: document type declarations (and with them entities) are refused, a page has a
largest size, nesting and tags are bounded, so that no more than a page is ever held. A page that cannot be used comes out
as `Rejected` in its place, and reading goes on at the next one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.parsers import expat

from lstm_embed.base.errors import InputError
from lstm_embed.dump import wikitext
from lstm_embed.ledger import Rejected

PAGE_LIMIT = 8 << 20
"""Characters of one page's text; a larger page is rejected. MediaWiki's own limit is 2 MiB; cleaning takes up to a hundred
bytes a character."""
_GIVE_UP = 64
"""A dump is refused when so many page limits of bytes pass without the end of a page."""
_EXCERPT = 200
"""First bytes of a rejected piece that are kept."""
_MAX_DEPTH = 32
_MAX_TOKEN = 1 << 20
"""Bytes of one tag or comment, which the parser must hold as a whole."""
_ROOT = b"<mediawiki>"
_PAGE = b"<page>"
_FIELDS = {
    ("page", "title"): "title",
    ("page", "ns"): "namespace",
    ("page", "id"): "id",
    ("revision", "model"): "model",
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
    model: str
    """Of the content; "wikitext" if the dump does not tell."""
    text: str


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
        self._file_path = path
        self._limit = page_limit
        self._refusal: tuple[str, int] | None = None
        self._path: list[str] = []
        self._values: dict[str, str] = {}
        self._redirect = False
        self._pieces: list[str] = []
        self._size = 0
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

    def feed(self, data: memoryview) -> str:
        """Parse more bytes; return why that cannot be done, "" if it can. `place` is then where."""
        self._fed += len(data)
        try:
            self._expat.Parse(data, False)
            if self._fed - self.place > _MAX_TOKEN + len(data):
                self._refuse("tag without end")
        except _Refused as refusal:
            return str(refusal)
        except expat.ExpatError:
            return "XML not well formed"
        except (LookupError, ValueError):
            return "XML in an unknown encoding"
        return ""

    def unusable_page(self, reason: str) -> Rejected:
        """Return the record of the page that is being read."""
        return self._rejected(
            self.page_start, reason, "".join(self._pieces).encode() or self._values.get("text", "").encode()
        )

    def failure(self, reason: str, near: bytes) -> Rejected:
        """Return the record of what stopped the parser: the page that is being read, or the bytes between two pages."""
        return self.unusable_page(reason) if self.page_start >= 0 else self._rejected(self.place, reason, near)

    def _rejected(self, offset: int, reason: str, piece: bytes) -> Rejected:
        return Rejected(self._file_path, offset, reason, hashlib.sha256(piece).hexdigest(), piece[:_EXCERPT])

    def _refuse(self, reason: str) -> None:
        self._refusal = reason, self.place
        raise _Refused(reason)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        parent = self._path[-1] if self._path else ""
        self._path.append(name)
        if not parent and name != "mediawiki":
            self._refuse("root element that is not mediawiki")
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
        self._values, self._redirect, self._pieces, self._size = {}, False, [], 0

    def _collect(self) -> None:
        self._pieces = []
        self._expat.CharacterDataHandler = self._text

    def _text(self, data: str) -> None:
        room = self._limit - self._size
        self._size += len(data)
        if room > 0:
            self._pieces.append(data[:room])

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
            self._values, self.page_start = {}, -1
        elif name == "siteinfo":
            self.site_is_known = True

    def _store(self, parent: str, name: str, value: str) -> None:
        if self.page_start >= 0:
            self._values[_FIELDS.get((parent, name), "")] = value
        elif name == "base":
            self.site = Site(value.strip(), self.site.namespaces)
        elif (key := _integer(self._namespace_key)) is not None:
            self.site.namespaces[key] = value.strip()

    def _finish_page(self) -> Page | Rejected:
        if self._size > self._limit:
            return self.unusable_page("page too large")
        get = self._values.get
        title, page_id, revid = get("title", ""), get("id", "").strip(), get("revid", "").strip()
        if not title or not page_id:
            return self.unusable_page("page without title or id")
        namespace, model = _integer(get("namespace", "")) or 0, get("model", "wikitext").strip()
        return Page(title, namespace, page_id, self._redirect, revid, model, get("text", ""))


def _integer(text: str) -> int | None:
    text = text.strip()
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else None


def read_pages(
    chunks: Iterable[bytes], path: str = "", *, is_fragment: bool = False, page_limit: int = PAGE_LIMIT
) -> Iterator[Page | Rejected]:
    """Yield the pages of an XML byte stream in order, and a `Rejected` for each piece that cannot be used.

    Args:
        chunks: The bytes in pieces of moderate size.
        path: For the records of what is rejected; their offsets count from the first byte.
        is_fragment: The bytes begin between two pages and not at the beginning of a dump.
        page_limit: Characters of the largest page.

    Raises:
        InputError: if no page ends within so many bytes that there is no sense in reading on.
    """
    parser: _PageParser | None = _PageParser(path, 0, is_fragment, page_limit)
    position = last_page = 0
    tail = b""
    for chunk in chunks:
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
            failure = parser.feed(memoryview(data)[at:])
            if parser.finished:
                yield from parser.finished
                parser.finished.clear()
                last_page = position
            if not failure:
                break
            yield parser.failure(failure, data[at : at + _EXCERPT])
            at = max(parser.place + 1 - base, at)
            parser = None
        if position - last_page > _GIVE_UP * page_limit:
            raise InputError(
                f"{path} holds no page that ends between bytes {last_page} and {position} of its XML; "
                "extract reads the dumps named pages-articles or pages-articles-multistream"
            )
    if parser and parser.page_start >= 0:
        yield parser.unusable_page("page not closed")


def read_site(chunks: Iterable[bytes], path: str = "") -> Site:
    """Return what the beginning of a dump says of its wiki; an empty `Site` if it says nothing.

    Raises:
        InputError: if what begins so is no dump.
    """
    parser = _PageParser(path, 0, False, PAGE_LIMIT)
    failure = ""
    position = 0
    for chunk in chunks:
        position += len(chunk)
        failure = parser.feed(memoryview(chunk))
        if parser.site_is_known or parser.page_start >= 0 or parser.finished:
            return parser.site
        if failure or position > _SITE_BYTES:
            break
    raise InputError(
        f"{path} is no MediaWiki dump: {failure or 'no page begins'} (byte {parser.place} of its XML); "
        "expected XML that begins with <mediawiki>, as in pages-articles.xml.bz2"
    )
