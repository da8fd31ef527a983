"""What a model has to beat: averages of word vectors, BM25, the most frequent word, the nearest known sentence.

All evaluations share these. An averaging baseline is, like a model, a function from texts to vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy import sparse

from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_ID, Vocabulary
from lstm_embed.words.scores import unit_rows

FloatArray = npt.NDArray[np.float32]
Embed = Callable[[Sequence[str]], FloatArray]
"""Takes n texts, returns their vectors, float32, shape (n, E)."""

SIF_CONSTANT = 1e-4
INSTALL = 'pip install "lstm_embed[evaluation]"'


class Tokens:
    """Texts as ids: one token rule and one vocabulary.

    Args:
        vocabulary: Of the model.
        profile: Token rule of the model.
    """

    def __init__(self, vocabulary: Vocabulary, profile: str) -> None:
        self.vocabulary = vocabulary
        self.profile = profile

    def words(self, texts: Sequence[str]) -> list[list[str]]:
        """Return the words of each text."""
        return tokenize(texts, self.profile).to_pylist()

    def ids(self, texts: Sequence[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text's pieces."""
        lists = self.vocabulary.id_lists(tokenize(texts, self.profile))
        return np.split(lists.flatten().to_numpy(), lists.offsets.to_numpy()[1:-1]) if len(texts) else []

    def read(self, texts: Sequence[str], max_tokens: int) -> list[list[str]]:
        """Return the words of each text that a model reads: those of the first `max_tokens` pieces."""
        return [self.vocabulary.words(ids[:max_tokens]) for ids in self.ids(texts)]

    def shares(self, texts: Sequence[str]) -> sparse.csr_array:
        """Return how large a share of each text's pieces each piece is, shape (n, V)."""
        lists = self.vocabulary.id_lists(tokenize(texts, self.profile))
        ids = lists.flatten().to_numpy()
        rows = np.repeat(np.arange(len(texts)), pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        values = (1.0 / np.maximum(np.bincount(rows, minlength=len(texts)), 1))[rows].astype(np.float32)
        return sparse.csr_array((values, (rows, ids)), shape=(len(texts), len(self.vocabulary)))


def averaging_baselines(tokens: Tokens, vectors: FloatArray, reference: Sequence[str]) -> dict[str, Embed]:
    """Return the averaging baselines by name.

    Args:
        tokens: Turns texts into ids.
        vectors: Word vectors, shape (V, d).
        reference: Sentences of the training corpus, whose first principal component "sif_minus_first" takes away.

    Returns:
        `mean`; `sif`: weights a/(a+p) (Arora et al. 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings");
        `sif_minus_first`; `log_unit`: vectors of length 1, weights log(1/p) scaled to 0..1.
    """
    p = tokens.vocabulary.probabilities()
    sif = SIF_CONSTANT / (SIF_CONSTANT + p)
    # What never occurred is as rare as the rarest that did.
    surprise = -np.log(np.maximum(p, p[p > 0].min(initial=1.0)))
    found = surprise[FIRST_ID:]
    log = (surprise - found.min(initial=np.inf)) / max(found.max(initial=0.0), 1e-9)
    baselines = {
        "mean": _average(tokens, np.ones(len(p)), vectors),
        "sif": _average(tokens, sif, vectors),
        "log_unit": _average(tokens, log, unit_rows(vectors)),
    }
    baselines["sif_minus_first"] = _without_first_component(baselines["sif"], reference)
    return baselines


def _average(tokens: Tokens, weights: npt.NDArray[np.float64], vectors: FloatArray) -> Embed:
    weighted = (weights[:, None] * vectors).astype(np.float32)

    def embed(texts: Sequence[str]) -> FloatArray:
        return np.asarray(tokens.shares(texts) @ weighted, np.float32)

    return embed


def _without_first_component(embed: Embed, reference: Sequence[str]) -> Embed:
    sample = embed(reference)
    _, eigenvectors = np.linalg.eigh(sample.T @ sample)
    first = eigenvectors[:, -1]

    def embed_without(texts: Sequence[str]) -> FloatArray:
        vectors = embed(texts)
        return vectors - np.outer(vectors @ first, first)

    return embed_without


class Bm25:
    """BM25 over a corpus of texts, by the library bm25s.

    Args:
        texts: The corpus.
        tokens: Splits texts into words, the same way as for the model.

    Raises:
        ImportError: if bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str], tokens: Tokens) -> None:
        import bm25s

        self._tokens = tokens
        self._index: Any = bm25s.BM25()
        self._index.index(tokens.words(texts), show_progress=False)
        self._num_texts = len(texts)

    def scores(self, texts: Sequence[str]) -> FloatArray:
        """Return the score of every text of the corpus for each query, shape (n, corpus)."""
        known = self._index.vocab_dict
        scores = np.zeros((len(texts), self._num_texts), np.float32)
        for row, words in zip(scores, self._tokens.words(texts), strict=True):
            found = [word for word in words if word in known]
            if found:
                row[:] = self._index.get_scores(found)
        return scores


def has_bm25() -> bool:
    """Tell whether the library is installed."""
    try:
        import bm25s  # noqa: F401
    except ImportError:
        return False
    return True


class NearestSentence:
    """Answers a vector with the training sentence whose vector is nearest.

    Args:
        texts: Training sentences.
        vectors: Their vectors.
    """

    def __init__(self, texts: Sequence[str], vectors: FloatArray) -> None:
        self._texts = texts
        self._units = unit_rows(vectors)

    def __call__(self, vectors: FloatArray) -> list[str]:
        """Return a sentence for each vector."""
        answers: list[str] = []
        for start in range(0, len(vectors), 256):
            nearest = (unit_rows(vectors[start : start + 256]) @ self._units.T).argmax(axis=1)
            answers += [self._texts[i] for i in nearest]
        return answers
