"""Parts: each says what it is, and what was rejected is listed."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_embed.base import storage
from lstm_embed.ledger import PartRecord, PartStore, Rejected
from lstm_embed.ledger.parts import quarantine_path, read_record

COUNTS = st.integers(0, 2**63 - 1)


def test_a_gzip_part_says_what_it_is_and_a_cut_one_does_not(tmp_path: Path) -> None:
    store = PartStore(str(tmp_path), "f" * 32, ".jsonl.gz")
    record = store.record(3, 4, last=True, rows=2, input_digest="d", stats={"n": 1})
    store.write_lines(record, b"one\ntwo\n")
    path = tmp_path / "parts" / "part-00000003-0004.jsonl.gz"
    assert gzip.decompress(path.read_bytes()) == b"one\ntwo\n"
    assert read_record(str(path)) == record
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert read_record(str(path)) is None
    path.write_bytes(gzip.compress(b"of somebody else"))
    assert read_record(str(path)) is None


def test_rejected_pieces_are_listed_without_their_text_unless_asked(tmp_path: Path) -> None:
    store = PartStore(str(tmp_path), "")
    pieces = [Rejected("in/a", 7, "not JSON", "ab", "schlüssel\n".encode()), Rejected("in/a", 9, "no text", "cd")]
    store.write_quarantine(5, [], 0, with_text=False)
    assert not os.path.exists(quarantine_path(str(tmp_path), 5))
    store.write_quarantine(5, pieces, 3, with_text=False)
    listed = [json.loads(line) for line in Path(quarantine_path(str(tmp_path), 5)).read_text().splitlines()]
    assert listed == [
        {"path": "in/a", "offset": 7, "reason": "not JSON", "sha256": "ab"},
        {"path": "in/a", "offset": 9, "reason": "no text", "sha256": "cd"},
        {"reason": "more than could be listed", "count": 3},
    ]
    store.write_quarantine(5, pieces, 0, with_text=True)
    assert "excerpt" in Path(quarantine_path(str(tmp_path), 5)).read_text()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.builds(
        PartRecord,
        unit=st.integers(0, 10**8 - 1),
        part=st.integers(0, 10**5),
        last=st.booleans(),
        fingerprint=st.text(max_size=8),
        rows=st.just(1),
        input_digest=st.text(max_size=8),
        stats=st.dictionaries(st.text(max_size=5), COUNTS | st.lists(COUNTS, max_size=3), max_size=3),
    )
)
def test_a_part_gives_back_its_record_in_both_forms(
    tmp_path_factory: pytest.TempPathFactory, record: PartRecord
) -> None:
    folder = str(tmp_path_factory.getbasetemp() / "records")
    PartStore(folder, "").write_table(record, pa.table({"x": [1]}))
    PartStore(folder, "", ".jsonl.gz").write_lines(record, b"1\n")
    for suffix in (".parquet", ".jsonl.gz"):
        path = PartStore(folder, "", suffix).path(record.unit, record.part)
        assert asdict(read_record(path) or record) == asdict(record)
        assert read_record(path) is not None
        storage.remove(path)
