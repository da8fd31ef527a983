"""The words that sums are read with: a table in which the likely ones are found fast.

Both sums, of words and of spelling, are seen in the basis where the words of a text, drawn by their frequency, have the
identity for second moments. There the words that are not found yet are about white noise to the one that is looked for (a
matched filter).

Shape suffixes: V vocabulary, B a block of it, R rows (sentences), d word vector, s spelling, D = d + s, E = D + 2, M
candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from lstm_embed.model.batch import FIRST_WORD

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
Found = tuple[IntArray, IntArray, FloatArray]
"""Rows, columns and scores."""


class Dictionary:
    """Words by what they add to both sums, the most frequent first.

    Args:
        words_Vd: What each word adds to the sum of words, weighted; rows of zeros are left out, and so is padding.
        spelling_Vs: What it adds to the sum of spelling.
        counts_V: Word counts of the training corpus: frequent words are likely. Of no influence where the evidence is clear.
        block: Words looked at together.

    Attributes:
        ids_V: Word ids.
        table_VE: Words in the white basis; then what a word must explain to be there once, and how likely it is beforehand.
        lengths_V: Lengths of the words, both parts joined.
    """

    def __init__(
        self, words_Vd: FloatArray, spelling_Vs: FloatArray, counts_V: npt.ArrayLike, *, block: int = 4096
    ) -> None:
        known_V = np.logical_or(words_Vd.any(1), spelling_Vs.any(1))
        known_V[:FIRST_WORD] = False
        counts = np.asarray(counts_V, np.float64)[known_V]
        by_count = np.argsort(-counts, kind="stable")
        self.ids_V: IntArray = np.flatnonzero(known_V)[by_count]
        self.word_size, self.size = words_Vd.shape[1], words_Vd.shape[1] + spelling_Vs.shape[1]
        self._block = block
        num_words = len(self.ids_V)
        p_V = np.maximum(counts[by_count], 1.0)
        p_V = 0.9 * p_V / p_V.sum() + 0.1 / max(num_words, 1)
        self._scales_D = np.repeat(
            [1.0 / max(_root_mean_square(part, self.ids_V), 1e-12) for part in (words_Vd, spelling_Vs)],
            [words_Vd.shape[1], spelling_Vs.shape[1]],
        ).astype(np.float32)
        blocks = [slice(start, start + block) for start in range(0, num_words, block)]
        moments_DD = np.zeros((self.size, self.size))
        for rows in blocks:
            joined_BD = self.joined(words_Vd[self.ids_V[rows]], spelling_Vs[self.ids_V[rows]])
            moments_DD += (joined_BD * p_V[rows, None].astype(np.float32)).T @ joined_BD
        values, axes = np.linalg.eigh(moments_DD)
        values = values + max(float(values.mean()) * 0.03, 1e-12)
        self.whiten_DD = ((axes * values**-0.5) @ axes.T).astype(np.float32)
        self.unwhiten_DD = ((axes * values**0.5) @ axes.T).astype(np.float32)
        self.mean_whitening = float(np.sqrt((1.0 / values).mean()))
        self.table_VE = np.empty((num_words, self.size + 2), np.float32)
        self.lengths_V = np.empty(num_words, np.float32)
        for rows in blocks:
            joined_BD = self.joined(words_Vd[self.ids_V[rows]], spelling_Vs[self.ids_V[rows]])
            white_BD = joined_BD @ self.whiten_DD
            self.table_VE[rows, :-2] = white_BD
            self.table_VE[rows, -2] = -0.5 * np.einsum("bd,bd->b", white_BD, white_BD)
            self.lengths_V[rows] = np.maximum(np.linalg.norm(joined_BD, axis=1), 1e-20)
        self.table_VE[:, -1] = np.log(p_V * 15.0)

    def joined(self, words_Rd: FloatArray, spelling_Rs: FloatArray) -> FloatArray:
        """Return sums of both parts in one, shape (R, D), the parts scaled so that words have length 1 in each."""
        return np.hstack([words_Rd, spelling_Rs]).astype(np.float32) * self._scales_D

    def likeliest(
        self, scores_of: Callable[[slice], FloatArray], num_rows: int, most: int, *, first: int = 0
    ) -> IntArray:
        """Look through the words in blocks; return for each row the places of the best in the table, shape (R, M), best first.

        Args:
            scores_of: Returns the scores of a block of the table, shape (R, B).
            num_rows: Rows R.
            most: Words M to return, of all that there are.
            first: Words at the table's begin that are left out.
        """
        num_words = len(self.table_VE)
        most = min(most, num_words - first)
        if most <= 0:
            return np.zeros((num_rows, 0), np.int64)
        least_R = np.full((num_rows, 1), -np.inf, np.float32)
        found: list[Found] = []
        for number, start in enumerate(range(first, num_words, self._block)):
            score_RB = scores_of(slice(start, start + self._block))
            if number == 0 and score_RB.shape[1] > most:
                least_R = np.partition(score_RB, -most, axis=1)[:, -most, None]
            row, column = np.nonzero(score_RB >= least_R)
            found.append((row, column + start, score_RB[row, column]))
            # After the 1st, 2nd, 4th... block, so that what is kept stays small.
            if number & (number + 1) == 0:
                found = [_best(found, most, least_R)]
        return _best(found, most, least_R)[1].reshape(num_rows, most)


def _root_mean_square(part_Vd: FloatArray, rows: IntArray) -> float:
    return float(np.sqrt(np.mean(np.einsum("vd,vd->v", part_Vd, part_Vd)[rows]))) if len(rows) else 1.0


def _best(found: list[Found], most: int, least_R: FloatArray) -> Found:
    """Return the `most` highest scores of each row, by row.

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
