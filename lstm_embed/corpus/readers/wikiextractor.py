"""The `<doc id=… title=…>` documents that wikiextractor writes without its option --json."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from lstm_embed.base import storage
from lstm_embed.corpus.readers.article import Article, make_article, rejected
from lstm_embed.corpus.readers.lines import Line
from lstm_embed.corpus.readers.source import Source, byte_ranges
from lstm_embed.ledger import Rejected, Span

SUFFIXES = ("",)
_BEGIN = re.compile(rb'<doc\s+id="([^"]*)"(.*)>\s*$', re.S)
# A title may hold quotation marks: it ends where nothing but further attributes follows.
_TITLE = re.compile(rb'(.*?)"(?:\s+\w+="[^"]*")*+\s*$', re.S)
_LONGEST_BEGIN = 4096
"""Bytes of the longest line that begins a document; a title has 255 of them at most."""


class _Begin(NamedTuple):
    """The line that begins a document."""

    line: Line
    id: bytes
    title: bytes


def matches(suffix: str, head: bytes) -> bool:
    """Tell whether a file begins with a document."""
    return head.startswith(b"<doc ")


def cut(file: storage.FileInfo, head: bytes, num_pieces: int) -> list[Span]:
    """Cut a file into ranges of bytes."""
    return byte_ranges(file, num_pieces)


def read(source: Source) -> Iterator[Article | Rejected]:
    """Yield the documents that begin in a span; the last one may go on behind it."""
    span, limit = source.span, source.config.max_line_bytes
    begun: _Begin | None = None
    body: list[bytes] = []
    held = 0
    # What precedes the first sign of a document in a later span may belong to one that began in the span before.
    outside = span.start <= 0
    stray: Rejected | None = None
    for line in source.lines(beyond=True):
        if begun is None and 0 <= span.end <= line.offset:
            break
        if isinstance(line, Rejected):
            if begun is None or line.rest_of_file:
                yield line
            held += line.size
            continue
        begins = _begin(line)
        ends = line.data.rstrip() == b"</doc>"
        if begun is not None and not begins and not ends:
            held += len(line.data) + 1
            if held <= limit:
                body.append(line.data)
            continue
        if begun is not None:
            yield _document(span, begun, body, held, limit, whole=ends)
            if begins and 0 <= span.end <= line.offset:
                return
        elif not begins and outside and line.data.strip():
            stray = _stray(span, stray, line)
        if begins or ends:
            if stray:
                yield stray
            outside = ends
            begun, body, held, stray = begins, [], 0, None
    if begun is not None:
        yield _document(span, begun, body, held, limit, whole=False)
    if stray:
        yield stray


def _begin(line: Line) -> _Begin | None:
    """Return what a line says that begins a document, None for any other line."""
    if not line.data.startswith(b"<doc") or len(line.data) > _LONGEST_BEGIN:
        return None
    found = _BEGIN.match(line.data)
    if not found:
        return None
    behind = found[2].partition(b' title="')[2]
    title = _TITLE.match(behind)
    return _Begin(line, found[1], title[1] if title else behind.partition(b'"')[0])


def _stray(span: Span, stray: Rejected | None, line: Line) -> Rejected:
    """Return one note for a run of lines outside of documents."""
    if stray:
        return replace(stray, size=stray.size + len(line.data))
    return rejected(span.path, line.offset, "text outside of a document", line.data)


def _document(
    span: Span, begun: _Begin, body: list[bytes], size: int, limit: int, *, whole: bool
) -> Article | Rejected:
    first = begun.line
    if size > limit or not whole:
        reason = "document too long" if size > limit else "document without end"
        return rejected(span.path, first.offset, reason, first.data, size=len(first.data) + size)
    raw = first.data + b"\n" + b"\n".join(body)
    try:
        id_, title, text = (html.unescape(piece.decode()) for piece in (begun.id, begun.title, b"\n".join(body)))
    except UnicodeDecodeError:
        return rejected(span.path, first.offset, "invalid UTF-8", raw)
    top, _, rest = text.partition("\n")
    if top.strip() == title:  # wikiextractor repeats the title as the first line
        text = rest.lstrip("\n")
    return make_article(span.path, first.offset, raw, id_, title or None, text, {})
