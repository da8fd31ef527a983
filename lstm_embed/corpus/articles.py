"""Articles out of files: discovery, splitting into units, and reading.

Understands wikiextractor's JSON and its older `<doc>` format, gensim's segment_wiki JSON, JSON lines and parquet with chosen
columns, and the folders that extract writes. What cannot be used is yielded as `Rejected`, never raised.
"""

from __future__ import annotations

import fnmatch
import hashlib
import html
import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.lines import EXCERPT_BYTES, Line, read_lines
from lstm_embed.errors import InputError
from lstm_embed.ledger import Rejected, Span, Unit
from lstm_embed.ledger.sealed import read_manifest

_TEXT_SUFFIXES = ("", ".json", ".jsonl", ".ndjson", ".txt", ".parquet")
_INFLATION = {".bz2": 4.0, ".xz": 4.0, ".gz": 3.0, ".zst": 3.0, ".lz4": 2.0}
"""Typical decompressed bytes for a stored byte of text; only sizes of units depend on it."""
_SMALL_CORPUS_UNITS = 16
"""A corpus too small for full units is cut into about this many, so that workers share it."""
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


def find_files(inputs: Sequence[str]) -> list[storage.FileInfo]:
    """Return the usable files of a list of files, folders and globs, sorted by path, each once.

    Raises:
        FileNotFoundError: if a path or glob matches nothing.
        InputError: if a folder holds nothing usable; the message says what it does hold.
    """
    found: dict[str, storage.FileInfo] = {}
    for given in inputs:
        for file in _matches(storage.resolve(given)):
            found[file.path] = file
    return [found[path] for path in sorted(found)]


def _matches(path: str) -> list[storage.FileInfo]:
    if any(sign in path for sign in "*?["):
        base = path[: min(path.index(sign) for sign in "*?[" if sign in path)].rsplit("/", 1)[0]
        files = [file for file in storage.list_files(base or "/") if fnmatch.fnmatchcase(file.path, path)]
        if not files:
            raise FileNotFoundError(f"no file matches {path}; looked below {base or '/'}")
        return files
    if not storage.is_dir(path):
        if not storage.exists(path):
            raise FileNotFoundError(f"no file or folder at {path}")
        return [storage.info(path)]
    if storage.exists(storage.join(path, "job.json")):
        names = {part["name"] for part in read_manifest(path, kind="articles")["parts"]}
        return [file for file in storage.list_files(storage.join(path, "parts")) if storage.name(file.path) in names]
    files = storage.list_files(path)
    usable = [file for file in files if _suffix(file.path) in _TEXT_SUFFIXES and file.size]
    if not usable:
        examples = ", ".join(storage.name(file.path) for file in files[:3]) or "nothing"
        raise InputError(
            f"{path} holds no usable file: found {len(files)} files ({examples}); expected wikiextractor output "
            f"(wiki_00), .jsonl, .json or .parquet, plain or {', '.join(storage.CODEC_SUFFIXES)}"
        )
    return usable


def _suffix(path: str) -> str:
    name = storage.name(path)
    codec = storage.codec(name)
    name = name.removesuffix(codec) if codec else name
    _, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot else ""


def cut_into_units(files: Sequence[storage.FileInfo], unit_bytes: int) -> list[tuple[Span, ...]]:
    """Cut files into the spans of units of about `unit_bytes` of text.

    Big plain files are cut into byte ranges and parquet files into ranges of row groups; a compressed file is one span;
    small files are bundled.
    """
    total = sum(_text_bytes(file) for file in files)
    target = min(float(unit_bytes), max(total / _SMALL_CORPUS_UNITS, min(unit_bytes, 1_000_000)))
    units: list[tuple[Span, ...]] = []
    bundle: list[Span] = []
    bundled = 0.0
    for file in files:
        spans = _spans(file, target)
        if len(spans) > 1:
            units += [(span,) for span in spans]
            continue
        if bundle and bundled + _text_bytes(file) > target:
            units.append(tuple(bundle))
            bundle, bundled = [], 0.0
        bundle += spans
        bundled += _text_bytes(file)
    return [*units, tuple(bundle)] if bundle else units


def _text_bytes(file: storage.FileInfo) -> float:
    return file.size * _INFLATION.get(storage.codec(file.path) or "", 1.0)


def inflation(unit: Unit) -> float:
    """Return about how many bytes of text one stored byte of a unit holds."""
    return max(_INFLATION.get(storage.codec(span.path) or "", 1.0) for span in unit.spans)


def _spans(file: storage.FileInfo, target: float) -> list[Span]:
    pieces = math.ceil(file.size / target)
    if file.size < 1.5 * target or storage.codec(file.path):
        return [Span.whole(file)]
    if _suffix(file.path) == ".parquet":
        try:
            with storage.open_input(file.path) as source:
                size = pq.read_metadata(source).num_row_groups
        except (OSError, pa.ArrowException):
            return [Span.whole(file)]  # it is rejected where it is read
        pieces = min(pieces, size)
    else:
        size = file.size
    cuts = [size * piece // max(pieces, 1) for piece in range(pieces + 1)]
    return [Span(file.path, a, b, file.size, file.stamp) for a, b in itertools.pairwise(cuts)]


def read_articles(span: Span, config: TextConfig, columns: Sequence[str] = ()) -> Iterator[Article | Rejected]:
    """Yield the articles of a span in order, and what had to be rejected.

    Args:
        span: The piece of a file.
        config: Names of the columns, longest line.
        columns: Further columns to carry along.

    Raises:
        InputError: if the file changed since the work was planned.
    """
    now = storage.info(span.path)
    if (now.size, now.stamp) != (span.size, span.stamp):
        raise InputError(f"{span.path} changed while the job ran; run the command again when it is at rest")
    kind = _sniff(span)
    if kind == "parquet":
        yield from _parquet_articles(span, config, columns)
    elif kind == "doc":
        yield from _doc_articles(span, config)
    elif kind == "dump":
        yield Rejected(span.path, 0, "MediaWiki dump (run extract on it first)", hashlib.sha256(b"").hexdigest())
    else:
        for line in read_lines(span, config.max_line_bytes):
            if isinstance(line, Rejected):
                yield line
            elif line.data and not line.data.isspace():
                yield parse_json(span.path, line, config, columns)


def _sniff(span: Span) -> str:
    """Tell a file's format from its first bytes."""
    if _suffix(span.path) == ".parquet" and not storage.codec(span.path):
        return "parquet"
    try:
        with storage.open_stream(span.path) as stream:
            head = stream.read(512).lstrip(b"\xef\xbb\xbf \t\r\n")
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        return "json"  # reading it lists the damage
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith(b"<doc "):
        return "doc"
    return "dump" if head.startswith((b"<mediawiki", b"<?xml")) else "json"


def parse_json(path: str, line: Line, config: TextConfig, columns: Sequence[str] = ()) -> Article | Rejected:
    """Return the article of one JSON line."""
    try:
        row = json.loads(line.data.decode("utf-8-sig" if line.offset == 0 else "utf-8"))
    except UnicodeDecodeError:
        return _rejected(path, line, "invalid UTF-8")
    except (ValueError, RecursionError):
        return _rejected(path, line, "not JSON")
    if not isinstance(row, dict):
        return _rejected(path, line, "not a JSON object")
    text = row.get(config.text_column)
    if text is None and isinstance(row.get("section_texts"), list):
        text = _segment_wiki_text(row)
    title = row.get(config.title_column)
    return _article(path, line, row.get(config.id_column), title, text, {name: row.get(name) for name in columns})


def _article(path: str, line: Line, id_: Any, title: Any, text: Any, columns: dict[str, Any]) -> Article | Rejected:
    """Check the values of one record."""
    if text is None:
        return _rejected(path, line, "no text")
    if not isinstance(text, str):
        return _rejected(path, line, "text is not a string")
    if not isinstance(id_, str | int | None) or not isinstance(title, str | None):
        return _rejected(path, line, "id or title is not a string")
    name = None if id_ is None else str(id_)
    if "\0" in text:
        return _rejected(path, line, "NUL character")
    try:
        for value in (text, title or "", name or ""):
            value.encode("utf-8")
    except UnicodeEncodeError:
        return _rejected(path, line, "lone surrogate")
    return Article(name, title, text, line.data, columns)


def _rejected(path: str, line: Line, reason: str) -> Rejected:
    return Rejected(path, line.offset, reason, hashlib.sha256(line.data).hexdigest(), line.data[:EXCERPT_BYTES])


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


def _doc_articles(span: Span, config: TextConfig) -> Iterator[Article | Rejected]:
    """Read wikiextractor's `<doc id=… title=…>` format; a span owns each document that begins in it."""
    whole = Span(span.path, span.start, -1, span.size, span.stamp)
    header: re.Match[bytes] | None = None
    begin = Line(0, b"")
    body: list[bytes] = []
    held = 0
    for line in read_lines(whole, config.max_line_bytes):
        if isinstance(line, Rejected):
            yield line
            continue
        start = _DOC_START.match(line.data)
        if header is None:
            if 0 <= span.end <= line.offset:
                return
            if start:
                header, begin, body, held = start, line, [], 0
            continue
        if start or held > config.max_line_bytes:
            yield _rejected(span.path, begin, "document without end" if start else "document too long")
            header, begin, body, held = start, line, [], 0
            if start and 0 <= span.end <= line.offset:
                return
        elif line.data.rstrip() == b"</doc>":
            yield _doc_article(span.path, begin, header, b"\n".join(body))
            header = None
        else:
            body.append(line.data)
            held += len(line.data)
    if header is not None:
        yield _rejected(span.path, begin, "document without end")


def _doc_article(path: str, begin: Line, header: re.Match[bytes], body: bytes) -> Article | Rejected:
    line = Line(begin.offset, begin.data + b"\n" + body)
    try:
        id_, title, text = (html.unescape(piece.decode("utf-8")) for piece in (header[1], header[2] or b"", body))
    except UnicodeDecodeError:
        return _rejected(path, line, "invalid UTF-8")
    # wikiextractor repeats the title as the first line.
    text = text.removeprefix(title).lstrip("\n") if title else text
    return _article(path, line, id_, title or None, text, {})


def _parquet_articles(span: Span, config: TextConfig, columns: Sequence[str]) -> Iterator[Article | Rejected]:
    with storage.open_input(span.path) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
        except (OSError, pa.ArrowException):
            yield Rejected(span.path, 0, "not a parquet file, or a damaged one", hashlib.sha256(b"").hexdigest())
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
        groups = range(span.start, file.num_row_groups if span.end < 0 else span.end)
        row_number = sum(file.metadata.row_group(group).num_rows for group in range(span.start))
        for group in groups:
            try:
                for batch in file.iter_batches(1024, row_groups=[group], columns=wanted):
                    for row in batch.to_pylist():
                        yield _parquet_article(span.path, row_number, row, config, columns)
                        row_number += 1
            except (OSError, pa.ArrowException):
                yield Rejected(span.path, row_number, "damaged row group", hashlib.sha256(b"").hexdigest())


def _parquet_article(
    path: str, number: int, row: dict[str, Any], config: TextConfig, columns: Sequence[str]
) -> Article | Rejected:
    id_, title, text = (row.get(name) for name in (config.id_column, config.title_column, config.text_column))
    raw = "\0".join(str(value) for value in (id_, title, text)).encode("utf-8", "surrogatepass")
    return _article(path, Line(number, raw), id_, title, text, {name: row.get(name) for name in columns})
