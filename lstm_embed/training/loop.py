"""The training loop. It knows workers and checkpoints only as its session shows them, and nothing of Ray."""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lstm_embed.training import checkpoint
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.learner import Learner, Pending, Share
from lstm_embed.training.loader import Loader, Step
from lstm_embed.training.run import Progress, Row, Run
from lstm_embed.training.session import Session
from lstm_embed.training.tracking import Tracker

_GPU_LAG = 8


@dataclass
class Loop:
    """One worker's part of a run.

    Attributes:
        config: Of the run.
        run: Its length.
        session: This worker.
        learner: Model and optimizer as they are at `progress.step`.
        loader: Of this worker's micro-batches.
        progress: How far the run has come.
        tracker: Of the first worker; None for the others.
        write: Writes a checkpoint into an empty folder; called on the first worker.
        lag: Steps after which the host looks at what a step came to. On a GPU it is there by then, so nothing waits.
    """

    config: TrainingConfig
    run: Run
    session: Session
    learner: Learner
    loader: Loader[Share]
    progress: Progress
    tracker: Tracker | None
    write: Callable[[str], None]
    lag: int = -1
    _pending: deque[Pending] = field(default_factory=deque, init=False)
    _waited: float = field(default=0.0, init=False)
    _since: float = field(default_factory=time.perf_counter, init=False)
    _saved_at: float = field(default_factory=time.monotonic, init=False)

    def __post_init__(self) -> None:
        if self.lag < 0:
            self.lag = _GPU_LAG if self.session.device.type == "cuda" else 0

    def train(self) -> bool:
        """Train to the end of the run; return False if it was asked to stop before.

        Raises:
            NonFiniteLoss: if a loss or gradient is not a finite number.
        """
        progress, held_out = self.progress, self.loader.validation(self.config.validation_sentences)
        stop = False
        self._since = time.perf_counter()
        with contextlib.closing(self.loader.steps(progress.step, self.run.end)) as steps:
            while progress.step < self.run.end and not stop:
                share = self._next(steps)
                done = self.learner.step(
                    share, self._rate(share.step), stop=self._is_to_stop(), save=self._is_to_save()
                )
                self._pending.append(done)
                progress.step += 1
                progress.sentences += share.num_sentences
                progress.tokens += share.num_tokens
                # All workers look at the same step at the same time, so all of them decide alike.
                stop, save = self._settle(self.lag)
                validate = self._validates_after(progress.step)
                if validate or save or stop or self._saves_after(progress.step):
                    stop = self._settle(0)[0] or stop
                    if validate:
                        self._validated(self.learner.evaluate(*held_out))
                    self._save()
        return progress.step >= self.run.end

    def _next(self, steps: Iterator[Step[Share]]) -> Step[Share]:
        begun = time.perf_counter()
        share = next(steps)
        self._waited += time.perf_counter() - begun
        return share

    def _settle(self, lag: int) -> tuple[bool, bool]:
        """Take in the results of all steps but the last `lag`; return whether to stop and whether to save."""
        stop = save = False
        while len(self._pending) > lag:
            done = self._pending.popleft()
            outcome = done.result()
            self.learner.check(done.step, outcome)
            stop, save = stop or outcome.stop, save or outcome.save
            now = time.perf_counter()
            if self.tracker is not None:
                self.tracker.add(done.step, outcome, seconds=now - self._since, waited=self._waited)
            self._since, self._waited = now, 0.0
            made = done.step.step + 1
            if made % self.config.log_steps == 0 and not self._validates_after(made):
                self._log(made, {})
        return stop, save

    def _validated(self, losses: dict[str, float]) -> None:
        step, loss = self.progress.step, losses.get("loss", math.nan)
        best = self.progress.best_loss
        if math.isfinite(loss) and (best is None or loss < best):
            self.progress.best_step, self.progress.best_loss = step, loss
        self._log(step, {f"val/{name}": value for name, value in losses.items()})

    def _log(self, step: int, more: Row) -> None:
        if self.tracker is None:
            return
        at = self.loader.plan.locate(step - 1)
        epoch = at.epoch + (at.step_in_epoch + 1) / self.loader.plan.steps_in_epoch(at.epoch)
        rate = self.config.learning_rate * self._rate(step - 1)
        self.session.progress(self.tracker.line(step, epoch, rate, more))

    def _save(self) -> None:
        self.session.save(checkpoint.name_of(self.progress.step), self.write)
        if self.tracker is not None:
            checkpoint.prune(self.run.path, self.progress, self.config.keep)
            self.tracker.file.upload()
            self.tracker.saved()
        self._saved_at = time.monotonic()
        self._since = time.perf_counter()

    def _rate(self, step: int) -> float:
        return self.run.schedule.rate(step, self.config.warmup_steps, self.config.final_rate)

    def _validates_after(self, step: int) -> bool:
        every = self.config.validate_steps
        ends = step >= self.run.end or self.loader.plan.locate(step).step_in_epoch == 0
        return ends or (bool(every) and step % every == 0)

    def _saves_after(self, step: int) -> bool:
        every, _ = self.config.checkpoint_interval
        return bool(every) and step % every == 0

    def _is_to_save(self) -> bool:
        _, seconds = self.config.checkpoint_interval
        due = self.session.rank == 0 and bool(seconds) and time.monotonic() - self._saved_at >= seconds
        return due or self.session.wants_checkpoint()

    def _is_to_stop(self) -> bool:
        return self.session.rank == 0 and self.session.wants_stop()
