"""What a model has to beat: averages of word vectors. Like a model, each is a function from texts to vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy import sparse

from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_ID, Vocabulary
from lstm_embed.words.scores import unit_rows

FloatArray = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], FloatArray]
"""Takes n texts, returns their vectors, float32, shape (n, E)."""

SIF_CONSTANT = 1e-4


class Tokens:
    """Texts as words and pieces: one token rule and one vocabulary.

    Args:
        vocabulary: Pieces of the model.
        profile: Token rule of the model.
    """

    def __init__(self, vocabulary: Vocabulary, profile: str) -> None:
        self.vocabulary = vocabulary
        self.profile = profile

    def words(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the words of each text."""
        return tokenize(texts, self.profile).to_pylist()

    def read(self, texts: Sequence[str], max_tokens: int) -> list[list[str]]:
        """Return the words of each text that a model reads: those of the first `max_tokens` pieces."""
        return [self.vocabulary.words(ids[:max_tokens]) for ids in self._ids(texts).to_pylist()]

    def shares(self, texts: Sequence[str]) -> sparse.csr_array:
        """Return how large a share of each text's pieces each piece is, shape (n, V)."""
        lists = self._ids(texts)
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        values = np.repeat(1 / np.maximum(lengths, 1), lengths).astype(np.float32)
        places = (np.repeat(np.arange(len(texts)), lengths), lists.flatten().to_numpy())
        return sparse.csr_array((values, places), shape=(len(texts), len(self.vocabulary)))

    def _ids(self, texts: Sequence[str]) -> pa.ListArray:
        return self.vocabulary.id_lists(tokenize(texts, self.profile))


def averaging_baselines(tokens: Tokens, vectors: FloatArray, reference: Sequence[str]) -> dict[str, Embed]:
    """Return the averaging baselines by name.

    Args:
        tokens: The model's token rule and vocabulary.
        vectors: Word vectors, shape (V, d).
        reference: Sentences of the training corpus, whose first principal component "sif_minus_first" takes away.

    Returns:
        `mean`; `sif`: weights a/(a+p) (Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings");
        `sif_minus_first`; `log_unit`: vectors of length 1, weights log(1/p) scaled to 0..1.
    """
    p = tokens.vocabulary.probabilities()
    # What never occurred is as rare as the rarest that did.
    surprise = -np.log(np.maximum(p, p[p > 0].min(initial=1.0)))
    found = surprise[FIRST_ID:]
    log = (surprise - found.min(initial=np.inf)) / max(found.max(initial=0.0), 1e-9)

    def average(weights: npt.NDArray[np.float64], vectors: FloatArray) -> Embed:
        weighted = (weights[:, None] * vectors).astype(np.float32)
        return lambda texts: np.asarray(tokens.shares(texts) @ weighted, np.float32)

    sif = average(SIF_CONSTANT / (SIF_CONSTANT + p), vectors)
    sample = sif(reference)
    first = np.linalg.eigh(sample.T @ sample).eigenvectors[:, -1]

    def sif_minus_first(texts: Sequence[str]) -> FloatArray:
        vectors = sif(texts)
        return vectors - np.outer(vectors @ first, first)

    return {
        "mean": average(np.ones(len(p)), vectors),
        "sif": sif,
        "log_unit": average(log, unit_rows(vectors)),
        "sif_minus_first": sif_minus_first,
    }
