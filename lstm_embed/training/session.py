"""What the training loop asks of the world around it; so the loop itself knows nothing of Ray.

`trainer.RaySession` is one worker of a Ray Train run. `LocalSession` here is a run in one process, for benchmarks and tests.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.training.run import Row


class Session(Protocol):
    """One worker among others. All workers call `all_reduce`, `share` and `save` in the same order."""

    rank: int
    world_size: int
    device: torch.device

    def all_reduce(self, flat: Tensor) -> None:
        """Replace a tensor by its sum over the workers; the same bits in each, and again for the same inputs."""

    def share(self, value: Any) -> Any:
        """Return the first worker's JSON-like value to all."""

    def wants_stop(self) -> bool:
        """Tell whether the run was asked to stop; asked of the first worker only, must be cheap."""

    def wants_checkpoint(self) -> bool:
        """Tell whether this worker is about to be taken away."""

    def save(self, name: str, write: Callable[[str], None]) -> None:
        """Keep a checkpoint: the first worker calls `write` with an empty local folder, which becomes checkpoint `name`."""

    def progress(self, row: Row) -> None:
        """Show a line of metrics; from the first worker."""

    def note(self, message: str) -> None:
        """Say one line that matters to the user; from the first worker."""


class LocalSession:
    """A run in this process alone.

    Args:
        run_dir: Local folder of the run.
        device: Where to compute.
        report: Told of notes.
    """

    rank = 0
    world_size = 1

    def __init__(self, run_dir: str, device: str = "cpu", report: Reporter = SILENT) -> None:
        self.device = torch.device(device)
        self._run_dir = run_dir
        self._report = report

    def all_reduce(self, flat: Tensor) -> None:
        """Do nothing: the sum over one worker."""

    def share(self, value: Any) -> Any:
        """Return the value."""
        return value

    def wants_stop(self) -> bool:
        """Return False."""
        return False

    def wants_checkpoint(self) -> bool:
        """Return False."""
        return False

    def save(self, name: str, write: Callable[[str], None]) -> None:
        """Write the checkpoint into the run's folder."""
        target = os.path.join(self._run_dir, name)
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target)
        write(target)

    def progress(self, row: Row) -> None:
        """Do nothing."""

    def note(self, message: str) -> None:
        """Pass the line on."""
        self._report.note(message)
