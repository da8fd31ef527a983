"""Which words a vector leans to that is no sentence's: a mean of vectors, say, or one of the embedding `meaning`.

Non-negative orthogonal matching pursuit on the directions of both parts, whose lengths mean nothing; it ends when a word more
explains little.

Shape suffixes: R rows, d word vector, s spelling, D = d + s, M candidates.
"""

from __future__ import annotations

import numpy as np

from lstm_embed.model.dictionary import Dictionary, FloatArray, IntArray

_MOST_WORDS = 16
_LITTLE = 0.01
"""Share of a vector's square that a word must explain to be named."""
_PREFERENCE = 0.01
"""What a frequency e times as high is worth, in cosine."""
_CANDIDATES = 500
_ROWS_AT_ONCE = 64


def find_leanings(dictionary: Dictionary, words_Rd: FloatArray, spelling_Rs: FloatArray) -> list[IntArray]:
    """Return the words that each row leans to most, best first, 16 at most.

    Args:
        dictionary: The words.
        words_Rd: Words part of each row, at any length.
        spelling_Rs: Its spelling part.
    """
    found: list[IntArray] = []
    for start in range(0, len(words_Rd), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        target_RD = np.hstack([_unit(words_Rd[rows]), _unit(spelling_Rs[rows])]).astype(np.float32)
        found += _find(dictionary, target_RD)
    return found


def _find(dictionary: Dictionary, target_RD: FloatArray) -> list[IntArray]:
    size, lengths_V = dictionary.size, dictionary.lengths_V
    prior_V = _PREFERENCE * dictionary.table_VE[:, -1]
    query_RD = target_RD @ dictionary.unwhiten_DD
    candidates_RM = dictionary.likeliest(
        lambda block: query_RD @ dictionary.table_VE[block, :size].T / lengths_V[block] + prior_V[block],
        len(target_RD),
        _CANDIDATES,
    )
    found = []
    for target_D, candidates in zip(target_RD, candidates_RM, strict=True):
        units_MD = dictionary.table_VE[candidates, :size] @ dictionary.unwhiten_DD / lengths_V[candidates, None]
        taken = _pursue(target_D, units_MD, prior_V[candidates])
        found.append(dictionary.ids_V[candidates[taken]])
    return found


def _pursue(target_D: FloatArray, units_MD: FloatArray, prior_M: FloatArray) -> IntArray:
    """Return which of the candidates, of length 1, the target is made of, those with the largest coefficients first."""
    from scipy.optimize import nnls  # here: those who only encode need not wait for it

    length = float(np.linalg.norm(target_D))
    taken: list[int] = []
    coefficients = np.zeros(0)
    rest_D, rest = target_D, length
    while length > 0.0 and len(taken) < min(_MOST_WORDS, len(units_MD)):
        cosine_M = units_MD @ rest_D
        cosine_M[taken] = -np.inf
        best = int((cosine_M + rest * prior_M).argmax())
        if not cosine_M[best] > 0.0:
            break
        fitted, left = nnls(units_MD[[*taken, best]].T.astype(np.float64), target_D.astype(np.float64))
        if taken and rest**2 - left**2 < _LITTLE * length**2:
            break
        taken.append(best)
        coefficients, rest = fitted, left
        rest_D = target_D - (coefficients @ units_MD[taken]).astype(np.float32)
    by_coefficient = np.argsort(-coefficients, kind="stable")
    return np.array(taken, np.int64)[by_coefficient[coefficients[by_coefficient] > 0.0]]


def _unit(part_Rd: FloatArray) -> FloatArray:
    return part_Rd / np.maximum(np.linalg.norm(part_Rd, axis=1, keepdims=True), np.float32(1e-30))
