"""Reads what the batch plan asks for and makes micro-batches of it, ahead of the training and in its own threads.

No torch here: what turns micro-batches into tensors is handed in. Memory holds two buffers and a few steps. Of a remote token
set each worker reads the columns that it needs once an epoch, some bytes a sentence, while it trains on what it has; so
nothing is kept on the node's disk.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.ledger.parts import PartInfo
from lstm_embed.training import batches
from lstm_embed.training.batches import BatchPlan, Buffer, IntArray, owned_micro_batches

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Sentences whose loss is computed together, as arrays.

    Attributes:
        ids_BT: Word ids, padded on the right with 0.
        lengths_B: Words of each sentence; a row of length 0 is no sentence.
    """

    ids_BT: npt.NDArray[np.integer]
    lengths_B: npt.NDArray[np.integer]

    @property
    def num_sentences(self) -> int:
        """Sentences that have a word."""
        return int(np.count_nonzero(self.lengths_B))

    @property
    def num_tokens(self) -> int:
        """Words of these sentences."""
        return int(self.lengths_B.sum())


@dataclass(frozen=True)
class Step(Generic[T]):
    """One worker's share of a step.

    Attributes:
        step: Its number.
        epoch: Its epoch.
        num_micro_batches: Micro-batches of the whole step.
        num_sentences: Sentences of the whole step that have a word.
        num_tokens: Words of the whole step that are used.
        owned: Numbers of the micro-batches this worker computes.
        work: These micro-batches, as the loader's `transform` returned them.
    """

    step: int
    epoch: int
    num_micro_batches: int
    num_sentences: int
    num_tokens: int
    owned: tuple[int, ...]
    work: T


class Loader(Generic[T]):
    """Yields one worker's share of the steps of a run.

    Args:
        tokens: The token set.
        plan: Of the run.
        min_tokens: Least tokens of a sentence.
        max_tokens: Words of a sentence that are used.
        rank: Number of this worker.
        world_size: Number of workers.
        transform: Applied to the micro-batches of a step in the loader's threads.
        threads: Threads that make micro-batches.
        ahead: Steps that are made before they are asked for.
    """

    def __init__(
        self,
        tokens: TokenSet,
        plan: BatchPlan,
        *,
        min_tokens: int,
        max_tokens: int,
        rank: int,
        world_size: int,
        transform: Callable[[list[MicroBatch]], T],
        threads: int = 1,
        ahead: int = 4,
    ) -> None:
        self.plan = plan
        self._tokens = tokens
        self._min_tokens = min_tokens
        self._max_tokens = max_tokens
        self._rank = rank
        self._world_size = world_size
        self._transform = transform
        self._threads = threads
        self._ahead = ahead

    def steps(self, start: int, stop: int) -> Generator[Step[T], None, None]:
        """Yield the steps from `start` to before `stop`; closing the iterator ends its threads."""
        with _threads(1, "buffers") as readers, _threads(self._threads, "micro-batches") as makers:
            yield from _ahead(makers, self._make, self._cuts(readers, start, stop), self._ahead)

    def validation(self, num_sentences: int) -> tuple[int, list[tuple[int, T]]]:
        """Return how many validation micro-batches there are, and this worker's share of them with their numbers."""
        parts, num_sentences = batches.validation_parts(self._tokens, self._min_tokens, num_sentences)
        buffer = self._read([self._tokens.parts[n] for n in parts], held_out=True).head(num_sentences)
        rows = batches.cut_evenly(buffer.lengths, self.plan.micro_batch_sentences)
        mine = owned_micro_batches(len(rows), self._rank, self._world_size)
        return len(rows), [(n, self._transform([self._micro_batch(buffer, rows[n])])) for n in mine]

    def _cuts(
        self, readers: ThreadPoolExecutor, start: int, stop: int
    ) -> Iterator[tuple[int, int, Buffer, list[IntArray]]]:
        """Yield step, epoch, buffer and micro-batches of each step; the next buffer is read while one is used."""
        if start >= stop:
            return
        at = self.plan.locate(start)
        skip, step = at.index, start
        for epoch, buffer, steps in _ahead(readers, self._open, self._buffers(at.epoch, at.buffer), 2):
            for micro_batches in steps[skip:]:
                yield step, epoch, buffer, micro_batches
                step += 1
                if step == stop:
                    return
            skip = 0

    def _buffers(self, epoch: int, buffer: int) -> Iterator[tuple[int, int]]:
        while True:
            for number in range(buffer, len(self.plan.epoch(epoch).parts)):
                yield epoch, number
            epoch, buffer = epoch + 1, 0

    def _open(self, where: tuple[int, int]) -> tuple[int, Buffer, list[list[IntArray]]]:
        epoch, number = where
        parts = [self._tokens.parts[n] for n in self.plan.epoch(epoch).parts[number]]
        buffer = self._read(parts, held_out=False)
        return epoch, buffer, self.plan.cut(epoch, number, buffer.lengths)

    def _read(self, parts: Sequence[PartInfo], *, held_out: bool) -> Buffer:
        return batches.read_buffer(
            parts, min_tokens=self._min_tokens, holdout_every=self._tokens.holdout_every, held_out=held_out
        )

    def _make(self, cut: tuple[int, int, Buffer, list[IntArray]]) -> Step[T]:
        step, epoch, buffer, micro_batches = cut
        owned = tuple(owned_micro_batches(len(micro_batches), self._rank, self._world_size))
        made = [self._micro_batch(buffer, micro_batches[n]) for n in owned]
        words = np.minimum(buffer.lengths_of(np.concatenate(micro_batches)), self._max_tokens)
        return Step(
            step,
            epoch,
            len(micro_batches),
            int(np.count_nonzero(words)),
            int(words.sum()),
            owned,
            self._transform(made),
        )

    def _micro_batch(self, buffer: Buffer, rows: IntArray) -> MicroBatch:
        ids, lengths = buffer.padded(rows, self._max_tokens)
        return MicroBatch(ids_BT=ids, lengths_B=lengths)


@contextlib.contextmanager
def _threads(number: int, name: str) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(number, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, make: Callable[[Any], R], items: Iterable[Any], ahead: int) -> Iterator[R]:
    """Yield `make(item)` in order, with `ahead` of them under way in the threads of `pool`."""
    pending: deque[Future[R]] = deque()
    for item in items:
        pending.append(pool.submit(make, item))
        if len(pending) >= ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
