"""Further columns of the input that are carried along beside the vectors.

Every part must have the same columns of the same types. So a column's type is settled once, by the driver: as the user
said, as an earlier run settled it, or from the first records. A value that does not fit later becomes null and is counted.
"""

from __future__ import annotations

import decimal
import itertools
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.articles import read_articles
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers import find_format, parquet
from lstm_embed.corpus.readers.article import Article, bytes_as_text
from lstm_embed.corpus.readers.source import opened
from lstm_embed.embedding.config import split_column
from lstm_embed.ledger import Span

_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "bool": pa.bool_(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "timestamp": pa.timestamp("us", "UTC"),
    "date": pa.date32(),
    "list<string>": pa.list_(pa.string()),
    "list<int64>": pa.list_(pa.int64()),
    "list<double>": pa.list_(pa.float64()),
}
_SAMPLE_RECORDS = 1000
_SAMPLE_FILES = 4
_MISFIT = (pa.ArrowException, OverflowError, TypeError, ValueError)


def settle_types(
    columns: Sequence[str], made: Sequence[str], files: Sequence[storage.FileInfo], text: TextConfig
) -> tuple[str, ...]:
    """Return the columns as "name:type".

    Args:
        columns: The columns as the user gave them, with or without a type.
        made: The columns as an earlier run settled them.
        files: The input.
        text: Names of the columns, longest line.

    Raises:
        InputError: if a column without a type is in none of the first records.
    """
    known = {split_column(column)[0]: column for column in made}
    settled = {name: kind or split_column(known.get(name, name))[1] for name, kind in map(split_column, columns)}
    unknown = [name for name, kind in settled.items() if not kind]
    if unknown:
        found = _from_files(unknown, files, text)
        missing = sorted(set(unknown) - set(found))
        if missing:
            raise InputError(
                f"the first records of {files[0].path} have no value in {', '.join(missing)} (--columns); "
                f"correct the name, or say its type: --columns {missing[0]}:string"
            )
        settled |= found
    return tuple(f"{name}:{kind}" for name, kind in settled.items())


def _from_files(names: Sequence[str], files: Sequence[storage.FileInfo], text: TextConfig) -> dict[str, str]:
    found: dict[str, str] = {}
    values: dict[str, list[Any]] = {name: [] for name in names}
    records = 0
    for file in files[:_SAMPLE_FILES]:
        with opened(Span.whole(file), text) as look:
            is_parquet = find_format(file.path, look.head) is parquet
        if is_parquet:
            try:
                with storage.open_input(file.path) as source:
                    schema = pq.read_schema(source)
            except (OSError, pa.ArrowException):
                continue  # it is rejected where it is read
            found |= {name: _kind_of_type(schema.field(name).type) for name in names if name in schema.names}
            continue
        for article in itertools.islice(read_articles(Span.whole(file), text, names), _SAMPLE_RECORDS - records):
            records += 1
            if isinstance(article, Article):
                for name in names:
                    values[name].append(article.columns.get(name))
    for name in names:
        present = [value for value in values[name] if value is not None]
        if present and name not in found:
            found[name] = _kind_of_values(present)
    return found


def _kind_of_type(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = f"list<{_kind_of_type(kind.value_type)}>"
        return inner if inner in _ARROW else "string"
    for name, test in (
        ("bool", types.is_boolean),
        ("int64", types.is_integer),
        ("double", types.is_floating),
        ("timestamp", types.is_timestamp),
        ("date", types.is_date),
    ):
        if test(kind):
            return name
    return "string"


def _kind_of_values(values: Sequence[Any]) -> str:
    if all(isinstance(value, list) for value in values):
        items = [item for value in values for item in value if item is not None]
        if any(isinstance(item, list) for item in items):
            return "string"
        inner = f"list<{_kind_of_values(items)}>" if items else "list<string>"
        return inner if inner in _ARROW else "string"
    for name, types in (("bool", bool), ("int64", int), ("double", int | float)):
        if all(isinstance(value, types) and isinstance(value, bool) == (name == "bool") for value in values):
            return name
    return "string"


def carried(values: Sequence[Any], kind: str) -> tuple[pa.Array, int]:
    """Return values as a column of the type `kind` names, and how many did not fit and are null instead."""
    if kind == "string":
        column = pa.array(map(_as_text, values), pa.string())
        return column, column.null_count - sum(value is None for value in values)
    try:
        return _strict_array(values, kind), 0
    except _MISFIT:
        fitted = [_one(value, kind) for value in values]
        misfits = sum(new is None and old is not None for new, old in zip(fitted, values, strict=True))
        return pa.array(fitted, _ARROW[kind]), misfits


def _has_fraction(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return any(isinstance(number, float | decimal.Decimal) and bool(number % 1) for number in numbers)


def _as_text(value: Any) -> str | None:
    """Return a value as text: JSON where it has parts, bytes that are no text by their hexadecimal digits.

    What is nested too deeply to be written is None.
    """
    if value is None:
        return None
    if isinstance(value, bytes):
        return bytes_as_text(value)
    if isinstance(value, list | dict | bool):
        try:
            value = json.dumps(value, ensure_ascii=False, default=_as_text)
        except RecursionError:
            return None
    return str(value).encode("utf-8", "replace").decode()


def _strict_array(values: Sequence[Any], kind: str) -> pa.Array:
    if "int64" in kind and any(map(_has_fraction, values)):
        raise ValueError("Arrow would cut the fraction off")
    if kind.startswith("list") and not all(value is None or isinstance(value, list) for value in values):
        raise TypeError("Arrow would take a text apart into its characters")
    if kind == "list<string>":
        values = [value and list(map(_as_text, value)) for value in values]
    return pa.array(values, _ARROW[kind])


def _one(value: Any, kind: str) -> Any:
    """Return a value if the type can hold it, or what its text says in that type, else None."""
    try:
        return _strict_array([value], kind)[0].as_py()
    except _MISFIT:
        pass
    try:
        return pa.scalar(value).cast(_ARROW[kind]).as_py() if isinstance(value, str) else None
    except _MISFIT:
        return None
