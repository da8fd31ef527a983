"""Stages run in this process, without Ray, for tests of what they write."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import pyarrow as pa

from lstm_embed.base.progress import Summary
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.ledger import PartRecord, Unit, Work
from lstm_embed.stages.runner import open_books
from lstm_embed.stages.stage import UnitStage
from lstm_embed.stages.units import ChunkReader, ChunkWorker, UnitFunction

POOLS = ("lstm_embed.embedding.embed", "lstm_embed.embedding.decode")
"""Modules that ask the cluster how many actors fit."""


def units_here(units: Sequence[Unit], function: UnitFunction, **_: Any) -> Iterator[list[PartRecord]]:
    """Do what `run_units` does, one unit after the other in this process."""
    return (list(function(unit)) for unit in units)


def chunks_here(units: Sequence[Unit], read: ChunkReader, make_worker: ChunkWorker, **_: Any) -> Iterator[PartRecord]:
    """Do what `run_chunks` does, one chunk after the other in this process."""
    work: Callable[[PartRecord, pa.Table], PartRecord] | None = make_worker() if units else None
    for unit in units:
        for record, table in read(unit):
            assert work
            yield work(record, table)


@contextlib.contextmanager
def without_ray(*, run_units: Any = units_here, run_chunks: Any = chunks_here) -> Iterator[None]:
    """Let stages work in this process.

    Args:
        run_units: Stands for the function of that name.
        run_chunks: Stands for the function of that name.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch("lstm_embed.stages.units.run_units", run_units))
        stack.enter_context(mock.patch("lstm_embed.stages.units.run_chunks", run_chunks))
        stack.enter_context(
            mock.patch("lstm_embed.stages.runner.ray_session", side_effect=lambda *_: contextlib.nullcontext())
        )
        for module in POOLS:
            stack.enter_context(mock.patch(f"{module}.find_workers", return_value=(1, 1)))
        yield


def prepare_here(config: PrepareConfig) -> Summary:
    """Prepare a token set in this process."""
    from lstm_embed.corpus.prepare import prepare

    with without_ray():
        return prepare(config)


def work_left(stage: UnitStage[Any]) -> Work:
    """Return what is left to do, as the runner finds it."""
    return open_books(stage)[1]
