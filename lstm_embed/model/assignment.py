"""In which order known words stand, read from the sum of their rotated phases (`positions`).

Each word and each place have a correlation with the sum; the best assignment of words to places (Kuhn 1955; scipy's
`linear_sum_assignment`) is right for a short sentence. For a long one it is the last step of approximate message passing
(Donoho, Maleki and Montanari 2009; for such sums Barbier and Krzakala 2017): every word has a share in every place, what
all shares explain is taken from the sum, with the correction for what the shares have already seen of it, and the shares
are the odds of what is left, balanced so that each place is taken once (Sinkhorn 1964). An order that is nearly right is mended
by assigning again with all other words subtracted, and by swaps of two. The rest says whether the answer is right.

Shape suffixes: n words of a sentence and its places, f complex numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Complex = npt.NDArray[np.complex64]

AGREES = 0.01
"""Rest, as a share of the sum's length, below which an order is right: fp16 leaves 0.0003, two wrong words 0.1 and more."""


_SETTLED = np.float32(1e-3)
"""Variance of what is left, a word's being 1/2 for each number, at which messages have said all."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Words in the order found.

    Attributes:
        ids: Word ids by place, shape (n,).
        residual: Length of what the order leaves unexplained, as a share of the sum's length.
    """

    ids: IntArray
    residual: float


def find_orders(
    bags: Sequence[IntArray],
    sums_Rs: npt.NDArray[np.float32],
    phases_Vf: npt.NDArray[np.uint8],
    omega_f: npt.NDArray[np.float64],
    *,
    restarts: int = 12,
) -> list[Order]:
    """Return the order of each sentence's words.

    The same sums have the same answers, whatever else is asked for with them.

    Args:
        bags: Ids of each sentence in any order, a repeated word as often as it stands there.
        sums_Rs: For each sentence the recovered p at its own length: real parts, then imaginary ones.
        phases_Vf: Phases of the vocabulary.
        omega_f: What `positions.frequencies` returned.
        restarts: How often to start again for a sentence whose rest is not near zero.
    """
    longest = max((len(bag) for bag in bags), default=0)
    turns_nf = np.exp(1j * np.arange(longest)[:, None] * omega_f).astype(np.complex64)
    circle_256 = np.exp(2j * np.pi * np.arange(256) / 256).astype(np.complex64)
    found = []
    for bag, sum_s in zip(bags, sums_Rs, strict=True):
        # Sorted, so that the answer does not depend on the order that was passed.
        ids = np.sort(np.asarray(bag, np.int64))
        half = len(sum_s) // 2
        sum_f = sum_s[:half].astype(np.float32) + np.complex64(1j) * sum_s[half:].astype(np.float32)
        found.append(_find_order(ids, sum_f, circle_256[phases_Vf[ids]], turns_nf, restarts))
    return found


def _find_order(ids: IntArray, sum_f: Complex, words_nf: Complex, turns_nf: Complex, restarts: int) -> Order:
    n = len(ids)
    length = float(np.linalg.norm(sum_f))
    if n == 0 or length == 0.0:
        return Order(ids=ids, residual=1.0 if n or length else 0.0)
    search = _Search(sum_f, words_nf, turns_nf[:n])
    places_n = search.run(restarts, AGREES * length)
    ordered = np.empty_like(ids)
    ordered[places_n] = ids
    # The length was stored apart; it is fitted, so that the residual tells of the order alone.
    made_f = search.explained(places_n)
    share = float(np.real(np.vdot(made_f, sum_f))) / (float(np.linalg.norm(made_f)) * length + 1e-30)
    residual = float(np.linalg.norm(sum_f / length - share * made_f / (np.linalg.norm(made_f) + 1e-30)))
    return Order(ids=ordered, residual=residual)


class _Search:
    """The search for one sentence."""

    def __init__(self, sum_f: Complex, words_nf: Complex, turns_nf: Complex) -> None:
        self.sum_f, self.words_nf, self.turns_nf = sum_f, words_nf, turns_nf
        n = len(words_nf)
        self.n = n
        self.every_n = np.arange(n)
        # What a word at one place has in common with itself at another: a function of how far they are apart.
        self.alike_nn = np.real(turns_nf @ turns_nf.conj().T)
        self.back_fn = np.ascontiguousarray(turns_nf.conj().T)
        self.words_back_nf = words_nf.conj()
        self.apart_nnn: npt.NDArray[np.float32] | None = None

    def explained(self, places_n: IntArray) -> Complex:
        return (self.words_nf * self.turns_nf[places_n]).sum(0)

    def rest(self, places_n: IntArray) -> float:
        return float(np.linalg.norm(self.sum_f - self.explained(places_n)))

    def correlations(self, rest_f: Complex) -> npt.NDArray[np.float32]:
        return np.real((rest_f * self.words_back_nf) @ self.back_fn)

    def assign(self, score_nn: npt.NDArray[np.float32]) -> IntArray:
        from scipy.optimize import linear_sum_assignment  # here: those who only encode need not wait for it

        return linear_sum_assignment(score_nn, maximize=True)[1]

    def assign_again(self, places_n: IntArray, enough: float) -> tuple[IntArray, float]:
        """Assign with all other words subtracted, as long as that shortens the rest."""
        rest = self.rest(places_n)
        while rest > enough:
            score_nn = self.correlations(self.sum_f - self.explained(places_n)) + self.alike_nn[places_n]
            again_n = self.assign(score_nn)
            again = self.rest(again_n)
            if again > rest * (1.0 - 1e-6):
                break
            places_n, rest = again_n, again
        return places_n, rest

    def swap(self, places_n: IntArray, enough: float) -> IntArray:
        """Make the swap of two words that shortens the rest most, again and again."""
        if self.apart_nnn is None:
            # |(word_i - word_j) (turn_s - turn_t)|^2 is a function of i, j and how far s and t are apart.
            words_nnf = 2.0 - 2.0 * (self.words_nf[:, None] * self.words_back_nf[None]).real
            turns_fn = np.ascontiguousarray((2.0 - 2.0 * self.turns_nf.real).T)
            self.apart_nnn = (words_nnf.reshape(self.n**2, -1) @ turns_fn).reshape(self.n, self.n, self.n)
        every = self.every_n
        places_n = places_n.copy()
        while True:
            rest_f = self.sum_f - self.explained(places_n)
            if np.linalg.norm(rest_f) <= enough:
                return places_n
            score_nn = self.correlations(rest_f)
            at_nn = score_nn[:, places_n]
            own_n = at_nn[every, every]
            apart_nn = np.abs(places_n[:, None] - places_n)
            change_nn = self.apart_nnn[every[:, None], every, apart_nn] + 2.0 * (
                own_n[:, None] + own_n - at_nn - at_nn.T
            )
            best = int(change_nn.argmin())
            if change_nn.flat[best] > -1e-3:
                return places_n
            i, j = divmod(best, self.n)
            places_n[i], places_n[j] = places_n[j], places_n[i]

    def pass_messages(self, steps: int, damping: float, noise_nn: npt.NDArray[np.float32] | None) -> IntArray:
        """Return the places after `steps` of message passing.

        Args:
            steps: Steps at most.
            damping: Share of the new shares in each step.
            noise_nn: What to add to the first step's odds, so that it takes another way.
        """
        numbers = 2 * len(self.sum_f)
        unit = np.float32((numbers / 2) ** 0.5)
        shares_nn = np.full((self.n, self.n), 1.0 / self.n, np.float32)
        rest_f = self.sum_f - self.shared(shares_nn)
        for step in range(steps):
            variance = np.float32(np.vdot(rest_f, rest_f).real / numbers)
            if variance < _SETTLED:
                break
            odds_nn = (self.correlations(rest_f) + unit**2 * shares_nn) / variance
            if step == 0 and noise_nn is not None:
                odds_nn += noise_nn
            odds_nn -= odds_nn.max(1, keepdims=True)
            new_nn = np.exp(np.maximum(odds_nn, -60.0)) + np.float32(1e-12)
            for _ in range(2):
                new_nn /= new_nn.sum(0)
                new_nn /= new_nn.sum(1, keepdims=True)
            # How much of the rest the shares have taken up: the correction that makes what is left look like noise.
            seen = min(float((new_nn * (1.0 - new_nn)).sum() / (2.0 * variance)), 0.9)
            shares_nn = new_nn if step == 0 else np.float32(damping) * new_nn + np.float32(1.0 - damping) * shares_nn
            rest_f = self.sum_f - self.shared(shares_nn) + np.float32(seen) * rest_f
        return self.assign(shares_nn)

    def shared(self, shares_nn: npt.NDArray[np.float32]) -> Complex:
        return (self.words_nf * (shares_nn.astype(np.complex64) @ self.turns_nf)).sum(0)

    def run(self, restarts: int, enough: float) -> IntArray:
        places_n, rest = self.assign_again(self.assign(self.correlations(self.sum_f)), enough)
        random = np.random.default_rng(0)
        for attempt in range(restarts + 1):
            if rest <= enough:
                break
            noise_nn = random.normal(size=(self.n, self.n)).astype(np.float32) if attempt > 1 else None
            other_n = self.pass_messages(*((15, 1.0) if attempt == 0 else (30, 0.7)), noise_nn)
            other_n, other = self.assign_again(other_n, enough)
            if other < rest:
                places_n, rest = other_n, other
        return places_n if rest <= enough else self.swap(places_n, enough)
