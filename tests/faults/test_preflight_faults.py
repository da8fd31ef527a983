"""The pre-flight checks on clusters that are not fit: a node with a disk of its own, a node that is yet to come."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cluster_tools import RAY, SUBMIT, client, running_cluster, start_client, write_articles
from local_cluster import free_port, own_ip

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]

CHECK = """
import ray, sys
from lstm_embed.stages import preflight
from lstm_embed.stages.capacity import wait_for_resources
class Say:
    progress = None
    def note(self, message): print("note:", message, flush=True)
output, cpus = sys.argv[1], float(sys.argv[2])
needs = preflight.Needs(output=output, bundles=({"CPU": cpus},))
with preflight.expectation(needs) as expected:
    ray.init(log_to_driver=False, runtime_env={"env_vars": expected.environment()})
    try:
        preflight.check_cluster(needs, expected, Say())
        print("fit", flush=True)
        @ray.remote(num_cpus=1)
        def work():
            preflight.check_worker()
            return "checked itself"
        print(ray.get(work.remote()))
    except preflight.InputError as error:
        print(f"unfit: {error}", flush=True)
"""

# The fake provider gives the head this type, whatever the configuration calls it.
HEAD_TYPE = "ray.head.default"
AUTOSCALER = {
    "cluster_name": "fake",
    "max_workers": 2,
    "upscaling_speed": 1.0,
    "idle_timeout_minutes": 5,
    "available_node_types": {
        HEAD_TYPE: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "cpu": {"resources": {"CPU": 2}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": HEAD_TYPE,
    "auth": {},
    "docker": {},
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}


def can_unshare(folder: Path) -> bool:
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def private_disk(folder: Path) -> list[str]:
    """Return what starts a node that sees an empty folder in the place of one that the others share."""
    return ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {folder} && exec "$@"', "sh"]


def check(tmp_path: Path, submit: Sequence[str] = SUBMIT) -> list[str]:
    script = tmp_path / "check.py"
    script.write_text(CHECK)
    return [*submit, "--", "python", str(script)]


def test_a_node_with_a_disk_of_its_own_is_told(s3: str, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    if not can_unshare(shared):
        pytest.skip("this machine allows no mounts")
    with running_cluster(workers=1, cpus=1) as cluster:
        text = client(cluster, tmp_path / "log", *check(tmp_path), str(shared / "out"), "1")
        assert "fit\nchecked itself" in text
        cluster.add(cpus=1, wrapper=private_disk(shared))
        text = client(cluster, tmp_path / "log2", *check(tmp_path), str(shared / "out"), "1")
        (line,) = [line for line in text.splitlines() if line.startswith("unfit: ")]
        assert "does not see what" in line
        assert f"wrote to {shared}/out; use a folder that all nodes share" in line
        begun = time.monotonic()
        text = client(cluster, tmp_path / "log3", *check(tmp_path), f"{s3}/out", "1")
        assert "fit\nchecked itself" in text
        print(f"\ncheck of three nodes, with all of the job around it: {time.monotonic() - begun:.0f} s")


def test_a_node_that_joins_later_checks_itself(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    if not can_unshare(shared):
        pytest.skip("this machine allows no mounts")
    articles = write_articles(tmp_path / "in", files=8, articles=400, sentences=20, words=500)
    job = ["python", "jobs/prepare.py", "--input", articles, "--output", str(shared / "out"), "--unit-bytes", "10000"]
    with running_cluster(workers=1, cpus=1) as cluster:
        process = start_client(cluster, tmp_path / "log", *SUBMIT, "--", *job)
        while not list(shared.glob("out/staging/parts/*")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.3)
        cluster.add(cpus=1, wrapper=private_disk(shared))
        assert process.wait(600) == 1, (tmp_path / "log").read_text()
    # Ray shows a job's last lines once more when it has failed.
    (line,) = {line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")}
    assert f"wrote to {shared}/out; use a folder that all nodes share" in line


def test_a_job_waits_for_the_autoscaler_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.json"
    port = free_port()
    provider = {"type": "fake_multinode", "disable_node_updaters": True, "disable_launch_config_check": True}
    # Unless told, it starts nodes that look for a head at Ray's usual port.
    provider["gcs_address"] = f"{own_ip()}:{port}"
    path.write_text(json.dumps({**AUTOSCALER, "provider": provider}))
    options = [f"--autoscaling-config={path}"]
    quick = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    with running_cluster(workers=0, cpus=0, head_options=options, port=port, **quick) as cluster:
        # No working folder is sent: these nodes unpack it in one and the same place, under the hands of each other.
        job = check(tmp_path, (RAY, "job", "submit"))
        text = client(cluster, tmp_path / "log", *job, str(tmp_path / "out"), "2")
        assert "note: 2 CPUs needed, the cluster has 0 CPUs; waiting for" in text
        assert "fit\nchecked itself" in text
