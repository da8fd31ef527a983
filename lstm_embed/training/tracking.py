"""What a run shows of itself: lines of metrics to a file and to whoever watches. On the first worker only.

A line is written every few steps and at every validation, at steps that depend on nothing else, and holds means over the
steps since the line before. After a resume the file is cut back to the checkpoint, so every step appears once in it.
"""

from __future__ import annotations

import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence

import torch

from lstm_embed.base import storage
from lstm_embed.training.checkpoint import Window
from lstm_embed.training.learner import Outcome, Share
from lstm_embed.training.loader import Step
from lstm_embed.training.run import METRICS, STEP, TIME, Row, read_metrics

# The names of all metrics besides `STEP` and `TIME`.
EPOCH = "train/epoch"
RATE, NORM = "train/learning_rate", "train/gradient_norm"
SENTENCES, TOKENS = "train/sentences_per_second", "train/tokens_per_second"
PADDING, WAIT = "train/padding_efficiency", "train/data_wait_fraction"
MEMORY, LEFT = "train/peak_memory_mib", "train/seconds_left"


class Tracker:
    """Gathers the metrics of steps and writes their lines.

    Args:
        run_dir: The run's folder.
        names: Of the losses that this run measures.
        end: Steps of the whole run.
        step: Step that the run resumes at.
        window: Of the checkpoint it resumes from.
    """

    def __init__(self, run_dir: str, names: Sequence[str], *, end: int, step: int, window: Window) -> None:
        self._names = names
        self._end = end
        self.window = window
        """Sums over the steps that have no line yet, for the checkpoint."""
        self.file = MetricsFile(run_dir, step)
        self.watch: Callable[[Row], None] = lambda row: None
        """Told each line besides; must not raise."""
        self.saved: Callable[[], None] = lambda: None
        """Called when a checkpoint holds all lines so far; must not raise."""

    def add(self, step: Step[Share], outcome: Outcome, *, seconds: float, waited: float) -> None:
        """Count one step: how long it took, and how much of that it waited for data."""
        window = self.window
        window.steps += 1
        for name, value in outcome.losses.items():
            window.losses[name] = window.losses.get(name, 0.0) + value * step.num_tokens
        window.norm += outcome.gradient_norm
        window.sentences += step.num_sentences
        window.tokens += step.num_tokens
        window.own_tokens += sum(one.num_tokens for one in step.work.micro_batches)
        window.own_positions += step.work.positions
        window.seconds += seconds
        window.waited += waited

    def line(self, step: int, epoch: float, rate: float, more: Row) -> Row:
        """Write the line of the steps since the last one.

        Args:
            step: Steps made so far.
            epoch: Passes over the corpus so far.
            rate: Learning rate of the last step.
            more: Further metrics, of a validation.
        """
        window, self.window = self.window, Window()
        seconds, tokens = max(window.seconds, 1e-9), max(window.tokens, 1)
        row: Row = {STEP: step, EPOCH: epoch}
        row |= {f"train/{name}": window.losses.get(name, 0.0) / tokens for name in self._names}
        row |= {
            RATE: rate,
            NORM: window.norm / max(window.steps, 1),
            SENTENCES: window.sentences / seconds,
            TOKENS: window.tokens / seconds,
            PADDING: window.own_tokens / max(window.own_positions, 1),
            WAIT: window.waited / seconds,
            MEMORY: _peak_memory(),
            LEFT: (self._end - step) * window.seconds / max(window.steps, 1),
            TIME: time.time(),
            **more,
        }
        row = {name: value for name, value in row.items() if math.isfinite(value)}
        self.file.append(row)
        self.watch(row)
        return row


class MetricsFile:
    """`metrics.jsonl` in a run's folder: appended to where it lies if that is local, else kept here and uploaded.

    Args:
        run_dir: The run's folder.
        step: Lines of later steps are dropped.
    """

    def __init__(self, run_dir: str, step: int) -> None:
        self._path = storage.join(run_dir, METRICS)
        self._local = self._path
        if storage.is_remote(self._path):
            self._local = os.path.join(tempfile.mkdtemp(prefix="lstm_embed-"), METRICS)
        self.kept = [row for row in read_metrics(run_dir) if row[STEP] <= step]
        """The lines that were there."""
        storage.write_bytes(self._local, b"".join(map(_line, self.kept)))
        # Kept open: when another job takes the run over, the file under this name is a new one, and this one forgotten.
        self._file = open(self._local, "ab")  # noqa: SIM115

    def append(self, row: Row) -> None:
        """Add one line."""
        self._file.write(_line(row))
        self._file.flush()

    def upload(self) -> None:
        """Write the lines to where they belong, if that is not here."""
        if self._local != self._path:
            storage.copy_file(self._local, self._path)


def _line(row: Row) -> bytes:
    return json.dumps(row, allow_nan=False).encode("ascii") + b"\n"


def _peak_memory() -> float:
    """Return the most memory this process has used, in MiB: of the GPU if there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
