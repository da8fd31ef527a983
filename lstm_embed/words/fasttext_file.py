"""fastText's own binary files: words, and the n-grams that every word's vector is made of.

Read without gensim, whose reader takes all vectors into memory, never ends on a file that is cut off inside its words, and
reads noise from a compressed one. Layout: `FastText::saveModel`, `Dictionary::save` and `DenseMatrix::save` of
https://github.com/facebookresearch/fastText (version 12; version 11 has the same).
"""

from __future__ import annotations

import os
import shutil
import struct
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage

FloatArray = npt.NDArray[np.float32]

MAGIC = (793_712_314).to_bytes(4, "little")
MOST_DIMENSIONS = 100_000
"""No word vector is longer; a header that says so is damaged."""
_VERSIONS = (11, 12)
_LONGEST_WORD = 10_000


class Subwords:
    """Vectors of character n-grams, and the rule that finds those of a word (Bojanowski et al. 2017).

    Args:
        vectors: One row a bucket.
        shortest: Characters of the shortest n-gram.
        longest: Characters of the longest one; 0 for none.
    """

    def __init__(self, vectors: FloatArray, shortest: int, longest: int) -> None:
        self.vectors, self.shortest, self.longest = vectors, shortest, longest

    def rows(self, word: str) -> list[int]:
        """Return the rows of a word's n-grams; none for a word that is too short for any."""
        if not len(self.vectors) or not self.longest:
            return []
        from gensim.models.fasttext import ft_ngram_hashes

        return list(ft_ngram_hashes(word, self.shortest, self.longest, len(self.vectors)))

    def compose(self, word: str, own: FloatArray | None = None) -> FloatArray:
        """Return the mean of a word's n-grams, and of its own vector if it has one; zero without any."""
        parts = [] if own is None else [own[None]]
        if rows := self.rows(word):
            parts.append(self.vectors[rows])
        if not parts:
            return np.zeros(self.vectors.shape[1], np.float32)
        mean: FloatArray = np.concatenate(parts).mean(axis=0, dtype=np.float32)
        return mean


class FastTextFile:
    """A fastText binary whose vectors stay on disk until they are asked for.

    Attributes:
        words: Its words.
        vectors: Their own vectors, without n-grams, one row a word.
        subwords: Its n-grams.

    Args:
        path: Local and not compressed.

    Raises:
        EOFError: if it is cut off.
        ValueError: if it is not such a file, or a quantized one.
    """

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            magic, version = _read(file, "<4si")
            if magic != MAGIC or version not in _VERSIONS:
                raise ValueError(f"it begins with {magic!r} and version {version}; expected {MAGIC!r} and version 12")
            dimension, *_, bucket, shortest, longest, _rate, _t = _read(file, "<12id")
            size, num_words, _labels, _tokens, pruned = _read(file, "<3i2q")
            self.words = _words(file, size, num_words)
            file.seek(8 * max(pruned, 0), os.SEEK_CUR)
            (quantized,) = _read(file, "<?")
            if quantized:
                raise ValueError("it is quantized (.ftz); expected a .bin")
            rows, columns = _read(file, "<2q")
            if not 0 < dimension == columns <= MOST_DIMENSIONS or not num_words <= rows <= num_words + bucket:
                raise ValueError(
                    f"its vectors are {rows} x {columns}, for {num_words} words of dimension {dimension} and {bucket} n-grams"
                )
            start = file.tell()
            # The output weights come last. They are not used, but a file without them has lost its end.
            file.seek(4 * rows * columns, os.SEEK_CUR)
            _quantized, output_rows, output_columns = _read(file, "<?2q")
            if os.path.getsize(path) < file.tell() + 4 * output_rows * output_columns:
                raise EOFError("it ends inside its output weights")
        vectors = cast(FloatArray, np.memmap(path, "<f4", "r", start, (rows, columns)))
        self.vectors = vectors[:num_words]
        self.subwords = Subwords(vectors[num_words:], shortest, longest)

    def vector(self, number: int) -> FloatArray:
        """Return the vector of a word by its number."""
        return self.subwords.compose(self.words[number], np.asarray(self.vectors[number]))


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


def local_file(path: str, folder: str) -> str:
    """Return a local, decompressed file with the content of `path`: itself, or a copy in `folder`."""
    if not storage.is_remote(path) and not storage.codec(path):
        return path
    target = os.path.join(folder, "vectors.bin")
    with storage.open_stream(path) as source, open(target, "wb") as file:
        shutil.copyfileobj(source, file, 1 << 22)
    return target
