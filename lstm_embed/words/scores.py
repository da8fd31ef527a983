"""How good word vectors are, by what ships with gensim: word pairs judged by people, analogies, and words to look at.

The vector of a word that is cut is the sum of those of its pieces."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.corpus.pieces import MARK
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, PAD, Vocabulary

FloatArray = npt.NDArray[np.float32]

WORD_PAIRS = {"wordsim353": "wordsim353.tsv", "simlex999": "simlex999.txt"}
ANALOGY_WORDS = 30_000
"""Only the most frequent words answer an analogy, as in word2vec's own script."""


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
    from scipy import stats

    pairs, gold = [], []
    with open(shipped_file(WORD_PAIRS[name]), encoding="utf-8") as file:
        for line in file:
            if not line.startswith("#") and line.strip():
                left, right, score = line.split("\t")
                pairs += [left.lower(), right.lower()]
                gold.append(float(score))
    found = _word_vectors(vectors, vocabulary, pairs).reshape(len(gold), 2, -1)
    known = np.any(found != 0, axis=2).all(axis=1)
    rows, judged = found[known], np.array(gold)[known]
    result: dict[str, Any] = {
        "spearman": None,
        "pearson": None,
        "pairs": int(known.sum()),
        "coverage": known.mean().item(),
    }
    if len(judged) >= 3:
        cosine = np.sum(unit_rows(rows[:, 0]) * unit_rows(rows[:, 1]), axis=1)
        result["spearman"] = _percent(stats.spearmanr(cosine, judged).statistic)
        result["pearson"] = _percent(stats.pearsonr(cosine, judged).statistic)
    return result


def _word_vectors(vectors: FloatArray, vocabulary: Vocabulary, words: list[str]) -> FloatArray:
    ids, lengths = vocabulary.cut(pa.array(words))
    starts = np.cumsum(lengths) - lengths
    sums: FloatArray = np.add.reduceat(vectors[ids], starts)
    return sums


def _percent(correlation: float) -> float | None:
    return round(100 * float(correlation), 2) if np.isfinite(correlation) else None


def analogies(vectors: FloatArray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Answer "a is to b as c is to what" by the word nearest to b - a + c, among the most frequent words.

    The questions and the rule are those of word2vec (Mikolov et al. 2013, "Efficient Estimation of Word Representations in
    Vector Space"); a question counts if its four words are whole and among the `ANALOGY_WORDS` most frequent.

    Returns:
        `accuracy`, `semantic` and `syntactic` (in %, None without questions), `questions` asked and their `coverage`.
    """
    questions, syntactic = _read_questions(vocabulary)
    limit = min(len(vocabulary), ANALOGY_WORDS + FIRST_LEARNED)
    known = ((questions > PAD) & (questions < limit)).all(axis=1)
    questions, syntactic, asked = questions[known], syntactic[known], len(questions)
    units = unit_rows(vectors[:limit])
    right = np.zeros(len(questions), bool)
    for start in range(0, len(questions), 256):
        a, b, c, expected = questions[start : start + 256].T
        similarity = (units[b] - units[a] + units[c]) @ units.T
        similarity[np.arange(len(a))[:, None], np.stack([a, b, c], axis=1)] = -np.inf
        similarity[:, :FIRST_LEARNED] = -np.inf
        right[start : start + 256] = similarity.argmax(axis=1) == expected

    def share(chosen: npt.NDArray[np.bool_]) -> float | None:
        return round(100 * float(right[chosen].mean()), 2) if chosen.any() else None

    return {
        "accuracy": share(np.ones(len(right), bool)),
        "semantic": share(~syntactic),
        "syntactic": share(syntactic),
        "questions": len(questions),
        "coverage": len(questions) / max(asked, 1),
    }


def _read_questions(vocabulary: Vocabulary) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    questions, syntactic, is_syntactic = [], [], False
    with open(shipped_file("questions-words.txt"), encoding="utf-8") as file:
        for line in file:
            if line.startswith(":"):
                is_syntactic = line.startswith(": gram")
            elif len(words := line.lower().split()) == 4:
                questions.append([vocabulary.id(MARK + word) for word in words])
                syntactic.append(is_syntactic)
    return np.array(questions), np.array(syntactic)


def similar_words(
    vectors: FloatArray, vocabulary: Vocabulary, num_words: int = 12, num_similar: int = 6
) -> dict[str, list[tuple[str, float]]]:
    """Return the nearest pieces of some frequent whole words, with their cosines, for a person to look at.

    The words are spread over the frequency ranks 150 to 1500 of all pieces, below the function words.
    """
    whole = np.array([piece.startswith(MARK) for piece in vocabulary.pieces[: FIRST_LEARNED + 1500]], bool)
    whole[: FIRST_LEARNED + min(150, (len(whole) - FIRST_LEARNED) // 4)] = False
    places = np.flatnonzero(whole)
    chosen = places[np.unique(np.linspace(0, len(places) - 1, num_words).astype(int))] if len(places) else places
    limit = min(len(vocabulary), 100_000)
    units = unit_rows(vectors[:limit])
    result = {}
    for word in chosen:
        cosine = units @ units[word]
        cosine[:FIRST_LEARNED] = -np.inf
        cosine[word] = -np.inf
        nearest = np.argsort(-cosine)[: min(num_similar, limit - FIRST_LEARNED - 1)]
        result[vocabulary.pieces[word]] = [(vocabulary.pieces[i], round(float(cosine[i]), 3)) for i in nearest]
    return result


def score(vectors: FloatArray, vocabulary: Vocabulary) -> dict[str, Any]:
    """Return all figures of this module."""
    return {
        **{name: word_pair_correlation(vectors, vocabulary, name) for name in WORD_PAIRS},
        "analogies": analogies(vectors, vocabulary),
        "similar_words": similar_words(vectors, vocabulary),
    }
