"""Folders from elsewhere: whatever their JSON says, they are read or refused in one line, never with a traceback."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import write_manifest, write_token_set

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.embedding.erase import erase
from lstm_embed.embedding.vectors import KIND, Embeddings, VectorFormat, write_vectors
from lstm_embed.ledger import Ledger, PartStore, Span, open_sealed, seal
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.owner import is_owned
from lstm_embed.ledger.parts import read_record
from lstm_embed.ledger.state import folder_state
from lstm_embed.ledger.whole import finished, making

VALUES: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "../../x", [], [[]], {}, {"x": 1})
WHOLE = (b"", b"{", b"null", b"[]", b"[" * 100_000, b"\xff\xfe{}", b'{"format": NaN}', b'{"a": 1e999}')


def mutations(value: Any) -> Iterator[Any]:
    """Yield what JSON becomes if one thing in it is another, or missing; of a list the first entries alone."""
    yield from (other for other in VALUES if other != value)
    if isinstance(value, dict):
        for name in value:
            yield {key: kept for key, kept in value.items() if key != name}
            yield from ({**value, name: other} for other in mutations(value[name]))
    if isinstance(value, list) and value:
        yield value[1:]
        yield [value[0], *value]
        yield from ([other, *value[1:]] for other in mutations(value[0]))


@dataclass(frozen=True)
class Case:
    """A JSON file of a kind of folder, and what reads it."""

    make: Callable[[Path], Any]
    file: str
    read: Callable[[str], Any]


def make_tokens(path: Path) -> None:
    write_token_set(str(path), num_articles=4, num_parts=2, num_words=20)


def read_tokens(path: str) -> None:
    tokens = TokenSet.open(path)
    for number in range(len(tokens.parts)):
        tokens.read_part(number)


def make_embeddings(path: Path) -> None:
    store, records = PartStore(str(path), "f"), []
    made = VectorFormat(
        level="sentence", dtype="float32", normalize=False, text=False, empty="zero", row_group_rows=16, columns=()
    )
    for number in range(2):
        records.append(store.record(number, 0, last=True, rows=3, input_digest="d", stats={"rejected": {}}))
        table = pa.table({"article_id": ["a", "b", "c"]})
        write_vectors(store, records[-1], table, np.ones((3, 4), np.float32), made, {})
    settings = {
        "kind": KIND,
        "embedding": "joined",
        "precision": "fp32",
        "vectors": {"level": "sentence", "row_group_rows": 16},
        "source": {"text": {"id_column": "id"}},
    }
    write_manifest(str(path), KIND, records, settings=settings, model="m")
    storage.write_json(str(path / "job.json"), {"settings": settings, "config": {"model": "nowhere"}})


def read_embeddings(path: str) -> None:
    embeddings = Embeddings(path)
    list(embeddings.batches(["article_id"]))
    with contextlib.suppress(FileNotFoundError):
        embeddings.model_path()


def make_erasing(path: Path) -> None:
    make_embeddings(path)
    erase(str(path), ["a"])
    manifest = json.loads((path / "manifest.json").read_text())
    storage.write_json(str(path / "erasing.json"), {"manifest": manifest, "lines": []})


def ledger(path: str) -> Ledger:
    return Ledger(path, kind="lines", settings={"upper": False}, config={})


def compare(path: str) -> None:
    books = ledger(path)
    books.compare(storage.list_files(f"{path}-in"), lambda files: [(Span.whole(file),) for file in files], prune=True)
    folder_state(path)


def make_units(path: Path) -> None:
    for name in ("a", "b"):
        storage.write_bytes(f"{path}-in/{name}", b"line\n")
    books = ledger(str(path))
    work = books.compare(storage.list_files(f"{path}-in"), lambda files: [(Span.whole(file),) for file in files])
    with books.writing(work):
        new = {}
        for unit in work.units:
            record = books.store.record(unit.number, 0, last=True, rows=1, input_digest="", stats={"records": 1})
            books.store.write_table(record, pa.table({"line": ["x"]}))
            new[unit.number] = [record]
        books.finish(work, new, max_bad_fraction=0, extra={})
    state = {"stage": "s", "done": 1.0, "total": 2.0, "unit": "MB", "rate": 1.0, "seconds_left": 3.0, "time": 0.0}
    storage.write_json(str(path / "progress.json"), state)
    mark = {"host": "elsewhere", "pid": 1, "birth": "1", "time": 0.0}
    storage.write_json(str(path / "owner" / "far.json"), mark)


def make_sealed(path: Path) -> None:
    with making(str(path), kind="model", settings={"a": 1}, config={}):
        storage.write_bytes(str(path / "w.bin"), b"12345")
    seal(str(path), kind="model", fingerprint="f", content={"n": 1})


CASES = {
    "token set, manifest": Case(make_tokens, "manifest.json", read_tokens),
    "embeddings, manifest": Case(make_embeddings, "manifest.json", read_embeddings),
    "embeddings, job": Case(make_embeddings, "job.json", read_embeddings),
    "erasing, job": Case(make_erasing, "job.json", lambda path: erase(path, ["b"])),
    "erasing, state": Case(make_erasing, "erasing.json", lambda path: erase(path, ["b"])),
    "erased": Case(make_erasing, "erased.jsonl", Erased.load),
    "units, manifest": Case(make_units, "manifest.json", compare),
    "units, job": Case(make_units, "job.json", compare),
    "units, plan": Case(make_units, "plan/000000.jsonl", compare),
    "units, progress": Case(make_units, "progress.json", compare),
    "units, owner mark": Case(make_units, "owner/far.json", is_owned),
    "sealed, manifest": Case(make_sealed, "manifest.json", lambda path: open_sealed(path, kind="model")),
    "sealed, config": Case(make_sealed, "config.json", lambda path: finished(path, kind="model", settings={"a": 1})),
}


PASSED_OVER = {"units, manifest", "units, owner mark"}
"""What a job makes again, or waits out."""


@pytest.mark.parametrize("name", CASES)
def test_whatever_a_file_says_it_is_read_or_refused_in_a_line(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    folder, kept = tmp_path / "folder", tmp_path / "kept"
    case.make(folder)
    shutil.copytree(folder, kept)
    changed = "eras" in name
    if not changed:
        case.read(str(folder))
    text = (kept / case.file).read_bytes()
    first, *rest = text.split(b"\n") if case.file.endswith("l") else [text]
    other = (json.dumps(value).encode() for value in mutations(json.loads(first)))
    messages = []
    for data in (*WHOLE, *itertools.islice(other, None, None, 5 if changed else 1)):
        if changed:
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
        (folder / case.file).write_bytes(b"\n".join([data, *rest]))
        try:
            case.read(str(folder))
        except InputError as error:
            messages.append(str(error))
    assert bool(messages) == (name not in PASSED_OVER)
    assert not [message for message in messages if "\n" in message or len(message) > 1000]


def test_a_footer_that_says_anything_else_is_no_part(tmp_path: Path) -> None:
    store = PartStore(str(tmp_path), "f")
    record = store.record(0, 0, last=True, rows=1, input_digest="d", stats={"records": 1, "rejected": {"bad": 1}})
    table = pa.table({"x": [1]})
    store.write_table(record, table)
    said = json.loads(pq.read_metadata(store.path(0, 0)).metadata[b"lstm_embed"])
    for value in mutations(said):
        made = table.replace_schema_metadata({b"lstm_embed": json.dumps(value).encode()})
        pq.write_table(made, store.path(0, 0))
        found = read_record(store.path(0, 0))
        assert found is None or (found.unit, found.part, found.rows) == (0, 0, 1)
