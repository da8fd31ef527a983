"""Which words a sentence has, and how often, read from the sums of their vectors and of their spelling.

Orthogonal matching pursuit (Pati et al. 1993; Tropp 2004): take the words that explain most of what is left, refit all taken
by least squares, repeat; the coefficients are whole counts. Three things make it exact and fast:

- Both sums are seen in the basis where the words of a text, drawn by their frequency, have the identity for second moments.
  There the words that are not found yet are about white noise to the one that is looked for (a matched filter).
- A word is judged by the odds that it is there: what it explains if it is there once, its frequency, and how much is not
  explained yet. So several words are taken at once while the evidence is clear, frequent short ones only at the end.
- The whole vocabulary is looked through a few times in blocks; between that, a few hundred candidates and the most frequent
  words.

A sentence's answer does not depend on what else is asked for with it beyond the rounding of float32 products.

Shape suffixes: V vocabulary, R rows (sentences), d word vector, s spelling, D = d + s, F frequent words, M candidates, K words
taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from lstm_embed.model.batch import FIRST_WORD

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

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
_LITTLE = 0.01
"""Share of a vector's square that a word must explain to be named among those it leans to."""
_PREFERENCE = 0.01
"""What a frequency e times as high is worth, in cosine, where words are named that a vector leans to."""
_LEANING_CANDIDATES = 500
_NEVER = np.float32(-1e30)


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


class WordPursuit:
    """Finds words in sums.

    Args:
        words_Vd: What each word adds to the sum of words, weighted; rows of zeros are never found, nor is padding.
        spelling_Vs: What it adds to the sum of spelling.
        counts_V: Word counts of the training corpus: frequent words are likely. Of no influence where the evidence is clear.
        block: Words looked at together.
    """

    def __init__(
        self, words_Vd: FloatArray, spelling_Vs: FloatArray, counts_V: npt.ArrayLike, *, block: int = 4096
    ) -> None:
        counts = np.asarray(counts_V, np.float64).copy()
        counts[:FIRST_WORD] = 0.0
        known_V = np.logical_or(words_Vd.any(1), spelling_Vs.any(1))
        known_V[:FIRST_WORD] = False
        self.word_size = words_Vd.shape[1]
        self.size = words_Vd.shape[1] + spelling_Vs.shape[1]
        self.block = block
        #: Rows of the table: words by falling frequency.
        self.ids_V: IntArray = np.flatnonzero(known_V)[np.argsort(-counts[known_V], kind="stable")]
        num_words = len(self.ids_V)
        p_V = np.maximum(counts[self.ids_V], 1.0)
        p_V = 0.9 * p_V / p_V.sum() + 0.1 / max(num_words, 1)
        self.scales_D = np.concatenate(
            [
                np.full(part.shape[1], 1.0 / max(_root_mean_square(part, self.ids_V), 1e-12), np.float32)
                for part in (words_Vd, spelling_Vs)
            ]
        )
        moments_DD = np.zeros((self.size, self.size))
        for start in range(0, num_words, block):
            rows = slice(start, start + block)
            dictionary_BD = self._joined(words_Vd[self.ids_V[rows]], spelling_Vs[self.ids_V[rows]])
            moments_DD += (dictionary_BD * p_V[rows, None].astype(np.float32)).T @ dictionary_BD
        values, axes = np.linalg.eigh(moments_DD)
        values = values + max(float(values.mean()) * 0.03, 1e-12)
        self.whiten_DD = ((axes * values**-0.5) @ axes.T).astype(np.float32)
        self.unwhiten_DD = ((axes * values**0.5) @ axes.T).astype(np.float32)
        self.noise = _NOISE * float(np.sqrt((1.0 / values).mean()))
        # The last two columns: what a word must explain to be there once, and how likely it is beforehand.
        self.table_VE = np.empty((num_words, self.size + 2), np.float32)
        self.lengths_V = np.empty(num_words, np.float32)
        for start in range(0, num_words, block):
            rows = slice(start, start + block)
            dictionary_BD = self._joined(words_Vd[self.ids_V[rows]], spelling_Vs[self.ids_V[rows]])
            white_BD = dictionary_BD @ self.whiten_DD
            self.table_VE[rows, :-2] = white_BD
            self.lengths_V[rows] = np.maximum(np.linalg.norm(dictionary_BD, axis=1), 1e-20)
            self.table_VE[rows, -2] = -0.5 * np.einsum("bd,bd->b", white_BD, white_BD)
        self.table_VE[:, -1] = np.log(p_V * 15.0)
        self.num_frequent = min(_FREQUENT, num_words)

    def _joined(self, words_Rd: FloatArray, spelling_Rs: FloatArray) -> FloatArray:
        return np.hstack([words_Rd, spelling_Rs]).astype(np.float32) * self.scales_D

    # Sums of known length

    def find(
        self, words_Rd: FloatArray, spelling_Rs: FloatArray, *, most_words: int, rows_at_once: int = 192
    ) -> list[Bag]:
        """Return the words of each row and how often they are there.

        Args:
            words_Rd: Sums of words, as recovered.
            spelling_Rs: Sums of spelling.
            most_words: Distinct words that a sentence has at most.
            rows_at_once: Rows that are looked for together.
        """
        lengths_R = np.linalg.norm(spelling_Rs, axis=1)
        order_R = np.argsort(-lengths_R, kind="stable")
        bags: list[Bag] = [_NOTHING] * len(words_Rd)
        for start in range(0, len(words_Rd), rows_at_once):
            rows = order_R[start : start + rows_at_once]
            for row, bag in zip(rows, self._find(words_Rd[rows], spelling_Rs[rows], most_words), strict=True):
                bags[row] = bag
        return bags

    def leanings(self, words_Rd: FloatArray, spelling_Rs: FloatArray, *, most_words: int = 16) -> list[IntArray]:
        """Return the words that each row leans to most, best first, of vectors whose lengths mean nothing.

        Non-negative orthogonal matching pursuit on the directions of both parts; it ends when a word more explains little.

        Args:
            words_Rd: Words part of each row, at any length.
            spelling_Rs: Its spelling part.
            most_words: Words to return at most.
        """
        found: list[IntArray] = []
        for start in range(0, len(words_Rd), 64):
            rows = slice(start, start + 64)
            target_RD = np.hstack([_unit(words_Rd[rows]), _unit(spelling_Rs[rows])]).astype(np.float32)
            found.extend(self._leanings(target_RD, most_words))
        return found

    def _leanings(self, target_RD: FloatArray, most_words: int) -> list[IntArray]:
        size = self.size
        most = min(_LEANING_CANDIDATES, len(self.table_VE))
        query_RD = target_RD @ self.unwhiten_DD
        prior_V = _PREFERENCE * self.table_VE[:, -1]
        least_R = np.full((len(target_RD), 1), -np.inf, np.float32)
        none = np.zeros(0, np.int64)
        row, column, cosine = none, none, np.zeros(0, np.float32)
        for start in range(0, len(self.table_VE), self.block):
            block = slice(start, start + self.block)
            cosine_RB = query_RD @ self.table_VE[block, :size].T / self.lengths_V[block] + prior_V[block]
            new_row, new_column = np.nonzero(cosine_RB > least_R)
            new = new_row, new_column + start, cosine_RB[new_row, new_column].astype(np.float32)
            row, column, cosine = _best([(row, column, cosine), new], most, least_R)
        found = []
        for at, target_D in enumerate(target_RD):
            candidates = column[row == at]
            found.append(self._leaning(target_D, candidates, most_words))
        return found

    def _leaning(self, target_D: FloatArray, candidates: IntArray, most_words: int) -> IntArray:
        length = float(np.linalg.norm(target_D))
        if not length > 0.0:
            return np.zeros(0, np.int64)
        unit_MD = self.table_VE[candidates, : self.size] @ self.unwhiten_DD / self.lengths_V[candidates, None]
        prior_M = _PREFERENCE * self.table_VE[candidates, -1]
        taken: list[int] = []
        coefficients = np.zeros(0)
        rest_D, rest = target_D, length
        while len(taken) < most_words:
            cosine_M = unit_MD @ rest_D
            cosine_M[taken] = -np.inf
            best = int((cosine_M + rest * prior_M).argmax())
            if not cosine_M[best] > 0.0:
                break
            fitted, left = nnls(unit_MD[[*taken, best]].T.astype(np.float64), target_D.astype(np.float64))
            if taken and rest**2 - left**2 < _LITTLE * length**2:
                break
            taken.append(best)
            coefficients, rest = fitted, left
            rest_D = target_D - (coefficients @ unit_MD[taken]).astype(np.float32)
        order = [place for place in np.argsort(-coefficients, kind="stable") if coefficients[place] > 0.0]
        return self.ids_V[candidates[np.array(taken, np.int64)[order]]] if order else np.zeros(0, np.int64)

    def _find(self, words_Rd: FloatArray, spelling_Rs: FloatArray, most_words: int) -> list[Bag]:
        joined_RD = self._joined(words_Rd, spelling_Rs)
        d = self.word_size
        parts = joined_RD[:, :d] @ self.whiten_DD[:d], joined_RD[:, d:] @ self.whiten_DD[d:]
        state = _State(self, joined_RD, parts, most_words)
        self._pursue(state, _ROUNDS)
        for row in np.flatnonzero(~state.done_R).tolist():
            self._repair(state, row)
        return state.best

    def _pursue(self, state: _State, rounds: Sequence[int]) -> None:
        """Look through the vocabulary once for each number of candidates in `rounds`, or until all is explained."""
        for most in rounds:
            open_R = np.flatnonzero(~state.done_R)
            if not len(open_R):
                break
            candidates_RM = self._candidates(state, open_R, most)
            at_once = max(1, _GATHERED // max(candidates_RM.shape[1], 1))
            for start in range(0, len(open_R), at_once):
                rows = slice(start, start + at_once)
                state.search(open_R[rows], candidates_RM[rows])

    def _repair(self, state: _State, row: int) -> None:
        """Pursue a row again without one of its words, for each of the most doubtful ones.

        A word and one that is almost the same may have been taken for each other.
        """
        taken = state.taken[row]
        if not len(taken) or state.best[row].residual > _MENDABLE:
            return
        fitted = state.coefficients[row]
        doubtful = np.argsort(-np.abs(fitted - np.rint(fitted)), kind="stable")[:_DOUBTFUL]
        attempt = state.without(row, doubtful)
        self._pursue(attempt, _ROUNDS[-1:])
        for bag in attempt.best:
            if bag.residual < state.best[row].residual:
                state.best[row] = bag

    def _candidates(self, state: _State, rows: IntArray, most: int) -> IntArray:
        """Return for each row the likeliest words that are not among the most frequent, shape (R, M)."""
        query_RE = state.query(rows)
        num_words = len(self.table_VE)
        most = min(most, num_words - self.num_frequent)
        if most <= 0:
            return np.zeros((len(rows), 0), np.int64)
        least_R = np.full((len(rows), 1), -np.inf, np.float32)
        found: list[tuple[IntArray, IntArray, FloatArray]] = []
        for number, start in enumerate(range(self.num_frequent, num_words, self.block)):
            score_RB = query_RE @ self.table_VE[start : start + self.block].T
            if number == 0 and score_RB.shape[1] > most:
                least_R = np.partition(score_RB, -most, axis=1)[:, -most, None]
            row, column = np.nonzero(score_RB >= least_R)
            found.append((row, column + start, score_RB[row, column]))
            # After the 1st, 2nd, 4th... block, so that what is kept stays small.
            if number & (number + 1) == 0:
                found = [_best(found, most, least_R)]
        row, column, _ = _best(found, most, least_R)
        counts_R = np.bincount(row, minlength=len(rows))
        found_RM = np.full((len(rows), most), -1, np.int64)
        found_RM[np.arange(most) < counts_R[:, None]] = column
        return found_RM


class _State:
    """Rows that are being looked for."""

    def __init__(
        self, pursuit: WordPursuit, joined_RD: FloatArray, parts: tuple[FloatArray, FloatArray], most_words: int
    ) -> None:
        self.pursuit, self.joined_RD, self.parts, self.most_words = pursuit, joined_RD, parts, most_words
        num_rows = len(joined_RD)
        self.target_RD = parts[0] + parts[1]
        self.rest_RD = self.target_RD.copy()
        self.taken: list[IntArray] = [np.zeros(0, np.int64)] * num_rows
        self.coefficients: list[FloatArray] = [np.zeros(0, np.float32)] * num_rows
        length_R = np.linalg.norm(joined_RD, axis=1)
        self.floor_R = np.maximum(pursuit.noise**2 * length_R**2 / pursuit.size, 1e-20).astype(np.float32)
        self.variance_R = self._variance()
        self.done_R = ~((length_R > 0.0) & (length_R < _LONGEST))
        self.best: list[Bag] = [_NOTHING] * num_rows
        self.forbidden = np.full(num_rows, -1, np.int64)

    def _variance(self) -> FloatArray:
        taken_R = np.array([len(taken) for taken in self.taken])
        return np.maximum(
            np.einsum("rd,rd->r", self.rest_RD, self.rest_RD) / (self.pursuit.size - taken_R), self.floor_R
        ).astype(np.float32)

    def without(self, row: int, places: IntArray) -> _State:
        """Return a state with this row once for each of `places`, the word taken there given up for good."""
        rows = np.full(len(places), row)
        made = _State(self.pursuit, self.joined_RD[rows], (self.parts[0][rows], self.parts[1][rows]), self.most_words)
        made.target_RD = self.target_RD[rows]
        made.taken = [np.delete(self.taken[row], place) for place in places]
        made.coefficients = [np.zeros(len(taken), np.float32) for taken in made.taken]
        made.forbidden = self.taken[row][places]
        with_words = np.array([at for at, taken in enumerate(made.taken) if len(taken)], np.int64)
        if len(with_words):
            made.refit(with_words)
        return made

    def query(self, rows: IntArray) -> FloatArray:
        return np.hstack([self.rest_RD[rows], np.ones((len(rows), 1), np.float32), self.variance_R[rows, None]])

    def search(self, rows: IntArray, candidates_RM: IntArray) -> None:
        """Pursue among candidates and the most frequent words until none of them is likely."""
        frequent_FE = self.pursuit.table_VE[: self.pursuit.num_frequent]
        gathered_RME = self.pursuit.table_VE[np.maximum(candidates_RM, 0)]
        gathered_RME[candidates_RM < 0] = 0.0
        gathered_RME[candidates_RM < 0, -2] = _NEVER
        columns_RN = np.hstack([np.tile(np.arange(len(frequent_FE)), (len(rows), 1)), candidates_RM])
        # A word that was dropped comes back only when the vocabulary is looked through again.
        barred_RN = columns_RN == self.forbidden[rows, None]
        for at, row in enumerate(rows):
            barred_RN[at] |= np.isin(columns_RN[at], self.taken[row])
        going_R = np.ones(len(rows), bool)
        most_taken = min(2 * self.most_words, self.pursuit.size // 2)
        for step in range(_STEPS):
            query_RE = self.query(rows)
            score_RN = np.hstack([query_RE @ frequent_FE.T, np.matmul(gathered_RME, query_RE[:, :, None])[:, :, 0]])
            score_RN[barred_RN] = -np.inf
            for at in np.flatnonzero(going_R).tolist():
                taken = self.taken[rows[at]]
                likely = np.flatnonzero(score_RN[at] > 0.0)
                if not len(likely) and step == 0 and score_RN[at].max(initial=-np.inf) > _NEVER / 2:
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
        size = self.pursuit.size
        most = max(len(self.taken[row]) for row in rows)
        taken_RK = np.full((len(rows), most), -1, np.int64)
        for place, row in enumerate(rows):
            taken_RK[place, : len(self.taken[row])] = self.taken[row]
        real_RK = taken_RK >= 0
        words_RKD = self.pursuit.table_VE[np.maximum(taken_RK, 0), :size]
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
        size = self.pursuit.size
        for row in rows:
            counts = np.rint(self.coefficients[row])
            keep = counts > 0
            taken, counts = self.taken[row][keep], counts[keep].astype(np.float32)
            explained_D = counts @ self.pursuit.table_VE[taken, :size]
            residual, scales = self._residual(row, explained_D)
            if residual < self.best[row].residual:
                ids = self.pursuit.ids_V[taken]
                by_id = np.argsort(ids)
                self.best[row] = Bag(ids=ids[by_id], counts=counts[by_id].astype(np.int64), residual=residual)
            if residual < AGREES:
                self.done_R[row] = True
            elif residual < 0.05 and max(abs(scales[0] - 1.0), abs(scales[1] - 1.0)) < _MOST_OFF:
                self.target_RD[row] = scales[0] * self.parts[0][row] + scales[1] * self.parts[1][row]
        again = rows[~self.done_R[rows]]
        if len(again):
            with_words = np.array([row for row in again if len(self.taken[row])], np.int64)
            if len(with_words):
                self.refit(with_words)

    def _residual(self, row: int, explained_D: FloatArray) -> tuple[float, tuple[float, float]]:
        """Return the residual of counts, in the basis the sums came in, and by what each part is to be multiplied."""
        raw_D = explained_D @ self.pursuit.unwhiten_DD
        d = self.pursuit.word_size
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


_NOTHING = Bag(ids=np.zeros(0, np.int64), counts=np.zeros(0, np.int64), residual=1.0)


def _unit(part_Rd: FloatArray) -> FloatArray:
    return part_Rd / np.maximum(np.linalg.norm(part_Rd, axis=1, keepdims=True), np.float32(1e-30))


def _root_mean_square(part_Vd: FloatArray, rows: IntArray) -> float:
    return float(np.sqrt(np.mean(np.einsum("vd,vd->v", part_Vd, part_Vd)[rows]))) if len(rows) else 1.0


def _least_squares(words_KD: FloatArray, target_D: FloatArray) -> FloatArray:
    gram_KK = words_KD @ words_KD.T
    gram_KK[np.diag_indices(len(gram_KK))] *= 1.0 + 1e-5
    return np.linalg.solve(gram_KK, words_KD @ target_D) if len(gram_KK) else np.zeros(0, np.float32)


def _best(
    found: list[tuple[IntArray, IntArray, FloatArray]], most: int, least_R: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Return the `most` highest scores of each row, given as rows, columns and scores, by row.

    `least_R` is raised to the lowest of them where there are enough.
    """
    row, column, score = (np.concatenate([part[number] for part in found]) for number in range(3))
    order = np.lexsort((column, -score, row))
    row, column, score = row[order], column[order], score[order]
    counts_R = np.bincount(row, minlength=len(least_R))
    rank = np.arange(len(row)) - (np.cumsum(counts_R) - counts_R)[row]
    keep = rank < most
    row, column, score = row[keep], column[keep], score[keep]
    last = rank[keep] == most - 1
    least_R[row[last], 0] = score[last]
    return row, column, score
