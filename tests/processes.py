"""Processes of a run: starting a job, finding its workers, killing one of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lstm_embed.training.config import TrainingConfig

ROOT = Path(__file__).resolve().parent.parent


def start_training(config: TrainingConfig, folder: Path, **environment: str) -> subprocess.Popen[str]:
    """Start `jobs/train.py` as a user does, in a process group of its own."""
    path = folder / f"{config.run_name}.json"
    path.write_text(json.dumps(config.to_dict()))
    # A log file and not a pipe: what a killed job leaves behind would hold a pipe open.
    with open(folder / f"{config.run_name}.log", "ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / "train.py"), "--config", str(path)],
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            env={**os.environ, **environment},
        )


def log_of(config: TrainingConfig, folder: Path) -> str:
    """Return what the jobs of a run printed."""
    return (folder / f"{config.run_name}.log").read_text(errors="replace")


def descendants(pid: int, title: str) -> list[int]:
    """Return the processes below `pid` whose command line begins with `title`."""
    parents, titles = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
            titles[int(entry)] = Path(f"/proc/{entry}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        parents[int(entry)] = int(stat.rsplit(")", 1)[1].split()[1])

    def is_below(one: int) -> bool:
        while one in parents:
            one = parents[one]
            if one == pid:
                return True
        return False

    return sorted(one for one, name in titles.items() if name.startswith(title) and is_below(one))


def train_workers(pid: int) -> list[int]:
    """Return the workers of Ray Train below a process."""
    return descendants(pid, "ray::RayTrainWorker")


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: if it is not so in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


def kill(pid: int) -> None:
    """Kill one process for good."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def end(pids: list[int]) -> None:
    """Kill processes that a killed job left behind, by their ids."""
    for pid in pids:
        kill(pid)
