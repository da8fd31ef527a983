"""Articles of each format: wikiextractor's JSON and its older `<doc>` format, gensim's segment_wiki JSON, JSON lines and
parquet with chosen columns.

What cannot be used is yielded as `Rejected`, never raised.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.lines import Line, rejected
from lstm_embed.ledger import Rejected, Span

_DOC_START = re.compile(rb'^<doc\s+id="([^"]*)"(?:[^>]*?\btitle="([^"]*)")?[^>]*>\s*$')


class Article(NamedTuple):
    """One document of the input."""

    id: str | None
    title: str | None
    text: str
    raw: bytes
    """The bytes it was made from; hashed into the part's record."""
    columns: dict[str, Any]
    """Further columns the user asked to carry along."""


def parse_json(path: str, line: Line, config: TextConfig, columns: Sequence[str] = ()) -> Article | Rejected:
    """Return the article of one JSON line."""
    try:
        row = json.loads(line.data.decode("utf-8-sig" if line.offset == 0 else "utf-8"))
    except UnicodeDecodeError:
        return _rejected_line(path, line, "invalid UTF-8")
    except (ValueError, RecursionError):
        return _rejected_line(path, line, "not JSON")
    if not isinstance(row, dict):
        return _rejected_line(path, line, "not a JSON object")
    text = row.get(config.text_column)
    if text is None and isinstance(row.get("section_texts"), list):
        text = _segment_wiki_text(row)
    title = row.get(config.title_column)
    return _article(path, line, row.get(config.id_column), title, text, {name: row.get(name) for name in columns})


def _article(path: str, line: Line, id_: Any, title: Any, text: Any, columns: dict[str, Any]) -> Article | Rejected:
    """Check the values of one record."""
    if text is None:
        return _rejected_line(path, line, "no text")
    if not isinstance(text, str):
        return _rejected_line(path, line, "text is not a string")
    if isinstance(id_, list | dict | bytes) or isinstance(title, list | dict | bytes):
        return _rejected_line(path, line, "id or title is not a string or number")
    name = None if id_ is None else str(id_)
    heading = None if title is None else str(title)
    if "\0" in text:
        return _rejected_line(path, line, "NUL character")
    try:
        for value in (text, heading or "", name or ""):
            value.encode("utf-8")
    except UnicodeEncodeError:
        return _rejected_line(path, line, "lone surrogate")
    return Article(name, heading, text, line.data, columns)


def _rejected_line(path: str, line: Line, reason: str) -> Rejected:
    return rejected(path, line.offset, reason, line.data)


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


def doc_articles(span: Span, lines: Iterable[Line | Rejected], config: TextConfig) -> Iterator[Article | Rejected]:
    """Read wikiextractor's `<doc id=… title=…>` format; a span owns each document that begins in it.

    Args:
        span: The span.
        lines: Those that begin at its start or behind, also behind its end.
        config: Longest document (as longest line).
    """
    header: re.Match[bytes] | None = None
    begin = Line(0, b"")
    body: list[bytes] = []
    held = 0
    # What precedes the first sign of a document in a later span may belong to one that began in the span before.
    outside = span.start <= 0
    for line in lines:
        if header is None and 0 <= span.end <= line.offset:
            return
        if isinstance(line, Rejected):
            if header is None or line.reason != "line too long":
                yield line
            held = config.max_line_bytes + 1
            continue
        start = _DOC_START.match(line.data)
        ends = line.data.rstrip() == b"</doc>"
        if header is not None and not start:
            held += len(line.data)
            if held > config.max_line_bytes:
                yield _rejected_line(span.path, begin, "document too long")
                header, body, outside = None, [], ends
                continue
            if not ends:
                body.append(line.data)
                continue
        if header is not None and ends:
            yield _doc_article(span.path, begin, header, b"\n".join(body))
        elif header is not None:
            yield _rejected_line(span.path, begin, "document without end")
            if 0 <= span.end <= line.offset:
                return
        elif not start and outside and line.data.strip():
            yield _rejected_line(span.path, line, "text outside of a document")
            outside = False  # one note for a run of such lines
        if start or ends:
            outside = ends
            header, begin, body, held = start, line, [], 0
    if header is not None:
        yield _rejected_line(span.path, begin, "document without end")


def _doc_article(path: str, begin: Line, header: re.Match[bytes], body: bytes) -> Article | Rejected:
    line = Line(begin.offset, begin.data + b"\n" + body)
    try:
        id_, title, text = (html.unescape(piece.decode("utf-8")) for piece in (header[1], header[2] or b"", body))
    except UnicodeDecodeError:
        return _rejected_line(path, line, "invalid UTF-8")
    first, _, rest = text.partition("\n")
    if first.strip() == title:  # wikiextractor repeats the title as the first line
        text = rest.lstrip("\n")
    return _article(path, line, id_, title or None, text, {})


def parquet_articles(span: Span, config: TextConfig, columns: Sequence[str]) -> Iterator[Article | Rejected]:
    """Read the rows of a parquet file's row groups `span.start` to `span.end`.

    Raises:
        InputError: if the file has no column for the text.
    """
    with storage.open_input(span.path) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            yield rejected(span.path, 0, "not a parquet file, or a damaged one", b"")
            return
        names = set(file.schema_arrow.names)
        if config.text_column not in names:
            raise InputError(
                f"{span.path} has no column {config.text_column!r}; it has {', '.join(sorted(names))}; "
                "name the text's column with --text-column"
            )
        wanted = [
            n
            for n in dict.fromkeys((config.text_column, config.id_column, config.title_column, *columns))
            if n in names
        ]
        for group in range(span.start, file.num_row_groups if span.end < 0 else span.end):
            first = sum(file.metadata.row_group(before).num_rows for before in range(group))
            number = first
            try:
                for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
                    for row in _rows(batch):
                        yield _parquet_article(span.path, number, row, config, columns)
                        number += 1
            except (OSError, pa.ArrowException):
                lost = file.metadata.row_group(group).num_rows - (number - first)
                yield replace(rejected(span.path, number, "damaged row group", b""), count=lost)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return a batch as rows; strings that are not UTF-8 stay bytes."""
    try:
        return list(batch.to_pylist())
    except UnicodeDecodeError:
        columns = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            values = (column.cast(pa.large_binary()) if is_text else column).to_pylist()
            columns[name] = [_text_or_bytes(value) for value in values] if is_text else values
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _text_or_bytes(value: bytes | None) -> str | bytes | None:
    try:
        return value if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _parquet_article(
    path: str, number: int, row: dict[str, Any], config: TextConfig, columns: Sequence[str]
) -> Article | Rejected:
    id_, title, text = (row.get(name) for name in (config.id_column, config.title_column, config.text_column))
    carried = {name: row.get(name) for name in columns}
    raw = "\0".join(str(value) for value in (id_, title, text, *carried.values())).encode("utf-8", "surrogatepass")
    if isinstance(text, bytes):  # a column of strings that does not say so
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return rejected(path, number, "invalid UTF-8", raw)
    return _article(path, Line(number, raw), id_, title, text, carried)
