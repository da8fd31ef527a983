"""Parquet: a row is an article, its columns chosen by name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.readers.article import Article, make_article, rejected
from lstm_embed.corpus.readers.source import Source
from lstm_embed.ledger import Rejected, Span

SUFFIXES = (".parquet",)
_BATCH_BYTES = 64_000_000
"""What rows that are read at once may unfold to."""
_BATCH_ROWS = 256
_READ_AHEAD = 4 << 20
"""Bytes of a column that are read at once."""
_UNREADABLE = (OSError, pa.ArrowException)


def matches(suffix: str, head: bytes) -> bool:
    """Tell whether a file is parquet, or is named so."""
    return suffix == ".parquet" or head.startswith(b"PAR1")


def cut(file: storage.FileInfo, head: bytes, num_pieces: int) -> list[Span]:
    """Cut a file into ranges of row groups."""
    try:
        with storage.open_input(file.path) as stored:
            num_groups = pq.read_metadata(stored).num_row_groups
    except _UNREADABLE:
        num_groups = 0  # it is rejected where it is read
    if not num_groups:
        return [Span.whole(file)]
    num_pieces = min(num_pieces, num_groups)
    edges = [num_groups * piece // num_pieces for piece in range(num_pieces + 1)]
    return [
        Span(file.path, a, b, file.size, file.stamp, num_bytes=file.size * (b - a) // num_groups)
        for a, b in itertools.pairwise(edges)
    ]


def read(source: Source) -> Iterator[Article | Rejected]:
    """Yield the rows of the row groups `span.start` to `span.end`.

    Raises:
        InputError: if the file has no column for the text.
    """
    span = source.span
    if source.is_compressed:
        yield rejected(span.path, 0, "parquet file in an archive (unpack it first)", b"", size=span.size, rest=True)
        return
    with storage.open_input(span.path) as stored:
        try:
            file = pq.ParquetFile(stored, page_checksum_verification=True, buffer_size=_READ_AHEAD)
        except _UNREADABLE:
            yield rejected(span.path, 0, "not a parquet file, or a damaged one", b"", size=span.size, rest=True)
            return
        wanted = _wanted_columns(source, file.schema_arrow.names)
        for number in range(span.start, file.num_row_groups if span.end < 0 else span.end):
            yield from _group(source, file, number, wanted)


def _wanted_columns(source: Source, names: list[str]) -> list[str]:
    config = source.config
    if config.text_column not in names:
        raise InputError(
            f"{source.span.path} has no column {config.text_column!r}; it has {', '.join(sorted(set(names)))}; "
            "name the text's column with --text-column"
        )
    wanted = dict.fromkeys((config.text_column, config.id_column, config.title_column, *source.columns))
    twice = next((name for name in wanted if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{source.span.path} has the column {twice!r} more than once; expected it once: rename the others"
        )
    return [name for name in wanted if name in names]


def _group(source: Source, file: pq.ParquetFile, number: int, wanted: list[str]) -> Iterator[Article | Rejected]:
    """Yield the rows of one row group."""
    path, limit = source.span.path, source.config.max_line_bytes
    first = row = sum(file.metadata.row_group(before).num_rows for before in range(number))
    try:
        num_rows = _batch_rows(path, file, number, wanted)
        for batch in file.iter_batches(num_rows, row_groups=[number], columns=wanted):
            for piece in _pieces(batch, source.config.text_column, limit):
                if isinstance(piece, int):
                    yield rejected(path, row, "text longer than --max-line-bytes", b"", size=piece)
                    row += 1
                    continue
                for values in _rows(piece):
                    yield _article(source, row, values)
                    row += 1
    except MemoryError:
        raise
    except _UNREADABLE:
        group = file.metadata.row_group(number)
        lost = group.num_rows - (row - first)
        size = group.total_byte_size * lost // max(group.num_rows, 1)
        yield replace(rejected(path, row, "damaged row group", b"", size=size), count=lost)


def _pieces(batch: pa.RecordBatch, text_column: str, limit: int) -> Iterator[pa.RecordBatch | int]:
    """Yield a batch whole, or, where it has texts of more than `limit` bytes, each row, and in place of those their sizes."""
    if _longest(batch[text_column]) <= limit:
        yield batch
        return
    for number in range(len(batch)):
        row = batch.slice(number, 1)
        size = _longest(row[text_column])
        yield size if size > limit else row


def _batch_rows(path: str, file: pq.ParquetFile, number: int, wanted: Sequence[str]) -> int:
    """Return how many rows of a row group may be read at once, so that what they unfold to is bounded."""
    group = file.metadata.row_group(number)
    bytes_of_row = 1.0
    for column in map(group.column, range(group.num_columns)):
        name = column.path_in_schema
        if name.split(".")[0] not in wanted and name not in wanted:
            continue
        bytes_of_row += column.total_uncompressed_size / max(group.num_rows, 1)
        has_dictionary = column.has_dictionary_page and column.physical_type.endswith("BYTE_ARRAY")
        if has_dictionary and name in wanted:
            bytes_of_row += _longest_in_dictionary(path, file.metadata, number, name)
        elif has_dictionary or "DELTA_BYTE_ARRAY" in column.encodings:
            bytes_of_row += column.total_uncompressed_size  # each value may repeat all of it
    return max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / bytes_of_row)))


def _longest_in_dictionary(path: str, metadata: pq.FileMetaData, number: int, name: str) -> int:
    """Return the bytes of the longest of the values that rows of a row group share."""
    with storage.open_input(path) as stored:
        file = pq.ParquetFile(stored, metadata=metadata, read_dictionary=[name], buffer_size=_READ_AHEAD)
        first = next(file.iter_batches(1, row_groups=[number], columns=[name]), None)
        return _longest(first[name].dictionary) if first and isinstance(first[name], pa.DictionaryArray) else 0


def _longest(column: pa.Array) -> int:
    """Return the bytes of the longest value; 0 for what is no text."""
    if isinstance(column, pa.DictionaryArray):
        column = column.dictionary if len(column) > 1 else column.dictionary_decode()
    if not pa.types.is_string(column.type) and not pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.large_binary())
        except pa.ArrowException:
            return 0
    return int(pc.max(pc.binary_length(column)).as_py() or 0)


def _rows(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """Return a batch as rows; what Python has no value for becomes text, text that is not UTF-8 stays bytes."""
    try:
        return list(batch.to_pylist())
    except (OverflowError, ValueError):
        columns = [[_value(scalar) for scalar in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, row, strict=True)) for row in zip(*columns, strict=True)]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except (OverflowError, ValueError):
        pass
    if isinstance(scalar, pa.StructScalar):
        return {name: _value(scalar[place]) for place, name in enumerate(scalar.type.names)}
    if isinstance(scalar, pa.ListScalar):
        return [_value(item) for item in scalar.values]
    if isinstance(scalar, pa.DictionaryScalar | pa.ExtensionScalar):
        return _value(scalar.value)
    if isinstance(scalar, pa.BinaryScalar):
        return scalar.as_buffer().to_pybytes()
    if isinstance(scalar, pa.TimestampScalar) and scalar.type.tz not in (
        None,
        "UTC",
    ):  # a time zone unknown here, maybe
        return _value(scalar.cast(pa.timestamp(scalar.type.unit, "UTC")))
    return scalar.cast(pa.string()).as_py()


def _article(source: Source, number: int, row: dict[str, Any]) -> Article | Rejected:
    config = source.config
    id_, title, text = (row.get(name) for name in (config.id_column, config.title_column, config.text_column))
    carried = {name: row.get(name) for name in source.columns}
    raw = "\0".join(str(value) for value in (id_, title, text, *carried.values())).encode("utf-8", "surrogatepass")
    return make_article(source.span.path, number, raw, id_, title, text, carried)
