"""Words and their ids."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.errors import InputError

PAD, UNKNOWN = 0, 1
SPECIAL_WORDS = ("<pad>", "<unk>")


class Vocabulary:
    """A frozen list of words; the position of a word is its id.

    Ids 0 and 1 are padding and the unknown word. The unknown word's count is that of all tokens which have no id of their
    own. The tokenizer drops angle brackets, so no token of a text can be one of the special words.

    Args:
        words: V words, the first two of them `SPECIAL_WORDS`.
        counts: V counts in the training corpus, int64.
    """

    def __init__(self, words: Sequence[str] | pa.Array, counts: npt.ArrayLike) -> None:
        self.word_array = words if isinstance(words, pa.Array) else pa.array(words, pa.string())
        self.counts: npt.NDArray[np.int64] = np.asarray(counts, np.int64)
        if tuple(self.word_array[:2].to_pylist()) != SPECIAL_WORDS or len(self.word_array) != len(self.counts):
            raise InputError(
                f"a vocabulary of {len(self.word_array)} words and {len(self.counts)} counts begins with "
                f"{self.word_array[:2].to_pylist()}; expected as many counts as words, beginning with {SPECIAL_WORDS}"
            )

    def __len__(self) -> int:
        return len(self.word_array)

    @functools.cached_property
    def words(self) -> list[str]:
        """All words, in the order of their ids."""
        return self.word_array.to_pylist()

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    def id(self, word: str) -> int:
        """Return the id of one word, `UNKNOWN` if it has none."""
        return self._index.get(word, UNKNOWN)

    def ids(self, words: Sequence[str] | pa.Array) -> npt.NDArray[np.int32]:
        """Return the id of each word, shape (n,); `UNKNOWN` where it has none.

        A word that repeats is looked up once (Arrow's own index would be rebuilt for every call).
        """
        array = words if isinstance(words, pa.Array) else pa.array(words, pa.string())
        encoded = array.dictionary_encode()
        index = self._index
        known = np.fromiter(
            (index.get(word, UNKNOWN) for word in encoded.dictionary.to_pylist()), np.int32, len(encoded.dictionary)
        )
        return known[encoded.indices.to_numpy(zero_copy_only=False)] if len(array) else np.zeros(0, np.int32)

    def id_lists(self, tokens: pa.ListArray) -> pa.ListArray:
        """Return lists of int32 ids for lists of tokens."""
        flat = pa.array(self.ids(tokens.flatten()), pa.int32())
        lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), flat)

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the share of each word among all tokens, shape (V,); 0 for padding."""
        counts = self.counts.astype(np.float64)
        counts[PAD] = 0.0
        return counts / max(counts.sum(), 1.0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of words and counts."""
        sha = hashlib.sha256()
        for word in self.words:
            sha.update(word.encode("utf-8") + b"\n")
        sha.update(self.counts.astype("<i8").tobytes())
        return sha.hexdigest()[:32]

    def save(self, path: str) -> None:
        """Write the vocabulary to one parquet file."""
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"word": self.word_array, "count": self.counts}), sink, compression="zstd")
        storage.write_bytes(path, sink.getvalue())

    @classmethod
    def load(cls, path: str) -> Vocabulary:
        """Read a vocabulary from a parquet file with the columns `word` and `count`.

        Raises:
            FileNotFoundError: if there is no such file.
            InputError: if it is not a vocabulary.
        """
        with storage.open_input(storage.resolve(path)) as file:
            try:
                table = pq.read_table(file)
                return cls(table["word"].combine_chunks().cast(pa.string()), table["count"].to_numpy())
            except (KeyError, pa.ArrowException) as error:
                raise InputError(
                    f"{path} is not a vocabulary ({error}); expected a parquet file with the columns word and count"
                ) from None

    @classmethod
    def from_counts(cls, words: pa.Array, counts: pa.Array, *, min_count: int, max_words: int) -> Vocabulary:
        """Make a vocabulary of the most frequent words.

        Args:
            words: Distinct words.
            counts: Their counts.
            min_count: Least count of a word.
            max_words: Most words, without the special ones; 0 for no limit.
        """
        kept = pc.greater_equal(counts, min_count)
        table = pa.table({"word": words.filter(kept), "count": counts.filter(kept)})
        # By count, then by word: the same whatever order the counts came in.
        table = table.sort_by([("count", "descending"), ("word", "ascending")])
        if max_words:
            table = table.slice(0, max_words)
        unknown = (pc.sum(counts).as_py() or 0) - (pc.sum(table["count"]).as_py() or 0)
        all_words = pa.concat_arrays([pa.array(SPECIAL_WORDS, pa.string()), *table["word"].cast(pa.string()).chunks])
        return cls(all_words, np.concatenate([[0, unknown], table["count"].to_numpy()]))
