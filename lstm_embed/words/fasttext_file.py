"""fastText's own binary files: words, and the n-grams that every word's vector is made of.

Read without gensim, whose reader takes all vectors into memory, never ends on a file that is cut off inside its words, and
reads noise from a compressed one. Layout: `FastText::saveModel`, `Dictionary::save` and `DenseMatrix::save` of
https://github.com/facebookresearch/fastText (version 12; version 11 has the same).
"""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from lstm_embed.words.plain_files import FASTTEXT_MAGIC, Rows

FloatArray = npt.NDArray[np.float32]

_VERSIONS = (11, 12)
_LONGEST_WORD = 10_000
_MOST_PRUNED = 1 << 40


class Subwords:
    """Vectors of character n-grams, and the rule that finds those of a word (Bojanowski et al. 2017).

    Args:
        vectors: One row a bucket.
        shortest: Characters of the shortest n-gram.
        longest: Characters of the longest one; 0 for none.
    """

    def __init__(self, vectors: FloatArray, shortest: int, longest: int) -> None:
        self.vectors, self.shortest, self.longest = vectors, shortest, longest

    def compose(self, word: str, own: FloatArray | None = None) -> FloatArray:
        """Return the mean of a word's n-grams, and of its own vector if it has one; zero without any."""
        from gensim.models.fasttext import ft_ngram_hashes

        parts: FloatArray = np.zeros((0, self.vectors.shape[1]), np.float32) if own is None else own[None]
        if len(self.vectors) and self.longest:
            rows = list(ft_ngram_hashes(word, self.shortest, self.longest, len(self.vectors)))
            parts = np.concatenate([parts, self.vectors[rows]])
        return parts.mean(axis=0, dtype=np.float32) if len(parts) else np.zeros(parts.shape[1], np.float32)


def read_fasttext(path: str) -> tuple[Rows, Subwords]:
    """Return the words of a fastText binary, and its n-grams; vectors stay on disk until they are asked for.

    Args:
        path: Local and not compressed.

    Raises:
        EOFError: if it is cut off.
        ValueError: if it is not such a file, or a quantized one.
    """
    with open(path, "rb") as file:
        magic, version = _read(file, "<4si")
        if magic != FASTTEXT_MAGIC or version not in _VERSIONS:
            raise ValueError(
                f"it begins with {magic!r} and version {version}; expected {FASTTEXT_MAGIC!r} and version 12"
            )
        dimension, *_, bucket, shortest, longest, _rate, _t = _read(file, "<12id")
        size, num_words, _labels, _tokens, pruned = _read(file, "<3i2q")
        words = _words(file, size, num_words)
        file.seek(8 * min(max(pruned, 0), _MOST_PRUNED), os.SEEK_CUR)
        (quantized,) = _read(file, "<?")
        if quantized:
            raise ValueError("it is quantized (.ftz); expected a .bin")
        rows, columns = _read(file, "<2q")
        if not 0 < dimension == columns or not 0 < num_words <= rows <= num_words + bucket:
            raise ValueError(
                f"its vectors are {rows} x {columns}, for {num_words} words of dimension {dimension} and {bucket} n-grams"
            )
        start = file.tell()
        # The output weights come last. They are not used, but a file without them has lost its end.
        file.seek(4 * rows * columns, os.SEEK_CUR)
        _quantized, output_rows, output_columns = _read(file, "<?2q")
        if os.path.getsize(path) < file.tell() + 4 * output_rows * output_columns:
            raise EOFError("it ends inside its output weights")
    vectors: FloatArray = np.memmap(path, "<f4", "r", start, (rows, columns))
    subwords = Subwords(vectors[num_words:], shortest, longest)
    numbered = ((word, number) for number, word in enumerate(words))
    return Rows(columns, numbered, lambda number: subwords.compose(words[number], vectors[number])), subwords


def _read(file: BinaryIO, layout: str) -> tuple[Any, ...]:
    data = file.read(struct.calcsize(layout))
    if len(data) < struct.calcsize(layout):
        raise EOFError("it ends early")
    return struct.unpack(layout, data)


def _words(file: BinaryIO, size: int, num_words: int) -> list[str]:
    """Return the words of the dictionary; labels, which come after them, are skipped."""
    words: list[str] = []
    for _ in range(size):
        word = bytearray()
        while (byte := file.read(1)) != b"\0":
            if not byte or len(word) > _LONGEST_WORD:
                raise EOFError(f"it ends or makes no sense after {len(words)} of {num_words} words")
            word += byte
        _read(file, "<qb")
        if len(words) < num_words:
            words.append(word.decode("utf-8", "replace"))
    return words
