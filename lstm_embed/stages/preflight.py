"""What is checked before a cluster works, and again in each worker that joins later.

Storage that every node can reach and that is one and the same everywhere, the same versions of what decides content, enough
CPUs and GPUs (or an autoscaler that is bringing them). Nothing here changes a result: each failure is one
line that names the node, what was found and what to do, in seconds instead of in the middle of the work.

The driver writes a small marker into the output folder and keeps it there while the job runs. What is expected of a node
travels to the workers in an environment variable, so nodes that the autoscaler adds later can check themselves.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.stages import ray_private
from lstm_embed.stages.capacity import Bundle, wait_for_resources

VARIABLE = "LSTM_EMBED_EXPECTS"
"""Environment variable that carries the expectation to the workers."""
PACKAGES = ("ray", "torch", "numpy", "pyarrow", "smart_open", "sentencex", "safetensors", "gensim")
"""Must be the same on all nodes: they compute, read, write or split."""
MARKER_FOLDER = ".preflight"
RAY_DISK_LIMIT = 0.95
"""Share of a full disk at which Ray stops storing objects."""
_STALE_MARKER_SECONDS = 14 * 86400.0
_MARKER_TRIES = 5
_PROBE_SECONDS = 180.0
_MAX_LINES = 10


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a job needs of the nodes."""

    output: str = ""
    """Folder the job writes; a marker is written there, which every node must see. Empty for none."""
    inputs: tuple[str, ...] = ()
    """Files or folders every node must see; a few are enough, one of each place."""
    bundles: tuple[Bundle, ...] = ({"CPU": 1.0},)
    """The least that must be there for the job to make progress, one for each worker."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What every node is compared with."""

    marker: str = ""
    """Path of the marker file; empty for none."""
    token: str = ""
    """What the marker holds."""
    writer: str = ""
    """Host that wrote it."""
    inputs: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    """By name; empty where there is only one node."""

    def environment(self) -> dict[str, str]:
        """Return the variable that tells workers."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def from_environment(cls) -> Expectation | None:
        """Return what `environment` was made of, None where nobody set it."""
        text = os.environ.get(VARIABLE)
        if not text:
            return None
        values = json.loads(text)
        values["inputs"] = tuple(values["inputs"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class NodeFacts:
    """What a node found out about itself."""

    host: str
    marker: str
    """What it read from the marker; "" if it is not there."""
    unread: dict[str, str]
    """Inputs it cannot see, and why."""
    versions: dict[str, str]
    temporary: str
    """Folder in which Ray keeps its files on this node."""
    temporary_used: float
    """How full its disk is, 0 to 1."""


def faults(expected: Expectation, found: NodeFacts) -> list[str]:
    """Return what is wrong with a node, a line each; none if it is fit."""
    lines = []
    where = f"node {found.host}"
    if expected.marker and found.marker != expected.token:
        folder = storage.parent(storage.parent(expected.marker))
        lines.append(
            f"{where} does not see what {expected.writer} wrote to {folder}"
            + (f" ({found.marker})" if found.marker else "")
            + "; use a folder that all nodes share: a mounted file system, s3:// or gs://"
        )
    lines += [f"{where} cannot read {path}: {reason}" for path, reason in sorted(found.unread.items())]
    differing = [name for name, version in expected.versions.items() if found.versions.get(name, "none") != version]
    if differing:
        pairs = ", ".join(
            f"{name} {found.versions.get(name, 'none')} instead of {expected.versions[name]}" for name in differing
        )
        lines.append(f"{where} has {pairs}; use the same image or environment on all nodes")
    if found.temporary_used >= RAY_DISK_LIMIT:
        lines.append(
            f"{where}: the disk of {found.temporary} is {100 * found.temporary_used:.0f} % full, and Ray stops at "
            f"{100 * RAY_DISK_LIMIT:.0f} %; make room, or start Ray there with another --temp-dir"
        )
    return lines


def look(expected: Expectation) -> NodeFacts:
    """Find out about the node this runs on."""
    temporary = ray_private.session_folder()
    disk = shutil.disk_usage(_existing(temporary))
    return NodeFacts(
        host=host_name(),
        marker=_read_marker(expected) if expected.marker else "",
        unread={path: reason for path in expected.inputs if (reason := _why_unread(path))},
        versions=versions() if expected.versions else {},
        temporary=temporary,
        temporary_used=1 - disk.free / disk.total,
    )


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that must agree, and of this package's own code, by its hash."""
    found = {"python": ".".join(platform.python_version_tuple()[:2]), "lstm_embed": _code_hash()}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            # CPU and CUDA builds of torch differ after the plus sign only.
            found[name] = importlib.metadata.version(name).partition("+")[0]
    return found


def _code_hash() -> str:
    root = Path(__file__).parent.parent
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        sha.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes())
    return sha.hexdigest()[:12]


def _read_marker(expected: Expectation) -> str:
    # Network file systems may show a new file to other machines a little later.
    for attempt in range(_MARKER_TRIES):
        try:
            return storage.read_bytes(expected.marker).decode()
        except FileNotFoundError:
            time.sleep(attempt)
        except OSError as error:
            return str(error)
    return ""


def _why_unread(path: str) -> str:
    try:
        return "" if storage.exists(path) else "it is not there"
    except (OSError, ValueError) as error:
        return str(error)


def _existing(folder: str) -> str:
    """Return the folder, or its nearest parent that is there."""
    path = Path(folder).absolute()
    return str(next(candidate for candidate in (path, *path.parents) if candidate.exists()))


@functools.cache
def host_name() -> str:
    """Name this machine as the dashboard does: its address, with its name."""
    try:
        import ray

        return f"{ray.util.get_node_ip_address()} ({platform.node()})"
    except (ImportError, AttributeError, OSError):
        return platform.node()


@contextlib.contextmanager
def expectation(needs: Needs, *, one_node: bool = False) -> Iterator[Expectation]:
    """Write the marker into the output folder and keep it there for the length of a `with` block.

    Args:
        needs: What the job needs of the nodes.
        one_node: Whether to leave out what only several nodes can disagree on.

    Raises:
        InputError: if the folder cannot be written.
    """
    marker = token = ""
    try:
        if needs.output:
            token = secrets.token_hex(8)
            marker = storage.join(storage.resolve(needs.output), MARKER_FOLDER, token)
            _write_marker(marker, token)
        yield Expectation(
            marker=marker,
            token=token,
            writer=host_name(),
            inputs=tuple(storage.resolve(path) for path in needs.inputs),
            versions={} if one_node else versions(),
        )
    finally:
        if marker:
            with contextlib.suppress(OSError):
                storage.remove(marker)
                if not storage.is_remote(marker):
                    os.rmdir(storage.parent(marker))  # fails, rightly, while another job's marker is in it


def _write_marker(marker: str, token: str) -> None:
    """Write the marker, and remove those that killed jobs left long ago."""
    folder = storage.parent(marker)
    try:
        storage.write_bytes(marker, token.encode())
        own = storage.info(marker)
        for other in storage.list_files(folder):
            if (int(own.stamp) - int(other.stamp)) / 1e9 > _STALE_MARKER_SECONDS:
                storage.remove(other.path)
    except OSError as error:
        raise InputError(f"cannot write to {storage.parent(folder)}: {error}") from None


def check_here(expected: Expectation) -> None:
    """Check the machine this runs on.

    Raises:
        InputError: with a line for each fault.
    """
    _raise(faults(expected, look(expected)))


@functools.cache
def check_worker() -> None:
    """Check, once in each worker process, that the node it runs on is fit; quiet where no driver has set an expectation.

    Raises:
        InputError: with a line for each fault.
    """
    expected = Expectation.from_environment()
    if expected is not None:
        check_here(expected)


def check_cluster(needs: Needs, expected: Expectation, report: Reporter = SILENT, *, patience: float = 1800.0) -> None:
    """Wait for the resources a job needs, then check every node of the cluster; Ray must be connected.

    Args:
        needs: What the job needs of the nodes.
        expected: What nodes are compared with, from `expectation`.
        report: Receiver of what is waited for.
        patience: Seconds to wait for nodes that are on their way.

    Raises:
        LstmEmbedError: if the resources do not come.
        InputError: if a node is not fit, with a line for each fault.
    """
    wait_for_resources(needs.bundles, report, patience=patience)
    lines = []
    for facts in _look_everywhere(expected):
        lines += [facts] if isinstance(facts, str) else faults(expected, facts)
    _raise(lines)


def _raise(lines: Sequence[str]) -> None:
    if lines:
        more = [f"and {len(lines) - _MAX_LINES} more"] if len(lines) > _MAX_LINES else []
        raise InputError("\n".join([*lines[:_MAX_LINES], *more]))


def _look_everywhere(expected: Expectation) -> Iterator[NodeFacts | str]:
    """Yield what each living node found, or a line about one that does not answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probe = ray.remote(num_cpus=0, max_retries=0)(look)
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    asked = {
        probe.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(expected): node
        for node in nodes
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_SECONDS)
    for reference in answered:
        node = asked[reference]
        try:
            yield ray.get(reference)
        except ray.exceptions.RayError as error:
            if any(other["NodeID"] == node and other["Alive"] for other in ray.nodes()):
                yield f"node {nodes[node]} cannot run a task: {_first_line(error)}"
    for reference in silent:
        ray.cancel(reference, force=True)
        yield (
            f"node {nodes[asked[reference]]} did not start a Python process within {_PROBE_SECONDS:.0f} s; "
            "see its runtime_env_setup log on the dashboard"
        )


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(getattr(error, "cause", None) or error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
