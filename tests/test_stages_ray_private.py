"""What of Ray is private: every function is called against a Ray that runs."""

from __future__ import annotations

import inspect
import mmap
import signal
from pathlib import Path

import pytest
import ray
from processes import wait_for
from ray._private import utils, worker

from lstm_embed.stages import ray_private


def raylet_is_a_process() -> None:
    assert ray_private.raylet().poll() is None


def session_folder_is_a_folder_of_ray() -> None:
    folder = Path(ray_private.session_folder())
    assert folder.is_dir()
    assert folder.name.startswith("session_")


def most_resources_are_unknown_without_an_autoscaler() -> None:
    assert ray_private.most_resources() == {}


def nodes_starting_are_none_without_an_autoscaler() -> None:
    assert ray_private.nodes_starting() == {}


def waiting_bundles_are_those_of_tasks_that_fit_nowhere() -> None:
    @ray.remote(num_cpus=1000)
    def work() -> None: ...

    assert ray_private.waiting_bundles() == []
    task = work.remote()
    wait_for(ray_private.waiting_bundles, 300, "a task that waits")
    assert ray_private.waiting_bundles() == [{"CPU": 1000.0}]
    ray.cancel(task, force=True)
    wait_for(lambda: not ray_private.waiting_bundles(), 300, "the task to be gone")


def nothing_is_preempted_outside_of_a_training() -> None:
    assert not ray_private.is_preempted()


def signal_handlers_are_kept_while_ray_starts() -> None:
    set_handler = utils.set_sigterm_handler
    with ray_private.signal_handlers_kept():
        before = signal.getsignal(signal.SIGTERM)
        utils.set_sigterm_handler(print)
        assert signal.getsignal(signal.SIGTERM) is before
    assert utils.set_sigterm_handler is set_handler
    assert "utils.set_sigterm_handler(" in inspect.getsource(worker.init)


CHECKS = {
    "signal_handlers_kept": signal_handlers_are_kept_while_ray_starts,
    "is_preempted": nothing_is_preempted_outside_of_a_training,
    "raylet": raylet_is_a_process,
    "session_folder": session_folder_is_a_folder_of_ray,
    "most_resources": most_resources_are_unknown_without_an_autoscaler,
    "nodes_starting": nodes_starting_are_none_without_an_autoscaler,
    "waiting_bundles": waiting_bundles_are_those_of_tasks_that_fit_nowhere,
}


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_private_is_as_it_was(ray_cluster: None, name: str) -> None:
    CHECKS[name]()


def test_every_private_part_is_called_here() -> None:
    functions = inspect.getmembers(ray_private, inspect.isfunction)
    assert {name for name, function in functions if function.__module__ == ray_private.__name__} == set(CHECKS)


def test_every_variable_that_is_set_is_read_by_ray() -> None:
    root = Path(ray.__file__).parent
    wanted = {**ray_private.QUIET, **ray_private.QUIET_EMBEDDED}
    folders = ("_private", "_common", "data", "train")
    sources = b"".join(path.read_bytes() for folder in folders for path in (root / folder).rglob("*.py"))
    with open(root / "_raylet.so", "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        # The native part puts RAY_ in front of the names of its settings by itself.
        names = {name: (name.encode(), name.removeprefix("RAY_").encode()) for name in wanted}
        unread = [name for name, (whole, bare) in names.items() if whole not in sources and binary.find(bare) < 0]
    assert unread == []
