"""Semantic similarity: cosines of sentence pairs against people's judgement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from lstm_embed.evaluation.baselines import Embed, FloatArray
from lstm_embed.evaluation.corpora import Split, shipped_documents
from lstm_embed.evaluation.labelled import Floats, Pairs
from lstm_embed.words.scores import shipped_file, unit_rows

_MAX_POINTS = 500


def cosines(left: FloatArray, right: FloatArray) -> Floats:
    """Return the cosine of each pair of rows; 0 where one is zero."""
    return np.einsum("nd,nd->n", unit_rows(left), unit_rows(right)).astype(np.float64)


def spearman(gold: Floats, predicted: Floats) -> float:
    """Return Spearman's rho x100; 0 where one side is constant."""
    return _correlation(stats.spearmanr, gold, predicted)


def pearson(gold: Floats, predicted: Floats) -> float:
    """Return Pearson's r x100; 0 where one side is constant."""
    return _correlation(stats.pearsonr, gold, predicted)


def _correlation(measure: Callable[[Floats, Floats], Any], gold: Floats, predicted: Floats) -> float:
    constant = np.ptp(gold) == 0 or np.ptp(predicted) == 0
    return 0.0 if constant else 100 * float(measure(gold, predicted).statistic)


def resample(num: int, times: int, seed: int) -> Iterator[Any]:
    """Yield row numbers drawn with repetition (the bootstrap); the same seed draws the same, whatever is measured."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, num, num) for _ in range(times))


def interval(values: Sequence[float] | Floats) -> list[float] | None:
    """Return the middle 95 % of some values; None if there are none."""
    return np.quantile(values, [0.025, 0.975]).tolist() if len(values) else None


def similarity(
    sets: Sequence[Pairs], methods: Mapping[str, Embed], *, bootstrap: int = 300, seed: int = 0
) -> dict[str, Any] | None:
    """Score every method on every set.

    Args:
        sets: Similarity sets.
        methods: Methods by name; the first is the one that others are compared with.
        bootstrap: Resamplings for intervals; 0 for none.
        seed: Start of the resampling.

    Returns:
        `methods`: for each the figures of each set, `all` (sets concatenated: they should have one scale) and
        `mean_spearman` over the sets; `gain`: how much the first method is above each other in `all`, with interval;
        `points`: some gold and predicted scores of the first method, for drawing. None without a set.
    """
    if not sets:
        return None
    gold = np.concatenate([pairs.gold for pairs in sets])
    results: dict[str, Any] = {}
    drawn: dict[str, Floats] = {}
    points: dict[str, Any] = {}
    for name, embed in methods.items():
        predicted = [cosines(embed(pairs.left), embed(pairs.right)) for pairs in sets]
        by_set = {
            pairs.name: _figures(pairs.gold, scores, _resampled(pairs.gold, scores, bootstrap, seed))
            for pairs, scores in zip(sets, predicted, strict=True)
        }
        together = np.concatenate(predicted)
        drawn[name] = _resampled(gold, together, bootstrap, seed)
        results[name] = {
            "sets": by_set,
            "all": _figures(gold, together, drawn[name]),
            "mean_spearman": float(np.mean([figures["spearman"] for figures in by_set.values()])),
        }
        for pairs, scores in zip(sets, predicted, strict=True):
            some = slice(None, None, -(-len(scores) // _MAX_POINTS))
            points.setdefault(pairs.name, {"gold": pairs.gold[some], "predicted": scores[some]})
    first, *others = methods
    gains = {name: drawn[first] - drawn[name] for name in others if bootstrap}
    return {
        "methods": results,
        "gain": {name: {"spearman": float(gain.mean()), "interval": interval(gain)} for name, gain in gains.items()},
        "points": points,
    }


def _resampled(gold: Floats, predicted: Floats, bootstrap: int, seed: int) -> Floats:
    return np.array([spearman(gold[some], predicted[some]) for some in resample(len(gold), bootstrap, seed)])


def _figures(gold: Floats, predicted: Floats, drawn: Floats) -> dict[str, Any]:
    return {
        "spearman": spearman(gold, predicted),
        "pearson": pearson(gold, predicted),
        "pairs": len(gold),
        "spearman_interval": interval(drawn),
    }


def document_similarity(methods: Mapping[str, Embed], split: Split) -> dict[str, Any]:
    """Score methods on the 50 news texts of Lee, Pincombe and Welsh (2005) that ship with gensim, whose pairs 83 students
    judged. A document's vector is the mean of its sentences' unit vectors."""
    documents = [[text[a:b] for a, b in split(text)] for text in shipped_documents("lee.cor")]
    upper = np.triu_indices(len(documents), 1)
    judged = np.loadtxt(shipped_file("similarities0-1.txt"))[upper]
    ends = np.cumsum([len(sentences) for sentences in documents])[:-1]
    results = {}
    for name, embed in methods.items():
        sentences = unit_rows(embed([sentence for document in documents for sentence in document]))
        means = unit_rows(np.array([vectors.sum(axis=0) for vectors in np.split(sentences, ends)]))
        results[name] = _figures(judged, (means @ means.T)[upper].astype(np.float64), np.zeros(0))
    return results
