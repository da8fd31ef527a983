"""Parquet: rows of any type are articles, and what is broken costs only itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from readers_help import good, read, reasons, span_of

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.articles import cut_into_units
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.input import find_files
from lstm_embed.corpus.readers import parquet as parquet_module
from lstm_embed.corpus.readers.article import Article
from lstm_embed.ledger import Rejected, Span, Unit


def parquet(path: Path, **columns: Any) -> Span:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=10)
    return Span.whole(storage.info(str(path)))


def test_parquet_rows_are_articles_whatever_their_types(tmp_path: Path) -> None:
    span = parquet(
        tmp_path / "a.parquet",
        id=pa.array([1, 2, None]),
        title=pa.array(["x", None, "z"]).dictionary_encode(),
        text=pa.array(["one", None, "three"], pa.large_string()),
        n=[[1], [], None],
    )
    found = read(span, columns=("n",))
    assert good(found) == [("1", "x", "one"), (None, "z", "three")]
    assert [item.columns for item in found if isinstance(item, Article)] == [{"n": [1]}, {"n": None}]
    assert reasons(found) == ["no text"]
    assert found[1].offset == 1  # type: ignore[union-attr]
    binary = parquet(tmp_path / "b.parquet", text=pa.array(["жук".encode(), b"\xff"], pa.binary()))
    assert good(read(binary)) == [(None, None, "жук")]
    assert reasons(read(binary)) == ["invalid UTF-8"]
    # A file may claim to hold strings and hold other bytes.
    liar = pa.Array.from_buffers(pa.string(), 3, pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).buffers())
    lying = parquet(tmp_path / "c.parquet", text=liar, id=["1", "2", "3"])
    assert good(read(lying)) == [("1", None, "good"), ("3", None, "fine")]
    assert reasons(read(lying)) == ["invalid UTF-8"]
    with pytest.raises(
        InputError, match=r"has no column 'body'; it has id, text; name the text's column with --text-column"
    ):
        read(lying, TextConfig(text_column="body"))


def test_ids_and_titles_of_parquet_become_text_whatever_their_type(tmp_path: Path) -> None:
    span = parquet(
        tmp_path / "a.parquet",
        id=pa.array([10.0, None, float("nan"), 2.5]),
        title=pa.array([b"Tea", b"caf\xe9", None, "чай".encode()], pa.binary()),
        text=["a", "b", "c", "d"],
    )
    assert good(read(span)) == [("10", "Tea", "a"), (None, "caf\ufffd", "b"), (None, None, "c"), ("2.5", "чай", "d")]
    uuids = parquet(
        tmp_path / "d.parquet", id=pa.array([b"\xff\xfe", b"\xff\xfd", b"ab"], pa.binary(2)), text=["a"] * 3
    )
    assert [name for name, _, _ in good(read(uuids))] == ["fffe", "fffd", "ab"]
    far = parquet(
        tmp_path / "b.parquet",
        id=pa.array([2**31 - 1, 0], pa.date32()),
        title=pa.array([2**62, 0], pa.timestamp("us")),
        text=["a", "b"],
    )
    assert [text for _, _, text in good(read(far))] == ["a", "b"]
    assert good(read(far))[1][0] == "1970-01-01"
    assert good(read(span_of(tmp_path / "c.jsonl", b'{"id": NaN, "title": Infinity, "text": "x"}\n'))) == [
        (None, None, "x")
    ]


def test_a_value_that_python_cannot_hold_costs_no_row(tmp_path: Path) -> None:
    liar = pa.Array.from_buffers(pa.string(), 2, pa.array([b"good", b"\xff\xfe"], pa.binary()).buffers())
    far = pa.array([0, 5 * 10**14], pa.timestamp("ms"))
    values = {
        "zone": pa.array([0, 1], pa.timestamp("s", "Mars/Phobos")),
        "struct": pa.StructArray.from_arrays([liar, far], ["name", "time"]),
        "list": pa.ListArray.from_arrays([0, 1, 2], liar),
        "times": pa.ListArray.from_arrays([0, 1, 2], far),
        "dictionary": pa.DictionaryArray.from_arrays([0, 1], far),
    }
    found = read(parquet(tmp_path / "a.parquet", text=["a", "b"], **values), columns=tuple(values))
    assert [text for _, _, text in good(found)] == ["a", "b"]
    second = found[1].columns  # type: ignore[union-attr]
    assert str(second.pop("zone")) == "1970-01-01 00:00:01+00:00"
    assert second == {
        "struct": {"name": b"\xff\xfe", "time": "17814-05-16 00:53:20.000"},
        "list": [b"\xff\xfe"],
        "times": ["17814-05-16 00:53:20.000"],
        "dictionary": "17814-05-16 00:53:20.000",
    }


def test_rows_that_unfold_to_much_are_read_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = parquet_module._rows

    def counting(batch: pa.RecordBatch) -> list[dict[str, Any]]:
        sizes.append(len(batch))
        return real(batch)

    monkeypatch.setattr(parquet_module, "_rows", counting)
    monkeypatch.setattr(parquet_module, "_BATCH_BYTES", 100_000)
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * 300, pa.int32()), ["word " * 5000])
    small = ["few words"] * 300
    for name, columns, most in (
        ("text", {"text": shared.dictionary_decode()}, 3),
        ("folded", {"text": shared}, 3),
        ("title", {"title": shared.dictionary_decode(), "text": small}, 3),
        ("small", {"id": list(range(300)), "text": small}, 256),
    ):
        sizes.clear()
        pq.write_table(pa.table(columns), tmp_path / f"{name}.parquet")
        found = read(Span.whole(storage.info(f"{tmp_path}/{name}.parquet")))
        assert [text for _, _, text in good(found)] == pa.table(columns)["text"].to_pylist()
        assert max(sizes) == most


def test_a_row_whose_text_is_too_long_is_rejected_and_those_around_it_are_read(tmp_path: Path) -> None:
    span = parquet(tmp_path / "a.parquet", text=["a", "x" * 900, "b", None, "y" * 700])
    found = read(span, TextConfig(max_line_bytes=500))
    assert [text for _, _, text in good(found)] == ["a", "b"]
    rejections = [(item.reason, item.offset, item.size) for item in found if isinstance(item, Rejected)]
    too_long = "text longer than --max-line-bytes"
    assert [rejections[0], rejections[2]] == [(too_long, 1, 900), (too_long, 4, 700)]
    assert rejections[1][0] == "no text"


def test_a_damaged_row_group_is_counted_by_its_rows_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    texts = [f"text number {n} " + str(hash(str(n))) * 20 for n in range(30)]
    pq.write_table(
        pa.table({"text": texts}),
        path,
        row_group_size=10,
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    column = pq.read_metadata(path).row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 8] = b"\xff" * 8
    found = read(span_of(path, bytes(data)))
    assert [text for _, _, text in good(found)] == texts[:10] + texts[20:]
    damaged = [item for item in found if isinstance(item, Rejected)]
    assert [(item.reason, item.offset, item.count) for item in damaged] == [("damaged row group", 10, 10)]
    assert reasons(read(span_of(path, bytes(data[:-20])))) == ["not a parquet file, or a damaged one"]


def test_big_parquet_files_are_cut_by_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    texts = [f"{n} " + "x" * 2000 for n in range(100)]
    pq.write_table(pa.table({"text": texts}), path, row_group_size=7, compression="none", use_dictionary=False)
    files = find_files([str(path)])
    units = cut_into_units(files, 30_000)
    assert len(units) == 11
    found = [item for unit in units for span in unit for item in read(span)]
    assert [text for _, _, text in good(found)] == texts
    sizes = [Unit(0, unit).size for unit in units]
    assert abs(sum(sizes) - files[0].size) < len(units)
    assert max(sizes) < 3 * min(sizes)
