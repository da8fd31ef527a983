"""The loss of a model on a few sentences, for fasttext, whose loss gensim does not count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.words.config import WordVectorsConfig

FloatArray = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NUM_SENTENCES = 2_000
_ROWS_AT_ONCE = 2_048


def sampled_loss(model: Any, sentences: Sequence[Sequence[str]], config: WordVectorsConfig) -> float | None:
    """Return the negative-sampling loss a trained word (Mikolov et al. 2013, "Distributed Representations", equation 4).

    Windows, left-out frequent words and negatives are drawn as in training, and the same at every call, so that epochs can be
    compared with each other.

    Args:
        model: gensim's model at the end of an epoch.
        sentences: Lists of words of its vocabulary.
        config: Of the training.

    Returns:
        None if no word has a neighbour.
    """
    rng = np.random.default_rng(config.seed)
    words, sentence = _kept_words(model, sentences, rng)
    center, context = _pairs(sentence, config.window, rng)
    if not len(center):
        return None
    inputs, hidden = model.wv.vectors, model.syn1neg
    shares = _shares(model)
    if config.architecture == "skip-gram":
        total = 0.0
        for start in range(0, len(center), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            total += _loss(inputs[words[center[rows]]], words[context[rows]], hidden, shares, config.negative, rng)
        return total / len(words)
    total = 0.0
    for start in range(0, len(words), _ROWS_AT_ONCE):
        of_chunk = (center >= start) & (center < start + _ROWS_AT_ONCE)
        targets, number = np.unique(center[of_chunk], return_inverse=True)
        means = np.zeros((len(targets), inputs.shape[1]), np.float32)
        np.add.at(means, number, inputs[words[context[of_chunk]]])
        means /= np.bincount(number, minlength=len(targets))[:, None]
        total += _loss(means, words[targets], hidden, shares, config.negative, rng)
    return total / len(words)


def _kept_words(model: Any, sentences: Sequence[Sequence[str]], rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return the rows of the words that are not left out for being frequent, and the sentence of each."""
    row = model.wv.key_to_index
    words = np.array([row[word] for sentence in sentences for word in sentence], np.int64)
    sentence = np.repeat(np.arange(len(sentences)), [len(one) for one in sentences])
    kept = rng.random(len(words)) * (2**32 - 1) <= model.wv.expandos["sample_int"][words]
    return words[kept], sentence[kept]


def _pairs(sentence: Ints, window: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return positions of words and of their neighbours in windows of random width."""
    width = rng.integers(1, window + 1, len(sentence))
    centers, contexts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for distance in range(1, min(window, len(sentence) - 1) + 1):
        left = np.flatnonzero(sentence[:-distance] == sentence[distance:])
        for center, context in ((left, left + distance), (left + distance, left)):
            inside = width[center] >= distance
            centers.append(center[inside])
            contexts.append(context[inside])
    return np.concatenate(centers), np.concatenate(contexts)


def _shares(model: Any) -> npt.NDArray[np.float64]:
    """Return the share of the negatives that are words up to each row."""
    sums = np.cumsum(model.wv.expandos["count"].astype(np.float64) ** model.ns_exponent)
    shares: npt.NDArray[np.float64] = sums / sums[-1]
    return shares


def _loss(
    inputs: FloatArray,
    targets: Ints,
    hidden: FloatArray,
    shares: npt.NDArray[np.float64],
    negative: int,
    rng: np.random.Generator,
) -> float:
    noise = np.searchsorted(shares, rng.random((len(targets), negative)))
    right = np.einsum("nd,nd->n", inputs, hidden[targets])
    wrong = np.einsum("nd,nkd->nk", inputs, hidden[noise])
    # A negative that is the word itself is passed over, as in word2vec.
    wrong_loss = np.where(noise == targets[:, None], 0.0, np.logaddexp(0, wrong))
    return float(np.logaddexp(0, -right).sum() + wrong_loss.sum())
