"""A training run on a cluster of two nodes, the second of which can be killed; for tests, which run it as a process.

    python tests/node_loss.py CONFIG.json

Prints "RAYLET <pid>" of every second node, "NOTE <what>" for what the user is told and "DONE" after training; adds a second
node for every line it is given. SIGTERM ends the run with a checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from processes import descendants, end, kill, wait_for

from lstm_embed.model.config import ModelConfig
from lstm_embed.training.config import TrainingConfig


class TwoNodes:
    """That process, as a test holds it.

    Args:
        config: Of the run.
        folder: For its files.
    """

    def __init__(self, config: TrainingConfig, folder: Path) -> None:
        path = folder / "node_loss.json"
        path.write_text(json.dumps(config.to_dict()))
        environment = {
            "RAY_ADDRESS": "",
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
            # How soon the cluster takes a node that does not answer for dead.
            "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
        }
        self._errors = folder / "node_loss.log"
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, __file__, str(path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env={**os.environ, **environment},
            )
        self._lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self._lines.extend(iter(self.process.stdout.readline, ""))

    def raylet(self, number: int) -> int:
        """Return the process of the raylet of the `number`-th second node, once it is there."""

        def found() -> list[int]:
            return [int(line.split()[1]) for line in self._lines if line.startswith("RAYLET")]

        wait_for(lambda: len(found()) > number or self.process.poll() is not None, 120, "the second node")
        assert self.process.poll() is None, self.log()
        return found()[number]

    @property
    def notes(self) -> list[str]:
        """What the user was told so far."""
        return [line.removeprefix("NOTE ").strip() for line in self._lines if line.startswith("NOTE ")]

    def add_node(self) -> None:
        """Start another second node."""
        assert self.process.stdin is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()

    def wait(self, seconds: float) -> None:
        """Wait for the end of the run, which must be a good one."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(seconds) == 0, self.log()
        assert any(line.startswith("DONE") for line in self._lines), self.log()

    def log(self) -> str:
        """Return the end of what it printed as errors."""
        return self._errors.read_text(errors="replace")[-3000:]


@contextlib.contextmanager
def two_nodes(config: TrainingConfig, folder: Path) -> Iterator[TwoNodes]:
    """Start a run on two nodes; nothing of it is left at the end."""
    nodes = TwoNodes(config, folder)
    try:
        yield nodes
    finally:
        left = descendants(nodes.process.pid, "")
        kill(nodes.process.pid)
        end(left)
        nodes.process.wait(10)


def main(path: str) -> None:
    """Train on the two nodes."""
    import ray
    from ray.cluster_utils import Cluster

    from lstm_embed.training.trainer import train

    values = json.loads(Path(path).read_text())
    config = TrainingConfig(**{**values, "model": ModelConfig(**values["model"]), "wandb_tags": ()})
    # Without hooks at its end, Ray lets nodes be started from any thread: `two_nodes` ends what is left of them.
    options = {"num_cpus": 1, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=options, shutdown_at_exit=False)

    def add_node() -> None:
        node = cluster.add_node(num_cpus=1)
        print("RAYLET", node.all_processes["raylet"][0].process.pid, flush=True)

    def add_nodes() -> None:
        for _ in sys.stdin:
            add_node()

    class Report:
        def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
            return None

        def note(self, message: str) -> None:
            print("NOTE", message, flush=True)

    add_node()
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    adding = threading.Thread(target=add_nodes, daemon=True)
    adding.start()
    print("DONE", train(config, Report()).facts, flush=True)
    adding.join()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
