"""Which words a sentence has, and how often, read from the sums of their vectors and of their spelling.

Orthogonal matching pursuit (Pati et al. 1993; Tropp 2004): take the words that explain most of what is left, refit all taken
by least squares, repeat; the coefficients are whole counts. Three things make it exact and fast:

- Both sums are seen in the white basis of the `dictionary`.
- A word is judged by the odds that it is there: what it explains if it is there once, its frequency, and how much is not
  explained yet. So several words are taken at once while the evidence is clear, frequent short ones only at the end.
- The whole vocabulary is looked through a few times in blocks; between that, a few hundred candidates and the most frequent
  words.

A sentence's answer does not depend on what else is asked for with it beyond the rounding of float32 products.

Shape suffixes: R rows (sentences), d word vector, s spelling, D = d + s, E = D + 2, F frequent words, M candidates, K words
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lstm_embed.model.dictionary import Dictionary, FloatArray, IntArray

AGREES = 0.004
"""Rest, as a share of the sums' length, below which counts are right."""

_NOISE = 5e-4
"""Share of a part's length that rounding to fp16 and undoing the metric may leave wrong."""
_MOST_OFF = 0.01
"""By how much a length may be wrong: the logarithm of a length in fp16 says it to 0.2 %."""
_LEAST = 0.7
"""A coefficient surely below this is not that of a word that is there once."""
_FREQUENT = 1000
"""Words that are candidates of every sentence."""
_ROUNDS = (120, 400, 1500, 1500, 1500)
"""Candidates each time the vocabulary is looked through."""
_GATHERED = 48_000
"""Candidates of all rows together whose rows of the table are held at a time."""
_STEPS = 60
_AT_ONCE = 12
"""Words taken in a step at most."""
_DOUBTFUL = 12
_MENDABLE = 0.25
"""Residual up to which a single wrong word may be the reason."""
_LONGEST = 1e6
_ROWS_AT_ONCE = 192


@dataclass(frozen=True, kw_only=True)
class Bag:
    """Words of a sentence, without order.

    Attributes:
        ids: Distinct word ids, rising.
        counts: How often each is there, at least once.
        residual: Length of what they leave unexplained, as a share of the length, the mean of both parts; each part's
            length, which is stored apart, is fitted. 1 for nothing found.
    """

    ids: IntArray
    counts: IntArray
    residual: float

    @property
    def agrees(self) -> bool:
        """Whether what is left unexplained is near zero."""
        return self.residual < AGREES


_NOTHING = Bag(ids=np.zeros(0, np.int64), counts=np.zeros(0, np.int64), residual=1.0)


def find_words(dictionary: Dictionary, words_Rd: FloatArray, spelling_Rs: FloatArray, *, most_words: int) -> list[Bag]:
    """Return the words of each row and how often they are there.

    Args:
        dictionary: The words.
        words_Rd: Sums of words, as recovered.
        spelling_Rs: Sums of spelling.
        most_words: Distinct words that a sentence has at most.
    """
    # Sentences of about one length take about as many rounds.
    order_R = np.argsort(-np.linalg.norm(spelling_Rs, axis=1), kind="stable")
    d, bags = dictionary.word_size, [_NOTHING] * len(words_Rd)
    for start in range(0, len(words_Rd), _ROWS_AT_ONCE):
        rows = order_R[start : start + _ROWS_AT_ONCE]
        joined_RD = dictionary.joined(words_Rd[rows], spelling_Rs[rows])
        parts = joined_RD[:, :d] @ dictionary.whiten_DD[:d], joined_RD[:, d:] @ dictionary.whiten_DD[d:]
        state = _State(dictionary, joined_RD, parts, most_words)
        state.pursue(_ROUNDS)
        for at in np.flatnonzero(~state.done_R).tolist():
            state.repair(at)
        for row, bag in zip(rows, state.best, strict=True):
            bags[row] = bag
    return bags


class _State:
    """Rows that are being looked for."""

    def __init__(
        self, dictionary: Dictionary, joined_RD: FloatArray, parts: tuple[FloatArray, FloatArray], most_words: int
    ) -> None:
        self.dictionary, self.joined_RD, self.parts, self.most_words = dictionary, joined_RD, parts, most_words
        num_rows = len(joined_RD)
        self.target_RD = parts[0] + parts[1]
        self.rest_RD = self.target_RD.copy()
        self.taken: list[IntArray] = [np.zeros(0, np.int64)] * num_rows
        self.coefficients: list[FloatArray] = [np.zeros(0, np.float32)] * num_rows
        length_R = np.linalg.norm(joined_RD, axis=1)
        noise = _NOISE * dictionary.mean_whitening
        self.floor_R = np.maximum(noise**2 * length_R**2 / dictionary.size, 1e-20).astype(np.float32)
        self.variance_R = self._variance()
        self.done_R = ~((length_R > 0.0) & (length_R < _LONGEST))
        self.best: list[Bag] = [_NOTHING] * num_rows
        self.forbidden = np.full(num_rows, -1, np.int64)
        self._num_frequent = min(_FREQUENT, len(dictionary.table_VE))

    def _variance(self) -> FloatArray:
        taken_R = np.array([len(taken) for taken in self.taken])
        return np.maximum(
            np.einsum("rd,rd->r", self.rest_RD, self.rest_RD) / (self.dictionary.size - taken_R), self.floor_R
        ).astype(np.float32)

    def pursue(self, rounds: Sequence[int]) -> None:
        """Look through the vocabulary once for each number of candidates in `rounds`, or until all is explained."""
        for most in rounds:
            open_R = np.flatnonzero(~self.done_R)
            if not len(open_R):
                break
            candidates_RM = self.candidates(open_R, most)
            at_once = max(1, _GATHERED // max(candidates_RM.shape[1], 1))
            for start in range(0, len(open_R), at_once):
                rows = slice(start, start + at_once)
                self.search(open_R[rows], candidates_RM[rows])

    def candidates(self, rows: IntArray, most: int) -> IntArray:
        """Return for each row the likeliest words that are not among the most frequent, shape (R, M)."""
        query_RE, table_VE = self.query(rows), self.dictionary.table_VE
        return self.dictionary.likeliest(
            lambda block: query_RE @ table_VE[block].T, len(rows), most, first=self._num_frequent
        )

    def repair(self, row: int) -> None:
        """Pursue a row again without one of its words, for each of the most doubtful ones.

        A word and one that is almost the same may have been taken for each other.
        """
        if not len(self.taken[row]) or self.best[row].residual > _MENDABLE:
            return
        fitted = self.coefficients[row]
        doubtful = np.argsort(-np.abs(fitted - np.rint(fitted)), kind="stable")[:_DOUBTFUL]
        attempt = self.without(row, doubtful)
        attempt.pursue(_ROUNDS[-1:])
        self.best[row] = min([self.best[row], *attempt.best], key=lambda bag: bag.residual)

    def without(self, row: int, places: IntArray) -> _State:
        """Return a state with this row once for each of `places`, the word taken there given up for good."""
        rows = np.full(len(places), row)
        parts = self.parts[0][rows], self.parts[1][rows]
        made = _State(self.dictionary, self.joined_RD[rows], parts, self.most_words)
        made.target_RD = self.target_RD[rows]
        made.taken = [np.delete(self.taken[row], place) for place in places]
        made.coefficients = [np.zeros(len(taken), np.float32) for taken in made.taken]
        made.forbidden = self.taken[row][places]
        made.refit(np.arange(len(places)))
        return made

    def query(self, rows: IntArray) -> FloatArray:
        return np.hstack([self.rest_RD[rows], np.ones((len(rows), 1), np.float32), self.variance_R[rows, None]])

    def search(self, rows: IntArray, candidates_RM: IntArray) -> None:
        """Pursue among candidates and the most frequent words until none of them is likely."""
        frequent_FE = self.dictionary.table_VE[: self._num_frequent]
        gathered_RME = self.dictionary.table_VE[candidates_RM]
        columns_RN = np.hstack([np.tile(np.arange(len(frequent_FE)), (len(rows), 1)), candidates_RM])
        # A word that was dropped comes back only when the vocabulary is looked through again.
        barred_RN = columns_RN == self.forbidden[rows, None]
        for at, row in enumerate(rows):
            barred_RN[at] |= np.isin(columns_RN[at], self.taken[row])
        going_R = np.ones(len(rows), bool)
        most_taken = min(2 * self.most_words, self.dictionary.size // 2)
        for step in range(_STEPS):
            query_RE = self.query(rows)
            score_RN = np.hstack([query_RE @ frequent_FE.T, np.matmul(gathered_RME, query_RE[:, :, None])[:, :, 0]])
            score_RN[barred_RN] = -np.inf
            for at in np.flatnonzero(going_R).tolist():
                taken = self.taken[rows[at]]
                likely = np.flatnonzero(score_RN[at] > 0.0)
                if not len(likely) and step == 0 and score_RN[at].max(initial=-np.inf) > -np.inf:
                    likely = score_RN[at].argmax()[None]
                if len(likely) > _AT_ONCE:
                    likely = likely[np.argpartition(-score_RN[at, likely], _AT_ONCE)[:_AT_ONCE]]
                going_R[at] = len(likely) > 0 and len(taken) + len(likely) <= most_taken
                if going_R[at]:
                    self.taken[rows[at]] = np.concatenate([taken, columns_RN[at, likely]])
                    barred_RN[at, likely] = True
            if not going_R.any():
                break
            self.refit(rows[going_R])
            if going_R.mean() < 0.6:
                self.finish(rows[~going_R])
                rows, columns_RN, barred_RN = rows[going_R], columns_RN[going_R], barred_RN[going_R]
                gathered_RME, going_R = gathered_RME[going_R], going_R[going_R]
        self.finish(rows)

    def refit(self, rows: IntArray) -> None:
        """Fit the coefficients of all taken words; drop those that are surely not there."""
        rows = np.array([row for row in rows if len(self.taken[row])], np.int64)
        if not len(rows):
            return
        size = self.dictionary.size
        most = max(len(self.taken[row]) for row in rows)
        taken_RK = np.full((len(rows), most), -1, np.int64)
        for place, row in enumerate(rows):
            taken_RK[place, : len(self.taken[row])] = self.taken[row]
        real_RK = taken_RK >= 0
        words_RKD = self.dictionary.table_VE[np.maximum(taken_RK, 0), :size]
        words_RKD[~real_RK] = 0.0
        gram_RKK = np.matmul(words_RKD, words_RKD.transpose(0, 2, 1))
        every = np.arange(most)
        gram_RKK[:, every, every] *= 1.0 + 1e-5
        gram_RKK[:, every, every] += ~real_RK
        inverse_RKK = np.linalg.inv(gram_RKK)
        right_RK = np.matmul(words_RKD, self.target_RD[rows][:, :, None])[:, :, 0]
        fitted_RK = np.matmul(inverse_RKK, right_RK[:, :, None])[:, :, 0]
        rest_RD = self.target_RD[rows] - np.matmul(fitted_RK[:, None], words_RKD)[:, 0]
        variance_R = np.maximum(np.einsum("rd,rd->r", rest_RD, rest_RD) / (size - real_RK.sum(1)), self.floor_R[rows])
        spread_RK = np.sqrt(np.maximum(inverse_RKK[:, every, every], 0.0) * variance_R[:, None])
        unlikely_RK = real_RK & (fitted_RK + 4.0 * spread_RK < _LEAST)
        for place, row in enumerate(rows):
            keep = real_RK[place] & ~unlikely_RK[place]
            self.taken[row] = taken_RK[place, keep]
            self.coefficients[row] = fitted_RK[place, keep]
            if unlikely_RK[place].any():
                words_KD = words_RKD[place, keep]
                self.coefficients[row] = _least_squares(words_KD, self.target_RD[row])
                rest_RD[place] = self.target_RD[row] - self.coefficients[row] @ words_KD
        self.rest_RD[rows] = rest_RD
        self.variance_R[rows] = self._variance()[rows]

    def finish(self, rows: IntArray) -> None:
        """Take the coefficients as whole counts; fit the lengths of both parts; see whether nothing is left."""
        size = self.dictionary.size
        for row in rows:
            counts = np.rint(self.coefficients[row])
            keep = counts > 0
            taken, counts = self.taken[row][keep], counts[keep].astype(np.float32)
            explained_D = counts @ self.dictionary.table_VE[taken, :size]
            residual, scales = self._residual(row, explained_D)
            if residual < self.best[row].residual:
                ids = self.dictionary.ids_V[taken]
                by_id = np.argsort(ids)
                self.best[row] = Bag(ids=ids[by_id], counts=counts[by_id].astype(np.int64), residual=residual)
            if residual < AGREES:
                self.done_R[row] = True
            elif residual < 0.05 and max(abs(scales[0] - 1.0), abs(scales[1] - 1.0)) < _MOST_OFF:
                self.target_RD[row] = scales[0] * self.parts[0][row] + scales[1] * self.parts[1][row]
        self.refit(rows[~self.done_R[rows]])

    def _residual(self, row: int, explained_D: FloatArray) -> tuple[float, tuple[float, float]]:
        """Return the residual of counts, in the basis the sums came in, and by what each part is to be multiplied."""
        raw_D = explained_D @ self.dictionary.unwhiten_DD
        d = self.dictionary.word_size
        total, scales = 0.0, []
        for part in (slice(0, d), slice(d, None)):
            given, made = self.joined_RD[row, part], raw_D[part]
            square, target = float(made @ made), float(given @ given)
            if target == 0.0:
                # No word has anything there, but for what rounding leaves.
                total += square / float(self.joined_RD[row] @ self.joined_RD[row])
                scales.append(1.0)
                continue
            scale = float(given @ made) / square if square else 0.0
            scale = min(max(scale, 1.0 - _MOST_OFF), 1.0 + _MOST_OFF)
            difference = given - scale * made
            total += float(difference @ difference) / target
            scales.append(1.0 / scale)
        return float(np.sqrt(total / 2.0)), (scales[0], scales[1])


def _least_squares(words_KD: FloatArray, target_D: FloatArray) -> FloatArray:
    gram_KK = words_KD @ words_KD.T
    gram_KK[np.diag_indices(len(gram_KK))] *= 1.0 + 1e-5
    return np.linalg.solve(gram_KK, words_KD @ target_D) if len(gram_KK) else np.zeros(0, np.float32)
