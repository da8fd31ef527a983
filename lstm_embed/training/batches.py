"""The batch plan: which sentences every step of a run trains on. numpy only; neither torch nor Ray.

Keeps the invariant "the sequence of global batches is a function of (token set, seed, epoch, step) alone". A step is a fixed
number of micro-batches, whoever computes them; a micro-batch is a fixed number of sentences.

The shuffle has two levels. The parts of the token set are put in random order and gathered into *buffers* of bounded size; the
sentences of a buffer are shuffled, sorted by length and cut into steps and micro-batches, so that sentences of like length go
together; the steps of the buffer are then put in random order. How many sentences a part has stands in the token set's
manifest, so a step's buffer is found by arithmetic, and only that buffer has to be read to resume there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.token_set import TokenSet, read_part, rows_of
from lstm_embed.ledger.parts import PartInfo
from lstm_embed.training.config import TrainingConfig

IntArray = npt.NDArray[np.int64]

# Branches of the seed: what is drawn for one purpose never depends on what is drawn for another.
_PARTS, _ROWS, _STEPS, _VALIDATION = range(4)


@dataclass(frozen=True)
class Position:
    """Where a step stands: step `index` in random order of buffer `buffer` of epoch `epoch`."""

    epoch: int
    step_in_epoch: int
    buffer: int
    index: int


@dataclass(frozen=True)
class EpochPlan:
    """The buffers of one epoch.

    Attributes:
        parts: For each buffer the numbers of its parts, in the order in which they are read.
        num_sentences: Sentences of each buffer.
        num_micro_batches: Micro-batches of each buffer.
        first_step: Step within the epoch at which each buffer begins, and at the end the number of steps.
    """

    parts: list[IntArray]
    num_sentences: IntArray
    num_micro_batches: IntArray
    first_step: IntArray

    @property
    def num_steps(self) -> int:
        """Steps of the epoch."""
        return int(self.first_step[-1])


class BatchPlan:
    """Where the sentences of every step are to be found.

    Args:
        sentences: Training sentences of each part.
        seed: Of the run.
        micro_batch_sentences: Sentences of a micro-batch.
        micro_batches_per_step: Micro-batches of a step.
        buffer_sentences: Sentences of a buffer, at least one part.

    Raises:
        InputError: if there is nothing to train on.
    """

    def __init__(
        self,
        sentences: npt.ArrayLike,
        *,
        seed: int,
        micro_batch_sentences: int,
        micro_batches_per_step: int,
        buffer_sentences: int,
    ) -> None:
        self._sentences = np.asarray(sentences, np.int64)
        if not self._sentences.sum():
            raise InputError("the token set holds no sentence to train on; lower --min-tokens or prepare more text")
        self.seed = seed
        self.micro_batch_sentences = micro_batch_sentences
        self.micro_batches_per_step = micro_batches_per_step
        self._buffer_sentences = buffer_sentences
        self._starts = [0]
        self.epoch = functools.lru_cache(maxsize=4)(self._plan_epoch)

    @classmethod
    def of(cls, tokens: TokenSet, config: TrainingConfig) -> BatchPlan:
        """Plan the training on a token set from the counts in its manifest.

        Raises:
            InputError: if there is nothing to train on.
        """
        return cls(
            _counts(tokens, "train", config.min_tokens),
            seed=config.seed,
            micro_batch_sentences=config.micro_batch_sentences,
            micro_batches_per_step=config.micro_batches_per_step,
            buffer_sentences=config.buffer_sentences,
        )

    def num_steps(self, config: TrainingConfig) -> int:
        """Return how many steps a config asks for."""
        steps = self.first_step(config.epochs)
        return min(steps, config.max_steps) if config.max_steps else steps

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        counts = self._sentences
        order = _shuffled(len(counts), self.seed, _PARTS, epoch)
        order = order[counts[order] > 0]
        before = np.cumsum(counts[order]) - counts[order]
        # A buffer takes parts until it is full; the last one may go over by less than a part.
        number = before // self._buffer_sentences
        cuts = np.flatnonzero(np.diff(number)) + 1
        parts = np.split(order, cuts)
        num_sentences = np.array([counts[chosen].sum() for chosen in parts], np.int64)
        num_micro_batches = -(-num_sentences // self.micro_batch_sentences)
        num_steps = -(-num_micro_batches // self.micro_batches_per_step)
        return EpochPlan(parts, num_sentences, num_micro_batches, np.concatenate([[0], np.cumsum(num_steps)]))

    def first_step(self, epoch: int) -> int:
        """Return the step at which an epoch begins."""
        while len(self._starts) <= epoch:
            self._starts.append(self._starts[-1] + self.epoch(len(self._starts) - 1).num_steps)
        return self._starts[epoch]

    def steps_in_epoch(self, epoch: int) -> int:
        """Return the number of steps of an epoch."""
        return self.epoch(epoch).num_steps

    def locate(self, step: int) -> Position:
        """Return where a step of the run stands."""
        epoch = max(0, len(self._starts) - 1)
        while self.first_step(epoch + 1) <= step:
            epoch += 1
        while self.first_step(epoch) > step:
            epoch -= 1
        return self._locate_in(epoch, step - self.first_step(epoch))

    def _locate_in(self, epoch: int, step_in_epoch: int) -> Position:
        first = self.epoch(epoch).first_step
        buffer = int(np.searchsorted(first, step_in_epoch, side="right")) - 1
        return Position(epoch, step_in_epoch, buffer, step_in_epoch - int(first[buffer]))

    def cut(self, epoch: int, buffer: int, lengths: IntArray) -> list[list[IntArray]]:
        """Cut the sentences of a buffer into micro-batches.

        Args:
            epoch: Of the buffer.
            buffer: Its number in the epoch.
            lengths: Words of each of its sentences.

        Returns:
            For each step of the buffer its micro-batches, each as the numbers of its sentences.
        """
        plan = self.epoch(epoch)
        num_micro_batches = int(plan.num_micro_batches[buffer])
        num_steps = int(plan.first_step[buffer + 1] - plan.first_step[buffer])
        shuffled = _shuffled(len(lengths), self.seed, _ROWS, epoch, buffer)
        by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
        micro_batches = _even_split(by_length, num_micro_batches)
        bounds = _even_bounds(num_micro_batches, num_steps)
        steps = [micro_batches[bounds[n] : bounds[n + 1]] for n in range(num_steps)]
        return [steps[n] for n in _shuffled(num_steps, self.seed, _STEPS, epoch, buffer)]


def owned_micro_batches(num_micro_batches: int, rank: int, world_size: int) -> range:
    """Return which micro-batches of a step a worker computes."""
    return range(rank, num_micro_batches, world_size)


def validation_parts(tokens: TokenSet, min_tokens: int, num_sentences: int) -> tuple[list[int], int]:
    """Choose the held-out sentences that are validated on: the same for every run on the token set.

    Returns:
        Parts to read, in order, and how many of their held-out sentences count, from the first on.
    """
    counts = np.asarray(_counts(tokens, "held_out", min_tokens), np.int64)
    order = _shuffled(len(counts), 0, _VALIDATION)
    order = order[counts[order] > 0]
    wanted = min(num_sentences, int(counts.sum()))
    reached = np.cumsum(counts[order])
    return [int(part) for part in order[: np.searchsorted(reached, wanted) + 1]] if wanted else [], wanted


def _counts(tokens: TokenSet, name: str, min_tokens: int) -> list[int]:
    return [part.stats["holdout"][name][min_tokens - 1] for part in tokens.parts]


@dataclass(frozen=True)
class Buffer:
    """The sentences of some parts.

    Attributes:
        ids: Word ids of all sentences, one after the other, and a 0 at the end.
        starts: Where each sentence begins in `ids`, and at the end where the last one ends.
    """

    ids: npt.NDArray[np.int32]
    starts: IntArray

    @property
    def lengths(self) -> IntArray:
        """Words of each sentence."""
        return np.diff(self.starts)

    def lengths_of(self, rows: IntArray) -> IntArray:
        """Return the words of some sentences."""
        return self.starts[rows + 1] - self.starts[rows]

    def head(self, num_sentences: int) -> Buffer:
        """Return a buffer with the first sentences only."""
        return Buffer(self.ids, self.starts[: num_sentences + 1])

    def padded(self, rows: IntArray, max_tokens: int) -> tuple[npt.NDArray[np.int32], IntArray]:
        """Return the first `max_tokens` word ids of some sentences, padded on the right with 0, and how many each has."""
        lengths = np.minimum(self.lengths_of(rows), max_tokens)
        column = np.arange(max(1, int(lengths.max(initial=0))))
        place = self.starts[rows][:, None] + np.minimum(column, np.maximum(lengths, 1)[:, None] - 1)
        return np.where(column < lengths[:, None], self.ids[place], np.int32(0)), lengths


def read_buffer(parts: Sequence[PartInfo], *, min_tokens: int, holdout_every: int, held_out: bool) -> Buffer:
    """Read the sentences of parts of a token set into a buffer.

    Args:
        parts: The parts, in order.
        min_tokens: Least tokens of a sentence.
        holdout_every: Of the token set.
        held_out: Take the held-out articles instead of the others.

    Raises:
        InputError: if a part does not hold what the manifest says.
    """
    ids, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for part in parts:
        table = read_part(part, ["article", "ids"])
        lists: pa.ListArray = table["ids"].combine_chunks()
        num_tokens = lists.value_lengths().to_numpy().astype(np.int64)
        rows = rows_of(
            table["article"].to_numpy(),
            num_tokens,
            min_tokens=min_tokens,
            holdout_every=holdout_every,
            held_out=held_out,
        )
        expected = part.stats["holdout"]["held_out" if held_out else "train"][min_tokens - 1]
        if len(rows) != expected:
            raise InputError(
                f"{part.path} has {len(rows)} sentences to train on, the manifest of its token set says {expected}; "
                "run prepare again"
            )
        taken = np.zeros(len(num_tokens), np.bool_)
        taken[rows] = True
        ids.append(lists.flatten().to_numpy()[np.repeat(taken, num_tokens)])
        lengths.append(num_tokens[rows])
    starts = np.concatenate([[0], np.cumsum(np.concatenate(lengths))])
    return Buffer(np.concatenate([*ids, np.zeros(1, np.int32)]), starts)


def cut_evenly(lengths: IntArray, micro_batch_sentences: int) -> list[IntArray]:
    """Cut sentences into micro-batches of like length, in order of length; used for validation."""
    return _even_split(np.argsort(lengths, kind="stable"), -(-len(lengths) // micro_batch_sentences))


def _even_bounds(total: int, pieces: int) -> list[int]:
    """Cut `total` into pieces whose sizes differ by one at most; return where each begins, and the end."""
    return [total * n // pieces for n in range(pieces + 1)] if pieces else [0]


def _even_split(values: IntArray, pieces: int) -> list[IntArray]:
    bounds = _even_bounds(len(values), pieces)
    return [values[bounds[n] : bounds[n + 1]] for n in range(pieces)]


def _shuffled(size: int, *key: int) -> IntArray:
    """Return the numbers below `size` in random order.

    Made from the raw stream, which numpy never changes; how `Generator.permutation` uses it may change with a version.
    """
    raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(np.asarray(raw, np.uint64), kind="stable").astype(np.int64)
