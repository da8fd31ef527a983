"""What is checked before a cluster works, what is waited for, and what is said when nothing moves."""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.base.progress import SILENT
from lstm_embed.stages import observe, preflight
from lstm_embed.stages.capacity import describe, unplaced, wait_for_resources
from lstm_embed.stages.preflight import Expectation, Needs, NodeFacts, faults


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        pass

    def note(self, message: str) -> None:
        self.notes.append(message)


EXPECTED = Expectation(
    marker="s3://bucket/out/.preflight/ab",
    token="ab",
    writer="10.0.0.1 (head)",
    versions={"torch": "2.13.0", "python": "3.11"},
)
FIT = NodeFacts(
    host="10.0.0.2 (worker)",
    marker="ab",
    unread={},
    versions={"torch": "2.13.0", "python": "3.11"},
    temporary="/tmp/ray",
    temporary_used=0.5,
)


def test_a_fit_node_has_no_faults() -> None:
    assert faults(EXPECTED, FIT) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"marker": ""},
            "does not see what 10.0.0.1 (head) wrote to s3://bucket/out; use a folder that all nodes share",
        ),
        ({"marker": "AccessDenied"}, "does not see what 10.0.0.1 (head) wrote to s3://bucket/out (AccessDenied)"),
        ({"unread": {"/data/a": "it is not there"}}, "cannot read /data/a: it is not there"),
        ({"versions": {"torch": "2.12.0", "python": "3.11"}}, "has torch 2.12.0 instead of 2.13.0; use the same image"),
        ({"versions": {"python": "3.11"}}, "has torch none instead of 2.13.0"),
        ({"temporary_used": 0.96}, "the disk of /tmp/ray is 96 % full, and Ray stops at 95 %"),
    ],
)
def test_each_fault_is_one_line_that_names_the_node(change: dict[str, object], line: str) -> None:
    (found,) = faults(EXPECTED, replace(FIT, **change))  # type: ignore[arg-type]
    assert line in found
    assert "10.0.0.2 (worker)" in found
    assert "\n" not in found


def test_a_node_on_the_same_machine_sees_the_marker_and_it_is_gone_afterwards(tmp_path: Path) -> None:
    needs = Needs(output=str(tmp_path / "out"), inputs=(str(tmp_path),))
    with preflight.expectation(needs) as expected:
        assert storage.exists(expected.marker)
        preflight.check_here(expected)
        found = preflight.look(expected)
        assert found.versions["python"] == expected.versions["python"]
        assert {"ray", "torch", "numpy", "lstm_embed"} <= found.versions.keys()
    assert list((tmp_path / "out").iterdir()) == []


def test_the_marker_is_read_from_an_object_store(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "_MARKER_TRIES", 1)
    with preflight.expectation(Needs(output=s3), one_node=True) as expected:
        preflight.check_here(expected)
        assert expected.versions == {}
    with pytest.raises(InputError, match=r"does not see what .* wrote to s3://"):
        preflight.check_here(expected)


def test_a_folder_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with (
        pytest.raises(InputError, match=r"cannot write to .*file"),
        preflight.expectation(Needs(output=str(tmp_path / "file"))),
    ):
        pass


def test_markers_of_killed_jobs_are_removed_when_they_are_old(tmp_path: Path) -> None:
    folder = tmp_path / preflight.MARKER_FOLDER
    folder.mkdir()
    (folder / "old").write_text("old")
    (folder / "young").write_text("young")
    long_ago = time.time() - 30 * 86400
    os.utime(folder / "old", (long_ago, long_ago))
    with preflight.expectation(Needs(output=str(tmp_path))):
        pass
    assert [path.name for path in folder.iterdir()] == ["young"]


def test_a_worker_checks_itself_against_what_the_driver_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with preflight.expectation(Needs(output=str(tmp_path))) as expected:
        monkeypatch.setenv(*next(iter(expected.environment().items())))
        assert Expectation.from_environment() == expected
        preflight.check_worker.cache_clear()
        preflight.check_worker()
        other = replace(expected, versions={**expected.versions, "numpy": "0.1"})
        monkeypatch.setenv(preflight.VARIABLE, other.environment()[preflight.VARIABLE])
        preflight.check_worker.cache_clear()
        with pytest.raises(InputError, match=r"numpy .* instead of 0\.1"):
            preflight.check_worker()
    monkeypatch.delenv(preflight.VARIABLE)
    preflight.check_worker.cache_clear()
    preflight.check_worker()


@pytest.mark.usefixtures("ray_cluster")
def test_every_node_of_a_cluster_is_checked(tmp_path: Path) -> None:
    needs = Needs(output=str(tmp_path / "out"), bundles=({"CPU": 1.0}, {"CPU": 2.0}))
    with preflight.expectation(needs) as expected:
        preflight.check_cluster(needs, expected)
        other = replace(expected, versions={**expected.versions, "torch": "1.0"}, inputs=(str(tmp_path / "none"),))
        with pytest.raises(InputError) as caught:
            preflight.check_cluster(needs, other)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "none: it is not there" in lines[0]
    assert "instead of 1.0" in lines[1]


@pytest.mark.usefixtures("ray_cluster")
def test_too_small_a_cluster_is_told_when_no_node_is_on_its_way() -> None:
    notes = Notes()
    with pytest.raises(LstmEmbedError) as caught:
        wait_for_resources([{"CPU": 3.0}, {"CPU": 3.0}], notes, quiet=0.5, interval=0.1)
    assert str(caught.value).startswith(
        "6 CPUs needed, the cluster has 4 CPUs and no room for 1 of 2 workers (3 CPUs on one node); no node is on its way"
    )
    assert notes.notes == ["6 CPUs needed, the cluster has 4 CPUs; waiting for nodes to join"]


BUNDLE = st.fixed_dictionaries({"CPU": st.integers(0, 4), "GPU": st.integers(0, 2)})


@given(st.lists(BUNDLE, max_size=6), st.lists(BUNDLE, max_size=4))
@settings(max_examples=200, deadline=None)
def test_what_is_placed_never_exceeds_the_nodes(bundles: list[dict[str, int]], nodes: list[dict[str, int]]) -> None:
    left = unplaced(bundles, nodes)
    for name in ("CPU", "GPU"):
        placed = sum(bundle[name] for bundle in bundles) - sum(bundle[name] for bundle in left)
        assert 0 <= placed <= sum(node[name] for node in nodes)
    assert all(bundle in bundles for bundle in left)
    assert unplaced(bundles, [*nodes, *bundles]) == []  # a node of its own for each


def test_work_without_a_gpu_keeps_off_the_gpu_nodes() -> None:
    nodes = [{"CPU": 4, "GPU": 1}, {"CPU": 4}]
    assert unplaced([{"CPU": 4}, {"CPU": 4, "GPU": 1}], nodes) == []
    assert unplaced([{"CPU": 5}], nodes) == [{"CPU": 5}]


@pytest.mark.parametrize(
    ("bundles", "text"),
    [
        ([], "0 CPUs"),
        ([{"CPU": 1.0}], "1 CPU"),
        ([{"CPU": 0.5}, {"CPU": 1}], "1.5 CPUs"),
        ([{"CPU": 6, "GPU": 1}], "1 GPU and 6 CPUs"),
    ],
)
def test_bundles_are_said_as_a_person_says_them(bundles: list[dict[str, float]], text: str) -> None:
    assert describe(bundles) == text


def test_silence_is_noticed_explained_and_forgotten_when_work_goes_on() -> None:
    notes, silences = Notes(), itertools.count(1)
    second = threading.Event()

    def explain() -> str:
        if next(silences) == 2:
            second.set()
        return "because"

    def items() -> Iterator[int]:
        yield 1
        second.wait()
        yield 2

    assert list(observe.watched(items(), notes, "unit", seconds=0.1, explain=explain)) == [1, 2]
    assert notes.notes
    assert set(notes.notes) == {"no unit has finished for 0 min: because"}
    assert list(observe.watched([1, 2], notes, "unit", seconds=5.0)) == [1, 2]


def test_a_failing_explanation_does_not_stop_the_work() -> None:
    notes = Notes()

    def items() -> Iterator[int]:
        while not notes.notes:
            time.sleep(0.01)
        yield 1

    assert list(observe.watched(items(), notes, "unit", seconds=0.1, explain=lambda: str(1 // 0))) == [1]
    assert "could not be found out" in notes.notes[0]


@pytest.mark.parametrize(
    ("free", "waiting", "reason"),
    [
        ({"CPU": 0.0}, [{"CPU": 1.0}], "work waits for 1 CPU while 0 CPUs of 8 CPUs are free: other jobs, or actors"),
        ({"CPU": 8.0}, [{"CPU": 16.0}], "work waits for 16 CPUs on one node, which no node has (cluster: 8 CPUs)"),
        ({"CPU": 2.0}, [], "work is running (2 CPUs of 8 CPUs free)"),
        ({"CPU": 8.0}, [], "nothing runs and nothing waits (8 CPUs)"),
    ],
)
def test_the_reason_of_a_stall_is_named(free: dict[str, float], waiting: list[dict[str, float]], reason: str) -> None:
    nodes = [{"CPU": 4.0}, {"CPU": 4.0}]
    assert observe.stall_reason(nodes, free, waiting, []).startswith(reason)
    assert observe.stall_reason(nodes, free, waiting, ["10.0.0.9"]).endswith("gone since the cluster started: 10.0.0.9")


@pytest.mark.usefixtures("ray_cluster")
def test_a_running_cluster_can_be_explained() -> None:
    assert observe.explain_stall().startswith(("nothing runs", "work is running"))


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_line_is_logged_for_each_unit(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    output = str(tmp_path) if place == "local" else request.getfixturevalue("s3")
    with observe.UnitLog(output) as log:
        log.add(stage="prepare", unit=0, rows=10)
        log.add(stage="prepare", unit=1, rows=20)
    (file,) = storage.list_files(storage.join(output, observe.LOG_FOLDER))
    lines = [json.loads(line) for line in storage.read_bytes(file.path).splitlines()]
    assert [(line["unit"], line["rows"]) for line in lines] == [(0, 10), (1, 20)]
    assert all(abs(line["time"] - time.time()) < 60 for line in lines)


def test_an_observer_hands_progress_on_and_needs_no_ray() -> None:
    seen: list[tuple[str, float]] = []

    class Inner(Notes):
        def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
            seen.append((stage, done))

    inner = Inner()
    report = observe.Observer(inner, "first")
    report.progress("embed", 1, 2, "MB", sentences=5)
    report.progress("embed", 2, 2, "MB", sentences=9)
    report.note("done")
    assert seen == [("embed", 1), ("embed", 2)]
    assert inner.notes == ["done"]
    SILENT.note("nothing")
