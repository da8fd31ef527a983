"""Small runs under random `kill -9` and graceful stops; every one must end with the uninterrupted run's bits.

Run with `make faults`, or `pytest -m faults tests/faults/test_training_faults.py -s`. `FAULT_SEED` repeats a sequence. All
tests together make 24 kills (10 of the job, 10 of a worker, 4 of a node's raylet) and 6 graceful stops.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from node_loss import two_nodes
from processes import ROOT, descendants, end, kill, log_of, start_training, train_workers, wait_for
from test_training_tracking import wandb_history, wandb_records
from torch import Tensor
from training_help import final_weights, make_config, make_run, run_workers, write_data

from lstm_embed.base import storage
from lstm_embed.training import checkpoint
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import RunFolder
from lstm_embed.training.trainer import finished_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

KILLS, STOPS, NODE_KILLS = 5, 3, 2
"""Kills of each kind, stops and lost nodes in one test."""
EPOCHS = 90
ENDLESS_EPOCHS = 100_000
"""Of runs that are stopped when enough has happened: a run may take a new node a minute after it has come."""
MOST_STEPS = 40
"""Steps that a run makes at most between two faults."""
CURVE_TOLERANCE = 1e-4
"""Largest relative difference of a step's loss where the number of workers changed on the way."""

Job = subprocess.Popen[str]
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def rng() -> random.Random:
    seed = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(10**6))
    print(f"\nFAULT_SEED={seed}")
    return random.Random(seed)


@pytest.fixture(scope="module")
def faults() -> Iterator[dict[str, list[float]]]:
    """Collect the seconds to recover by kind of fault; nan where the next fault came before."""
    found: dict[str, list[float]] = {}
    yield found
    for kind, seconds in found.items():
        known = [value for value in seconds if value == value] or [float("nan")]
        print(f"\n{kind}: {len(seconds)}; first new step after {statistics.median(known):.1f} s", end="")
        print(f" (median), {max(known):.1f} s (most)", end="")
    print()


def make(data: Path, storage_dir: Path, workers: str, **changes: object) -> TrainingConfig:
    values = {"epochs": EPOCHS, "log_steps": 1, "checkpoint_every": "5", "wandb_project": "p", "max_failures": -1}
    return make_config(data, storage_dir, num_workers=workers, **{**values, **changes})


def metrics_path(config: TrainingConfig) -> Path:
    return Path(RunFolder.of(config).path, "metrics.jsonl")


def metrics(config: TrainingConfig) -> Rows:
    """Return the lines of metrics, without a torn last one."""
    if not metrics_path(config).exists():
        return []
    return [json.loads(line) for line in metrics_path(config).read_text().splitlines() if line.endswith("}")]


def final_parameters(config: TrainingConfig) -> dict[str, Tensor]:
    path = storage.join(RunFolder.of(config).path, checkpoint.name_of(make_run(config).end))
    return checkpoint.load(path).parameters


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Tensor], Rows]]:
    """Return final weights and metrics of uninterrupted runs by number of workers, trained on Ray when first asked for."""
    found: dict[str, tuple[dict[str, Tensor], Rows]] = {}

    def get(workers: str) -> tuple[dict[str, Tensor], Rows]:
        if workers not in found:
            folder = tmp_path_factory.mktemp("whole")
            config = make(data, folder, workers, wandb_project="")
            job = start_training(config, folder)
            assert job.wait(900) == 0, log_of(config, folder)
            found[workers] = final_parameters(config), metrics(config)
        return found[workers]

    return get


def check_history(config: TrainingConfig, end: int | None = None) -> None:
    """Every step must be in the metrics once, and in the history of Weights & Biases with the same loss."""
    rows = metrics(config)
    steps = list(range(1, (end or make_run(config).end) + 1))
    assert [row["train/step"] for row in rows] == steps
    history = wandb_history(wandb_records(RunFolder.of(config).path))
    assert sorted(history) == steps
    assert [history[step]["train/loss"] for step in steps] == [row["train/loss"] for row in rows]


def check(config: TrainingConfig, whole: tuple[dict[str, Tensor], Rows]) -> None:
    assert finished_run(config) is not None
    weights, rows = whole
    found = final_parameters(config)
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert [row["train/loss"] for row in metrics(config)] == [row["train/loss"] for row in rows]
    check_history(config)


class Recovery:
    """Waits until a run makes steps again after a fault that is about to happen."""

    def __init__(self, config: TrainingConfig) -> None:
        self._config = config
        self._file = self._identity()
        self._at = time.time()
        self._taken_up = 0.0

    def _identity(self) -> int:
        # Whoever takes the run up writes a new file.
        path = metrics_path(self._config)
        return path.stat().st_ino if path.exists() else 0

    def wait(self, job: Job) -> float:
        """Return the seconds from the fault to the first step of those who took the run up."""

        def recovered() -> bool:
            assert job.poll() is None, "the run ended before all faults had happened; raise EPOCHS"
            if not self._taken_up and self._identity() != self._file:
                self._taken_up = time.time()
            return bool(self._taken_up and self._new_times())

        wait_for(recovered, 300, "a step after a fault")
        return self._new_times()[0] - self._at

    def _new_times(self) -> list[float]:
        # Steps that were under way at the fault are seconds older: workers take that long to start.
        since = max(self._at, self._taken_up - 1.0)
        return [row["time"] for row in metrics(self._config) if row["time"] > since]


def train_on(config: TrainingConfig, job: Job, rng: random.Random) -> None:
    """Let a run make a random number of steps."""
    target = len(metrics(config)) + rng.randrange(MOST_STEPS)
    wait_for(lambda: len(metrics(config)) >= target or job.poll() is not None, 300, f"step {target}")
    time.sleep(rng.uniform(0.0, 0.5))
    assert job.poll() is None, "the run ended before all faults had happened; raise EPOCHS"


def kill_job(job: Job, rng: random.Random) -> None:
    left = descendants(job.pid, "")
    kill(job.pid)
    job.wait(10)
    # The job's workers live on for some seconds, while the next job takes the run over.
    threading.Timer(3.0, end, (left,)).start()


def kill_worker(job: Job, rng: random.Random) -> None:
    wait_for(lambda: train_workers(job.pid), 120, "a worker")
    kill(rng.choice(train_workers(job.pid)))


def stop_job(job: Job, rng: random.Random) -> None:
    begun = time.monotonic()
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(120) == 130
    print(f"\nstopped within {time.monotonic() - begun:.1f} s", end="")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_random_kills_and_stops_change_nothing(
    data: Path,
    tmp_path: Path,
    rng: random.Random,
    faults: dict[str, list[float]],
    expected: Callable[[str], tuple[dict[str, Tensor], Rows]],
    workers: str,
) -> None:
    config = make(data, tmp_path, workers)
    whole = expected(workers)
    sequence = [kill_job, kill_worker] * KILLS + [stop_job] * STOPS
    rng.shuffle(sequence)
    recovery, kind = Recovery(config), "start"
    job = start_training(config, tmp_path)
    for number, fault in enumerate(sequence):
        if number % 3 == 0 and fault is not stop_job:
            # At any moment, while it is still starting too.
            faults.setdefault(kind, []).append(float("nan"))
            time.sleep(rng.uniform(0.0, 15.0))
        else:
            faults.setdefault(kind, []).append(recovery.wait(job))
            train_on(config, job, rng)
        recovery, kind = Recovery(config), fault.__name__
        fault(job, rng)
        if fault is not kill_worker:
            job = start_training(config, tmp_path)
    faults.setdefault(kind, []).append(recovery.wait(job))
    assert job.wait(900) == 0, log_of(config, tmp_path)
    check(config, whole)


def test_a_lost_node_changes_nothing(
    data: Path,
    tmp_path: Path,
    rng: random.Random,
    faults: dict[str, list[float]],
    expected: Callable[[str], tuple[dict[str, Tensor], Rows]],
) -> None:
    config = make(data, tmp_path, "2")
    with two_nodes(config, tmp_path) as nodes:
        Recovery(config).wait(nodes.process)
        for number in range(NODE_KILLS):
            raylet = nodes.raylet(number)
            train_on(config, nodes.process, rng)
            recovery = Recovery(config)
            kill(raylet)
            nodes.add_node()
            faults.setdefault("kill_raylet", []).append(recovery.wait(nodes.process))
        nodes.wait(900)
    check(config, expected("2"))


def test_a_full_disk_ends_a_run_at_once_and_with_room_it_goes_on(data: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(disk)]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("this machine allows no mounts")
    config = make(data, disk, "2", epochs=3, wandb_project="")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    job = f"{sys.executable} {ROOT}/jobs/train.py --config {tmp_path}/config.json"
    script = (
        f"mount -t tmpfs -o size=100k none {disk}; {job} 2>{tmp_path}/full.log; echo $?;"
        f"mount -o remount,size=50m {disk}; {job} 2>{tmp_path}/room.log; echo $?; cp -r {disk}/small {tmp_path}"
    )
    found = subprocess.run(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True, check=True)
    log = (tmp_path / "full.log").read_text()
    assert found.stdout.splitlines()[0] == "1", log
    assert "the disk is full" in log.splitlines()[-1]
    assert "again at step" not in log
    assert "0" in found.stdout.splitlines()[1:], (tmp_path / "room.log").read_text()
    reference = make(data, tmp_path / "reference", "2", epochs=3, checkpoint_every="1000")
    run = make_run(reference)
    expected = final_weights(run_workers(reference, run, 2)[0])
    weights = checkpoint.load(str(tmp_path / "small" / checkpoint.name_of(run.end))).parameters
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_run_shrinks_with_a_lost_node_and_grows_with_a_new_one(
    tmp_path: Path, rng: random.Random, faults: dict[str, list[float]]
) -> None:
    data = tmp_path / "data"
    write_data(data, num_articles=400)
    slow = {"epochs": ENDLESS_EPOCHS, "micro_batches_per_step": 32, "validate_steps": 100}
    config = make(data, tmp_path, "1:2", **slow)
    with two_nodes(config, tmp_path) as nodes:
        job = nodes.process
        Recovery(config).wait(job)
        for number in range(NODE_KILLS):
            raylet = nodes.raylet(number)
            train_on(config, job, rng)
            recovery = Recovery(config)
            kill(raylet)
            faults.setdefault("kill_raylet (elastic)", []).append(recovery.wait(job))
            train_on(config, job, rng)
            recovery = Recovery(config)
            nodes.add_node()
            faults.setdefault("node_added (elastic)", []).append(recovery.wait(job))
        train_on(config, job, rng)
        job.send_signal(signal.SIGTERM)
        nodes.wait(120)
        begun = [int(match[1]) for note in nodes.notes if (match := re.match(r"(\d) workers? begins? again at", note))]
    assert begun == [1, 2] * NODE_KILLS
    found = metrics(config)
    print(f"\nelastic: {len(found)} steps")
    check_history(config, end=len(found))

    whole = make(data, tmp_path / "whole", "2", wandb_project="", **slow)
    (tmp_path / "whole").mkdir()
    reference = start_training(whole, tmp_path / "whole")
    wait_for(lambda: len(metrics(whole)) >= len(found) or reference.poll() is not None, 1200, "as many steps")
    reference.send_signal(signal.SIGTERM)
    assert reference.wait(120) == 130, log_of(whole, tmp_path / "whole")
    # On a number of workers that changed on the way: the same micro-batches, so nearly the same losses.
    pairs = zip(found, metrics(whole)[: len(found)], strict=True)
    apart = max(abs(one["train/loss"] / other["train/loss"] - 1) for one, other in pairs)
    print(f"\nelastic: the losses of a step differ by {apart:.1e} at most")
    assert apart < CURVE_TOLERANCE
