"""What a run shows of itself: the metrics file, and what Weights & Biases really wrote to disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_help import make_config

from lstm_embed.base import storage
from lstm_embed.stages.wandb_run import WandbProgress, WandbRun, WandbSettings, has_key
from lstm_embed.training.run import STEP, TIME, Row, Run, Schedule
from lstm_embed.training.tracking import MetricsFile
from lstm_embed.training.wandb_log import start_wandb


def row(step: int, loss: float = 1.0) -> Row:
    return {STEP: step, "train/loss": loss, TIME: 1000.0 + 10 * step}


def read_rows(path: str) -> list[Row]:
    return [json.loads(line) for line in storage.read_bytes(path).splitlines()]


def test_after_a_resume_every_step_is_in_the_metrics_file_once(tmp_path: Path) -> None:
    first = MetricsFile(str(tmp_path), 0)
    for step in (10, 20, 30, 40):
        first.append(row(step))
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"train/step": 50, "train/lo')
    second = MetricsFile(str(tmp_path), 20)
    assert second.kept == [row(10), row(20)]
    second.append(row(30, 2.0))
    # A worker of the job before, which has not noticed yet that it lost the run.
    first.append(row(50))
    assert read_rows(str(tmp_path / "metrics.jsonl")) == [row(10), row(20), row(30, 2.0)]


def test_the_metrics_of_a_run_in_an_object_store_are_there_after_each_checkpoint(s3: str) -> None:
    first = MetricsFile(s3, 0)
    first.append(row(10))
    first.upload()
    first.append(row(20))
    second = MetricsFile(s3, 10)
    second.append(row(20, 2.0))
    second.upload()
    assert read_rows(storage.join(s3, "metrics.jsonl")) == [row(10), row(20, 2.0)]


# Weights & Biases


def make_run(folder: Path, wandb_id: str = "abcd1234") -> Run:
    return Run(path=str(folder), meaning={"seed": 0}, schedule=Schedule(0, 100, 1, 0), wandb_id=wandb_id)


def wandb_records(run_dir: str) -> list[dict[str, Any]]:
    """Return all records of all parts of a run kept offline, in order."""
    records = []
    for part in sorted(Path(run_dir, "wandb").glob("offline-run-*")):
        command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(part)]
        lines = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
        # A part whose process was killed at once holds nothing.
        records += [json.loads(line) for line in lines if line.startswith("{")]
    return records


def wandb_lines(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines as they were logged, without what W&B adds."""
    items = [record["history"]["item"] for record in records if "history" in record]
    return [{name: value for name, value in item.items() if not name.startswith("_")} for item in items]


def wandb_history(records: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return the last value of each metric by our own step axis."""
    history: dict[int, dict[str, Any]] = {}
    for line in wandb_lines(records):
        history.setdefault(line[STEP], {}).update(line)
    return history


def start(folder: Path, rows: list[Row], wandb_id: str = "abcd1234", **changes: Any) -> tuple[WandbRun, list[str]]:
    config = make_config(folder, folder, wandb_project="project", wandb_tags=("a", "b"), **changes)
    notes: list[str] = []
    return start_wandb(config, make_run(folder, wandb_id), rows, notes.append), notes


def test_a_resumed_run_is_one_run_whose_repeated_steps_show_their_last_value(tmp_path: Path) -> None:
    first, notes = start(tmp_path, [])
    for step in (1, 2, 3):
        first.log(row(step, 1.0))
    first.finish()
    assert len(notes) == 1
    assert f"wandb sync {tmp_path}/wandb/offline-run-*-abcd1234" in notes[0]
    second, _ = start(tmp_path, [row(1), row(2)])
    for step in (3, 4):
        second.log(row(step, 2.0))
    second.finish()
    records = wandb_records(str(tmp_path))
    assert {step: item["train/loss"] for step, item in wandb_history(records).items()} == {1: 1, 2: 1, 3: 2, 4: 2}
    runs = [record["run"] for record in records if "run" in record]
    assert {run["run_id"] for run in runs} == {"abcd1234"}
    assert runs[0]["project"] == "project"
    assert runs[0]["tags"] == ["a", "b"]
    assert runs[0]["config"]["update"]["learning_rate"] == 5e-2
    metrics = [record["metric"] for record in records if "metric" in record]
    assert any(metric.get("step_metric") == STEP for metric in metrics)


def test_steps_that_a_killed_process_had_not_written_are_sent_again(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from test_training_tracking import *;"
        "log, _ = start(Path(sys.argv[1]), []); [log.log(row(n)) for n in range(5)];"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    # A process of its own, which does not share the service of this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_SERVICE")}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    log, _ = start(tmp_path, [row(n) for n in range(5)])
    log.log(row(5))
    log.finish()
    assert sorted(wandb_history(wandb_records(str(tmp_path)))) == list(range(6))


def test_lines_that_a_resume_takes_back_are_never_sent_offline(tmp_path: Path) -> None:
    killed, _ = start(tmp_path, [])
    killed.log_later(row(1))
    killed.commit()
    killed.log_later(row(2, 1.0))
    killed.finish()
    resumed, _ = start(tmp_path, [row(1)])
    resumed.log_later(row(2, 2.0))
    resumed.commit()
    resumed.finish()
    assert wandb_lines(wandb_records(str(tmp_path))) == [row(1), row(1), row(2, 2.0)]


def test_lines_of_more_than_a_minute_ago_are_not_sent_again(tmp_path: Path) -> None:
    log, _ = start(tmp_path, [row(n) for n in range(20)])
    log.finish()
    assert sorted(wandb_history(wandb_records(str(tmp_path)))) == list(range(14, 20))


def test_a_project_is_what_turns_it_on(tmp_path: Path) -> None:
    log, notes = start(tmp_path, [])
    config = make_config(tmp_path, tmp_path)
    quiet = start_wandb(config, make_run(tmp_path / "quiet"), [], notes.append)
    quiet.log(row(1))
    quiet.finish()
    assert not (tmp_path / "quiet").exists()
    log.finish()


def test_a_server_that_does_not_answer_leaves_the_run_offline_and_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    assert has_key()
    log, notes = start(tmp_path, [])
    log.log(row(1))
    log.finish()
    assert any("wandb sync" in note for note in notes)
    assert sorted(wandb_history(wandb_records(str(tmp_path)))) == [1]


def test_whatever_it_raises_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, notes = start(tmp_path, [])

    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("disk full\nand more")

    monkeypatch.setattr(log._run, "log", fail)
    log.log(row(1))
    log.log(row(2))
    assert notes[-1] == "Weights & Biases failed and is left out from here on (disk full)"
    assert len(notes) == 2
    log.finish()
    assert len(notes) == 2


@pytest.mark.parametrize("ended", [True, False])
def test_the_next_run_of_a_process_is_its_own_whatever_became_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended: bool
) -> None:
    first, _ = start(tmp_path / "first", [])
    first.log(row(1))

    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(first._run, "log", fail)
    first.log(row(2))
    if ended:
        first.finish()
    second, _ = start(tmp_path / "second", [], wandb_id="efgh5678")
    second.log(row(3))
    second.finish()
    first.finish()
    assert sorted(wandb_history(wandb_records(str(tmp_path / "first")))) == [1]
    assert sorted(wandb_history(wandb_records(str(tmp_path / "second")))) == [3]


def test_the_progress_of_a_job_is_handed_on_and_its_figures_are_logged_without_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lstm_embed.stages.wandb_run._PROGRESS_SECONDS", 0.0)
    told: list[Any] = []

    class Told:
        def progress(self, *args: Any, **counters: float) -> None:
            told.append((args, counters))

        def note(self, message: str) -> None:
            told.append(message)

    settings = WandbSettings(
        project="p", name="n", id="abcd1234", folder=str(tmp_path), config={"level": "row"}, step="embed/done_fraction"
    )
    with WandbProgress(Told(), settings) as report:
        report.progress("embed", 0, 4, "MB", sentences=0, parts=0)
        report.note("a secret sentence")
        report.progress("embed", 2, 4, "MB", sentences=50, parts=1)
        monkeypatch.setattr("lstm_embed.stages.wandb_run._PROGRESS_SECONDS", 1000.0)
        report.progress("embed", 3, 4, "MB", sentences=80, parts=2)
        report.progress("embed", 4, 4, "MB", sentences=100, parts=3)
    assert told[1:] == [
        (("embed", 0, 4, "MB"), {"sentences": 0, "parts": 0}),
        "a secret sentence",
        (("embed", 2, 4, "MB"), {"sentences": 50, "parts": 1}),
        (("embed", 3, 4, "MB"), {"sentences": 80, "parts": 2}),
        (("embed", 4, 4, "MB"), {"sentences": 100, "parts": 3}),
    ]
    records = wandb_records(str(tmp_path))
    rows = [record["history"]["item"] for record in records if "history" in record]
    assert [row["embed/done_fraction"] for row in rows] == [0, 0.5, 1.0]
    assert rows[-1]["embed/sentences"] == 100
    assert rows[-1]["embed/parts"] == 3
    assert "secret" not in json.dumps(records)


def test_a_key_is_found_where_wandb_login_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert not has_key()
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secret\n")
    os.chmod(tmp_path / "netrc", 0o600)
    assert has_key()
