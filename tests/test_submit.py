"""jobs/submit.py: its parts, and one job through it on a cluster of its own processes (more in faults/)."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cluster_tools import SUBMIT, client, running_cluster, write_articles
from command_lines import JOBS
from local_cluster import free_port

from lstm_embed.base import storage
from lstm_embed.base.errors import OutputBusy

from conftest import ROOT

if str(JOBS) not in sys.path:
    sys.path.insert(0, str(JOBS))

import submit


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "jobs/train.py", "--run-name", "first", "--storage", "s3://b/runs"], "train-first"),
        (["python", "jobs/train.py", "--run-name=first"], "train-first"),
        (["python", "/opt/lstm_embed/jobs/prepare.py", "--output", "s3://b/to ken/"], "prepare-to-ken"),
        (["sh", "-c", "exit 3"], "sh"),
    ],
)
def test_submissions_are_named_by_job_and_run(words: list[str], name: str) -> None:
    assert submit.name_of(words) == name


def details(job: str, status: str = "SUCCEEDED", code: int | None = 0, message: str = "") -> Any:
    from ray.job_submission import JobStatus

    return SimpleNamespace(submission_id=job, status=JobStatus(status), driver_exit_code=code, message=message)


def test_every_try_has_a_number_of_its_own() -> None:
    jobs = [details("train-first-1"), details("train-first-9", "FAILED"), details("train-first-x"), details("train-12")]
    assert submit.next_id("train-first", jobs) == "train-first-10"
    assert submit.next_id("embed", jobs) == "embed-1"
    with pytest.raises(OutputBusy, match=r"train-first-2 is running; follow it with --follow train-first-2"):
        submit.next_id("train-first", [details("train-first-2", "RUNNING")])


def test_the_job_s_exit_code_is_passed_on() -> None:
    codes = {("SUCCEEDED", 0): 0, ("FAILED", 2): 2, ("FAILED", 1): 1, ("FAILED", None): 1, ("STOPPED", None): 130}
    for (status, code), expected in codes.items():
        assert submit.exit_code("job", details("job", status, code)) == expected
    assert submit.exit_code("job", None) == 1


def test_the_runtime_environment_has_grace_time_and_names_of_variables(tmp_path: Path) -> None:
    config = submit.Config(grace=77, env=("WANDB_MODE=offline", "HF_TOKEN"))
    environment = submit.runtime_environment(config)
    assert environment["working_dir"] == str(ROOT)
    variables = environment["env_vars"]
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "77"
    assert variables["WANDB_MODE"] == "offline"
    assert variables["HF_TOKEN"] == "${HF_TOKEN}"
    assert variables["WANDB_API_KEY"] == "${WANDB_API_KEY}"
    bare = submit.runtime_environment(submit.Config(working_dir=str(tmp_path)))
    assert bare == {"working_dir": str(tmp_path), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "120"}}


def test_a_script_that_is_not_there_is_told_before_anything_is_sent() -> None:
    assert submit.entrypoint_of(["jobs/train.py", "--x"], str(ROOT)) == ["python", "jobs/train.py", "--x"]
    assert submit.entrypoint_of(["python", "/opt/a.py"], "s3://b/code.zip") == ["python", "/opt/a.py"]
    with pytest.raises(FileNotFoundError, match=r"no jobs/nope\.py"):
        submit.entrypoint_of(["jobs/nope.py"], str(ROOT))


def test_words_after_the_dashes_belong_to_the_job() -> None:
    assert submit.split(["--grace", "5", "--", "a.py", "--", "b"]) == (["--grace", "5"], ["a.py", "--", "b"])
    assert submit.split(["--follow", "x"]) == (["--follow", "x"], [])


def read_lines(path: str) -> list[bytes]:
    return storage.read_bytes(path).splitlines()


@contextlib.contextmanager
def metrics_seen(port: int) -> Iterator[set[str]]:
    """Ask a node for its metrics, as Prometheus does; gather the lines of this package."""
    seen: set[str] = set()
    stop = threading.Event()

    def scrape() -> None:
        while not stop.wait(0.3):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                seen.update(line for line in answer.read().decode().splitlines() if line.startswith("ray_lstm_embed"))

    scraper = threading.Thread(target=scrape, daemon=True)
    scraper.start()
    try:
        yield seen
    finally:
        stop.set()
        scraper.join(10)


@pytest.mark.timeout(600)
def test_a_job_runs_from_the_uploaded_code_and_the_same_command_finds_all_done(s3: str, tmp_path: Path) -> None:
    job = f"python jobs/prepare.py --input {write_articles(tmp_path / 'in')} --output {s3}/tokens"
    # `python -c` shows where the code came from and what the runtime environment has set. One submission for all: each
    # starts several processes.
    look = "import lstm_embed, os; print(lstm_embed.__file__, *map(os.environ.get, ('SECRET_OF_THE_NODE', 'OMP_NUM_THREADS')))"
    shell = f'python -c "{look}" && {job} && {job}'
    options = ["--name", "twice", "--env", "SECRET_OF_THE_NODE", "--logs", str(tmp_path / "logs")]
    with running_cluster(
        workers=0,
        cpus=0,
        head_cpus=2,
        head_options=[f"--metrics-export-port={(port := free_port())}"],
        SECRET_OF_THE_NODE="from the node",
        RAY_enable_metrics_collection="1",
        RAY_metrics_report_interval_ms="250",
    ) as cluster:
        with metrics_seen(port) as seen:
            text = client(cluster, tmp_path / "log", *SUBMIT, *options, "--", "sh", "-c", shell)
        with pytest.raises(urllib.error.HTTPError, match="401"):  # nobody gets in without the token
            urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=30)
    assert "submitted twice-1" in text
    shown = next(line for line in text.splitlines() if line.endswith("from the node 1"))
    assert "_ray_pkg_" in shown
    assert "120 sentences" in text
    assert text.count("everything was done already") == 1
    assert (tmp_path / "logs" / "driver.log").read_text() in text
    assert list((tmp_path / "logs").glob("*/worker-*.out"))
    # The stages are short: which of them a scrape falls into is chance, so what is asked holds for every stage.
    labels = [line for line in seen if line.startswith("ray_lstm_embed_stage_done{")]
    assert labels
    for line in labels:
        assert f'run="{s3}/tokens"' in line
        assert re.search(r'stage="[a-z ]+"', line)
        assert re.search(r'unit="\w+"', line)
    units = [json.loads(line) for file in storage.list_files(f"{s3}/tokens/log") for line in read_lines(file.path)]
    assert {line["stage"] for line in units} == {"read", "prepare"}
    assert sum(line["rows"] for line in units if line["stage"] == "prepare") == 120
    assert all(line["node"] and line["seconds"] >= 0 for line in units)
    assert not storage.list_files(f"{s3}/tokens/.preflight")  # what the nodes were checked with is gone
