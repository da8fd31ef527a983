"""Articles out of files: cutting the files into units, and reading what a unit holds.

What cannot be used is yielded as `Rejected`, never raised.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from lstm_embed.base import codecs, storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers import cut_file, find_format
from lstm_embed.corpus.readers.article import Article
from lstm_embed.corpus.readers.source import opened
from lstm_embed.ledger import Rejected, Span, Unit

_INFLATION = {".bz2": 4.0, ".xz": 4.0, ".gz": 3.0, ".zst": 3.0}
"""Typical decompressed bytes for a stored byte of text; only sizes of units depend on it."""
_SMALL_CORPUS_UNITS = 16
"""A corpus too small for full units is cut into about this many, so that workers share it."""
_READERS = 16
"""Threads that look into files; the work is waiting for the store."""


def cut_into_units(files: Sequence[storage.FileInfo], unit_bytes: int) -> list[tuple[Span, ...]]:
    """Cut files into the spans of units of about `unit_bytes` of text.

    A big file is cut as its format allows, a compressed one not at all; small files are bundled.
    """
    total = sum(_text_bytes(file) for file in files)
    target = min(float(unit_bytes), max(total / _SMALL_CORPUS_UNITS, min(unit_bytes, 1_000_000)))
    units: list[tuple[Span, ...]] = []
    bundle: list[Span] = []
    bundled = 0.0
    with ThreadPoolExecutor(_READERS) as pool:
        cut = list(pool.map(lambda file: _spans(file, target), files))
    for file, spans in zip(files, cut, strict=True):
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
    return file.size * _INFLATION.get(codecs.codec(file.path) or "", 1.0)


def inflation(unit: Unit) -> float:
    """Return about how many bytes of text one stored byte of a unit holds."""
    return max(_INFLATION.get(codecs.codec(span.path) or "", 1.0) for span in unit.spans)


def _spans(file: storage.FileInfo, target: float) -> list[Span]:
    return [Span.whole(file)] if file.size < 1.5 * target else cut_file(file, math.ceil(file.size / target))


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
    with opened(span, config, columns) as source:
        if source.is_compressed and span.start > 0:
            return
        yield from find_format(span.path, source.head).read(source)
