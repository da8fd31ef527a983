"""The Ray that a job works with: the cluster that RAY_ADDRESS names, else one in this process that ends with the job."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType

from lstm_embed.base.errors import LstmEmbedError
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.stages import preflight, ray_private

_RAY_ENDED = (
    "Ray's processes of this job were ended from outside, or for lack of memory; what was committed is kept: "
    "run the same command again to continue"
)
_GRACE_SECONDS = 1.0


def prepare_environment() -> bool:
    """Set what Ray and torch read when they are imported, unless the user has; return whether a cluster is going to be used."""
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name, value in {**ray_private.QUIET, **({} if cluster else ray_private.QUIET_EMBEDDED)}.items():
        os.environ.setdefault(name, value)
    return cluster


@contextlib.contextmanager
def ray_session(needs: preflight.Needs | None = None, report: Reporter = SILENT) -> Iterator[None]:
    """Provide Ray for the length of a `with` block. One that this process has connected to before is used as it is.

    Args:
        needs: What the job needs of the nodes, which are checked for it; None for nothing special.
        report: Receiver of what is waited for.

    Raises:
        InputError: if a node is not fit.
        LstmEmbedError: if Ray does not start or ends, or the cluster is too small and does not grow.
    """
    cluster = prepare_environment()
    import ray
    import ray.data

    if ray.is_initialized():
        yield
        return
    needs = needs or preflight.Needs()
    with contextlib.ExitStack() as stack:
        stack.callback(ray.shutdown)
        if cluster:
            expected = stack.enter_context(preflight.expectation(needs))
            with _signals_held():
                ray.init(
                    log_to_driver=True,
                    logging_level=logging.WARNING,
                    runtime_env={"env_vars": expected.environment()},
                )
        else:
            with _signals_held():
                _start_embedded()
        ending = threading.Event()
        stack.callback(ending.set)
        if not cluster:
            stack.enter_context(_watched(ending))
        _quiet()
        _interrupt_on_sigterm(ending)
        if cluster:
            preflight.check_cluster(needs, expected, report)
        yield


def _quiet() -> None:
    import ray.data

    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _interrupt_on_sigterm(ending: threading.Event) -> None:
    """Let SIGTERM end the job as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        return

    def terminated(signum: int, frame: FrameType | None) -> None:
        ending.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminated)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while Ray starts, for an exception in the midst of that crashes it; a second one is not."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held = []

    def hold(signum: int, frame: FrameType | None) -> None:
        held.append(signum)
        signal.signal(signum, signal.default_int_handler)

    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    with ray_private.signal_handlers_kept():
        before = {number: signal.signal(number, hold) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if held:
        raise KeyboardInterrupt


def _start_embedded() -> None:
    import ray

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
def _watched(ending: threading.Event) -> Iterator[None]:
    """End the job with one line should Ray's process on this machine, the raylet, be ended from outside.

    Ray ends the job's process then too, but after a while and from native code, where there is no exception to catch.

    Args:
        ending: Set where the job is ending anyway.

    Raises:
        LstmEmbedError: if something of Ray failed for that reason.
    """
    from ray.exceptions import RayError

    raylet = ray_private.raylet()

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
