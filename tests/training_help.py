"""Small training runs for tests: data, config, run folder, and several workers as threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from synthetic import write_token_set, write_word_vectors
from torch import Tensor

from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.model.config import ModelConfig
from lstm_embed.model.recipes import Model
from lstm_embed.training import checkpoint
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import Run, plan_run
from lstm_embed.training.session import LocalSession, Session
from lstm_embed.training.setup import Worker, make_model, set_up

SMALL_MODEL = ModelConfig(
    hidden_size=6, order_size=16, decoder_hidden_size=8, position_size=16, spelling_size=16, train_max_tokens=8
)
_one_at_a_time = threading.Lock()


def write_data(folder: Path, **changes: Any) -> TokenSet:
    """Write `tokens` and `vectors` into a folder."""
    tokens = write_token_set(str(folder / "tokens"), **{"num_articles": 36, **changes})
    write_word_vectors(str(folder / "vectors"), tokens.vocabulary)
    return tokens


def make_config(data: Path, storage: Path, **changes: Any) -> TrainingConfig:
    """Return the config of a run of a few short steps."""
    values: dict[str, Any] = {
        "tokens": str(data / "tokens"),
        "vectors": str(data / "vectors"),
        "storage": str(storage),
        "run_name": "small",
        "model": SMALL_MODEL,
        "micro_batch_sentences": 16,
        "micro_batches_per_step": 4,
        "epochs": 2,
        "log_steps": 3,
        "validate_steps": 6,
        "validation_sentences": 40,
        "warmup_steps": 3,
        "checkpoint_every": "4",
        "precision": "fp32",
        "learning_rate": 5e-2,
        **changes,
    }
    return TrainingConfig(**values)


def make_run(config: TrainingConfig) -> Run:
    """Return the run of a config as the driver would plan it."""
    tokens = TokenSet.open(config.tokens)
    data = {"tokens": tokens.fingerprint, "vectors": "-", "precision": config.precision}
    return plan_run(config, None, data, BatchPlan.of(tokens, config).num_steps(config))


class Crash(Exception):
    """Stands for a worker that is killed."""


class ThreadSession(LocalSession):
    """One of several workers that are threads of this process.

    Args:
        run_dir: Local folder of the run.
        rank: Number of this worker.
        team: What the workers share.
        stop_at: Ask for a stop once so many steps were begun.
        crash_at: Raise `Crash` in the all-reduce of that call.
    """

    def __init__(self, run_dir: str, rank: int, team: Team, stop_at: int = -1, crash_at: int = -1) -> None:
        super().__init__(run_dir)
        self.rank = rank
        self.world_size = team.size
        self.notes: list[str] = []
        self._team = team
        self._stop_at = stop_at
        self._crash_at = crash_at
        self.steps = 0

    def all_reduce(self, flat: Tensor) -> None:
        self.steps += 1
        if self.steps == self._crash_at:
            self._team.barrier.abort()
            raise Crash
        if self._team.size > 1:
            self._team.slots[self.rank] = flat.clone()
            self._team.barrier.wait()
            flat.copy_(torch.stack(self._team.slots).sum(0))
            self._team.barrier.wait()

    def share(self, value: Any) -> Any:
        if self._team.size == 1:
            return value
        if self.rank == 0:
            self._team.value = value
        self._team.barrier.wait()
        value = self._team.value
        self._team.barrier.wait()
        return value

    def wants_stop(self) -> bool:
        return 0 <= self._stop_at <= self.steps

    def save(self, name: str, write: Callable[[str], None]) -> None:
        if self.rank == 0:
            super().save(name, write)
        if self._team.size > 1:
            self._team.barrier.wait()

    def note(self, message: str) -> None:
        self.notes.append(message)


class Team:
    """What workers that are threads share."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.barrier = threading.Barrier(size)
        self.slots: list[Tensor] = [torch.empty(0)] * size
        self.value: Any = None


def _make_model(*args: Any) -> Model:
    # Initial weights come from torch's global random state, which threads share and processes do not.
    with _one_at_a_time:
        return make_model(*args)


def run_workers(config: TrainingConfig, run: Run, size: int = 1, **session: Any) -> list[Worker]:
    """Train with several workers until the run ends, stops or crashes; return the workers."""
    team = Team(size)
    sessions = [ThreadSession(run.path, rank, team, **session) for rank in range(size)]
    workers: dict[int, Worker] = {}
    errors: list[BaseException] = []

    def work(one: Session) -> None:
        try:
            workers[one.rank] = set_up(config, run, one)
            workers[one.rank].loop.train()
        except (Crash, threading.BrokenBarrierError):
            return
        except BaseException as error:
            errors.append(error)
            team.barrier.abort()

    threads = [threading.Thread(target=work, args=(one,)) for one in sessions]
    with patch("lstm_embed.training.setup.make_model", _make_model):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return [workers[rank] for rank in sorted(workers)]


def final_weights(worker: Worker) -> dict[str, Tensor]:
    """Return a copy of what a checkpoint holds of a worker's model."""
    return {name: t.detach().clone() for name, t in checkpoint.kept_tensors(worker.loop.learner.model).items()}
