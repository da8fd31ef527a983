"""The batch plan: which sentences every step of a run trains on. numpy only; neither torch nor Ray.

Keeps the invariant "the sequence of global batches is a function of (token set, seed, epoch, step) alone". A step is a fixed
number of groups, whoever computes them; a group is a fixed number of *items*, an item being a sentence and its neighbour in
the article, or a sentence that has none. Odd epochs pair the sentences the other way round (see
`token_set.neighbour_items`), so each sentence is trained on once in every epoch and meets both its neighbours in turn.

The shuffle has two levels. The parts of the token set are put in random order and gathered into *buffers* of bounded size; the
items of a buffer are shuffled, sorted by length and cut into steps and groups, so that sentences of like length go together;
the steps of the buffer are then put in random order. How many items a part has stands in the token set's manifest, so a step's
buffer is found by arithmetic, and only that buffer has to be read to resume there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.corpus.token_set import PartInfo, TokenSet, neighbour_items, read_part
from lstm_embed.errors import InputError

IntArray = npt.NDArray[np.int64]

# Branches of the seed: what is drawn for one purpose never depends on what is drawn for another.
_PARTS, _ITEMS, _STEPS, _NOISE, _VALIDATION = range(5)


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
        num_items: Items of each buffer.
        num_groups: Groups of each buffer.
        first_step: Step within the epoch at which each buffer begins, and at the end the number of steps.
    """

    parts: list[IntArray]
    num_items: IntArray
    num_groups: IntArray
    first_step: IntArray

    @property
    def num_steps(self) -> int:
        """Steps of the epoch."""
        return int(self.first_step[-1])


class BatchPlan:
    """Where the groups of every step are to be found.

    Args:
        items: Training items of each part, for even and for odd epochs.
        seed: Of the run.
        group_size: Sentences of a group; half as many items.
        groups_per_step: Groups of a step.
        buffer_sentences: Sentences of a buffer, at least one part.

    Raises:
        InputError: if there is nothing to train on.
    """

    def __init__(
        self,
        items: tuple[npt.ArrayLike, npt.ArrayLike],
        *,
        seed: int,
        group_size: int,
        groups_per_step: int,
        buffer_sentences: int,
    ) -> None:
        self._items = tuple(np.asarray(counts, np.int64) for counts in items)
        if not self._items[0].sum():
            raise InputError("the token set holds no sentence to train on; lower --min-tokens or prepare more text")
        self.seed = seed
        self.items_per_group = group_size // 2
        self.groups_per_step = groups_per_step
        self._buffer_items = max(1, buffer_sentences // 2)
        self._starts = [0]
        self.epoch = functools.lru_cache(maxsize=4)(self._plan_epoch)

    @classmethod
    def of(
        cls,
        tokens: TokenSet,
        *,
        min_tokens: int,
        seed: int,
        group_size: int,
        groups_per_step: int,
        buffer_sentences: int,
    ) -> BatchPlan:
        """Plan the training on a token set from the counts in its manifest."""
        even, odd = ([part.stats["items"][f"train_{p}"][min_tokens - 1] for part in tokens.parts] for p in (0, 1))
        return cls(
            (even, odd),
            seed=seed,
            group_size=group_size,
            groups_per_step=groups_per_step,
            buffer_sentences=buffer_sentences,
        )

    def _plan_epoch(self, epoch: int) -> EpochPlan:
        items = self._items[epoch % 2]
        order = _shuffled(len(items), self.seed, _PARTS, epoch)
        order = order[items[order] > 0]
        before = np.cumsum(items[order]) - items[order]
        # A buffer takes parts until it is full; the last one may go over by less than a part.
        number = before // self._buffer_items
        cuts = np.flatnonzero(np.diff(number)) + 1
        parts = np.split(order, cuts)
        num_items = np.array([items[chosen].sum() for chosen in parts], np.int64)
        num_groups = -(-num_items // self.items_per_group)
        num_steps = -(-num_groups // self.groups_per_step)
        return EpochPlan(parts, num_items, num_groups, np.concatenate([[0], np.cumsum(num_steps)]))

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
        """Cut the items of a buffer into groups.

        Args:
            epoch: Of the buffer.
            buffer: Its number in the epoch.
            lengths: Tokens of the longer sentence of each of its items.

        Returns:
            For each step of the buffer its groups, each as the numbers of its items.
        """
        plan = self.epoch(epoch)
        num_groups = int(plan.num_groups[buffer])
        num_steps = int(plan.first_step[buffer + 1] - plan.first_step[buffer])
        shuffled = _shuffled(len(lengths), self.seed, _ITEMS, epoch, buffer)
        by_length = shuffled[np.argsort(lengths[shuffled], kind="stable")]
        groups = _even_split(by_length, num_groups)
        bounds = _even_bounds(num_groups, num_steps)
        steps = [groups[bounds[n] : bounds[n + 1]] for n in range(num_steps)]
        return [steps[n] for n in _shuffled(num_steps, self.seed, _STEPS, epoch, buffer)]

    def noise(self, step: int, group: int) -> np.random.Generator:
        """Return the source of all chance in one group of one step."""
        return _random(self.seed, _NOISE, step, group)


def owned_groups(num_groups: int, rank: int, world_size: int) -> range:
    """Return which groups of a step a worker computes."""
    return range(rank, num_groups, world_size)


def validation_parts(tokens: TokenSet, min_tokens: int, num_sentences: int) -> tuple[list[int], int]:
    """Choose the held-out items that are validated on: the same for every run on the token set.

    Returns:
        Parts to read, in order, and how many of their held-out items count, from the first on.
    """
    items = np.array([part.stats["items"]["held_out"][min_tokens - 1] for part in tokens.parts], np.int64)
    order = _shuffled(len(items), 0, _VALIDATION)
    order = order[items[order] > 0]
    wanted = min(-(-num_sentences // 2), int(items.sum()))
    reached = np.cumsum(items[order])
    return [int(part) for part in order[: np.searchsorted(reached, wanted) + 1]] if wanted else [], wanted


def validation_noise(group: int) -> np.random.Generator:
    """Return the source of the drawn negatives of a validation group."""
    return _random(0, _VALIDATION, 1 + group)


@dataclass(frozen=True)
class Buffer:
    """The sentences of some parts and the items they make.

    Attributes:
        ids: Token ids of all sentences, one after the other.
        starts: Where each sentence begins in `ids`, and at the end where the last one ends.
        article: Number of each sentence's article, distinct over the parts.
        first: First sentence of each item.
        second: Second one, -1 if there is none.
    """

    ids: npt.NDArray[np.int32]
    starts: IntArray
    article: IntArray
    first: IntArray
    second: IntArray

    @property
    def lengths(self) -> IntArray:
        """Tokens of the longer sentence of each item."""
        tokens = np.diff(self.starts)
        return np.maximum(tokens[self.first], np.where(self.second >= 0, tokens[self.second], 0))

    def head(self, num_items: int) -> Buffer:
        """Return a buffer with the first items only."""
        return Buffer(self.ids, self.starts, self.article, self.first[:num_items], self.second[:num_items])

    def rows(self, items: IntArray) -> tuple[IntArray, IntArray]:
        """Return the sentences of some items and for each its neighbour's place in that list, -1 if it has none."""
        first, second = self.first[items], self.second[items]
        paired = np.flatnonzero(second >= 0)
        rows = np.concatenate([first, second[paired]])
        partners = np.full(len(rows), -1, np.int64)
        partners[paired] = len(first) + np.arange(len(paired))
        partners[len(first) :] = paired
        return rows, partners

    def padded(self, rows: IntArray, max_tokens: int) -> tuple[npt.NDArray[np.int32], IntArray]:
        """Return the first `max_tokens` token ids of some sentences, padded on the right with 0, and how many each has."""
        lengths = np.minimum(self.starts[rows + 1] - self.starts[rows], max_tokens)
        column = np.arange(max(1, int(lengths.max(initial=0))))
        place = self.starts[rows][:, None] + np.minimum(column, lengths[:, None] - 1)
        return np.where(column < lengths[:, None], self.ids[place], np.int32(0)), lengths


def read_buffer(
    parts: Sequence[PartInfo], paths: Sequence[str], *, min_tokens: int, holdout_every: int, parity: int, held_out: bool
) -> Buffer:
    """Read parts of a token set into a buffer.

    Args:
        parts: The parts, in order.
        paths: Where each is to be read.
        min_tokens: Least tokens of a sentence.
        holdout_every: Of the token set.
        parity: How sentences are paired.
        held_out: Take the items of the held-out articles instead of the others.

    Raises:
        InputError: if a part does not hold what the manifest says.
    """
    ids, lengths, articles, firsts, seconds = [], [], [], [], []
    rows = 0
    for number, (part, path) in enumerate(zip(parts, paths, strict=True)):
        table = read_part(path, ["article", "ids"])
        lists: pa.ListArray = table["ids"].combine_chunks()
        tokens = lists.value_lengths().to_numpy().astype(np.int64)
        article = table["article"].to_numpy()
        first, second = neighbour_items(
            article, tokens, min_tokens=min_tokens, parity=parity, holdout_every=holdout_every, held_out=held_out
        )
        expected = part.stats["items"]["held_out" if held_out else f"train_{parity}"][min_tokens - 1]
        if len(first) != expected:
            raise InputError(
                f"{part.path} makes {len(first)} training items, the manifest of its token set says {expected}; "
                "run prepare again"
            )
        ids.append(lists.flatten().to_numpy())
        lengths.append(tokens)
        articles.append(article.astype(np.int64) + (number << 32))
        firsts.append(first + rows)
        seconds.append(np.where(second >= 0, second + rows, -1))
        rows += len(tokens)
    starts = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])
    none = np.zeros(0, np.int64)
    return Buffer(
        np.concatenate([none.astype(np.int32), *ids]),
        starts,
        np.concatenate([none, *articles]),
        np.concatenate([none, *firsts]),
        np.concatenate([none, *seconds]),
    )


def cut_evenly(lengths: IntArray, items_per_group: int) -> list[IntArray]:
    """Cut items into groups of like length, in order of length; used for validation, where nothing is drawn."""
    return _even_split(np.argsort(lengths, kind="stable"), -(-len(lengths) // items_per_group))


def _even_bounds(total: int, pieces: int) -> list[int]:
    """Cut `total` into pieces whose sizes differ by one at most; return where each begins, and the end."""
    return [total * n // pieces for n in range(pieces + 1)] if pieces else [0]


def _even_split(values: IntArray, pieces: int) -> list[IntArray]:
    bounds = _even_bounds(len(values), pieces)
    return [values[bounds[n] : bounds[n + 1]] for n in range(pieces)]


def _random(*key: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def _shuffled(size: int, *key: int) -> IntArray:
    """Return the numbers below `size` in random order.

    Made from the raw stream, which numpy never changes; how `Generator.permutation` uses it may change with a version.
    """
    raw = np.random.PCG64(np.random.SeedSequence(key)).random_raw(size)
    return np.argsort(np.asarray(raw, np.uint64), kind="stable").astype(np.int64)
