"""The ledger: every part exactly once, whatever happens to the input, the settings or the process."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError, TooMuchRejected
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Rejected, Span, Unit, Work, fingerprint
from lstm_embed.ledger import owner as owner_module
from lstm_embed.ledger.manifest import UnitManifest, listed_parts, read_manifest
from lstm_embed.ledger.parts import open_part, read_record
from lstm_embed.ledger.plan import check_rejected, differences
from lstm_embed.ledger.units import read_plan

PART_ROWS = 3


class Killed(BaseException):
    """Stands for SIGKILL."""


class Job:
    """A job without Ray: one unit for two files, one part for three lines."""

    def __init__(self, root: Path | str, **settings: Any) -> None:
        self.input = f"{root}/in"
        self.output = storage.resolve(f"{root}/out")
        self.ledger = Ledger(self.output, kind="lines", settings={"upper": False, **settings}, config={})
        self.worked: list[int] = []

    def compare(self, prune: bool = False) -> Work:
        return self.ledger.compare(storage.list_files(storage.resolve(self.input)), self.cut, prune=prune)

    @staticmethod
    def cut(files: Any) -> list[tuple[Span, ...]]:
        return [tuple(Span.whole(file) for file in files[n : n + 2]) for n in range(0, len(files), 2)]

    def run(self, prune: bool = False) -> bool:
        """Return False if everything was done already."""
        work = self.compare(prune)
        if work.finished:
            return False
        with self.ledger.writing(work) as owner:
            work = self.ledger.remaining(work)
            new = {unit.number: list(self.work(unit)) for unit in work.pending}
            owner.check()
            self.ledger.finish(work, new, max_bad_fraction=0.5, extra={})
        return True

    def work(self, unit: Unit) -> Iterator[PartRecord]:
        self.worked.append(unit.number)
        lines = [line for span in unit.spans for line in storage.read_bytes(span.path).decode().splitlines()]
        starts = range(0, max(len(lines), 1), PART_ROWS)
        bad = [Rejected("f", n, "bad", "00") for n, line in enumerate(lines) if line == "bad"]
        for number, start in enumerate(starts):
            part = lines[start : start + PART_ROWS]
            last = number == len(starts) - 1
            stats = {"records": len(part) - part.count("bad"), "rejected": {"bad": part.count("bad")}}
            store = self.ledger.store
            record = store.record(unit.number, number, last=last, rows=len(part), input_digest="", stats=stats)
            if last:
                store.write_quarantine(unit.number, bad, 0, with_text=False)
            if number >= unit.committed:
                store.write_table(record, pa.table({"line": pa.array(part, pa.string())}))
            yield record

    def lines(self) -> list[str]:
        """Return the lines of the finished output."""
        found = []
        for part in read_manifest(self.output, kind="lines")["parts"]:
            with storage.open_input(storage.join(self.output, "parts", part["name"])) as file:
                found += pq.read_table(file)["line"].to_pylist()
        return found


def put(root: Path | str, name: str, *lines: str) -> None:
    storage.write_bytes(f"{storage.resolve(str(root))}/in/{name}", "".join(f"{line}\n" for line in lines).encode())


def snapshot(job: Job) -> dict[str, bytes]:
    """Return what a finished folder consists of, byte by byte."""
    files = {file.path[len(job.output) :]: storage.read_bytes(file.path) for file in storage.list_files(job.output)}
    files.pop("/job.json")  # holds the time
    return {name: data for name, data in files.items() if not name.startswith("/owner/")}


def times(job: Job) -> dict[str, str]:
    return {storage.name(file.path): file.stamp for file in storage.list_files(job.ledger.store.folder)}


def fill(root: Path | str) -> None:
    put(root, "a", *(f"a{n}" for n in range(7)))
    put(root, "b", "b0", "bad")
    put(root, "d", "d0", "d1", "d2")
    put(root, "e", "e0")


@pytest.fixture(autouse=True)
def no_power_cuts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for the disk: processes die here, machines do not."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path) if request.param == "local" else str(request.getfixturevalue("s3"))


def test_a_run_holds_every_line_once_and_a_second_one_writes_nothing(root: str) -> None:
    fill(root)
    job = Job(root)
    assert job.run()
    assert job.lines() == [*(f"a{n}" for n in range(7)), "b0", "bad", "d0", "d1", "d2", "e0"]
    manifest = read_manifest(job.output, kind="lines")
    assert manifest["rows"] == 13
    assert manifest["totals"] == {"records": 12, "rejected": {"bad": 1}}
    before = {file.path: file for file in storage.list_files(job.output)}
    again = Job(root)
    assert not again.run()
    assert {file.path: file for file in storage.list_files(job.output)} == before


def test_a_file_in_the_middle_a_changed_and_a_removed_one_redo_only_what_they_hold(root: str) -> None:
    fill(root)
    Job(root).run()
    first = times(Job(root))
    put(root, "c", "c0")
    added = Job(root)
    added.run()
    assert added.worked == [2]
    assert {name: times(added)[name] for name in first} == first
    assert sorted(added.lines())[-6:] == ["bad", "c0", "d0", "d1", "d2", "e0"]

    second = times(added)
    put(root, "a", "a0", "a new line")
    changed = Job(root)
    changed.run()
    assert changed.worked == [3]  # a and b share a unit; numbers are never used again
    assert sorted(changed.lines()) == ["a new line", "a0", "b0", "bad", "c0", "d0", "d1", "d2", "e0"]
    assert {name: times(changed).get(name) for name in second if "-00000000-" not in name} == {
        name: stamp for name, stamp in second.items() if "-00000000-" not in name
    }
    assert not any("-00000000-" in name for name in times(changed))

    storage.remove(storage.join(storage.resolve(root), "in", "e"))
    kept = Job(root)
    assert kept.compare().vanished == (storage.join(storage.resolve(root), "in", "e"),)
    assert not kept.run()
    pruned = Job(root)
    assert pruned.run(prune=True)
    assert pruned.worked == [4]
    assert "e0" not in pruned.lines()
    assert "d0" in pruned.lines()
    assert not Job(root).run(prune=True)


def test_comparing_writes_nothing(tmp_path: Path) -> None:
    fill(tmp_path)
    work = Job(tmp_path).compare()
    assert [unit.number for unit in work.pending] == [0, 1]
    assert not os.path.exists(tmp_path / "out")


def test_input_that_is_gone_before_it_was_read_is_named(tmp_path: Path) -> None:
    fill(tmp_path)
    job = Job(tmp_path)
    with job.ledger.writing(job.compare()):
        pass  # stopped right after the plan was written
    (tmp_path / "in" / "b").unlink()
    with pytest.raises(InputError, match=r"in/b is gone but must be read .* --prune"):
        Job(tmp_path).run()
    assert Job(tmp_path).run(prune=True)
    assert "b0" not in Job(tmp_path).lines()


def test_a_changed_file_does_not_let_a_vanished_one_of_its_unit_slip_away(tmp_path: Path) -> None:
    fill(tmp_path)
    Job(tmp_path).run()
    (tmp_path / "in" / "b").unlink()
    put(tmp_path, "a", "changed")
    with pytest.raises(InputError, match="in/b is gone"):
        Job(tmp_path).run()


def mutations(patch: pytest.MonkeyPatch, stop_at: int, after: bool) -> list[str]:
    """Let the process "die" at one of the operations that change storage; return the list they are noted in."""
    done: list[str] = []

    def killing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def act(path: str, *arguments: Any) -> Any:
            if len(done) > stop_at:
                raise Killed  # the dead do nothing, not even in their finally clauses
            done.append(f"{name} {path}")
            if len(done) > stop_at and not after:
                raise Killed
            result = real(path, *arguments)
            if len(done) > stop_at:
                raise Killed
            return result

        return act

    for name in ("write_bytes", "remove", "remove_dir"):
        patch.setattr(storage, name, killing(name, getattr(storage, name)))
    # The mark of a process that died.
    patch.setattr(owner_module, "_this_process", lambda: {"host": owner_module._host(), "pid": 0, "birth": "never"})
    return done


def change_everything(root: Path) -> None:
    put(root, "a", "a0", "a new line")
    put(root, "c", "c0", "bad")
    (root / "in" / "e").unlink(missing_ok=True)


@pytest.mark.parametrize("after", [False, True])
def test_killed_between_any_two_steps_the_same_command_gives_the_same_bytes(tmp_path: Path, after: bool) -> None:
    whole = tmp_path / "whole"
    fill(whole)
    Job(whole).run()
    first = snapshot(Job(whole))
    change_everything(whole)
    Job(whole).run(prune=True)
    second = snapshot(Job(whole))
    for step in itertools.count():
        root = tmp_path / f"{step}"
        fill(root)
        killed = False
        for prune, expected in ((False, first), (True, second)):
            if prune:
                change_everything(root)
            with pytest.MonkeyPatch.context() as patch:
                done = mutations(patch, step, after)
                try:
                    Job(root).run(prune)
                except Killed:
                    killed = True
            assert len(done) <= step + 1
            Job(root).run(prune)
            found = {name.replace("/plan/", ""): data for name, data in snapshot(Job(root)).items()}
            # Plans name the input by its path and time, and differ by that alone.
            assert {n for n in found if n.startswith("/")} == {n for n in expected if not n.startswith("/plan/")}
            for name in found:
                if name.startswith("/"):
                    assert found[name] == expected[name], name
        if not killed:
            break
    assert step > 15


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    moves=st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.lists(st.sampled_from(["x", "y", "z z"]), max_size=5) | st.none(),
            st.booleans(),
            st.none() | st.integers(0, 30),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_after_any_history_the_output_holds_the_input_of_now_and_what_was_kept(
    tmp_path_factory: pytest.TempPathFactory, moves: list[tuple[str, list[str] | None, bool, int | None]]
) -> None:
    root = tmp_path_factory.mktemp("history")
    put(root, "base", "base")
    expected = {"base": ["base"]}
    kept: dict[str, list[str]] = {}
    Job(root).run()
    for name, lines, prune, kill_at in moves:
        if lines is None and name in expected:
            (root / "in" / name).unlink()
            kept[name] = expected.pop(name)
        elif lines is not None:
            put(root, name, *lines)
            expected[name] = lines
            kept.pop(name, None)
        if kill_at is not None:
            with pytest.MonkeyPatch.context() as patch:
                mutations(patch, kill_at, False)
                with contextlib.suppress(Killed, InputError):
                    Job(root).run(prune)
        try:
            Job(root).run(prune)
        except InputError:  # something vanished cannot be kept
            prune = True
            Job(root).run(prune)
        if prune:
            kept = {}
        rows = [line for lines_ in (*expected.values(), *kept.values()) for line in lines_]
        assert sorted(Job(root).lines()) == sorted(rows)
        planned, following = read_plan(Job(root).output)
        assert set(planned) < set(range(following)) or set(planned) == set(range(following))


def test_a_truncated_or_missing_part_is_noticed_and_made_again(tmp_path: Path) -> None:
    fill(tmp_path)
    job = Job(tmp_path)
    job.run()
    whole = snapshot(job)
    part = tmp_path / "out" / "parts" / "part-00000000-0001.parquet"
    data = part.read_bytes()
    for damaged in (data[:-1], data[:20], b"", data[:-4] + b"XXXX"):
        part.write_bytes(damaged)
        if len(damaged) != len(data):
            assert Job(tmp_path).run()
            assert snapshot(job) == whole
        else:
            assert read_record(str(part)) is None
            part.unlink()
            assert Job(tmp_path).run()
    part.unlink()
    again = Job(tmp_path)
    assert again.run()
    assert again.worked == [0]
    assert snapshot(job) == whole


def test_a_lost_plan_does_not_let_parts_of_other_input_count(tmp_path: Path) -> None:
    fill(tmp_path)
    Job(tmp_path).run()
    for file in (tmp_path / "out" / "plan").iterdir():
        file.unlink()
    put(tmp_path, "a", "a changed line")
    again = Job(tmp_path)
    assert again.run()
    assert again.worked == [2, 3]
    assert sorted(again.lines()) == ["a changed line", "b0", "bad", "d0", "d1", "d2", "e0"]


def test_a_part_under_another_name_or_of_another_folder_is_refused_and_made_again(tmp_path: Path) -> None:
    fill(tmp_path)
    job = Job(tmp_path)
    job.run()
    whole = snapshot(job)
    entries = listed_parts(job.output, read_manifest(job.output, kind="lines", declared=UnitManifest))
    parts = tmp_path / "out" / "parts"
    (parts / entries[0].name).write_bytes((parts / entries[1].name).read_bytes())
    with pytest.raises(InputError, match="it says that it is part-00000000-0001"), open_part(entries[0], "lines"):
        pass
    other = PartStore(job.output, "other")
    record = other.record(0, 0, last=False, rows=3, input_digest="")
    other.write_table(record, pa.table({"line": ["x", "y", "z"]}))
    with pytest.raises(InputError, match=r"its identity is other-.*run lines again"), open_part(entries[0], "lines"):
        pass
    (parts / entries[0].name).unlink()
    with pytest.raises(FileNotFoundError, match="is missing; remove"), open_part(entries[0], "lines"):
        pass
    assert Job(tmp_path).run()
    assert snapshot(job) == whole


def test_other_settings_are_refused_with_both_values_named(tmp_path: Path) -> None:
    fill(tmp_path)
    Job(tmp_path, text={"language": "en", "split": "x" * 80}, part_rows=3).run()
    with pytest.raises(FingerprintMismatch) as caught:
        Job(tmp_path, text={"language": "de", "split": "x" * 80}, part_rows=4).run()
    assert 'text.language was "en" and is now "de"' in str(caught.value)
    assert "part_rows was 3 and is now 4" in str(caught.value)
    assert "split" not in str(caught.value)
    assert differences({"a": 1}, {"b": {"c": 2}}) == "a was 1 and is now null, b.c was null and is now 2"


def test_folders_of_something_else_are_refused(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(InputError, match=r"holds files of something else \(such as thesis.tex\)"):
        Job(tmp_path).run()
    (tmp_path / "out" / "thesis.tex").unlink()
    Job(tmp_path).run()
    other = Ledger(str(tmp_path / "out"), kind="token_set", settings={}, config={})
    with pytest.raises(InputError, match="holds a lines; this job writes a token set"):
        other.compare([], Job.cut)
    with pytest.raises(InputError, match="is a lines folder; expected a token set folder"):
        read_manifest(str(tmp_path / "out"), kind="token_set")


def test_content_that_is_bound_later_decides_which_parts_count(tmp_path: Path) -> None:
    fill(tmp_path)
    Job(tmp_path).run()
    bound = Job(tmp_path)
    bound.ledger.bind({"vocabulary": "1"})
    assert bound.run()
    assert bound.worked == [0, 1]
    again = Job(tmp_path)
    again.ledger.bind({"vocabulary": "1"})
    assert not again.run()


def test_content_of_single_units_decides_over_theirs_alone(tmp_path: Path) -> None:
    fill(tmp_path)
    Job(tmp_path).run()
    special = Job(tmp_path)
    special.ledger.unit_content = {1: "other"}
    work = special.compare()
    assert [unit.number for unit in work.pending] == [1]


def test_more_rejected_than_allowed_fails_with_the_counts_and_keeps_the_parts(tmp_path: Path) -> None:
    put(tmp_path, "a", "bad", "bad", "good")
    with pytest.raises(TooMuchRejected, match=r"2 of 3 records were rejected \(2 bad\).*--max-bad-fraction 0.5"):
        Job(tmp_path).run()
    assert len(times(Job(tmp_path))) == 1
    assert not os.path.exists(tmp_path / "out" / "manifest.json")
    check_rejected({"records": 99, "rejected": {"bad": 1}}, 0.01, "out")


def test_the_fingerprint_of_a_value_does_not_depend_on_the_order_of_its_keys() -> None:
    assert fingerprint({"a": 1, "b": [2.5, None, "ж"]}) == fingerprint({"b": [2.5, None, "ж"], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
