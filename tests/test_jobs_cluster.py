"""One job on a cluster of its own processes, sent as the text says (more in faults/)."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_tools import SUBMIT, client, running_cluster, write_articles
from local_cluster import free_port

from lstm_embed.base import storage


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


def test_a_job_runs_from_the_uploaded_code_and_the_same_command_finds_all_done(s3: str, tmp_path: Path) -> None:
    job = f"python jobs/prepare.py --input {write_articles(tmp_path / 'in')} --output {s3}/tokens"
    # `python -c` shows where the code came from and what the runtime environment has set. One submission for all: each
    # starts several processes.
    look = (
        "import lstm_embed, os; print(lstm_embed.__file__, *map(os.environ.get, ('WANDB_ENTITY', 'OMP_NUM_THREADS')))"
    )
    shell = f'python -c "{look}" && {job} && {job}'
    port = free_port()
    with running_cluster(
        workers=0,
        cpus=0,
        head_cpus=2,
        head_options=[f"--metrics-export-port={port}"],
        WANDB_ENTITY="from-the-node",
        RAY_enable_metrics_collection="1",
        RAY_metrics_report_interval_ms="250",
    ) as cluster:
        with metrics_seen(port) as seen:
            text = client(cluster, tmp_path / "log", *SUBMIT, "--", "sh", "-c", shell, timeout=550)
        with pytest.raises(urllib.error.HTTPError, match="401"):  # nobody gets in without the token
            urllib.request.urlopen(f"{cluster.address}/api/jobs/", timeout=30)
    shown = next(line for line in text.splitlines() if line.endswith("from-the-node 1"))
    assert "_ray_pkg_" in shown
    assert "120 sentences" in text
    assert text.count("everything was done already") == 1
    # The stages are short: which of them a scrape falls into is chance, so what is asked holds for every stage.
    labels = [line for line in seen if line.startswith("ray_lstm_embed_stage_done{")]
    assert labels
    for line in labels:
        assert f'run="{s3}/tokens"' in line
        assert re.search(r'stage="[a-z ]+"', line)
        assert re.search(r'unit="\w+"', line)
    files = storage.list_files(f"{s3}/tokens/log")
    units = [json.loads(line) for file in files for line in storage.read_bytes(file.path).splitlines()]
    assert {line["stage"] for line in units} == {"read", "prepare"}
    assert sum(line["rows"] for line in units if line["stage"] == "prepare") == 120
    assert all(line["node"] and line["seconds"] >= 0 for line in units)
    assert not storage.list_files(f"{s3}/tokens/.preflight")  # what the nodes were checked with is gone
