"""One worker of a Ray Train run, and the actor through which it and the job's process talk."""

from __future__ import annotations

import errno
import logging
import os
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lstm_embed.base import storage
from lstm_embed.base.errors import LstmEmbedError, NonFiniteLoss, OutputBusy
from lstm_embed.stages import ray_private
from lstm_embed.stages.preflight import check_worker
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import Progress, Row, Run

if TYPE_CHECKING:
    from torch import Tensor

_ASK_SECONDS = 0.25
_SHOW_SECONDS = 0.25

Failure = tuple[str, str]
"""Name of an error class of `lstm_embed.base.errors`, and its message."""


class RunLink:
    """Carries progress and failures to the job's process, and the wish to stop from it. An actor without a CPU.

    Args:
        environment: Variables of the job's environment that the workers are to have; an API key may be among them, so they
            are kept in memory only.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._begun = False
        self._stop = False
        self._row: Row | None = None
        self._notes: list[str] = []
        self._failure: Failure | None = None

    def environment(self) -> dict[str, str]:
        """Return the variables."""
        return self._environment

    def begin(self, workers: int, step: int) -> None:
        """Note that the workers have begun to train; the user is told where that is not for the first time."""
        if self._begun:
            self._notes.append(f"{workers} {'worker begins' if workers == 1 else 'workers begin'} again at step {step}")
        self._begun = True

    def failed(self, reasons: dict[int, str]) -> None:
        """Take what workers failed with, by their ranks; all are started again."""
        if self._failure is None:
            told = "; ".join(f"worker {rank}: {reason}" for rank, reason in sorted(reasons.items())[:2])
            self._notes.append(f"{len(reasons)} of the workers failed ({told})")

    def stop(self) -> None:
        """Ask the workers to stop."""
        self._stop = True

    def stopping(self) -> bool:
        """Tell whether they were asked."""
        return self._stop

    def show(self, row: Row) -> None:
        """Take the latest line of metrics."""
        self._row = {**(self._row or {}), **row}

    def note(self, message: str) -> None:
        """Take a line for the user."""
        self._notes.append(message)

    def news(self) -> tuple[bool, Row | None, list[str]]:
        """Return whether the workers have begun, and the latest line of metrics and the notes since the last call."""
        row, notes = self._row, self._notes
        self._row, self._notes = None, []
        return self._begun, row, notes

    def fail(self, failure: Failure) -> None:
        """Take a failure that would come back however often the workers are started again."""
        self._failure = self._failure or failure

    def failure(self) -> Failure | None:
        """Return that failure, None if there is none."""
        return self._failure


class RaySession:
    """This worker among those of a Ray Train run; see `session.Session`.

    Args:
        link: The run's `RunLink`.
        owner_path: Mark of the job that started the workers.
    """

    def __init__(self, link: Any, owner_path: str) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._link = link
        self._owner_path = owner_path
        self._answer: Any = None
        self._asked_at = self._shown_at = 0.0
        self._stop = self._preempted = False

    def all_reduce(self, flat: Tensor) -> None:
        """Replace a tensor by its sum over the workers."""
        if self.world_size > 1:
            import torch.distributed

            torch.distributed.all_reduce(flat)

    def share(self, value: Any) -> Any:
        """Return the first worker's value to all."""
        from ray.train.collective import broadcast_from_rank_zero

        return broadcast_from_rank_zero(value)

    def wants_stop(self) -> bool:
        """Tell whether the job was asked to stop, as of a moment ago; never waits."""
        import ray

        now = time.monotonic()
        if self._answer is None and now - self._asked_at >= _ASK_SECONDS:
            self._asked_at = now
            self._answer = self._link.stopping.remote()
        if self._answer is not None and ray.wait([self._answer], timeout=0)[0]:
            self._stop = self._stop or ray.get(self._answer)
            self._answer = None
        return self._stop

    def wants_checkpoint(self) -> bool:
        """Tell once that this worker's or another's node is about to be taken away."""
        if not self._preempted and ray_private.is_preempted():
            self._preempted = True
            return True
        return False

    def begin(self, step: int) -> None:
        """Say that the workers begin to train at a step."""
        self._link.begin.remote(self.world_size, step)

    def check_owner(self) -> None:
        """Stop a worker whose job is dead and whose run another job has taken over.

        Raises:
            OutputBusy: if that is so.
        """
        if not storage.exists(self._owner_path):
            raise OutputBusy(f"{storage.parent(storage.parent(self._owner_path))} was taken over by another job")

    def save(self, name: str, write: Callable[[str], None]) -> None:
        """Report a checkpoint to Ray Train, which copies it into the run's folder."""
        import ray.train

        if self.rank:
            ray.train.report({}, checkpoint=None, checkpoint_dir_name=name)
            return
        with tempfile.TemporaryDirectory(prefix="lstm_embed-", ignore_cleanup_errors=True) as directory:
            write(directory)
            self.check_owner()
            made = ray.train.Checkpoint.from_directory(directory)
            ray.train.report({}, checkpoint=made, checkpoint_dir_name=name)

    def progress(self, row: Row) -> None:
        """Show a line of metrics; not more than a few a second."""
        now = time.monotonic()
        if now - self._shown_at >= _SHOW_SECONDS or "val/loss" in row:
            self._shown_at = now
            self._link.show.remote(row)

    def note(self, message: str) -> None:
        """Say one line that matters to the user."""
        self._link.note.remote(message)


def probe_precision(requested: str, device: str, hidden_size: int) -> str:
    """Settle a precision on a machine that has such a device."""
    from lstm_embed.model.precision import resolve_precision

    found = resolve_precision(requested, device, hidden_size=hidden_size)
    return "fp32" if found == "fp16" else found  # in which gradients would overflow


def work(options: dict[str, Any]) -> Progress | None:
    """Train as one worker; what Ray Train calls.

    Args:
        options: "config", "run", "link" (a `RunLink`) and "owner" (the path of the job's mark).

    Returns:
        How far the run has come, from the first worker.
    """
    import ray

    link = options["link"]
    if ray.get(link.failure.remote()):
        # The job's process raises it; training on would only come to it again.
        return None
    for name, value in ray.get(link.environment.remote()).items():
        os.environ.setdefault(name, value)
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it tells of every checkpoint
    try:
        check_worker()
        return _train(options["config"], options["run"], RaySession(link, options["owner"]))
    except Exception as error:
        if failure := lasting_failure(error):
            ray.get(link.fail.remote(failure))
        if isinstance(error, NonFiniteLoss):
            return None  # all workers come to this at the same step
        raise


def lasting_failure(error: Exception) -> Failure | None:
    """Return a failure that would come back however often the workers are started again, None if this is no such."""
    if isinstance(error, LstmEmbedError):
        return type(error).__name__, str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return LstmEmbedError.__name__, f"the disk is full ({error}); make room and run the same command again to go on"
    return None


def _train(config: TrainingConfig, run: Run, session: RaySession) -> Progress | None:
    from lstm_embed.model.precision import resolve_precision
    from lstm_embed.training.finish import finish
    from lstm_embed.training.setup import set_up

    resolve_precision(run.meaning["precision"], session.device.type)
    worker = set_up(config, run, session)
    if session.rank == 0:
        session.begin(worker.loop.progress.step)
    try:
        finished = worker.loop.train()
        if session.rank:
            return None
        if finished:
            session.check_owner()
            finish(worker)
        return worker.loop.progress
    finally:
        if worker.wandb is not None:
            worker.wandb.finish()
