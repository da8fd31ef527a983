"""Tensors from files of elsewhere: what is not as declared is refused in one line, before it is allocated."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.tensors import open_tensors

ROWS = np.arange(12, dtype=np.float32).reshape(3, 4)
STEP = np.array(5, np.int64)
EXPECTED: dict[str, Any] = {"rows": ("F32", (3, None)), "step": ("I64", ())}
WHOLE = save({"rows": ROWS, "step": STEP})


def file_of(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


def test_tensors_are_read_as_they_were_written_here_and_in_an_object_store(tmp_path: Path, s3: str) -> None:
    for path in (str(tmp_path / "t.safetensors"), f"{s3}/t.safetensors"):
        storage.write_bytes(path, WHOLE)
        found = open_tensors(path, EXPECTED, sha256=storage.digest(path))
        assert list(found) == ["rows", "step"]
        np.testing.assert_array_equal(found["rows"], ROWS)
        assert found["step"] == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is damaged or no safetensors file"),
        (WHOLE[:-1], "is damaged"),
        (WHOLE + b"more", "is damaged"),
        (pickle.dumps({"rows": [1.0]}), "no safetensors file"),
        (file_of({}, size=2**63), "is damaged"),
        (file_of(b'{"a":' * 100_000), "is damaged"),
        (file_of({"rows": tensor("F32", [2**40, 2**40], 0)}), "is damaged"),
        (save({"step": STEP}), r"lacks the tensor rows; expected F32 of shape \[3, any\]"),
        (save({"rows": ROWS, "step": STEP, "more": ROWS}), "holds a tensor more; expected rows, step alone"),
        (save({"rows": ROWS, "step": STEP, "\x1b[2J\n": ROWS}), "holds a tensor \ufffd\\[2J ; expected"),
        (file_of({str(n): tensor("F32", [0], 0) for n in range(10_001)}), "holds more than 10,000 tensors"),
        (
            save({"rows": ROWS[:2], "step": STEP}),
            r"rows of .* is F32 of shape \[2, 4\]; expected F32 of shape \[3, any\]",
        ),
        (save({"rows": ROWS[0], "step": STEP}), r"of shape \[4\]; expected"),
        (save({"rows": ROWS.astype(np.float64), "step": STEP}), "is F64 of shape"),
        (file_of({"rows": tensor("F32", [2**40, 0], 0)}), r"\[1099511627776, 0\]"),
        (file_of({"rows": tensor("BF16", [3, 1], 6)}, bytes(6)), "is BF16 of shape"),
        (save({"rows": np.where(ROWS == 7, np.nan, ROWS).astype(np.float32), "step": STEP}), "holds NaN"),
        (save({"rows": np.where(ROWS == 7, -np.inf, ROWS).astype(np.float32), "step": STEP}), "infinite"),
    ],
)
def test_a_file_that_is_not_as_declared_is_refused_with_what_differs(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "t.safetensors"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        open_tensors(str(path), EXPECTED)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("copy or make its folder again")


def test_a_file_that_is_missing_or_not_the_sealed_one_is_told_apart(tmp_path: Path) -> None:
    path = str(tmp_path / "t.safetensors")
    with pytest.raises(FileNotFoundError, match="no file at"):
        open_tensors(path, EXPECTED)
    storage.write_bytes(path, WHOLE)
    with pytest.raises(InputError, match="its hash is not the one that was sealed"):
        open_tensors(path, EXPECTED, sha256="0" * 64)
