"""Articles out of files: discovery, splitting into units, and reading.

What can be read is told from a file's name and first bytes; see `formats`. What cannot be used is yielded as `Rejected`,
never raised.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.formats import Article, doc_articles, parquet_articles, parse_json
from lstm_embed.corpus.lines import Line, read_lines, rejected
from lstm_embed.ledger import Rejected, Span, Unit
from lstm_embed.ledger.sealed import read_manifest

_TEXT_SUFFIXES = ("", ".json", ".jsonl", ".ndjson", ".txt", ".parquet")
_INFLATION = {".bz2": 4.0, ".xz": 4.0, ".gz": 3.0, ".zst": 3.0}
"""Typical decompressed bytes for a stored byte of text; only sizes of units depend on it."""
_SMALL_CORPUS_UNITS = 16
"""A corpus too small for full units is cut into about this many, so that workers share it."""
_HEAD_BYTES = 512


def find_files(inputs: Sequence[str]) -> list[storage.FileInfo]:
    """Return the usable files of a list of files, folders and globs, sorted by path, each once.

    Raises:
        FileNotFoundError: if a path or glob matches nothing.
        InputError: if a folder holds nothing usable, or all files are empty; the message says what there is.
    """
    return discover(inputs)[0]


def discover(inputs: Sequence[str]) -> tuple[list[storage.FileInfo], list[str]]:
    """Return what `find_files` does, and the paths of files that were passed over for their names.

    Raises:
        FileNotFoundError, InputError: as `find_files`.
    """
    found: dict[str, storage.FileInfo] = {}
    ignored: set[str] = set()
    for given in inputs:
        files, others = _matches(storage.resolve(given))
        found |= {file.path: file for file in files}
        ignored |= {file.path for file in others}
    if not any(file.size for file in found.values()):
        raise InputError(f"{next(iter(found))} is empty (0 bytes){' like all other input' if len(found) > 1 else ''}")
    return [found[path] for path in sorted(found)], sorted(ignored - set(found))


def _matches(path: str) -> tuple[list[storage.FileInfo], list[storage.FileInfo]]:
    """Return the files that one given path stands for, and those in its folders that have other names."""
    if storage.is_dir(path):
        if storage.exists(storage.join(path, "job.json")):
            names = {part["name"] for part in read_manifest(path, kind="articles")["parts"]}
            parts = storage.list_files(storage.join(path, "parts"))
            return [file for file in parts if storage.name(file.path) in names], []
        return _usable(path, storage.list_files(path))
    if storage.exists(path):
        return [storage.info(path)], []
    if not any(sign in path for sign in "*?["):
        raise FileNotFoundError(f"no file or folder at {path}")
    base = path[: min(path.index(sign) for sign in "*?[" if sign in path)].rpartition("/")[0] or "/"
    pattern = _glob_pattern(path)
    hits = [(file, match) for file in storage.list_files(base) if (match := pattern.fullmatch(file.path))]
    if not hits:
        raise FileNotFoundError(f"no file or folder matches {path}; looked below {base}")
    files = [file for file, match in hits if not match["below"]]
    others: list[storage.FileInfo] = []
    for folder in sorted({file.path[: match.start("below")] for file, match in hits if match["below"]}):
        inside, passed_over = _matches(folder)
        files += inside
        others += passed_over
    return files, others


def _glob_pattern(path: str) -> re.Pattern[str]:
    """Translate a glob as a shell reads it; a folder that matches stands for all files below it."""
    pieces = re.split(r"(\*\*/|\*|\?|\[!?[^]]+\])", path)
    signs = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    translated = [
        signs.get(piece)
        or (f"[{'^' if piece[1] == '!' else ''}{piece[1:].lstrip('!')}" if at % 2 else re.escape(piece))
        for at, piece in enumerate(pieces)
    ]
    return re.compile("".join(translated) + "(?P<below>/.*)?", re.S)


def _usable(path: str, files: list[storage.FileInfo]) -> tuple[list[storage.FileInfo], list[storage.FileInfo]]:
    usable = [file for file in files if _is_usable(file)]
    if not any(file.size for file in usable):
        examples = ", ".join(storage.name(file.path) for file in files[:3]) or "nothing"
        what = "only empty files" if usable else "no usable file"
        raise InputError(
            f"{path} holds {what}: found {len(files)} files ({examples}); expected wikiextractor output "
            f"(wiki_00), .jsonl, .json or .parquet, plain or {', '.join(storage.CODEC_SUFFIXES)}"
        )
    return usable, [file for file in files if not _is_usable(file)]


def _is_usable(file: storage.FileInfo) -> bool:
    return _suffix(file.path) in _TEXT_SUFFIXES


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
        if bundle and (len(spans) > 1 or bundled + _text_bytes(file) > target):
            units.append(tuple(bundle))
            bundle, bundled = [], 0.0
        if len(spans) > 1:
            units += [(span,) for span in spans]
        else:
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
    if not _is_parquet(file.path):
        cuts = [file.size * piece // pieces for piece in range(pieces + 1)]
        return [Span(file.path, a, b, file.size, file.stamp) for a, b in itertools.pairwise(cuts)]
    try:
        with storage.open_input(file.path) as source:
            num_groups = pq.read_metadata(source).num_row_groups
    except (OSError, pa.ArrowException):
        return [Span.whole(file)]  # it is rejected where it is read
    pieces = min(pieces, num_groups)
    cuts = [num_groups * piece // max(pieces, 1) for piece in range(pieces + 1)]
    return [
        Span(file.path, a, b, file.size, file.stamp, num_bytes=file.size * (b - a) // num_groups)
        for a, b in itertools.pairwise(cuts)
    ] or [Span.whole(file)]


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
    if _is_parquet(span.path):
        yield from parquet_articles(span, config, columns)
        return
    if span.start > 0:
        # Only plain files are cut; what they hold is told from their beginning.
        with storage.open_stream(span.path) as stream:
            head = stream.read(_HEAD_BYTES)
        lines = read_lines(span, config.max_line_bytes)
    else:
        lines, head = _peek(read_lines(span, config.max_line_bytes))
    kind = _kind(head)
    if kind == "doc":
        # The last document may go on behind the span; its lines are read from the file, not from the span.
        whole = Span(span.path, span.start, -1, span.size, span.stamp)
        cut = span.end >= 0
        yield from doc_articles(span, read_lines(whole, config.max_line_bytes) if cut else lines, config)
    elif kind:
        if span.start <= 0:
            yield rejected(span.path, 0, kind, head)
    else:
        for line in lines:
            if isinstance(line, Rejected):
                yield line
            elif line.data and not line.data.isspace():
                yield parse_json(span.path, line, config, columns)


def _peek(lines: Iterator[Line | Rejected]) -> tuple[Iterator[Line | Rejected], bytes]:
    """Return all of `lines`, and the first bytes of the first that is not blank."""
    seen: list[Line | Rejected] = []
    for line in lines:
        seen.append(line)
        if isinstance(line, Rejected) or line.data.strip(b"\xef\xbb\xbf \t\r"):
            break
    head = seen[-1].data[:_HEAD_BYTES] if seen and isinstance(seen[-1], Line) else b""
    return itertools.chain(seen, lines), head


def _kind(head: bytes) -> str:
    """Tell from a file's first bytes what it is: "doc", "" for JSON lines, or why it cannot be used."""
    head = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(b"<doc "):
        return "doc"
    if head.startswith((b"<mediawiki", b"<?xml")):
        return "MediaWiki dump (run extract on it first)"
    return "parquet file not named .parquet" if head.startswith(b"PAR1") else ""


def _is_parquet(path: str) -> bool:
    return _suffix(path) == ".parquet" and not storage.codec(path)
