"""Random kill -9 while a corpus is prepared: the same command always ends with the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from processes import descendants, kill
from stages_help import prepare_here

from lstm_embed.base import storage
from lstm_embed.corpus.config import PrepareConfig

from conftest import ROOT

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

KILLS_OF_JOBS, KILLS_OF_NODES = 24, 6
OPTIONS = {"unit_bytes": 100_000, "part_rows": 400}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write some 60 units of articles with boilerplate in them."""
    folder = tmp_path_factory.mktemp("corpus") / "in"
    folder.mkdir()
    rng = random.Random(1)
    words = [f"{a}{b}{c}" for a in "bdfgklmn" for b in "aeiou" for c in "rstvz"]
    for number in range(30):
        with open(folder / f"wiki_{number:02d}", "w") as file:
            for article in range(100):
                lines = [f"{' '.join(rng.choices(words, k=rng.randint(3, 20))).capitalize()}." for _ in range(20)]
                lines.insert(rng.randrange(20), f"All rights of part {article % 7} are reserved.")
                file.write(json.dumps({"id": f"{number}-{article}", "title": "T", "text": " ".join(lines)}) + "\n")
    return folder


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return what an uninterrupted run makes."""
    output = tmp_path_factory.mktemp("whole") / "out"
    prepare_here(PrepareConfig(input=(str(corpus),), output=str(output), **OPTIONS))  # type: ignore[arg-type]
    return files_of(output)


def files_of(output: Path) -> dict[str, bytes]:
    """Return all files that matter, byte by byte."""
    found = {
        file.path[len(str(output)) + 1 :]: storage.read_bytes(file.path) for file in storage.list_files(str(output))
    }
    return {
        name: data
        for name, data in found.items()
        if not name.startswith(("owner/", "log/", "job.json", "progress.json"))
    }


def start(corpus: Path, output: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the job; it prints to a file beside the output."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    command = [
        sys.executable,
        str(ROOT / "jobs" / "prepare.py"),
        "--input",
        str(corpus),
        "--output",
        str(output),
        *flags,
    ]
    with open(output.parent / "log", "ab") as log:
        return subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env={**os.environ, **environment}
        )


def wait_for_work(process: subprocess.Popen[bytes], output: Path) -> bool:
    """Wait until the job writes parts; return False if it ended before."""
    # A mark that lies there already is that of a driver which was killed.
    seen, marks = len(list(output.glob("**/*.parquet"))), set(output.glob("owner/*.json"))
    while process.poll() is None:
        if len(list(output.glob("**/*.parquet"))) > seen or set(output.glob("owner/*.json")) - marks:
            return True
        time.sleep(0.02)
    return False


def wait_for_workers(process: subprocess.Popen[bytes]) -> list[int]:
    """Wait until workers of the job are at work, and return them; none if it ended before."""
    while process.poll() is None:
        if workers := descendants(process.pid, "ray::MapBatches"):
            return workers
        time.sleep(0.02)
    return []


def log_of(output: Path) -> str:
    return (output.parent / "log").read_text(errors="replace")[-3000:]


def test_drivers_and_workers_killed_at_random_moments(corpus: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time()))
    rng = random.Random(seed)
    kills: Counter[str] = Counter()
    rounds = 0
    while sum(kills.values()) < KILLS_OF_JOBS:
        rounds += 1
        output = tmp_path / f"{rounds}" / "out"
        output.parent.mkdir()
        for _ in range(8):  # that many times in one run, then it may end
            process = start(corpus, output)
            while wait_for_work(process, output) and sum(kills.values()) < KILLS_OF_JOBS:
                time.sleep(rng.uniform(0, 4))
                if rng.random() < 0.5:
                    workers = wait_for_workers(process)
                    if workers:
                        kill(rng.choice(workers))
                        kills["worker"] += 1
                elif process.poll() is None:
                    os.kill(process.pid, signal.SIGKILL)
                    kills["driver"] += 1
                    process.wait()
            if process.wait() == 0:
                break
            assert process.returncode == -signal.SIGKILL, log_of(output)
        else:
            assert start(corpus, output).wait() == 0, log_of(output)
        assert files_of(output) == whole
    print(f"\nseed {seed}: {dict(kills)} killed in {rounds} runs, all with the bytes of an uninterrupted one")


def test_nodes_killed_at_random_moments(corpus: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    seed = int(os.environ.get("FAULT_SEED", time.time()))
    rng = random.Random(seed)
    # A folder of its own: other sessions on this machine must not find this cluster and join it.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": folder}
    )
    kills = rounds = 0
    try:
        while kills < KILLS_OF_NODES:
            rounds += 1
            output = tmp_path / f"{rounds}" / "out"
            output.parent.mkdir()
            node = cluster.add_node(num_cpus=2)
            process = start(corpus, output, RAY_ADDRESS=cluster.address)
            while wait_for_work(process, output) and kills < KILLS_OF_NODES:
                time.sleep(rng.uniform(0.5, 6))
                if process.poll() is None:
                    node.kill_raylet()
                    kills += 1
                    cluster.remove_node(node)
                    node = cluster.add_node(num_cpus=2)
            assert process.wait() == 0, log_of(output)
            assert files_of(output) == whole
            cluster.remove_node(node)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nseed {seed}: {kills} nodes killed in {rounds} runs, all with the bytes of an uninterrupted one")
