"""A cluster of processes for tests, and its clients."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from conftest import ROOT

if str(ROOT / "cluster") not in sys.path:
    sys.path.insert(0, str(ROOT / "cluster"))

from local_cluster import LocalCluster

RAY = str(Path(sys.executable).parent / "ray")
SUBMIT = (RAY, "job", "submit", "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml")
"""What is documented, and nothing besides."""


@contextlib.contextmanager
def running_cluster(
    *, workers: int, cpus: int, head_cpus: int = 0, head_options: Sequence[str] = (), port: int = 0, **env: str
) -> Iterator[LocalCluster]:
    """Start a cluster whose nodes have the keys of the tests' bucket, as pods have them; stop it in the end."""
    cluster = LocalCluster(f"/tmp/lc-{os.getpid()}")
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    quick = {"RAY_prestart_worker_first_driver": "0", "RAY_enable_metrics_collection": "0"}
    # As on a cluster, whatever the Ray of this process is told.
    quick |= {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}
    stop = f"{sys.executable} {ROOT}/cluster/local_cluster.py stop --folder {cluster.folder}"
    # Should this process be killed, its cluster must not stay behind.
    watch = f"while kill -0 {os.getpid()}; do sleep 2; done; exec {stop}"
    watcher = subprocess.Popen(["sh", "-c", watch], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        cluster.start(
            workers=workers,
            cpus=cpus,
            head_cpus=head_cpus,
            head_options=head_options,
            port=port,
            **{**quick, **keys, **env},
        )
        yield cluster
    finally:
        cluster.stop()
        watcher.kill()
        watcher.wait()


def start_client(cluster: LocalCluster, log: Path, *command: str) -> subprocess.Popen[bytes]:
    """Start a client of the cluster as a user's shell would, with nothing in its environment but address and token."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    environment = {**kept, **cluster.environment, "NO_COLOR": "1", "COLUMNS": "200"}
    with log.open("ab") as file:
        return subprocess.Popen([*command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)


def client(cluster: LocalCluster, log: Path, *command: str, code: int = 0, timeout: float = 550) -> str:
    """Run a client to its end; return what it printed."""
    process = start_client(cluster, log, *command)
    try:
        found = process.wait(timeout)
    finally:
        process.kill()
    text = log.read_text(errors="replace")
    assert found == code, f"{' '.join(command)} exited with {found}:\n{text}"
    return text


def write_articles(folder: Path, *, files: int = 2, articles: int = 20, sentences: int = 3, words: int = 12) -> str:
    """Write articles of made-up sentences; return the folder."""
    import random

    chance = random.Random(0)
    folder.mkdir(parents=True)
    for number in range(files):
        with (folder / f"articles-{number:03d}.jsonl").open("w") as file:
            for n in range(articles):
                text = " ".join(
                    " ".join(f"w{chance.randrange(words)}" for _ in range(chance.randint(4, 12))).capitalize() + "."
                    for _ in range(sentences)
                )
                file.write(json.dumps({"id": f"{number}-{n}", "title": f"Title {n}", "text": text}) + "\n")
    return str(folder)
