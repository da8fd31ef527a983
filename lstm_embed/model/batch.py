"""Groups and sentences laid out for the model: padded tensors, time first, with what the losses need to index them.

Shape suffixes: G groups, B sentences of a group, R rows (all sentences, R = G B), T positions, U distinct words of the batch,
N reconstructed words of a group, C candidates.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lstm_embed.model.group import FIRST_WORD, BoolArray, Group, IntArray

Moved = TypeVar("Moved")


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

    Row 0 of the table is padding: a zero vector of weight 0, which also stands for a dropped word. Any order of rows is
    right; by falling length is fastest on a CPU.

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
    """One or more groups, ready for `Autoencoder.forward`.

    Attributes:
        words_U: Distinct word ids, `words_U[0]` = padding.
        inputs: What the encoder reads: dropped words point to row 0.
        position_TR: As in `inputs`, with no word dropped.
        partner_GB: Row of the neighbour inside its group, -1 if none.
        article_GB: Article numbers; distinct negative numbers where there is no sentence.
        candidates_GC: Candidate ids, padded with 0.
        candidate_mask_GC: False where padded; None if none is.
        target_GN: Candidate index of each word to reconstruct, 0 where padded.
        target_position_GN: Its place in the (T, R) grid, flattened.
        target_row_GN: Its row inside its group.
        target_mask_GN: False where padded.
        real_GB: False where a group has no sentence.
        num_sentences: Real sentences.
        num_tokens: Tokens of these sentences.
    """

    words_U: Tensor
    inputs: Sentences
    position_TR: Tensor
    partner_GB: Tensor
    article_GB: Tensor
    candidates_GC: Tensor
    candidate_mask_GC: Tensor | None
    target_GN: Tensor
    target_position_GN: Tensor
    target_row_GN: Tensor
    target_mask_GN: Tensor
    real_GB: Tensor
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
    """Return the distinct ids, 0 first in any case, and for each of `ids` its place among them."""
    words, position = np.unique(np.concatenate([np.zeros(1, np.int64), ids.ravel()]), return_inverse=True)
    return words, position.ravel()[1:].reshape(ids.shape)


def lay_out(position_RT: IntArray, lengths_R: IntArray, padded_length: int = 0) -> Sentences:
    """Lay out sentences that are padded on the right.

    Args:
        position_RT: Rows of the word table.
        lengths_R: Tokens of each sentence; none may exceed `padded_length` if that is set.
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


def collate(groups: Sequence[Group], padded_length: int = 0) -> Batch:
    """Lay out groups for one pass of the model, each sorted by falling length.

    Args:
        groups: At least one group; their numbers of rows, positions and candidates may differ.
        padded_length: `ModelConfig.padded_length`.
    """
    num_rows = max(len(group.lengths_B) for group in groups)
    num_steps = padded_length or max(1, *(int(group.lengths_B.max(initial=0)) for group in groups))
    num_groups = len(groups)
    ids = np.zeros((num_groups, num_rows, num_steps), np.int64)
    keep = np.ones(ids.shape, np.bool_)
    lengths = np.zeros((num_groups, num_rows), np.int64)
    partner = np.full(lengths.shape, -1, np.int64)
    article = np.tile(-1 - np.arange(num_rows, dtype=np.int64), (num_groups, 1))
    for number, group in enumerate(groups):
        size, order, new_row = _by_falling_length(group.lengths_B)
        width = min(num_steps, group.ids_BT.shape[1])
        ids[number, :size, :width] = group.ids_BT[order, :width]
        keep[number, :size, :width] = group.keep_BT[order, :width]
        lengths[number, :size] = group.lengths_B[order]
        old_partner = group.partner_B[order]
        partner[number, :size] = np.where(old_partner >= 0, new_row[old_partner], -1)
        article[number, :size] = np.where(lengths[number, :size] > 0, group.article_B[order], article[number, :size])
    words, position_RT = distinct_words(ids.reshape(-1, num_steps))
    inputs = lay_out(np.where(keep.reshape(position_RT.shape), position_RT, 0), lengths.ravel(), padded_length)
    everything = lay_out(position_RT, lengths.ravel(), padded_length)
    return Batch(
        words_U=torch.from_numpy(words),
        inputs=inputs,
        position_TR=everything.position_TR,
        partner_GB=torch.from_numpy(partner),
        article_GB=torch.from_numpy(article),
        **_targets(groups, words[everything.position_TR.numpy()]),
        real_GB=torch.from_numpy(lengths > 0),
        num_sentences=sum(group.num_sentences for group in groups),
        num_tokens=sum(group.num_tokens for group in groups),
    )


def _by_falling_length(lengths_B: IntArray) -> tuple[int, IntArray, IntArray]:
    order = np.argsort(-lengths_B, kind="stable")
    new_row = np.empty(len(order), np.int64)
    new_row[order] = np.arange(len(order))
    return len(order), order, new_row


def _targets(groups: Sequence[Group], ids_TR: IntArray) -> dict[str, Any]:
    """Return the words to reconstruct, all known words of each group, and their candidates, as fields of `Batch`."""
    num_rows = ids_TR.shape[1] // len(groups)
    found = []
    for number, group in enumerate(groups):
        rows = slice(number * num_rows, (number + 1) * num_rows)
        step, row = np.nonzero(ids_TR[:, rows] >= FIRST_WORD)
        target_ids = ids_TR[step, number * num_rows + row]
        index = np.searchsorted(group.candidates_C, target_ids)
        assert np.array_equal(group.candidates_C[index % max(1, len(group.candidates_C))], target_ids), (
            "the candidates of a group must be sorted and hold all its words"
        )
        found.append((index, step * ids_TR.shape[1] + number * num_rows + row, row))
    num_targets = max(len(index) for index, _, _ in found)
    num_candidates = np.array([len(group.candidates_C) for group in groups])
    # A group without candidates keeps one, lest its softmax be over nothing; it has no targets either.
    mask = np.arange(num_candidates.max()) < np.maximum(num_candidates, 1)[:, None]
    return {
        "candidates_GC": _stack([group.candidates_C for group in groups], num_candidates.max()),
        "candidate_mask_GC": None if mask.all() else torch.from_numpy(mask),
        "target_GN": _stack([index for index, _, _ in found], num_targets),
        "target_position_GN": _stack([position for _, position, _ in found], num_targets),
        "target_row_GN": _stack([row for _, _, row in found], num_targets),
        "target_mask_GN": _stack([np.ones(len(index), np.bool_) for index, _, _ in found], num_targets),
    }


def _stack(arrays: Sequence[IntArray | BoolArray], width: int) -> Tensor:
    stacked: npt.NDArray[Any] = np.zeros((len(arrays), width), np.bool_ if arrays[0].dtype == np.bool_ else np.int64)
    for row, array in zip(stacked, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(stacked)
