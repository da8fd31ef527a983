"""The training loop. It knows workers and checkpoints only as its session shows them, and nothing of Ray."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from lstm_embed.training import checkpoint
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.learner import Learner, Pending, Share
from lstm_embed.training.loader import Loader, Step
from lstm_embed.training.run import Run
from lstm_embed.training.session import Session
from lstm_embed.training.tracking import Row, Tracker

_GPU_LAG = 8
_WORST = -1e30


@dataclass
class Progress:
    """How far a run has come; part of every checkpoint.

    Attributes:
        step: Steps made.
        best_step: Step of the best validation, -1 before the first.
        best_loss: Its loss.
        sentences: Sentences trained on.
        tokens: Their tokens.
    """

    step: int = 0
    best_step: int = -1
    best_loss: float | None = None
    sentences: int = 0
    tokens: int = 0


@dataclass
class Loop:
    """One worker's part of a run.

    Attributes:
        config: Of the run.
        run: Its phases.
        session: This worker.
        learner: Model and optimizer as they are at `progress.step`.
        loader: Of this worker's micro-batches.
        progress: How far the run has come.
        tracker: Of the first worker; None for the others.
        write: Writes a checkpoint into an empty folder; called on the first worker.
        after_validation: Called on the first worker with the step and the validation's micro-batches.
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
    after_validation: Callable[[int, list[tuple[int, Share]]], None] = lambda step, shares: None
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
        num_validated, shares = self.loader.validation(self.config.validation_sentences)
        steps = self.loader.steps(self.progress.step, self.run.end)
        stop = False
        self._since = time.perf_counter()
        while self.progress.step < self.run.end and not stop:
            share = self._next(steps)
            self._pending.append(
                self.learner.step(share, self._rate(share.step), stop=self._asked_to_stop(), save=self._save_is_due())
            )
            self.progress.step += 1
            self.progress.sentences += share.num_sentences
            self.progress.tokens += share.num_tokens
            validates = self._validates_after(self.progress.step)
            # All workers look at the same step at the same time, so all of them decide alike.
            stop, save = self._settle(self.lag)
            if validates or save or stop or self._saves_after(self.progress.step):
                late_stop, _ = self._settle(0)
                stop = stop or late_stop
                losses = self.learner.evaluate(num_validated, shares) if validates and num_validated else {}
                if validates:
                    self._validated(losses)
                    if self.session.rank == 0:
                        self.after_validation(self.progress.step, shares)
                self._save(losses.get("loss"))
                self._since = time.perf_counter()
        steps.close()
        return self.progress.step >= self.run.end

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
        step, loss = self.progress.step, losses.get("loss")
        best = self.progress.best_loss
        if loss is not None and math.isfinite(loss) and (best is None or loss < best):
            self.progress.best_step, self.progress.best_loss = step, loss
        self._log(step, {f"val/{name}": value for name, value in losses.items()})

    def _log(self, step: int, more: Row) -> None:
        if self.tracker is None:
            return
        at = self.loader.plan.locate(step - 1)
        epoch = at.epoch + (at.step_in_epoch + 1) / self.loader.plan.steps_in_epoch(at.epoch)
        rate = self.config.learning_rate * self._rate(step - 1)
        self.session.progress(self.tracker.line(step, epoch, rate, more))

    def _save(self, loss: float | None) -> None:
        score = -loss if loss is not None and math.isfinite(loss) else _WORST
        self.session.save(checkpoint.name_of(self.progress.step), self.write, score)
        if self.tracker is not None:
            self.tracker.upload()
        self._saved_at = time.monotonic()

    def _rate(self, step: int) -> float:
        return self.run.phase(step).rate(step, self.config.warmup_steps, self.config.final_rate)

    def _validates_after(self, step: int) -> bool:
        every = self.config.validate_steps
        if step >= self.run.end or (every and step % every == 0):
            return True
        return any(step == phase.end for phase in self.run.phases) or self.loader.plan.locate(step).step_in_epoch == 0

    def _saves_after(self, step: int) -> bool:
        every, _ = self.config.checkpoint_interval
        return bool(every) and step % every == 0

    def _save_is_due(self) -> bool:
        _, seconds = self.config.checkpoint_interval
        due = self.session.rank == 0 and bool(seconds) and time.monotonic() - self._saved_at >= seconds
        return due or self.session.wants_checkpoint()

    def _asked_to_stop(self) -> bool:
        return self.session.rank == 0 and self.session.wants_stop()
