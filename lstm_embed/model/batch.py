"""Sentences laid out for a model: positions that point into a table of distinct words, time first.

What is a word to a model is a piece of the vocabulary.

Shape suffixes: R or B rows (sentences), T positions, U distinct words of the batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Moved = TypeVar("Moved")
IntArray = npt.NDArray[np.integer]

FIRST_WORD = 1
"""Least id of a word; below is padding."""


def _moved(value: Moved, move: Callable[[Tensor], Tensor]) -> Moved:
    """Return a copy of a dataclass, its tensors moved; dataclasses inside it too."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        old = getattr(value, field.name)
        if isinstance(old, Tensor):
            changes[field.name] = move(old)
        elif dataclasses.is_dataclass(old):
            changes[field.name] = _moved(old, move)
    return dataclasses.replace(value, **changes)  # type: ignore[type-var]


class _Movable:
    def to(self, device: torch.device | str) -> Self:
        """Return a copy on `device`; copying from pinned memory does not wait."""
        return _moved(self, lambda tensor: tensor.to(device, non_blocking=True))

    def pin(self) -> Self:
        """Return a copy in pinned memory, from which a GPU copies in the background."""
        return _moved(self, Tensor.pin_memory)


@dataclass(frozen=True, kw_only=True)
class Sentences(_Movable):
    """Sentences whose positions point into a table of distinct words.

    Row 0 of the table is padding: a zero vector. Any order of rows is right; by falling length is fastest on a CPU.

    Attributes:
        position_TR: Row of the word table at each position.
        lengths_R: Positions of each sentence, on the device of the computation.
        running: For each step the number of leading rows among which all unfinished ones are.
    """

    position_TR: Tensor
    lengths_R: Tensor
    running: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Batch(_Movable):
    """A micro-batch, ready for a model's `forward`.

    Attributes:
        words_U: Distinct word ids, `words_U[0]` = padding.
        sentences: The sentences over them, by falling length.
        num_sentences: Sentences that have a word.
        num_tokens: Words of these sentences.
    """

    words_U: Tensor
    sentences: Sentences
    num_sentences: int
    num_tokens: int


def running_rows(lengths_R: IntArray, num_steps: int) -> tuple[int, ...]:
    """Return for each step how many leading rows hold all sentences that are not finished; all of them at the first."""
    last = np.zeros(num_steps + 1, np.int64)
    np.maximum.at(last, lengths_R, np.arange(1, len(lengths_R) + 1))
    # Rows that end at step t or later are still running before it.
    running = np.maximum.accumulate(last[::-1])[::-1][1:].copy()
    running[0] = len(lengths_R)
    return tuple(int(n) for n in running)


def distinct_words(ids: IntArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the distinct ids, 0 first in any case, and for each of `ids`, none negative, its place among them."""
    assert ids.min(initial=0) >= 0
    place_of_id = np.zeros(int(ids.max(initial=0)) + 1, np.int64)
    place_of_id[0] = 1
    place_of_id[ids] = 1
    words = np.flatnonzero(place_of_id)
    place_of_id[words] = np.arange(len(words))
    return words, place_of_id[ids]


def from_lists(flat: IntArray, starts_B: IntArray, lengths_B: IntArray) -> npt.NDArray[np.int64]:
    """Return lists of ids that lie in `flat`, shape (B, T), with zeros behind them; one column at least."""
    step_T = np.arange(max(1, int(lengths_B.max(initial=0))))
    inside_BT = step_T < lengths_B[:, None]
    ids_BT = np.zeros(inside_BT.shape, np.int64)
    ids_BT[inside_BT] = flat[(starts_B[:, None] + step_T)[inside_BT]]
    return ids_BT


def padded(ids_BT: IntArray, lengths_B: IntArray) -> npt.NDArray[np.int64]:
    """Return the ids of sentences with zeros behind them, whatever stood there; one column at least."""
    ids_BT = np.pad(ids_BT, ((0, 0), (0, max(0, 1 - ids_BT.shape[1]))))
    return np.where(np.arange(ids_BT.shape[1]) < lengths_B[:, None], ids_BT, 0).astype(np.int64)


def lay_out(position_RT: IntArray, lengths_R: IntArray, padded_length: int = 0) -> Sentences:
    """Lay out sentences that are padded on the right.

    Args:
        position_RT: Rows of the word table.
        lengths_R: Words of each sentence; none may exceed `padded_length` if that is set.
        padded_length: Positions to pad to on the left, all of which then count; 0 for none.
    """
    if padded_length:
        position_RT = _pad_left(position_RT, lengths_R, padded_length)
        lengths_R = np.full(len(lengths_R), padded_length, np.int64)
    num_steps = max(1, int(lengths_R.max(initial=0)))
    return Sentences(
        position_TR=torch.from_numpy(np.ascontiguousarray(position_RT[:, :num_steps].T)),
        lengths_R=torch.from_numpy(lengths_R.astype(np.int64)),
        running=running_rows(lengths_R, num_steps),
    )


def _pad_left(values_RT: IntArray, lengths_R: IntArray, padded_length: int) -> IntArray:
    padded = np.zeros((len(values_RT), padded_length), values_RT.dtype)
    real = np.arange(values_RT.shape[1]) < lengths_R[:, None]
    padded[np.arange(padded_length) >= padded_length - lengths_R[:, None]] = values_RT[real]
    return padded


def collate(ids_BT: IntArray, lengths_B: IntArray, padded_length: int = 0) -> Batch:
    """Lay out a micro-batch, its sentences by falling length.

    Args:
        ids_BT: Word ids, padded on the right with 0.
        lengths_B: Words of each sentence; a row of length 0 is no sentence.
        padded_length: Of the model's config.
    """
    order = np.argsort(-lengths_B, kind="stable")
    words, position_RT = distinct_words(ids_BT[order])
    return Batch(
        words_U=torch.from_numpy(words),
        sentences=lay_out(position_RT, lengths_B[order], padded_length),
        num_sentences=int(np.count_nonzero(lengths_B)),
        num_tokens=int(lengths_B.sum()),
    )
