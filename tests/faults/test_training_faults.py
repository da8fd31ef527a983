"""Small runs under random `kill -9` and graceful stops; every one must end with the uninterrupted run's bits.

Run with `make faults`, or `pytest -m faults tests/faults/test_training_faults.py`. `FAULT_SEED` repeats a sequence.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from processes import descendants, end, kill, log_of, start_training, train_workers, wait_for
from test_tracking import wandb_history, wandb_records
from torch import Tensor
from training_help import make_config, make_run, write_data

from lstm_embed import storage
from lstm_embed.training import checkpoint
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import RunFolder
from lstm_embed.training.trainer import finished_run

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

NUM_KILLS, NUM_STOPS = 20, 5
EPOCHS = 24


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def make(data: Path, storage_dir: Path, workers: str, **changes: object) -> TrainingConfig:
    values = {"epochs": EPOCHS, "log_steps": 1, "checkpoint_every": "5", "wandb_project": "p", "max_failures": -1}
    return make_config(data, storage_dir, num_workers=workers, **{**values, **changes})


def newest_step(config: TrainingConfig) -> int:
    found = checkpoint.list_checkpoints(RunFolder.of(config).path)
    return (checkpoint.step_of(found[0]) or 0) if found else 0


def final_parameters(config: TrainingConfig) -> dict[str, Tensor]:
    folder = RunFolder.of(config)
    path = storage.join(folder.path, checkpoint.name_of(make_run(config).end))
    return checkpoint.load(path).parameters


@pytest.fixture(scope="module")
def expected(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Tensor]]:
    """Return the final weights of uninterrupted runs by number of workers, trained on Ray when first asked for."""
    found: dict[str, dict[str, Tensor]] = {}

    def get(workers: str) -> dict[str, Tensor]:
        if workers not in found:
            folder = tmp_path_factory.mktemp("whole")
            config = make(data, folder, workers, wandb_project="")
            job = start_training(config, folder)
            assert job.wait(900) == 0, log_of(config, folder)
            found[workers] = final_parameters(config)
        return found[workers]

    return get


def check(config: TrainingConfig, expected: dict[str, Tensor]) -> None:
    assert finished_run(config) is not None
    found = final_parameters(config)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    end_step = make_run(config).end
    assert sorted(wandb_history(wandb_records(RunFolder.of(config).path))) == list(range(1, end_step + 1))


def stop_job(job: subprocess.Popen[str]) -> None:
    os.kill(job.pid, signal.SIGTERM)


def kill_job(job: subprocess.Popen[str]) -> None:
    left = descendants(job.pid, "")
    kill(job.pid)
    job.wait(10)
    # The job's workers live on for some seconds, while the next job takes the run over.
    threading.Timer(3.0, end, (left,)).start()


def wait_for_progress(config: TrainingConfig, job: subprocess.Popen[str]) -> None:
    step = newest_step(config)
    wait_for(lambda: newest_step(config) > step or job.poll() is not None, 300, "a further checkpoint")


def kill_worker(job: subprocess.Popen[str]) -> None:
    workers = train_workers(job.pid)
    if workers:
        kill(random.choice(workers))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_random_kills_and_stops_change_nothing(
    data: Path, tmp_path: Path, expected: Callable[[str], dict[str, Tensor]], workers: str
) -> None:
    rng = random.Random(int(os.environ.get("FAULT_SEED", "0")) + int(workers))
    config = make(data, tmp_path, workers)
    weights = expected(workers)
    faults: list[Callable[[subprocess.Popen[str]], None]] = [kill_job] * (NUM_KILLS // 4) + [kill_worker] * (
        NUM_KILLS // 4
    )
    faults += [stop_job] * -(-NUM_STOPS // 2)
    rng.shuffle(faults)
    job = start_training(config, tmp_path)
    done = 0
    for fault in faults:
        # At a random moment: while starting, at a step, while saving; but every third time the run gets somewhere first.
        if done % 3 == 2:
            wait_for_progress(config, job)
        time.sleep(rng.uniform(0.0, 20.0))
        if job.poll() is None:
            fault(job)
            done += 1
        if fault is stop_job:
            assert job.wait(60) == 0, log_of(config, tmp_path)
        if fault is not kill_worker:
            job = start_training(config, tmp_path)
    assert job.wait(900) == 0, log_of(config, tmp_path)
    check(config, weights)
    print(f"{workers} workers: {done} faults")


NODE_LOSS = """
import json, sys, time
import ray
from ray.cluster_utils import Cluster
from lstm_embed.model.config import ModelConfig
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.trainer import train

values = json.load(open(sys.argv[1]))
values |= {"model": ModelConfig(**values["model"]), "wandb_tags": ()}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
node = cluster.add_node(num_cpus=1)
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
print("RAYLET", node.all_processes["raylet"][0].process.pid, flush=True)

import threading
def bring_back():
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        added = cluster.add_node(num_cpus=1)
        print("RAYLET", added.all_processes["raylet"][0].process.pid, flush=True)
threading.Thread(target=bring_back, daemon=True).start()

print("DONE", train(TrainingConfig(**values)).facts, flush=True)
ray.shutdown()
cluster.shutdown()
"""


def wait_for_node(lines: list[str], number: int) -> int:
    """Return the process of the raylet that was started as the `number`-th second node."""

    def found() -> list[int]:
        return [int(line.split()[1]) for line in lines if line.startswith("RAYLET")]

    wait_for(lambda: len(found()) > number, 120, "the second node")
    return found()[number]


@pytest.mark.parametrize("workers", ["2", "1:2"])
def test_a_lost_node_changes_nothing(
    data: Path, tmp_path: Path, expected: Callable[[str], dict[str, Tensor]], workers: str
) -> None:
    import json

    config = make(data, tmp_path, workers)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.to_dict()))
    environment = {
        **os.environ,
        "RAY_ADDRESS": "",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
        "RAY_health_check_timeout_ms": "2000",
    }
    job = subprocess.Popen(
        [sys.executable, "-c", NODE_LOSS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=open(tmp_path / "stderr", "wb"),  # noqa: SIM115
        text=True,
        env=environment,
    )
    assert job.stdin is not None
    lines: list[str] = []

    def read() -> None:
        assert job.stdout is not None
        lines.extend(iter(job.stdout.readline, ""))

    threading.Thread(target=read, daemon=True).start()
    try:
        for number in range(2):
            raylet = wait_for_node(lines, number)
            wait_for_progress(config, job)
            kill(raylet)
            job.stdin.write("again\n")
            job.stdin.flush()
        wait_for(lambda: job.poll() is not None, 900, "the end")
        assert job.returncode == 0, (tmp_path / "stderr").read_text()[-3000:]
        assert any(line.startswith("DONE") for line in lines)
    finally:
        end(descendants(job.pid, ""))
        kill(job.pid)
    if workers == "2":
        check(config, expected("2"))
        return
    # On a number of workers that changed on the way: the same groups, so nearly the same weights.
    found, whole = final_parameters(config), expected("2")
    for name, tensor in whole.items():
        assert torch.allclose(found[name], tensor, rtol=1e-2, atol=1e-3), name
