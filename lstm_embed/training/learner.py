"""One step of training: gradients of whole micro-batches, summed over workers in one fixed order, then Adam.

The gradients of all parameters are views into one flat float32 buffer, at whose end the step's losses and signals ride along,
so a step has exactly one all-reduce. (DDP rebuilds its buckets after the first step, which changes bits.) On a GPU nothing here
waits for the device: a step whose numbers are not finite changes no weight, and the host finds out a few steps later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lstm_embed.base.errors import NonFiniteLoss
from lstm_embed.model.batch import Batch, collate
from lstm_embed.model.recipes import Model
from lstm_embed.model.sentence_model import Losses
from lstm_embed.training import checkpoint
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.loader import MicroBatch, Step
from lstm_embed.training.session import Session

LOSSES = ("loss", "accuracy", "words_in_place")
"""Means over the words of a step (see `Losses`), by their names in the metrics."""
_STOP, _SAVE, _NORM = len(LOSSES), len(LOSSES) + 1, len(LOSSES) + 2
_NUM_REDUCED = len(LOSSES) + 2


@dataclass(frozen=True)
class Share:
    """A worker's micro-batches of a step, and the batches they are computed in: one each on a CPU, all together on a GPU.

    Attributes:
        micro_batches: The micro-batches.
        batches: The same, laid out.
        positions: Positions the encoder computes for them, padding included.
    """

    micro_batches: list[MicroBatch]
    batches: list[Batch]
    positions: int


class Layout:
    """Lays out the micro-batches of a step for the model; runs in the loader's threads.

    Args:
        padded_length: Of the model's config.
        together: Compute all micro-batches in one pass, for a GPU; else one after the other, which needs less memory.
        pin: Put the batches into memory from which a GPU copies in the background.
    """

    def __init__(self, padded_length: int, *, together: bool, pin: bool) -> None:
        self._padded_length = padded_length
        self._together = together
        self._pin = pin

    def __call__(self, micro_batches: list[MicroBatch]) -> Share:
        """Return the micro-batches laid out; see `Share`."""
        if not micro_batches:
            return Share([], [], 0)
        if not self._together:
            batches = [collate(one.ids_BT, one.lengths_B, self._padded_length) for one in micro_batches]
            return Share(micro_batches, batches, sum(sum(batch.sentences.running) for batch in batches))
        width = max(one.ids_BT.shape[1] for one in micro_batches)
        ids_BT = np.concatenate(
            [np.pad(one.ids_BT, ((0, 0), (0, width - one.ids_BT.shape[1]))) for one in micro_batches]
        )
        batch = collate(ids_BT, np.concatenate([one.lengths_B for one in micro_batches]), self._padded_length)
        return Share(micro_batches, [batch.pin() if self._pin else batch], batch.sentences.position_TR.numel())


@dataclass(frozen=True)
class Outcome:
    """What a step came to; the same on all workers.

    Attributes:
        losses: By the names of `LOSSES`.
        gradient_norm: Before clipping.
        stop: The run was asked to stop.
        save: A checkpoint is wanted.
    """

    losses: dict[str, float]
    gradient_norm: float
    stop: bool
    save: bool


class Learner:
    """The model, its optimizer and the flat gradient.

    Args:
        model: On the session's device.
        config: Learning rate, clipping.
        session: This worker.
        precision: "fp32" or "bf16".
    """

    def __init__(self, model: Model, config: TrainingConfig, session: Session, precision: str) -> None:
        self.model = model
        self._config = config
        self._session = session
        self._bf16 = precision == "bf16"
        device = session.device
        parameters = checkpoint.trained_parameters(model)
        size = sum(parameter.numel() for parameter in parameters.values())
        self._flat = torch.zeros(size + _NUM_REDUCED, device=device)
        self._gradient, self._sums = self._flat[:size], self._flat[size:]
        start = 0
        for parameter in parameters.values():
            parameter.grad = self._flat[start : start + parameter.numel()].view_as(parameter)
            start += parameter.numel()
        self.optimizer = torch.optim.Adam(parameters.values(), lr=config.learning_rate, fused=True)
        self._failed = torch.zeros((), dtype=torch.bool, device=device)

    def step(self, step: Step[Share], rate: float, *, stop: bool, save: bool) -> Pending:
        """Make one step, without waiting for its result.

        Args:
            step: This worker's micro-batches.
            rate: Factor on the learning rate.
            stop: Signal to all workers that the run was asked to stop.
            save: Signal to all workers that a checkpoint is wanted.
        """
        self._flat.zero_()
        for batch in step.work.batches:
            losses = self._losses(batch)
            weight = getattr(batch, self.model.counts_by) / max(1, getattr(step, self.model.counts_by))
            (losses.total * weight).backward()
            self._sums[: len(LOSSES)].add_(_stack(losses), alpha=weight)
        if stop or save:
            self._sums[_STOP] = float(stop)
            self._sums[_SAVE] = float(save)
        self._session.all_reduce(self._flat)
        norm = self._apply(rate)
        return Pending(step, torch.cat([self._sums, norm[None]]))

    def _apply(self, rate: float) -> Tensor:
        """Change the weights by the summed gradient; return its norm. Nothing changes after a step that was not finite."""
        norm = torch.linalg.vector_norm(self._gradient)
        self._failed |= ~torch.isfinite(self._sums[: len(LOSSES)]).all() | ~torch.isfinite(norm)
        if self._config.clip:
            self._gradient.mul_((self._config.clip / (norm + 1e-6)).clamp(max=1.0))
        for group in self.optimizer.param_groups:
            group["lr"] = self._config.learning_rate * rate
        # Fused Adam leaves everything as it is where this is 1, without telling the host.
        self.optimizer.found_inf = self._failed.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return norm

    def _losses(self, batch: Batch, measure: bool = False) -> Losses:
        device = self._session.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._bf16):
            losses: Losses = self.model(batch.to(device), measure)
        return losses

    def check(self, step: Step[Share], outcome: Outcome) -> None:
        """Stop a run whose step was not finite; all workers call this for the same step.

        Raises:
            NonFiniteLoss: naming the step.
        """
        if all(map(math.isfinite, (*outcome.losses.values(), outcome.gradient_norm))):
            return
        what = "gradient" if all(map(math.isfinite, outcome.losses.values())) else "loss"
        raise NonFiniteLoss(
            f"step {step.step} (epoch {step.epoch}): the {what} is not a finite number; no weight was changed by it. The "
            "checkpoints before it are kept; try a lower --learning-rate, --clip, or --precision fp32 under another --run-name "
            "with --init-from"
        )

    @torch.no_grad()
    def evaluate(self, num_micro_batches: int, shares: Sequence[tuple[int, Share]]) -> dict[str, float]:
        """Return the mean losses over micro-batches that are shared among the workers, with the words in place.

        The sums are taken in the order of the micro-batches, whichever worker computed them.
        """
        if not num_micro_batches:
            return {}
        table = torch.zeros(num_micro_batches, len(LOSSES) + 1, device=self._session.device)
        for number, share in shares:
            for batch in share.batches:
                table[number, :-1] = _stack(self._losses(batch, measure=True))
                table[number, -1] = getattr(batch, self.model.counts_by)
        self._session.all_reduce(table)
        values = table.double().cpu()
        sums = (values[:, :-1] * values[:, -1:]).sum(0) / values[:, -1].sum().clamp_min(1.0)
        found = dict(zip(LOSSES, sums.tolist(), strict=True))
        return {name: found[name] for name in self.model.validation_measures}

    def load(self, found: checkpoint.Checkpoint) -> None:
        """Take up a checkpoint."""
        checkpoint.load_tensors(checkpoint.kept_tensors(self.model), found.parameters, found.path)
        checkpoint.load_optimizer(self.model, self.optimizer, found.moments, found.path)


class Pending:
    """A step under way; `result` waits for it.

    Args:
        step: What was trained on.
        values: What `Outcome` holds, on the device.
    """

    def __init__(self, step: Step[Share], values: Tensor) -> None:
        self.step = step
        self._event: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._values = values

    def result(self) -> Outcome:
        """Return what the step came to."""
        if self._event is not None:
            self._event.synchronize()
        values = self._values.tolist()
        return Outcome(dict(zip(LOSSES, values, strict=False)), values[_NORM], values[_STOP] > 0, values[_SAVE] > 0)


def _stack(losses: Losses) -> Tensor:
    zero = losses.total.new_zeros(())
    found = (losses.total, losses.accuracy, losses.words_in_place)
    return torch.stack([zero if value is None else value.detach().float() for value in found])
