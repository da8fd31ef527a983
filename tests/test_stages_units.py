"""Units over Ray: records come back, failures come back as what they are, and dead workers are replaced."""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from ray import cloudpickle

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.ledger import PartRecord, Span, Unit
from lstm_embed.stages import units as distribute
from lstm_embed.stages.observe import watched
from lstm_embed.stages.units import run_chunks, run_units


@pytest.fixture(autouse=True, scope="module")
def by_value() -> Iterator[None]:
    """Send this module's functions themselves: workers cannot import it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


UNITS = [Unit(n, (Span("a", 0, -1, 1, "1"), Span("b", 2, 5, 9, "1", 3)), committed=n) for n in range(6)]


def record(unit: Unit, part: int = 0) -> PartRecord:
    return PartRecord(unit=unit.number, part=part, last=True, fingerprint="f", rows=unit.size, input_digest="")


def two_parts(unit: Unit) -> Iterator[PartRecord]:
    assert unit in UNITS
    yield record(unit, 0)
    yield record(unit, 1)


def test_every_unit_gives_its_records_once(ray_cluster: None) -> None:
    found = sorted(run_units(UNITS, two_parts, num_cpus=0.5), key=lambda records: records[0].unit)
    assert found == [list(two_parts(unit)) for unit in UNITS]
    assert list(run_units([], two_parts)) == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InputError("the file a changed"), InputError, "^the file a changed$"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), OSError, "No space left on device: '/x/y'"),
        (FileNotFoundError("no file at /x"), FileNotFoundError, "^no file at /x$"),
        (OSError("AWS Error"), OSError, "^AWS Error$"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), FileNotFoundError, "No such file"),
    ],
)
def test_what_a_worker_fails_with_arrives_as_it_is(
    ray_cluster: None, error: Exception, kind: type[Exception], message: str
) -> None:
    def fail(unit: Unit) -> Iterator[PartRecord]:
        if unit.number == 4:
            raise error
        yield record(unit)

    with pytest.raises(kind, match=message):
        list(run_units(UNITS, fail))


def test_a_worker_that_is_killed_is_replaced_and_its_unit_done_again(ray_cluster: None, tmp_path: Path) -> None:
    def die_once(unit: Unit) -> Iterator[PartRecord]:
        mark = tmp_path / str(unit.number)
        if not mark.exists():
            mark.write_text("tried")
            if unit.number in (1, 3):
                os.kill(os.getpid(), signal.SIGKILL)
        yield record(unit)

    found = list(run_units(UNITS, die_once))
    assert sorted(records[0].unit for records in found) == list(range(6))


def read(unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
    for part in range(2):
        yield record(unit, part), pa.table({"n": [unit.number, part]})


def unreadable(unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
    yield from read(unit)
    if unit.number == 2:
        raise InputError("unit 2 is unreadable")


def chunk_worker() -> Callable[[PartRecord, pa.Table], PartRecord]:
    def work(done: PartRecord, table: pa.Table) -> PartRecord:
        assert table["n"].to_pylist() == [done.unit, done.part]
        return done

    return work


def no_worker() -> Callable[[PartRecord, pa.Table], PartRecord]:
    raise LstmEmbedError("this machine cannot do bf16")


def test_chunks_reach_their_actors_whole_and_failures_of_each_stage_are_told(ray_cluster: None) -> None:
    def run(reader: object, worker: object) -> list[PartRecord]:
        return list(run_chunks(UNITS[:3], reader, worker, workers=(1, 1), gpu=False))  # type: ignore[arg-type]

    found = sorted(run(read, chunk_worker), key=lambda done: (done.unit, done.part))
    assert found == [record(unit, part) for unit in UNITS[:3] for part in range(2)]
    with pytest.raises(InputError, match=r"^unit 2 is unreadable$"):
        run(unreadable, chunk_worker)
    with pytest.raises(LstmEmbedError, match=r"^this machine cannot do bf16$"):
        run(read, no_worker)


def test_silence_is_told_while_units_are_worked_on(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"

    class Report:
        def note(self, message: str) -> None:
            told.write_text(message)

    def work_until_it_is_told(unit: Unit) -> Iterator[PartRecord]:
        while not told.exists():
            time.sleep(0.05)
        yield record(unit)

    monkeypatch.setattr(distribute, "watched", functools.partial(watched, seconds=0.5))
    assert len(list(run_units(UNITS[:1], work_until_it_is_told, report=Report()))) == 1  # type: ignore[arg-type]
    assert re.match(r"no unit has finished for \d+ min: (?!why could not)", told.read_text())


@pytest.mark.parametrize("place", ["local", "s3"])
def test_every_unit_leaves_a_line_in_the_log_of_the_folder(
    ray_cluster: None, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    output = str(tmp_path) if place == "local" else request.getfixturevalue("s3")
    assert len(list(run_units(UNITS, two_parts, stage="count", output=output))) == 6
    (file,) = storage.list_files(f"{output}/log")
    lines = [json.loads(line) for line in storage.read_bytes(file.path).splitlines()]
    assert sorted(line["unit"] for line in lines) == list(range(6))
    assert {(line["stage"], line["parts"], line["rejected"]) for line in lines} == {("count", 2, 0)}
    assert all(line["rows"] == 2 * UNITS[line["unit"]].size and line["node"] for line in lines)
