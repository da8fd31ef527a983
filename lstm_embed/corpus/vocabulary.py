"""Pieces of words and their ids."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.pieces import (
    BYTE_PIECES,
    MARK,
    SPECIAL_PIECES,
    Cutter,
    Scores,
    learn_pieces,
    whole_word_scores,
)
from lstm_embed.ledger.parts import encode_table

PAD = 0
FIRST_ID = 1
"""Least id that stands for text."""
FIRST_LEARNED = len(SPECIAL_PIECES)
"""Least id of a piece that was learned; below are padding and the bytes."""
_MADE_KEY = b"lstm_embed.vocabulary"
_MOST_UNITS = 2_000_000
"""Words that pieces are learned from, each as often as it is counted; counts of larger corpora are scaled down to that."""
_COLUMNS = {"piece": pa.string(), "count": pa.int64(), "score": pa.float32()}
_MOST_PIECES, _MOST_BYTES = 20_000_000, 1 << 30
"""Of a vocabulary's file; imported word vectors have some millions of whole words at most."""


class Vocabulary:
    """A frozen list of pieces; the position of a piece is its id.

    Id 0 is padding, ids 1 to 256 are bytes, which stand for what no other piece covers. A piece that begins a word has
    `pieces.MARK` before it, so that words can be put together again.

    Args:
        pieces: V pieces, distinct, the first of them `pieces.SPECIAL_PIECES`.
        counts: V counts in the training corpus, int64.
        scores: V logarithms of probabilities, by which words are cut.

    Raises:
        InputError: if these are not that.
    """

    def __init__(self, pieces: Sequence[str] | pa.Array, counts: npt.ArrayLike, scores: npt.ArrayLike) -> None:
        self.piece_array = pieces if isinstance(pieces, pa.Array) else pa.array(pieces, pa.string())
        self.counts: npt.NDArray[np.int64] = np.asarray(counts, np.int64)
        self.scores: Scores = np.asarray(scores, np.float32)
        if not len(self.piece_array) == len(self.counts) == len(self.scores):
            raise InputError(
                f"a vocabulary has {len(self.piece_array)} pieces, {len(self.counts)} counts and {len(self.scores)} scores; "
                "expected one of each for every id"
            )
        if tuple(self.piece_array[:FIRST_LEARNED].to_pylist()) != SPECIAL_PIECES:
            raise InputError(
                f"a vocabulary begins with {self.piece_array[:3].to_pylist()}; expected padding and the 256 bytes"
            )
        wrong = self.piece_array.null_count or len(self.piece_array.unique()) < len(self.piece_array)
        if wrong or (self.counts < 0).any() or not np.isfinite(self.scores).all():
            raise InputError("a vocabulary has missing or repeated pieces, or counts or scores that are none")

    def __len__(self) -> int:
        return len(self.piece_array)

    @functools.cached_property
    def pieces(self) -> list[str]:
        """All pieces, in the order of their ids."""
        return self.piece_array.to_pylist()

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    @functools.cached_property
    def _cutter(self) -> Cutter:
        return Cutter(self.pieces, self.scores)

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        """What each id adds to a text in UTF-8, with the mark before each word."""
        own = [piece.encode() for piece in self.pieces[FIRST_LEARNED:]]
        return [b"", *(bytes([byte]) for byte in range(len(BYTE_PIECES))), *own]

    def id(self, piece: str) -> int:
        """Return the id of one piece, `PAD` if it has none."""
        return self._index.get(piece, PAD)

    def ids(self, pieces: Iterable[str]) -> npt.NDArray[np.int32]:
        """Return the id of each piece, shape (n,); `PAD` where it has none."""
        index = self._index
        return np.fromiter((index.get(piece, PAD) for piece in pieces), np.int32)

    def cut(self, words: pa.Array) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the ids of all words' pieces, one word after the other, and the number of each word's.

        A word that repeats is cut once.
        """
        encoded = words.dictionary_encode()
        flat, lengths = self._cutter.cut(encoded.dictionary.to_pylist())
        return take_lists(flat, lengths, encoded.indices.to_numpy(zero_copy_only=False))

    def second_cuts(self, words: Sequence[str]) -> list[list[int]]:
        """Return the ids of the next best cut of each word; none where there is but one."""
        return self._cutter.second_cuts(words)

    def id_lists(self, tokens: pa.ListArray) -> pa.ListArray:
        """Return lists of int32 ids for lists of words."""
        flat, lengths = self.cut(tokens.flatten())
        words_before = np.concatenate([[0], np.cumsum(pc.list_value_length(tokens).to_numpy(zero_copy_only=False))])
        pieces_before = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(pieces_before[words_before]), pa.array(flat))

    def words(self, ids: Iterable[int]) -> list[str]:
        """Return the words that pieces make. Bytes that are no UTF-8, as a cut may leave, become U+FFFD."""
        text = b"".join([self._bytes[number] for number in ids]).decode("utf-8", "replace")
        # A vocabulary that lacks the mark has cut it into bytes too.
        return text.replace(MARK, " ").split()

    def probabilities(self) -> npt.NDArray[np.float64]:
        """Return the share of each piece among all pieces of the corpus, shape (V,); 0 for padding."""
        counts = self.counts.astype(np.float64)
        counts[PAD] = 0.0
        return counts / max(counts.sum(), 1.0)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of pieces, counts and scores."""
        sha = hashlib.sha256()
        for piece in self.pieces:
            sha.update(piece.encode("utf-8") + b"\n")
        sha.update(self.counts.astype("<i8").tobytes())
        sha.update(self.scores.astype("<f4").tobytes())
        return sha.hexdigest()[:32]

    def save(self, path: str, made: dict[str, Any] | None = None) -> None:
        """Write the vocabulary to one parquet file.

        Args:
            path: The file.
            made: What it was made with, kept in the file's metadata for `read_made`.
        """
        table = pa.table({"piece": self.piece_array, "count": self.counts, "score": self.scores})
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
        """Read a vocabulary from a parquet file with the columns `piece`, `count` and `score`.

        Raises:
            FileNotFoundError: if there is no such file.
            InputError: if it is not a vocabulary, or one of an earlier version.
        """
        with storage.open_input(storage.resolve(path)) as source:
            try:
                _check_columns(pq.ParquetFile(source))
                # As a dictionary a piece that is repeated a million times is not unfolded before it is refused.
                table = pq.read_table(source, read_dictionary=["piece"])
                pieces = table["piece"].combine_chunks()
                if len(pieces.unique()) < len(pieces):
                    raise InputError("a vocabulary has no repeated pieces")
                pieces = pieces.cast(pa.string())
                pieces.validate(full=True)
                return cls(pieces, table["count"].to_numpy(), table["score"].to_numpy())
            except InputError as error:
                raise InputError(f"{path} cannot be used: {error}") from None
            except (ValueError, OSError, pa.ArrowException) as error:
                raise InputError(
                    f"{path} is not a vocabulary ({error}); expected a parquet file with the columns piece, count and score"
                ) from None

    @classmethod
    def learn(
        cls, words: Sequence[str], counts: npt.NDArray[np.int64], *, num_pieces: int, whole: Sequence[str] = ()
    ) -> Vocabulary:
        """Learn a vocabulary from distinct words and their counts.

        Args:
            words: The words, at least one.
            counts: Their counts, at least 1, in the corpus that they are or stand for.
            num_pieces: Most pieces, the special ones counted; few or short words give fewer.
            whole: Words that are not to be cut; each gets an id beside the pieces.
        """
        unit = max(1.0, float(counts.sum()) / _MOST_UNITS)
        weights = np.maximum(np.round(counts / unit), 1).astype(np.int64)
        pieces, scores = learn_pieces(words, weights.tolist(), num_pieces)
        pieces = [*SPECIAL_PIECES, *pieces]
        scores = np.concatenate([np.zeros(len(SPECIAL_PIECES), np.float32), scores])
        index = set(pieces)
        whole = [word for word in whole if MARK + word not in index]
        if whole:
            scores = np.concatenate([scores, whole_word_scores(whole, pieces, scores)])
            pieces += [MARK + word for word in whole]
        ids, lengths = Cutter(pieces, scores).cut(words)
        occurrences = np.bincount(ids, np.repeat(counts, lengths), len(pieces)).astype(np.int64)
        # By falling count, as word lists are; the special ones stay where they are.
        order = sorted(range(len(SPECIAL_PIECES), len(pieces)), key=lambda at: (-occurrences[at], pieces[at]))
        order = [*range(len(SPECIAL_PIECES)), *order]
        return cls([pieces[at] for at in order], occurrences[order], scores[order])


def _check_columns(file: pq.ParquetFile) -> None:
    """Refuse a file of other columns, or of a size that no vocabulary has, before it is read."""
    columns = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
    if list(columns) == ["word", "count"]:
        raise InputError(
            "it is a vocabulary of whole words, as lstm_embed 0.2 makes them; use it with that version, or prepare the corpus "
            "anew with this version"
        )
    if columns != _COLUMNS:
        found = ", ".join(f"{name}: {kind}" for name, kind in columns.items())
        raise InputError(
            f"its columns are {found}; expected those of a vocabulary: piece: string, count: int64, score: float"
        )
    num_bytes = sum(file.metadata.row_group(n).total_byte_size for n in range(file.metadata.num_row_groups))
    if file.metadata.num_rows > _MOST_PIECES or num_bytes > _MOST_BYTES:
        raise InputError(
            f"it has {file.metadata.num_rows:,} pieces of {num_bytes:,} bytes; expected at most {_MOST_PIECES:,} of "
            f"{_MOST_BYTES:,}"
        )


def take_lists(
    flat: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32], chosen: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Return chosen ones of lists that lie one after the other in `flat`: their values, likewise, and their lengths."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    taken = lengths[chosen]
    ends = np.cumsum(taken, dtype=np.int64)
    shift = np.repeat(starts[chosen] - (ends - taken), taken)
    return flat[np.arange(len(shift)) + shift], taken
