"""The folder word vectors live in: a matrix aligned to a vocabulary, what gensim needs to go on, a report, a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.vocabulary import FIRST_ID, Vocabulary
from lstm_embed.ledger import open_sealed

KIND = "word_vectors"
VECTORS, VOCABULARY, STATE, REPORT = "vectors.safetensors", "vocabulary.parquet", "state.safetensors", "report.json"

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class WordVectors:
    """Finished word vectors.

    Attributes:
        vectors: float32, shape (V, d); row = id of a piece. The row of padding is zero, and so are those of pieces that an
            imported file did not have.
        vocabulary: The V pieces.
        fingerprint: Changes when the settings or any bit of the vectors do.
    """

    vectors: FloatArray
    vocabulary: Vocabulary
    fingerprint: str

    @classmethod
    def load(cls, path: str) -> WordVectors:
        """Read a finished folder.

        Raises:
            FileNotFoundError: if there is no such folder.
            InputError: if it is unfinished, damaged or holds something else.
        """
        path = storage.resolve(path)
        manifest = open_sealed(path, kind=KIND)
        vectors = safetensors.numpy.load(storage.read_bytes(storage.join(path, VECTORS)))["vectors"]
        vocabulary = Vocabulary.load(storage.join(path, VOCABULARY))
        if len(vectors) != len(vocabulary):
            raise InputError(f"{path} has {len(vectors)} vectors for {len(vocabulary)} pieces; make the folder again")
        return cls(vectors=vectors, vocabulary=vocabulary, fingerprint=manifest["fingerprint"])


@dataclass(frozen=True, kw_only=True)
class State:
    """A training at the end of an epoch: what gensim needs to go on, without pickle.

    Attributes:
        arrays: word2vec: "vectors" (V - 1, d) and "hidden" (V - 1, d); fasttext: "words", "subwords" and "hidden".
        facts: "algorithm", "epoch" (finished ones), "epochs" (the report of each).
    """

    arrays: dict[str, FloatArray]
    facts: dict[str, Any]

    def save(self, directory: str) -> None:
        """Write the state into a folder, replacing the one before."""
        data = safetensors.numpy.save(self.arrays, metadata={"facts": json.dumps(self.facts)})
        storage.write_bytes(storage.join(directory, STATE), data)

    @classmethod
    def load(cls, directory: str) -> State | None:
        """Return the state in a folder, None if there is none.

        Raises:
            InputError: if it is damaged.
        """
        path = storage.join(directory, STATE)
        if not storage.exists(path):
            return None
        data = storage.read_bytes(path)
        try:
            # The header is a little-endian length and that much JSON.
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
            return cls(arrays=safetensors.numpy.load(data), facts=json.loads(header["__metadata__"]["facts"]))
        except (ValueError, KeyError, safetensors.SafetensorError) as error:
            raise InputError(f"{path} is damaged ({error}); delete it to train from the start") from None


def aligned(piece_rows: FloatArray) -> FloatArray:
    """Return the matrix of a vocabulary from the vectors of its pieces: a zero row for padding before them."""
    padding = np.zeros((FIRST_ID, piece_rows.shape[1]), np.float32)
    return np.concatenate([padding, np.asarray(piece_rows, np.float32)])


def write_vectors(directory: str, vectors: FloatArray) -> str:
    """Write the aligned matrix; return the SHA-256 of the file."""
    path = storage.join(directory, VECTORS)
    storage.write_bytes(path, safetensors.numpy.save({"vectors": np.ascontiguousarray(vectors, np.float32)}))
    return storage.digest(path)
