"""The folder word vectors live in: a matrix aligned to a vocabulary, what gensim needs to go on, a report, a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
from typing_extensions import TypedDict

from lstm_embed.base import storage, tensors
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import parse_json
from lstm_embed.corpus.vocabulary import FIRST_ID, Vocabulary
from lstm_embed.ledger import open_sealed

KIND = "word_vectors"
VECTORS, VOCABULARY, STATE, REPORT = "vectors.safetensors", "vocabulary.parquet", "state.safetensors", "report.json"

FloatArray = npt.NDArray[np.float32]


class _Facts(TypedDict):
    epoch: int
    epochs: list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class WordVectors:
    """Finished word vectors.

    Attributes:
        vectors: float32, shape (V, d); row = id of a piece. The row of padding is zero, and so are those of pieces that an
            imported file did not have.
        vocabulary: The V pieces.
        fingerprint: Changes when the settings or any bit of the vectors do.
        settings: What they were made with.
    """

    vectors: FloatArray
    vocabulary: Vocabulary
    fingerprint: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str) -> WordVectors:
        """Read a finished folder.

        Raises:
            FileNotFoundError: if there is no such folder.
            InputError: if it is unfinished, damaged or holds something else.
        """
        path = storage.resolve(path)
        manifest = open_sealed(path, kind=KIND)
        vocabulary = Vocabulary.load(storage.join(path, VOCABULARY))
        expected = {"vectors": ("F32", (len(vocabulary), None))}
        return cls(
            **tensors.open_tensors(storage.join(path, VECTORS), expected),
            vocabulary=vocabulary,
            fingerprint=manifest["fingerprint"],
            settings=manifest["content"].get("settings", {}),
        )


@dataclass(frozen=True, kw_only=True)
class State:
    """A training at the end of an epoch: what gensim needs to go on, without pickle.

    Attributes:
        arrays: "vectors" and "hidden", each of shape (V - 1, d).
        facts: "epoch" (finished ones), "epochs" (the report of each).
    """

    arrays: dict[str, FloatArray]
    facts: dict[str, Any]

    def save(self, directory: str) -> None:
        """Write the state into a folder, replacing the one before."""
        data = safetensors.numpy.save(self.arrays, metadata={"facts": json.dumps(self.facts)})
        storage.write_bytes(storage.join(directory, STATE), data)

    @classmethod
    def load(cls, directory: str, num_pieces: int, dimension: int) -> State | None:
        """Return the state in a folder, None if there is none.

        Args:
            directory: The folder.
            num_pieces: V - 1.
            dimension: d.

        Raises:
            InputError: if it is damaged, or of other sizes.
        """
        path = storage.join(directory, STATE)
        if not storage.exists(path):
            return None
        with tensors.opened(path) as file:
            said = (file.metadata() or {}).get("facts", "")
            facts = parse_json(said, _Facts, path, advice="delete it to train from the start")
            if len(facts["epochs"]) != facts["epoch"]:
                raise InputError(f"{path} is damaged: its epochs are not as many as it says; delete it to train anew")
            expected = dict.fromkeys(("vectors", "hidden"), ("F32", (num_pieces, dimension)))
            return cls(arrays=tensors.take_tensors(file, path, expected), facts=dict(facts))


def aligned(piece_rows: FloatArray) -> FloatArray:
    """Return the matrix of a vocabulary from the vectors of its pieces: a zero row for padding before them."""
    padding = np.zeros((FIRST_ID, piece_rows.shape[1]), np.float32)
    return np.concatenate([padding, np.asarray(piece_rows, np.float32)])


def write_vectors(directory: str, vectors: FloatArray) -> str:
    """Write the aligned matrix; return the SHA-256 of the file."""
    path = storage.join(directory, VECTORS)
    storage.write_bytes(path, safetensors.numpy.save({"vectors": np.ascontiguousarray(vectors, np.float32)}))
    return storage.digest(path)
