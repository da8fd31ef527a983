"""What neighbouring sentences teach of the meaning, in closed form: a linear discriminant of [words; spelling], as one matrix.

Of pairs of sentences that follow each other in an article take C, the covariance of [w/|w| ; s/|s|], and N, the covariance
across the pair. In the basis where C is the identity, the eigenvalues of N tell how much of a direction a sentence shares with
its neighbour (linear discriminant analysis with articles as classes; Hotelling 1936). L scales each direction by that share and
all of them so that a sentence has length 1 on average; then

    G = sqrt(I + strength L L')

is symmetric and well conditioned (about 3), and can be undone. With few pairs it shrinks towards the identity.

Shape suffixes: N pairs, M numbers of [words ; spelling].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_embed.model.batch import IntArray, distinct_words, lay_out, padded
from lstm_embed.model.sentence_model import SentenceModel

_FLOOR = 1e-3
"""Least variance, as a share of the largest, that a direction is taken to have."""
_LARGEST_SHARE = 0.99
_PAIRS_A_NUMBER = 20
"""Pairs a number of the vector of which half of the strength is left."""


class NeighbourStatistics:
    """Sums over pairs of neighbours, in float64 and in the order in which they come.

    Args:
        size: Numbers M.
    """

    def __init__(self, size: int) -> None:
        self.num_pairs = 0
        self._sum_M = torch.zeros(size, dtype=torch.float64)
        # Of a + b and a - b: their products give those of each side and across, at half the work.
        self._plus_MM, self._minus_MM = torch.zeros(2, size, size, dtype=torch.float64)

    def add(self, left_NM: Tensor, right_NM: Tensor) -> None:
        """Take pairs: float64, shapes (N, M)."""
        with one_thread():
            plus, minus = left_NM + right_NM, left_NM - right_NM
            self._sum_M += plus.sum(0)
            self._plus_MM += plus.t() @ plus
            self._minus_MM += minus.t() @ minus
        self.num_pairs += len(left_NM)

    def metric(self, strength: float) -> Tensor:
        """Return G, float64, shape (M, M)."""
        size = len(self._sum_M)
        if not strength or not self.num_pairs:
            return torch.eye(size, dtype=torch.float64)
        with one_thread():
            num_sentences = 2 * self.num_pairs
            mean_M = self._sum_M / num_sentences
            centre_MM = torch.outer(mean_M, mean_M)
            covariance = (self._plus_MM + self._minus_MM) / (2 * num_sentences) - centre_MM
            across = (self._plus_MM - self._minus_MM) / (2 * num_sentences) - centre_MM
            variances, axes = torch.linalg.eigh(covariance)
            largest = variances.max()
            if not largest > 0:
                return torch.eye(size, dtype=torch.float64)
            whitener = axes * variances.clamp_min(largest * _FLOOR).rsqrt()
            shares, directions = torch.linalg.eigh(whitener.t() @ across @ whitener)
            learned_MM = (whitener @ directions) * shares.clamp(0.0, _LARGEST_SHARE)
            energy = (learned_MM * (covariance @ learned_MM)).sum()
            learned_MM = learned_MM / energy.clamp_min(1e-12).sqrt()
            trust = self.num_pairs / (self.num_pairs + _PAIRS_A_NUMBER * size)
            identity = torch.eye(size, dtype=torch.float64)
            squares, axes = torch.linalg.eigh(identity + strength * trust * (learned_MM @ learned_MM.t()))
            return (axes * squares.sqrt()) @ axes.t()


def unit_halves(model: SentenceModel, ids_BT: IntArray, lengths_B: IntArray) -> Tensor:
    """Return [w/|w| ; s/|s|] of sentences, float64 on the CPU, shape (B, M).

    Args:
        model: Word vectors and spelling.
        ids_BT: Token ids, padded on the right.
        lengths_B: Tokens of each sentence.
    """
    words, position_BT = distinct_words(padded(ids_BT, lengths_B))
    table = model.look_up(torch.from_numpy(words).to(model.device), "meaning")
    assert table.sums_UM is not None
    with one_thread():
        halves = model.sums(table.sums_UM.cpu().double(), lay_out(position_BT, lengths_B))
        return torch.cat([F.normalize(half, dim=1) for half in halves], 1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: a sum over several rounds otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evenly(total: int, wanted: int) -> np.ndarray:
    """Return at most `wanted` of the numbers below `total`, spread evenly."""
    return np.arange(total) if total <= wanted else np.arange(wanted) * total // wanted
