"""What of Ray is used that it does not promise to keep, in one place. Written for Ray 2.60.

Each function says why it is needed. When Ray changes, run `pytest tests/test_stages_ray_private.py`, which calls all of them,
look the names up in Ray's source, and change them here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import subprocess
import tempfile
from collections.abc import Iterator
from typing import Any

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
"""Variables that keep Ray's own noise away; it reads them when it is imported."""
QUIET_EMBEDDED = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_enable_metrics_collection": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}
"""Those of a Ray that serves one job on one machine."""


@contextlib.contextmanager
def signal_handlers_kept() -> Iterator[None]:
    """Keep Ray from setting signal handlers while it starts: a SIGTERM that these end its start with crashes the process.

    The one in Python is not set. The native ones are set but once in a process, which is done here, before those of the block.
    """
    import ray._raylet
    from ray._private import utils

    own = utils.set_sigterm_handler
    utils.set_sigterm_handler = lambda handler: None
    try:
        with contextlib.suppress(AttributeError):
            ctypes.CDLL(ray._raylet.__file__)["_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb"](None, True)
        yield
    finally:
        utils.set_sigterm_handler = own


def raylet() -> subprocess.Popen[bytes]:
    """Return the process of this machine's raylet, to notice its end: Ray itself ends the driver late and from native code."""
    from ray._private import worker

    process: subprocess.Popen[bytes] = worker.global_worker.node.all_processes["raylet"][0].process
    return process


def session_folder() -> str:
    """Return the folder in which Ray keeps its files on this node: a full disk there stops it."""
    try:
        from ray._private import worker

        return str(worker.global_worker.node.get_session_dir_path())
    except (ImportError, AttributeError):
        return tempfile.gettempdir()


def most_resources() -> dict[str, float]:
    """Return what an autoscaler may bring the cluster to; empty without one. A pool may be larger than the cluster is now."""
    import ray

    return dict(ray._private.state.state.get_max_resources_from_cluster_config() or {})


def nodes_starting() -> dict[str, int]:
    """Return how many nodes of each type the autoscaler, of either generation, is starting: they are worth waiting for."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status
    from ray.experimental.internal_kv import _internal_kv_get

    counts: dict[str, int] = {}
    with contextlib.suppress(Exception):  # which generation there is shows in what works
        status: Any = get_cluster_status(ray.get_runtime_context().gcs_address)
        for node in status.pending_nodes:
            counts[node.ray_node_type_name] = counts.get(node.ray_node_type_name, 0) + 1
        for launch in status.pending_launches:
            counts[launch.ray_node_type_name] = counts.get(launch.ray_node_type_name, 0) + launch.count
    with contextlib.suppress(Exception):
        summary = json.loads(_internal_kv_get("__autoscaling_status"))["autoscaler_report"]
        for _, name, _ in summary["pending_nodes"]:
            counts[name] = counts.get(name, 0) + 1
        for name, count in summary["pending_launches"].items():
            counts[name] = counts.get(name, 0) + count
    return counts


def waiting_bundles() -> list[dict[str, float]]:
    """Return what is asked for by tasks and actors that have not started: the reason why nothing moves."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    demand: Any = get_cluster_status(ray.get_runtime_context().gcs_address).resource_demands
    requests = [*demand.ray_task_actor_demand, *demand.placement_group_demand]
    return [dict(request.bundle) for group in requests for request in group.bundles_by_count]


def is_preempted() -> bool:
    """Tell a worker of Ray Train whether Ray announced that a node of the run will be taken away, so that it saves in time.

    `ray.train.get_preemption_info` waits for all workers, so what this worker was told is read where it is kept.
    """
    try:
        from ray.train.v2._internal.execution.context import get_train_context

        return get_train_context().preemption_context.preemption_info is not None
    except (ImportError, AttributeError, RuntimeError):
        return False
