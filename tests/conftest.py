"""One quiet Ray for the whole test session, with more logical CPUs than cores, and an S3 server on a free port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by Ray and torch when they are imported, so they are set before any test module is.
os.environ.update(
    RAY_AUTH_MODE="disabled",
    RAY_USAGE_STATS_ENABLED="0",
    RAY_DATA_DISABLE_PROGRESS_BARS="1",
    RAY_TRAIN_METRICS_ENABLED="0",
    RAY_TRAIN_ENABLE_PREEMPTION_WATCHER="0",
    RAY_TRAIN_HEALTH_CHECK_INTERVAL_S="0.1",
    RAY_enable_metrics_collection="0",
    RAY_TRAIN_ENABLE_PRINT_PATCH="0",
    RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="180",
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0",
    RAY_BACKEND_LOG_LEVEL="fatal",
    OMP_NUM_THREADS="1",
    WANDB_MODE="offline",
    WANDB_SILENT="true",
)
os.environ.pop("RAY_ADDRESS", None)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray once for all tests that need it."""
    import logging

    import ray
    import ray.data

    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as temporary:
        ray.init(
            address="local",
            num_cpus=4,
            include_dashboard=False,
            logging_level="ERROR",
            log_to_driver=False,
            object_store_memory=80 * 2**20,
            _temp_dir=temporary,
        )
        for name in ("ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        yield
        ray.shutdown()


def json_of(path: str | Path) -> Any:
    """Return the content of a JSON file, local or in an object store."""
    from lstm_embed.base import storage

    return json.loads(storage.read_bytes(str(path)))


def run_job(job: str, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a job script in a process of its own, as a user does."""
    result = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=550,
        env={**os.environ, **environment},
    )
    if check:
        assert result.returncode == 0, f"{job} exited with {result.returncode}:\n{result.stdout}\n{result.stderr}"
    return result


@pytest.fixture
def here() -> Iterator[None]:
    """Run stages in this process, without Ray."""
    from stages_help import without_ray

    with without_ray():
        yield


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Start an S3 server with the bucket `bucket`; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    os.environ.update(
        AWS_ENDPOINT_URL=address,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    try:
        _make_bucket(port)
        yield address
    finally:
        server.terminate()
        server.wait(10)


def _make_bucket(port: int) -> None:
    import pyarrow.fs as pafs

    for _ in range(300):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.1)
    store = pafs.S3FileSystem(
        endpoint_override=f"127.0.0.1:{port}",
        scheme="http",
        access_key="test",
        secret_key="test",
        region="us-east-1",
        allow_bucket_creation=True,
    )
    store.create_dir("bucket")


@pytest.fixture
def s3(s3_server: str, request: pytest.FixtureRequest) -> str:
    """Return a fresh folder in the S3 server's bucket."""
    return f"s3://bucket/{request.node.name[:40].replace('[', '-').replace(']', '')}"


@pytest.fixture
def small_and_here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Prepare without Ray, without waiting for the disk, and with few partitions of few words."""
    from prepare_help import backwards
    from stages_help import without_ray

    from lstm_embed.corpus import counts

    monkeypatch.setattr(counts, "NUM_PARTITIONS", 3)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with without_ray(run_units=backwards):
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a small model."""
    from embedding_help import save_model

    return save_model(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder of small files of articles."""
    from embedding_help import NUM_ARTICLES, make_articles, write_articles

    folder = tmp_path_factory.mktemp("corpus")
    articles = make_articles(NUM_ARTICLES)
    for start in range(0, NUM_ARTICLES, 15):
        write_articles(folder / f"articles-{start:03d}.jsonl", articles[start : start + 15])
    return str(folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], str]:
    """Return what writes a file into a temporary folder and says where it is."""

    def write_file(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write_file
