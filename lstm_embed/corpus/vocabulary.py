"""Words and their ids."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.errors import InputError
from lstm_embed.ledger.parts import encode_table

PAD, UNKNOWN = 0, 1
SPECIAL_WORDS = ("<pad>", "<unk>")
_MADE_KEY = b"lstm_embed.vocabulary"


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

    def save(self, path: str, made: dict[str, Any] | None = None) -> None:
        """Write the vocabulary to one parquet file.

        Args:
            path: The file.
            made: What it was made with, kept in the file's metadata for `read_made`.
        """
        table = pa.table({"word": self.word_array, "count": self.counts})
        if made is not None:
            table = table.replace_schema_metadata({_MADE_KEY: json.dumps(made, sort_keys=True)})
        storage.write_bytes(path, encode_table(table, compression="zstd"))

    @staticmethod
    def read_made(path: str) -> dict[str, Any]:
        """Return what a vocabulary file was made with; nothing if it does not say."""
        with storage.open_input(path) as file:
            metadata = pq.read_schema(file).metadata or {}
        return dict(json.loads(metadata.get(_MADE_KEY, b"{}")))

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
                words = table["word"].combine_chunks().cast(pa.string())
                if words.null_count or len(words.unique()) < len(words):
                    raise InputError(f"{path} is not a vocabulary: it has missing words or words that occur twice")
                return cls(words, table["count"].to_numpy())
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
        rare = (pc.sum(counts).as_py() or 0) - (pc.sum(table["count"]).as_py() or 0)
        table, beyond = most_frequent(table, max_words)
        return cls.from_table(table, rare + beyond)

    @classmethod
    def from_table(cls, table: pa.Table, unknown: int) -> Vocabulary:
        """Make a vocabulary of the words of a table with the columns `word` and `count`, and the count of all others."""
        words = pa.concat_arrays([pa.array(SPECIAL_WORDS, pa.string()), *table["word"].cast(pa.string()).chunks])
        return cls(words, np.concatenate([[0, unknown], table["count"].to_numpy()]))


def most_frequent(table: pa.Table, max_words: int) -> tuple[pa.Table, int]:
    """Return a table's most frequent words, by count and then by word, and the sum of the counts of the others."""
    # The same whatever order the counts came in.
    table = table.sort_by([("count", "descending"), ("word", "ascending")])
    beyond = table.slice(max_words if max_words else table.num_rows)
    return table.slice(0, table.num_rows - beyond.num_rows), pc.sum(beyond["count"]).as_py() or 0
