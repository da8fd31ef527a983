"""The Ray of one job on one machine: what a job says whose Ray is killed, and how it ends when it is told to."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from processes import descendants, kill, wait_for

RAYLET = f"{Path(ray.__file__).parent}/core/src/ray/raylet/raylet"
IDLE_JOB = """
import time
from lstm_embed.cli import errors_as_exit_codes
from lstm_embed.stages.session import ray_session
with errors_as_exit_codes(), ray_session():
    print("begun", flush=True)
    time.sleep(1000)
"""


@pytest.fixture
def job() -> Iterator[subprocess.Popen[str]]:
    """Start a job that has a Ray and does nothing."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", IDLE_JOB], stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def the_line_of(job: subprocess.Popen[str]) -> str:
    """Return the one line with which a job ends that has failed."""
    text = job.communicate()[1]
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    return line


def test_a_job_whose_ray_is_killed_says_so_in_one_line(job: subprocess.Popen[str]) -> None:
    (raylet,) = descendants(job.pid, RAYLET)
    kill(raylet)
    assert job.wait() == 1
    line = the_line_of(job)
    assert "ended from outside" in line
    assert "run the same command again" in line


def test_a_job_that_is_told_to_end_says_how_to_go_on_and_leaves_no_process(job: subprocess.Popen[str]) -> None:
    (raylet,) = descendants(job.pid, RAYLET)
    job.send_signal(signal.SIGTERM)
    assert job.wait() == 130
    assert the_line_of(job) == "error: interrupted; run the same command again to continue"
    assert not Path(f"/proc/{raylet}").exists()


def test_a_job_that_is_told_to_end_while_ray_starts_ends_when_it_has() -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", IDLE_JOB], stdout=pipe, stderr=pipe, text=True) as job:
        wait_for(lambda: descendants(job.pid, RAYLET), 300, "Ray's first processes")
        job.send_signal(signal.SIGTERM)
        assert the_line_of(job) == "error: interrupted; run the same command again to continue"
        assert job.returncode == 130
