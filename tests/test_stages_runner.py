"""The runner, over stages that do next to nothing: one counts the lines of files, the other writes a greeting."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pytest
from embedding_help import all_files
from ray import cloudpickle
from stages_help import units_here, without_ray, work_left

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError, OutputBusy, TooMuchRejected
from lstm_embed.base.progress import Reporter
from lstm_embed.base.settings import DECIDES, Words, deciding, settings
from lstm_embed.ledger import PartRecord, PartStore, Unit, Work
from lstm_embed.ledger.owner import owned
from lstm_embed.stages.config import InputConfig
from lstm_embed.stages.observe import PROGRESS
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import FolderStage, Job, Made, Records, UnitStage
from lstm_embed.verbs import StatusConfig, status


@settings()
class CountConfig(InputConfig):
    """Count the lines of files; lines that say "bad" are rejected."""

    input: Words
    """Folder of the files."""
    times: Annotated[int, DECIDES] = 1
    """What every count is multiplied by."""
    refuse: bool = False
    """Find out at the beginning that it cannot be done."""


@dataclass(frozen=True)
class CountTask:
    """Commits a part of one row."""

    store: PartStore
    times: int

    def __call__(self, unit: Unit) -> Iterator[PartRecord]:
        lines = Path(unit.spans[0].path).read_text().splitlines()
        bad = lines.count("bad")
        good = len(lines) - bad
        stats = {"records": good, "rejected": {"bad": bad} if bad else {}}
        table = pa.table({"lines": [self.times * good]})
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        record = self.store.record(unit.number, 0, last=True, rows=1, input_digest=digest, stats=stats)
        self.store.write_table(record, table)
        yield record


class CountStage(UnitStage[CountConfig]):
    name, kind, row_name = "count", "line_counts", "counts"

    def open(self) -> None:
        if not storage.exists(self.config.input):
            raise FileNotFoundError(f"no folder at {self.config.input}")

    def settings(self) -> dict[str, Any]:
        return deciding(self.config)

    def files(self) -> list[storage.FileInfo]:
        return storage.list_files(storage.resolve(self.config.input))

    def begin(self, report: Reporter) -> None:
        report.note("begun")
        if self.config.refuse:
            raise InputError("it cannot be done")

    def make(self, job: Job) -> Records:
        storage.write_bytes(storage.join(self.staging_dir, "scrap"), b"scrap")
        return job.units(CountTask(job.ledger.store, self.config.times))

    def manifest(self) -> dict[str, Any]:
        return {"times": self.config.times}

    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return {"times": manifest["times"], "lines": manifest["totals"]["records"]}

    def sample_rate(self, work: Work) -> float:
        return 1e6


class Notes:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[tuple[str, float, float]] = []

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        self.stages.append((stage, done, total))

    def note(self, message: str) -> None:
        self.notes.append(message)


Make = Callable[..., CountStage]


@pytest.fixture
def stage(tmp_path: Path) -> Make:
    """Return a function that makes the stage over three files of one, two and three lines."""
    (tmp_path / "in").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "in" / f"{number}.txt").write_text("line\n" * number)

    def make(**values: Any) -> CountStage:
        return CountStage(CountConfig(input=str(tmp_path / "in"), output=str(tmp_path / "out"), **values))

    return make


def dying_after(number: int) -> Any:
    def run(units: Sequence[Unit], function: Any, **_: Any) -> Iterator[list[PartRecord]]:
        yield from units_here(units[:number], function)
        raise KeyboardInterrupt

    return run


def test_a_constructor_reads_nothing_and_opening_does(tmp_path: Path) -> None:
    stage = CountStage(CountConfig(input=str(tmp_path / "nowhere"), output=str(tmp_path / "out")))
    with pytest.raises(FileNotFoundError, match=r"no folder at .*nowhere"):
        run_stage(stage)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_is_left_and_writes_nothing(stage: Make, tmp_path: Path) -> None:
    summary = run_stage(stage(dry_run=True))  # without Ray
    assert (summary.dry_run, summary.rows, summary.row_name) == (True, 3, "of 3 units")
    assert summary.facts["new units"] == 3
    assert summary.facts["MB a second and CPU, in a small sample"] == 1.0
    assert not (tmp_path / "out").exists()


def test_a_run_leaves_parts_and_a_manifest_and_says_so(stage: Make, tmp_path: Path, here: None) -> None:
    notes = Notes()
    summary = run_stage(stage(times=2), notes)
    assert (summary.rows, summary.already_done, summary.facts) == (3, False, {"times": 2, "lines": 6})
    assert notes.notes == ["begun"]
    assert notes.stages[0] == ("count", 0, pytest.approx(30e-6))
    assert notes.stages[-1] == ("count", pytest.approx(30e-6), pytest.approx(30e-6))
    names = {name for name in all_files(tmp_path / "out") if not name.startswith("plan/")}
    assert names == {"job.json", "manifest.json", *(f"parts/part-0000000{n}-0000.parquet" for n in range(3))}


def test_a_finished_folder_stays_as_it_is(stage: Make, tmp_path: Path, here: None) -> None:
    run_stage(stage())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    notes = Notes()
    again = run_stage(stage(), notes)
    assert (again.already_done, again.rows, again.seconds, again.facts["lines"]) == (True, 3, 0.0, 6)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert (notes.notes, notes.stages) == ([], [])


def test_a_stopped_run_goes_on_with_what_is_left(stage: Make, tmp_path: Path) -> None:
    with without_ray(run_units=dying_after(2)), pytest.raises(KeyboardInterrupt):
        run_stage(stage())
    output = tmp_path / "out"
    assert not (output / "manifest.json").exists()
    assert {path.name for path in output.iterdir()} >= {"staging", PROGRESS}
    assert [unit.number for unit in work_left(stage()).pending] == [2]
    first = {path: path.stat().st_mtime_ns for path in (output / "parts").iterdir()}
    notes = Notes()
    with without_ray():
        assert run_stage(stage(), notes).rows == 3
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert notes.stages[0][1] == pytest.approx(15e-6)
    assert not {"staging", PROGRESS} & {path.name for path in output.iterdir()}


def test_status_tells_how_a_folder_stands(stage: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def state() -> dict[str, Any]:
        status(StatusConfig(path=str(tmp_path / "out"), json=True))
        return dict(json.loads(capsys.readouterr().out))

    with without_ray(run_units=dying_after(2)), pytest.raises(KeyboardInterrupt):
        run_stage(stage())
    stopped = state()
    assert (stopped["holds"], stopped["finished"], stopped["units_done"]) == ("line counts", False, "2 of 3")
    assert "count: " in stopped["running"]
    last_words = (tmp_path / "out" / PROGRESS).read_bytes()
    with without_ray():
        run_stage(stage())
    (tmp_path / "out" / PROGRESS).write_bytes(last_words)  # as if it had been killed when all was done
    finished = state()
    assert (finished["finished"], finished["rows_done"], finished.get("running")) == (True, 3, None)


def test_what_is_refused_at_the_beginning_leaves_the_folder_as_it_was(stage: Make, tmp_path: Path, here: None) -> None:
    with pytest.raises(InputError, match="it cannot be done"):
        run_stage(stage(refuse=True))
    assert not (tmp_path / "out").exists()
    run_stage(stage())
    before = all_files(tmp_path / "out")
    (tmp_path / "in" / "4.txt").write_text("line\n")
    with pytest.raises(InputError, match="it cannot be done"):
        run_stage(stage(refuse=True))
    assert all_files(tmp_path / "out") == before


def test_other_settings_and_other_kinds_are_refused(stage: Make, tmp_path: Path, here: None) -> None:
    run_stage(stage())
    with pytest.raises(FingerprintMismatch, match="times was 1 and is now 2"):
        run_stage(stage(times=2))
    other = type("OtherStage", (CountStage,), {"kind": "other"})
    with pytest.raises(InputError, match="holds a line counts; this job writes a other"):
        run_stage(other(stage().config))


def test_a_folder_that_another_job_writes_is_refused(stage: Make, tmp_path: Path, here: None) -> None:
    with owned(str(tmp_path / "out")), pytest.raises(OutputBusy):
        run_stage(stage())


def test_an_output_that_is_a_file_is_refused(stage: Make, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    for one in (stage(), GreetStage(GreetConfig(output=str(tmp_path / "out"), name="Ada"))):
        with pytest.raises(InputError, match=r"is a file; expected a new or empty folder"):
            run_stage(one)


def test_input_that_is_gone_is_told_and_kept_until_it_is_pruned(stage: Make, tmp_path: Path, here: None) -> None:
    run_stage(stage())
    gone = tmp_path / "in" / "2.txt"
    gone.unlink()
    (told,) = run_stage(stage()).notes
    assert told == f"1 input file is gone (such as {gone}): the counts are kept; --prune takes them away"
    (tmp_path / "in" / "4.txt").write_text("line\n" * 4)
    notes = Notes()
    assert run_stage(stage(), notes).facts["lines"] == 10
    assert notes.notes == [f"{gone} is gone; what it gave is kept (--prune removes it)", "begun"]
    assert run_stage(stage(prune=True)).facts["lines"] == 8


def test_too_much_that_is_rejected_leaves_no_manifest(stage: Make, tmp_path: Path, here: None) -> None:
    (tmp_path / "in" / "bad.txt").write_text("bad\n")
    with pytest.raises(TooMuchRejected, match="1 of 7 records were rejected"):
        run_stage(stage())
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run_stage(stage(max_bad_fraction=0.5)).rows == 4


def test_ray_gives_the_same_parts(stage: Make, tmp_path: Path, ray_cluster: None) -> None:
    with without_ray():
        run_stage(stage())
    expected = all_files(tmp_path / "out" / "parts")
    storage.remove_dir(str(tmp_path / "out"))
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this module
    try:
        assert run_stage(stage()).rows == 3
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert all_files(tmp_path / "out" / "parts") == expected


# Stages that make their folder in one go


@settings()
class GreetConfig:
    """Write a greeting."""

    output: Words
    """Folder."""
    name: Words
    """Who is greeted."""


class GreetStage(FolderStage[GreetConfig]):
    name, kind, row_name = "greet", "greeting", "letters"

    def open(self) -> None: ...

    def settings(self) -> dict[str, Any]:
        return {"name": self.config.name}

    def begin(self, report: Reporter) -> None:
        if self.config.name == "nobody":
            raise InputError("there is nobody to greet")

    def make(self, report: Reporter) -> Made:
        text = f"Hello, {self.config.name}!"
        storage.write_bytes(storage.join(self.output, "greeting.txt"), text.encode())
        return Made(content={"letters": len(text)}, decided_by=text)

    def facts(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return content["letters"], {}


def test_a_folder_is_made_once_and_sealed(tmp_path: Path) -> None:
    config = GreetConfig(output=str(tmp_path / "out"), name="Ada")
    first = run_stage(GreetStage(config))
    assert (first.rows, first.row_name, first.already_done) == (11, "letters", False)
    before = all_files(tmp_path / "out")
    assert set(before) == {"config.json", "greeting.txt", "manifest.json"}
    again = run_stage(GreetStage(config))
    assert (again.rows, again.already_done) == (11, True)
    assert all_files(tmp_path / "out") == before
    with pytest.raises(FingerprintMismatch, match='name was "Ada" and is now "Bob"'):
        run_stage(GreetStage(GreetConfig(output=config.output, name="Bob")))


def test_a_folder_is_not_begun_for_what_is_of_no_use(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody to greet"):
        run_stage(GreetStage(GreetConfig(output=str(tmp_path / "out"), name="nobody")))
    assert not (tmp_path / "out").exists()
