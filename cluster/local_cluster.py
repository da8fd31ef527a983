#!/usr/bin/env python
"""A Ray cluster of several node processes on this machine: to try jobs, and to try what happens when nodes die.

    python cluster/local_cluster.py start --workers 2 --cpus 2     prints the variables that clients need
    python cluster/local_cluster.py add --cpus 2
    python cluster/local_cluster.py kill worker-1
    python cluster/local_cluster.py stop

It has ports, a folder and an access token of its own and ends only processes it has started, so it stands beside any other
Ray on the machine (`ray stop` would end them all).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 120.0
DEFAULT_FOLDER = "/tmp/lstm-cluster"


class LocalCluster:
    """Nodes as groups of processes, remembered in `cluster.json` of a folder.

    Args:
        folder: Short (sockets lie in it), private to this cluster.
    """

    def __init__(self, folder: str = DEFAULT_FOLDER) -> None:
        self.folder = Path(folder)
        self._file = self.folder / "cluster.json"
        self._state: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}

    @property
    def nodes(self) -> dict[str, int]:
        """The pid of every node's first process, by the node's name."""
        found: dict[str, int] = self._state.get("nodes", {})
        return found

    @property
    def address(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self._state['dashboard_port']}"

    @property
    def gcs_address(self) -> str:
        """What `RAY_ADDRESS` is for a driver on this machine, and what nodes join."""
        return f"{own_ip()}:{self._state['port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to submit jobs."""
        return {
            "RAY_API_SERVER_ADDRESS": self.address,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
        }

    def start(
        self,
        *,
        workers: int,
        cpus: int,
        head_cpus: int = 0,
        head_options: Sequence[str] = (),
        memory: int = 200 << 20,
        port: int = 0,
        **env: str,
    ) -> None:
        """Start the head, then the workers; return when all have joined.

        Args:
            workers: Nodes beside the head.
            cpus: CPUs each of them offers; may be more than there are.
            head_cpus: CPUs the head offers for work, none as on a real cluster.
            head_options: Further options of `ray start` for the head.
            memory: Bytes of each node's object store.
            port: At which the head is reached by the other nodes; 0 for any that is free.
            env: Set in the environment of all nodes, as a secret or a service account would be.
        """
        if any(self._runs(pid) for pid in self.nodes.values()):
            raise SystemExit(f"error: a cluster is running in {self.folder}; stop it first, or name another --folder")
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, mode=0o700)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        self._state = {"nodes": {}, "env": env, "memory": memory}
        self._state |= {"port": port or free_port(), "dashboard_port": free_port()}
        self._state["head_options"] = [f"--num-cpus={head_cpus}", *head_options]
        self.start_head()
        for _ in range(workers):
            self.add(cpus=cpus, wait=False)
        self.wait_for_nodes(workers + 1)

    def start_head(self) -> None:
        """Start the head, for the first time or again after `kill`: same ports, nothing remembered."""
        state = self._state
        options = [f"--port={state['port']}", f"--dashboard-port={state['dashboard_port']}", "--head"]
        options += [
            "--dashboard-host=127.0.0.1",
            "--include-dashboard=true",
            f"--ray-client-server-port={free_port()}",
        ]
        self._launch("head", [*options, *state["head_options"]])
        self.wait_for_nodes(1)

    def add(self, *, cpus: int, wait: bool = True, wrapper: Sequence[str] = ()) -> str:
        """Start one more worker node; return its name.

        Args:
            cpus: It offers.
            wait: Until it has joined.
            wrapper: Words before its command line, such as `unshare`.
        """
        # Never a name again: the head takes a killed node for alive for a while.
        self._state["added"] = self._state.get("added", 0) + 1
        name = f"worker-{self._state['added']}"
        self._launch(name, [f"--address={self.gcs_address}", f"--num-cpus={cpus}"], wrapper)
        if wait:
            self._wait(lambda: name in self.node_ids())
        return name

    def kill(self, name: str, *, gently: bool = False) -> None:
        """End a node at once, as a machine that is switched off, or with SIGTERM, as a machine that shuts down."""
        pid = self.nodes.pop(name)
        self._save()
        if self._runs(pid):
            _end_tree(pid, signal.SIGTERM if gently else signal.SIGKILL)

    def stop(self) -> None:
        """End every node and remove the folder."""
        for name in sorted(self.nodes, reverse=True):  # workers first
            self.kill(name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def num_alive(self) -> int:
        """Return how many nodes the head knows to be alive; 0 while it does not answer."""
        return len(self.node_ids())

    def drain(self, name: str, seconds: int) -> None:
        """Announce that a node will be taken away, as drain.sh does before a pod ends."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", f"--node-id={self.node_ids()[name]}"]
        command += [f"--address={self.gcs_address}", f"--deadline-remaining-seconds={seconds}"]
        command += ["--reason=DRAIN_NODE_REASON_PREEMPTION", "--reason-message=the node is going away"]
        environment = {**os.environ, **self.environment}
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def node_ids(self) -> dict[str, str]:
        """Return Ray's id of every living node, by the node's name; none while the head does not answer."""
        request = urllib.request.Request(f"{self.address}/api/v0/nodes?limit=1000&timeout=10")
        request.add_header("Authorization", f"Bearer {(self.folder / 'token').read_text()}")
        try:
            with urllib.request.urlopen(request, timeout=15) as answer:
                result = json.load(answer)["data"]["result"]["result"]
        except (OSError, urllib.error.URLError, TypeError, KeyError):
            return {}
        return {node["node_name"]: node["node_id"] for node in result if node["state"] == "ALIVE"}

    def wait_for_nodes(self, number: int) -> None:
        """Return when at least `number` nodes are alive."""
        self._wait(lambda: self.num_alive() >= number)

    def _wait(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not done():
            dead = [name for name, pid in self.nodes.items() if not _alive(pid)]
            if dead or time.monotonic() > deadline:
                raise SystemExit(f"error: {', '.join(dead) or 'a node'} did not start; see {self.folder}/*.log")
            time.sleep(0.5)

    def _launch(self, name: str, options: list[str], wrapper: Sequence[str] = ()) -> None:
        state = self._state
        env = {**os.environ, **self.environment, **dict(state["env"])}
        env.pop("RAY_ADDRESS", None)
        # The jobs of the cluster run the `python` of this environment.
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', '')}"
        env |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_raylet_start_wait_time_s": str(int(START_SECONDS))}
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += [
            f"--node-name={name}",
            f"--temp-dir={self.folder / name}",
            f"--object-store-memory={state['memory']}",
            "--log-color=false",
        ]
        # Its fixed default would be taken by the first node, and the others' logs would be out of reach.
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([*wrapper, *command], stdout=log, stderr=log, env=env, start_new_session=True)
        self.nodes[name] = process.pid
        self._save()

    def _runs(self, pid: int) -> bool:
        """Tell whether a process is a node of this cluster, and not a later process with the same number."""
        try:
            return f"--temp-dir={self.folder}/" in Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return False

    def _save(self) -> None:
        self._file.write_text(json.dumps(self._state))


def free_port() -> int:
    """Return a port nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def own_ip() -> str:
    """Return the address that Ray takes for this machine."""
    import ray

    return str(ray.util.get_node_ip_address())


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def _end_tree(root: int, sign: signal.Signals) -> None:
    """Send a signal to a process and all that came from it; wait for the first to be gone."""
    tree = _tree(root)
    if sign == signal.SIGTERM:
        _send([root], sign)  # `ray start --block` ends the others itself
        _wait_for(tree, 30)
    _send(tree, signal.SIGKILL)
    _wait_for(tree, 10)


def _tree(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rsplit(")", 1)[1].split()
            children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _send(pids: list[int], sign: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, sign)


def _wait_for(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        time.sleep(0.05)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("start", "add", "kill", "status", "stop"))
    parser.add_argument("name", nargs="?", help="kill: which node")
    parser.add_argument("--folder", default=DEFAULT_FOLDER, help="of logs, sockets and token; keep it short")
    parser.add_argument("--workers", type=int, default=2, help="start: nodes beside the head")
    parser.add_argument("--cpus", type=int, default=2, help="start, add: CPUs each worker offers")
    options = parser.parse_args()
    cluster = LocalCluster(options.folder)
    if options.action == "start":
        cluster.start(workers=options.workers, cpus=options.cpus)
        for name, value in cluster.environment.items():
            print(f"export {name}={value}")
    elif options.action == "add":
        print(cluster.add(cpus=options.cpus))
    elif options.action == "kill":
        if options.name not in cluster.nodes:
            parser.error(f"no node {options.name}; there are {', '.join(cluster.nodes) or 'none'}")
        cluster.kill(options.name)
    elif options.action == "status":
        for name, pid in cluster.nodes.items():
            print(f"{name:<12} {pid:>8}  {'running' if cluster._runs(pid) else 'gone'}")
    else:
        cluster.stop()


if __name__ == "__main__":
    main()
