"""What every job does around its one library call: flags, Ray, progress, summary, exit code.

A job exits with 0 when its output is complete, 2 for something the user can correct (flag, path, value), 1 for a failure.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar

from console import Console, print_summary

if TYPE_CHECKING:
    from lstm_embed.base.progress import Reporter, Summary
    from lstm_embed.ledger import Work
    from lstm_embed.stages.preflight import Needs

Config = TypeVar("Config")

# Read by Ray when it is imported, so they are set before; a value the user has set wins.
_QUIET_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
_EMBEDDED_RAY = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_enable_metrics_collection": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


_RAY_ENDED = (
    "Ray's processes of this job were ended from outside, or for lack of memory; what was committed is kept: "
    "run the same command again to continue"
)
_GRACE_SECONDS = 1.0
_SAMPLE_FILES = 5
"""Input files that every node must see before a job works."""


class UnitJob(Protocol):
    """A library job that works on the units of a ledger."""

    output: str

    @property
    def needs(self) -> Needs:
        """What it needs of the nodes, besides the files of its units."""

    @property
    def size_unit(self) -> tuple[str, float]:
        """Name of what units are measured in, and how many of their sizes make one of it."""

    def compare(self) -> Work:
        """Tell what is left to do, writing nothing."""

    def run(self, work: Work, report: Reporter = ...) -> Summary:
        """Do it."""

    def summary(self, seconds: float, *, already_done: bool) -> Summary:
        """Describe the finished output."""

    def sample_rate(self, work: Work) -> float:
        """Return the stored bytes a second one CPU works through."""


def parse(
    config_class: type[Config],
    argv: Sequence[str],
    description: str,
    defaults: Callable[[list[str]], Config] | None = None,
    removed: Mapping[str, str] | None = None,
) -> Config:
    """Return the config that the command line and a `--config` file describe; exit with 2 and one line if they are wrong.

    Args:
        config_class: What to return.
        argv: The flags.
        description: For `--help`.
        defaults: Returns the values of flags that are not given, from those that are (for presets).
        removed: Flags of an earlier version, and what to do instead.
    """
    import tyro

    arguments = list(argv)
    program = os.path.basename(sys.argv[0])
    try:
        if "--config" in arguments:
            at = arguments.index("--config")
            if at + 1 >= len(arguments):
                raise ValueError("--config needs the path of a JSON or TOML file")
            # Flags given by hand come later and so win over the file.
            arguments = [*_file_flags(arguments[at + 1]), *arguments[:at], *arguments[at + 2 :]]
    except (OSError, ValueError) as error:
        fail(f"--config: {error}")
    _refuse_removed(arguments, removed or {})
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                config_class,
                args=arguments,
                prog=program,
                description=f"{description}\n\nAll flags can be given in a JSON or TOML file too: --config FILE",
                default=tyro.MISSING_NONPROP if defaults is None else defaults(arguments),
                config=(tyro.conf.AvoidSubcommands,),  # a preset's kind of model is the one whose flags there are
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        fail(f"{_one_line(errors.getvalue())} (see {program} --help)")
    except ValueError as error:
        fail(str(error))


def _refuse_removed(arguments: Sequence[str], removed: Mapping[str, str]) -> None:
    """Exit with 2 and a line for each flag that an earlier version had."""
    names = [argument[2:].partition("=")[0].replace("_", "-") for argument in arguments if argument.startswith("--")]
    names = [name if name in removed else re.sub(r"(^|\.)no-([^.]*)$", r"\1\2", name) for name in names]
    if gone := [f"--{name} is gone: {removed[name]}" for name in dict.fromkeys(names) if name in removed]:
        fail("\nerror: ".join(gone))


def _file_flags(path: str) -> list[str]:
    """Return the content of a config file as command-line flags."""
    with open(path, "rb") as file:
        values = tomllib.load(file) if path.endswith(".toml") else json.load(file)
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no object of field names and values")
    if isinstance(values.get("config"), dict):
        values = values["config"]  # a job.json beside an output
    return list(_flags(values, ""))


def _flags(values: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in values.items():
        flag = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            yield from _flags(value, f"{flag}.")
        elif isinstance(value, bool):
            parent, _, last = flag.rpartition(".")
            yield f"--{flag}" if value else f"--{parent}{'.' if parent else ''}no-{last}"
        elif isinstance(value, list):
            yield from (f"--{flag}", *map(str, value))
        elif value is not None:
            yield from (f"--{flag}", str(value))


def _one_line(message: str) -> str:
    """Return an error box as a line of text."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", message)
    text = re.sub(r"[─━│┃╭╮╰╯┌┐└┘]+", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"^Value error Error parsing \w+: ", "", text)
    return re.sub(r"\s*For full helptext.*$", "", text)


def fail(message: str, code: int = 2) -> NoReturn:
    """Print one line to standard error and exit."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def errors_as_exit_codes() -> Iterator[None]:
    """Turn the failures a user can read into one line and an exit code."""
    from lstm_embed.base.errors import InputError, LstmEmbedError

    try:
        yield
    except (InputError, FileNotFoundError, NotADirectoryError, PermissionError) as error:
        fail(_plain(error))
    except LstmEmbedError as error:
        fail(str(error), code=1)
    except OSError as error:
        fail(f"{_plain(error)} (disk or store failed; run the command again to continue)", code=1)
    except KeyboardInterrupt:
        fail("interrupted; run the same command again to continue", code=130)


def _plain(error: OSError | Exception) -> str:
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.strerror}: {error.filename}"
    return str(error)


def prepare_environment() -> bool:
    """Set what Ray reads at import; return whether a running cluster is going to be used."""
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, value in {**_QUIET_RAY, **({} if cluster else _EMBEDDED_RAY)}.items():
        os.environ.setdefault(name, value)
    return cluster


@contextlib.contextmanager
def ray_session(needs: Needs | None = None, report: Reporter | None = None) -> Iterator[None]:
    """Use the cluster named by RAY_ADDRESS (set inside `ray job submit`), else a quiet Ray that ends with the job.

    Args:
        needs: What the job needs of the nodes, which are checked for it; None for nothing special.
        report: Told what is waited for.

    Raises:
        InputError: if a node is not fit.
        LstmEmbedError: if the cluster is too small and does not grow.
    """
    cluster = prepare_environment()
    import logging

    import ray
    import ray.data

    from lstm_embed.base.progress import SILENT
    from lstm_embed.stages import preflight

    needs = needs or preflight.Needs()
    with contextlib.ExitStack() as stack:
        if cluster:
            expected = stack.enter_context(preflight.expectation(needs))
            ray.init(
                log_to_driver=True,
                logging_level=logging.WARNING,
                runtime_env={"env_vars": expected.environment()},
            )
        else:
            _start_embedded_ray()
        stack.callback(ray.shutdown)
        ending = threading.Event()
        stack.callback(ending.set)
        if not cluster:
            stack.enter_context(_ray_may_end(ending))
        for name in ("ray.data", "ray.train"):
            logging.getLogger(name).setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False

        def terminated(signum: int, frame: FrameType | None) -> None:
            ending.set()
            raise KeyboardInterrupt

        signal.signal(signal.SIGTERM, terminated)
        if cluster:
            preflight.check_cluster(needs, expected, report or SILENT)
        yield


def _start_embedded_ray() -> None:
    import logging

    import ray

    from lstm_embed.base.errors import LstmEmbedError

    try:
        with _native_stderr_held():
            ray.init(
                address="local",  # a Ray that happens to run on this machine was not asked for
                # One more than there are: the stages that feed actors must fit beside them, also on a machine with one core.
                num_cpus=(os.cpu_count() or 1) + 1,
                include_dashboard=False,
                logging_level=logging.ERROR,
                log_to_driver=False,
                object_store_memory=_object_store_bytes(),
            )
    except Exception as error:  # Ray raises nothing more precise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LstmEmbedError(
            f"Ray does not start on this machine ({reason}); it may be too busy, or short of memory or disk; run the "
            "command again"
        ) from error


@contextlib.contextmanager
def _ray_may_end(ending: threading.Event) -> Iterator[None]:
    """End the job with one line should Ray's process on this machine, the raylet, be ended from outside.

    Ray ends the job's process then too, but after a while and from native code, where there is no exception to catch.

    Args:
        ending: Set where the job is ending anyway.

    Raises:
        LstmEmbedError: if something of Ray failed for that reason.
    """
    from ray._private import worker
    from ray.exceptions import RayError

    from lstm_embed.base.errors import LstmEmbedError

    raylet = worker.global_worker.node.all_processes["raylet"][0].process

    def watch() -> None:
        raylet.wait()
        # A job that hears of it by itself, or is told to end as well, has its own last word.
        if not ending.wait(_GRACE_SECONDS):
            clear = "\r\x1b[2K" if sys.stderr.isatty() else ""
            os.write(2, f"{clear}error: {_RAY_ENDED}\n".encode())
            os._exit(1)

    threading.Thread(target=watch, name="raylet-watch", daemon=True).start()
    try:
        yield
    except RayError as error:
        if raylet.poll() is None:
            raise
        raise LstmEmbedError(_RAY_ENDED) from error


@contextlib.contextmanager
def _native_stderr_held() -> Iterator[None]:
    """Hold back what native code prints while Ray starts (it announces its own log level); show it if the start fails."""
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(saved, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _object_store_bytes() -> int:
    """Take little shared memory: text passes through it, vectors never do."""
    try:
        free = os.statvfs("/dev/shm")
        available = free.f_bavail * free.f_frsize
    except OSError:
        available = 1 << 30
    return max(80 << 20, min(512 << 20, available // 4))


def run_unit_job(
    make_job: Callable[[], UnitJob],
    *,
    dry_run: bool = False,
    follow: Callable[[str, Reporter], contextlib.AbstractContextManager[Reporter]] | None = None,
) -> Summary:
    """Run a job on units: say what is done, or what would be done, or do it.

    Args:
        make_job: Makes the job.
        dry_run: Only say what would be done.
        follow: Puts a reporter that sends progress elsewhere too before another one; also given the output folder.
    """
    job = make_job()
    work = job.compare()
    if work.finished:
        summary = job.summary(0.0, already_done=True)
        return dataclasses.replace(summary, notes=_about_vanished(work, summary.row_name))
    console = Console(job.output)
    for path in work.vanished[:3]:
        console.note(f"{path} is gone; what it gave is kept (--prune removes it)")
    if dry_run:
        _print_plan(job, work)
        raise SystemExit(0)
    from lstm_embed.stages.observe import Metrics

    metrics = Metrics(console, job.output)
    with (
        ray_session(_needs(job, work), console),
        console,
        follow(job.output, metrics) if follow else contextlib.nullcontext(metrics) as report,
    ):
        return job.run(work, report)


def _about_vanished(work: Work, rows: str) -> tuple[str, ...]:
    """Return what a finished job says of its input files that are gone."""
    if not work.vanished:
        return ()
    first, *others = work.vanished
    if not others:
        return (f"1 input file is gone ({first}): its {rows} are kept; --prune takes them away",)
    return (
        f"{1 + len(others)} input files are gone (such as {first}): their {rows} are kept; --prune takes them away",
    )


def _needs(job: UnitJob, work: Work) -> Needs:
    """Add a few files of the units to what a job needs."""
    paths = {unit.spans[0].path for unit in work.pending[:: max(1, len(work.pending) // _SAMPLE_FILES)]}
    return dataclasses.replace(job.needs, inputs=(*job.needs.inputs, *sorted(paths)))


def _print_plan(job: UnitJob, work: Work) -> None:
    name, scale = job.size_unit
    size = sum(unit.size for unit in work.pending)
    rate = job.sample_rate(work)
    cpus = os.cpu_count() or 1
    print(
        f"would write {job.output}: {len(work.pending)} of {len(work.units)} units, {size / scale:,.1f} {name} as stored"
    )
    print(f"  new units {len(work.added)}, retired {len(work.retired)}, input files gone {len(work.vanished)}")
    if rate > 0:
        print(
            f"  about {size / rate / cpus:,.0f} s on {cpus} CPUs ({rate / scale:,.3g} {name}/s a CPU in a small sample)"
        )


def main(
    config_class: type[Config],
    run: Callable[[Config], Summary | None],
    description: str | None,
    *,
    defaults: Callable[[list[str]], Config] | None = None,
    removed: Mapping[str, str] | None = None,
) -> None:
    """Parse flags, run the job, print its summary; see `parse`."""
    config = parse(config_class, sys.argv[1:], (description or "").strip(), defaults, removed)
    prepare_environment()
    started = time.monotonic()
    with errors_as_exit_codes():
        summary = run(config)
    if summary is not None:
        print_summary([dataclasses.replace(summary, seconds=summary.seconds or time.monotonic() - started)])
