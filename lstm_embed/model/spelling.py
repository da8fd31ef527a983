"""Pieces of words by their spelling: which letters they have in common, whatever they mean.

"▁walk" and "▁walks" have vectors of their own, each learned from its own sentences; their spelling says at once that they
belong together. Each n-gram of letters stands for a fixed random vector of signs, a piece for the sum of its n-grams: inner
products are about the numbers of n-grams in common (Wieting et al. 2016, "Charagram"; Achlioptas 2003, "Database-friendly
random projections"). Letters are those of the decomposed form (NFD), so that Hangul syllables fall into theirs. Nothing is
learned, and the same piece has the same signs everywhere.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from lstm_embed.corpus.pieces import BYTE_PIECES

SHORTEST, LONGEST = 3, 4
"""Letters of an n-gram; the mark of a word's begin is one of them."""

_BYTES = frozenset(BYTE_PIECES)
_PIECES_AT_ONCE = 20_000


def spelling_sums(pieces: Sequence[str], size: int) -> npt.NDArray[np.int8]:
    """Return the sum of the sign vectors of each piece's n-grams, shape (V, size); cut off at 127.

    Args:
        pieces: V pieces.
        size: Dimension, a multiple of 8 up to 512.
    """
    sums = np.zeros((len(pieces), size), np.int8)
    for start in range(0, len(pieces), _PIECES_AT_ONCE):
        row_of_gram: dict[str, int] = {}
        counts = [
            [row_of_gram.setdefault(gram, len(row_of_gram)) for gram in _grams(piece)]
            for piece in pieces[start : start + _PIECES_AT_ONCE]
        ]
        if not row_of_gram:
            continue
        digests = b"".join(_digest(gram, size) for gram in row_of_gram)
        bits = np.unpackbits(np.frombuffer(digests, np.uint8)).reshape(len(row_of_gram), size)
        signs = 2 * bits.astype(np.int16) - 1
        flat = np.fromiter((row for rows in counts for row in rows), np.int64)
        ends = np.cumsum([0, *(len(rows) for rows in counts)])
        picked = sparse.csr_array((np.ones(len(flat), np.int16), flat, ends), shape=(len(counts), len(signs)))
        sums[start : start + len(counts)] = np.clip(picked @ signs, -127, 127)
    return sums


def _grams(piece: str) -> list[str]:
    """Return the n-grams of a piece; itself for a byte, and where it is shorter than any."""
    letters = unicodedata.normalize("NFD", piece)
    if piece in _BYTES or len(letters) < SHORTEST:
        return [piece]
    return [letters[at : at + n] for n in range(SHORTEST, LONGEST + 1) for at in range(len(letters) - n + 1)]


def _digest(gram: str, size: int) -> bytes:
    return hashlib.blake2b(gram.encode("utf-8", "surrogatepass"), digest_size=size // 8).digest()
