"""JSON: a record a line, as wikiextractor and gensim's segment_wiki write them, or one array of records."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers.article import Article, make_article, rejected
from lstm_embed.corpus.readers.lines import Block, Line, split_lines
from lstm_embed.corpus.readers.source import Source, byte_ranges
from lstm_embed.ledger import Rejected, Span

SUFFIXES = ("", ".json", ".jsonl", ".ndjson")
_OBJECT = re.compile(rb'\{\s*(?:["}]|$)')
_ARRAY = re.compile(rb"\[\s*(?:[{\]]|$)")
_SIGN = re.compile(rb'[][{},"]')
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.S)


def is_json(head: bytes) -> bool:
    """Tell whether a file begins like records of JSON, one a line or in an array."""
    return bool(_OBJECT.match(head) or _ARRAY.match(head))


def matches(suffix: str, head: bytes) -> bool:
    """Take every file: what is no JSON is rejected line by line."""
    return True


def cut(file: storage.FileInfo, head: bytes, num_pieces: int) -> list[Span]:
    """Cut lines into ranges of bytes; an array is one span."""
    return [Span.whole(file)] if _ARRAY.match(head) else byte_ranges(file, num_pieces)


def read(source: Source) -> Iterator[Article | Rejected]:
    """Yield the articles of lines, or of an array's elements, which the span owns that begins at the file's beginning."""
    path = source.span.path
    if not _ARRAY.match(source.head):
        records = source.lines()
    elif source.span.start <= 0:
        records = _elements(source)
    else:
        return
    for record in records:
        if isinstance(record, Rejected):
            yield record
        elif record.data and not record.data.isspace():
            yield _parse(path, record, source.config, source.columns)


def _parse(path: str, line: Line, config: TextConfig, columns: Sequence[str]) -> Article | Rejected:
    """Return the article of one record."""
    try:
        # Files that were joined have byte order marks inside, careless writers leave control characters as they are.
        row = json.loads(line.data.decode("utf-8-sig"), strict=False)
    except UnicodeDecodeError:
        return rejected(path, line.offset, "invalid UTF-8", line.data)
    except (ValueError, RecursionError):
        return rejected(path, line.offset, "not JSON", line.data)
    if not isinstance(row, dict):
        return rejected(path, line.offset, "not a JSON object", line.data)
    text = row.get(config.text_column)
    if text is None and isinstance(row.get("section_texts"), list):
        text = _segment_wiki_text(row)
    title = row.get(config.title_column)
    carried = {name: row.get(name) for name in columns}
    return make_article(path, line.offset, line.data, row.get(config.id_column), title, text, carried)


def _segment_wiki_text(row: dict[str, Any]) -> Any:
    """Join the sections that gensim's segment_wiki keeps apart, headings as wikiextractor writes them."""
    titles = row.get("section_titles") or []
    lines = []
    for number, body in enumerate(row["section_texts"]):
        if not isinstance(body, str):
            return body
        if 0 < number < len(titles):
            lines.append(f"{titles[number]}.")
        lines.append(body)
    return "\n".join(lines)


def _elements(source: Source) -> Iterator[Line | Rejected]:
    """Yield the elements of an array, not parsed yet, and as lines what follows it. No more than one element is held."""
    span, limit = replace(source.span, end=-1), source.config.max_line_bytes
    pending: list[bytes] = []
    held = depth = position = offset = 0
    in_string = False
    for block in _whole_escapes(source.blocks):
        if isinstance(block, Rejected):
            yield replace(block, offset=offset)
            return
        at = begin = 0
        while at < len(block):
            if in_string:
                at = _IN_STRING.match(block, at).end() + 1  # type: ignore[union-attr]
                in_string = at > len(block)
                continue
            found = _SIGN.search(block, at)
            if not found:
                break
            sign, at = found[0], found.end()
            if sign == b'"':
                in_string = True
                continue
            depth += (sign in b"[{") - (sign in b"]}")
            if depth == 0 or (depth == 1 and sign in b"[,"):
                if sign != b"[":
                    yield _element(span, offset, [*pending, block[begin : at - 1]], held + at - 1 - begin, limit)
                pending, held, begin, offset = [], 0, at, position + at
                if depth == 0:
                    yield from split_lines(span, itertools.chain([block[at:]], source.blocks), offset, limit)
                    return
        if held <= limit:
            pending.append(block[begin:])
        held += len(block) - begin
        position += len(block)
    piece = b"".join(pending)[:limit]
    yield rejected(span.path, offset, "JSON array without end", piece, size=max(position, span.size), rest=True)


def _element(span: Span, offset: int, pieces: list[bytes], size: int, limit: int) -> Line | Rejected:
    data = b"".join(pieces)
    if size > limit:
        return rejected(span.path, offset, "record too long", data[:limit], size=size)
    return Line(offset, data)


def _whole_escapes(blocks: Iterator[Block]) -> Iterator[Block]:
    """Cut blocks elsewhere where a backslash would be parted from what it escapes."""
    held_back = b""
    for block in blocks:
        if isinstance(block, Rejected):
            yield block
            return
        block = held_back + block
        num_backslashes = len(block) - len(block.rstrip(b"\\"))
        held_back = block[-1:] if num_backslashes % 2 else b""
        yield block.removesuffix(held_back)
    yield held_back
