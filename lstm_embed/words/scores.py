"""How good word vectors are, by what ships with gensim: word pairs judged by people, and words to look at.

The vector of a word that is cut is the sum of those of its pieces."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.corpus.pieces import MARK
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, Vocabulary

FloatArray = npt.NDArray[np.float32]

WORD_PAIRS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}


def shipped_file(name: str) -> str:
    """Return the path of a file of gensim's test data, which its wheel carries.

    Raises:
        FileNotFoundError: if gensim was installed without it.
    """
    spec = importlib.util.find_spec("gensim")
    path = os.path.join(os.path.dirname(spec.origin), "test", "test_data", name) if spec and spec.origin else ""
    if not os.path.exists(path):
        raise FileNotFoundError(f"gensim's test data has no file {name}; reinstall gensim from its wheel")
    return path


def unit_rows(vectors: FloatArray) -> FloatArray:
    """Return the rows scaled to length 1; zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: FloatArray = (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return scaled


def score(vectors: FloatArray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return all figures of this module."""
    return {
        **{name: word_pair_correlation(vectors, vocabulary, name) for name in WORD_PAIRS},
        "similar_words": similar_words(vectors, vocabulary),
    }


def word_pair_correlation(vectors: FloatArray, vocabulary: Vocabulary, name: str) -> dict[str, Any]:
    """Compare cosines of word pairs with people's judgement.

    Args:
        vectors: Aligned to `vocabulary`.
        vocabulary: Its words.
        name: "wordsim353" or "simlex999".

    Returns:
        `spearman` and `pearson` (x100, None with fewer than three known pairs), `pairs` and `coverage` (share of the pairs of
        which both words have a vector, or a piece that has one).
    """
    path = shipped_file(WORD_PAIRS[name])
    with open(path, encoding="utf-8") as file:
        lines = [line for line in file if line.strip() and not line.startswith("#")]
    pairs = [line.lower().split("\t")[:2] for line in lines]
    words = sorted({word for pair in pairs for word in pair})
    ids, lengths = vocabulary.cut(pa.array(words))
    keyed = _keyed_vectors(words, np.add.reduceat(vectors[ids], np.cumsum(lengths) - lengths))
    known = sum(left in keyed and right in keyed for left, right in pairs)
    result = {"spearman": None, "pearson": None, "pairs": known, "coverage": known / len(pairs)}
    if known >= 3:
        pearson, spearman, _ = keyed.evaluate_word_pairs(path)
        result |= {"spearman": _percent(spearman.statistic), "pearson": _percent(pearson.statistic)}
    return result


def similar_words(
    vectors: FloatArray, vocabulary: Vocabulary, num_words: int = 12, num_similar: int = 6
) -> dict[str, list[tuple[str, float]]]:
    """Return the nearest of the frequent whole words for some of them, with cosines, for a person to look at.

    The words are spread over the frequency ranks 150 to 1500, below the function words.
    """
    pieces = enumerate(vocabulary.pieces[FIRST_LEARNED:], FIRST_LEARNED)
    whole = {piece[1:]: row for row, piece in pieces if piece.startswith(MARK) and piece != MARK}
    keyed = _keyed_vectors(list(whole), vectors[list(whole.values())])
    shown = keyed.index_to_key[min(150, len(keyed) // 4) : 1_500]
    chosen = shown[:: max(1, len(shown) // num_words)][:num_words]
    return {
        word: [(other, round(float(cosine), 3)) for other, cosine in keyed.most_similar(word, topn=num_similar)]
        for word in chosen
    }


def _keyed_vectors(words: Sequence[str], vectors: FloatArray) -> Any:
    """Return gensim's lookup of the words that have a vector."""
    from gensim.models import KeyedVectors

    present = np.flatnonzero(vectors.any(axis=1))
    keyed = KeyedVectors(vectors.shape[1])
    keyed.add_vectors([words[row] for row in present.tolist()], vectors[present])
    return keyed


def _percent(correlation: float) -> float | None:
    return round(100 * float(correlation), 2) if np.isfinite(correlation) else None
