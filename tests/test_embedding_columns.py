"""Columns that are carried along: every value keeps what it says, or is null and counted."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lstm_embed.base import storage
from lstm_embed.corpus.config import TextConfig
from lstm_embed.embedding.columns import carried, settle_types


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("string", {"a": b"ok", "b": [b"\xff"]}, '{"a": "ok", "b": ["ff"]}'),
        ("string", Decimal("12.00"), "12.00"),
        ("list<string>", [b"ok", b"\xff", 1, None], ["ok", "ff", "1", None]),
        ("list<string>", "tea", None),
        ("list<int64>", b"\xff", None),
        ("list<double>", "", None),
        ("int64", Decimal("2"), 2),
        ("int64", Decimal("1.5"), None),
        ("list<int64>", [1, 1.5], None),
        ("int64", json.loads("[" * 400 + "]" * 400), None),
    ],
)
def test_a_value_keeps_what_it_says_or_is_null_and_counted(kind: str, value: Any, expected: Any) -> None:
    column, num_misfits = carried([value, None], kind)
    assert column.to_pylist() == [expected, None]
    assert num_misfits == (expected is None)


def test_a_value_too_deep_for_json_is_null_and_counted() -> None:
    deep: list[Any] = []
    for _ in range(10_000):
        deep = [deep]
    column, num_misfits = carried([deep, None, "tea"], "string")
    assert (column.to_pylist(), num_misfits) == ([None, None, "tea"], 1)


def test_types_come_from_the_schema_of_parquet_of_any_name_and_from_values_of_any_depth(tmp_path: Path) -> None:
    table = pa.table({"text": ["a"], "day": pa.array([0], pa.date32())})
    pq.write_table(table, tmp_path / "part-0")
    files = [storage.info(str(tmp_path / "part-0"))]
    assert settle_types(["day"], [], files, TextConfig()) == ("day:date",)
    (tmp_path / "deep.jsonl").write_text(json.dumps({"text": "a", "deep": json.loads("[" * 300 + "]" * 300)}))
    files = [storage.info(str(tmp_path / "deep.jsonl"))]
    assert settle_types(["deep"], [], files, TextConfig()) == ("deep:string",)
