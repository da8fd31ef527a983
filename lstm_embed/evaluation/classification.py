"""What labels say of frozen vectors: does a linear classifier learn them (SentEval, Conneau and Kiela 2018), do clusters
agree with them?"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, v_measure_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from lstm_embed.evaluation.baselines import Embed, FloatArray
from lstm_embed.evaluation.labelled import Labelled, Labels
from lstm_embed.words.scores import unit_rows

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""L2 penalties, on the mean loss, that are tried on a fifth of the training part."""
MAX_CLUSTERED = 5_000
"""Sentences of a set that are clustered; of a larger one so many are drawn."""


def accuracy(labelled: Labelled, embed: Embed, *, folds: int = 10, seed: int = 0) -> dict[str, Any]:
    """Return the accuracy (in %) of a classifier on frozen vectors: on the given test part, or by cross-validation.

    Args:
        labelled: Sentences with their labels.
        embed: Function that turns texts into vectors; it is never trained.
        folds: Parts of the cross-validation, at most as many as the most frequent label has sentences.
        seed: Decides the folds.
    """
    x, labels = embed(labelled.texts), labelled.labels
    if labelled.test:
        texts, wanted = labelled.test
        predicted = _predict(x, labels, embed(texts), seed)
        return {"accuracy": 100 * accuracy_score(wanted, predicted), "test": len(texts), "train": len(x)}
    folds = min(folds, int(np.unique(labels, return_counts=True)[1].max()))
    predicted = np.empty_like(labels)
    for train, test in _split(labels, folds, seed):
        predicted[test] = _predict(x[train], labels[train], x[test], seed)
    return {"accuracy": 100 * accuracy_score(labels, predicted), "folds": folds, "rows": len(x)}


def _predict(x_train: FloatArray, labels: Labels, x_test: FloatArray, seed: int) -> Labels:
    """Return labels by logistic regression on features of equal scale, since the parts of a vector differ in it."""
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    inverse_penalties = [1 / (penalty * len(labels)) for penalty in PENALTIES]
    fifth = _split(labels, 5, seed)[0]
    with _quiet():
        search = GridSearchCV(classifier, {"logisticregression__C": inverse_penalties}, cv=[fifth]).fit(x_train, labels)
    return np.asarray(search.predict(x_test))


def _split(labels: Labels, folds: int, seed: int) -> list[Any]:
    with _quiet():
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(labels, labels))


def classification(
    sets: Sequence[Labelled], methods: Mapping[str, Embed], *, folds: int = 10, seed: int = 0
) -> dict[str, Any] | None:
    """Return for every method the accuracy on each set and their mean; None without a set."""
    if not sets:
        return None
    results: dict[str, Any] = {}
    for name, embed in methods.items():
        by_set = {labelled.name: accuracy(labelled, embed, folds=folds, seed=seed) for labelled in sets}
        results[name] = {"sets": by_set, "mean": float(np.mean([f["accuracy"] for f in by_set.values()]))}
    return {"methods": results}


def clustering(sets: Sequence[Labelled], methods: Mapping[str, Embed], *, seed: int = 0) -> dict[str, Any] | None:
    """Cut each set (its test part, if it has one) by k-means into as many clusters as it has labels, and return the
    v-measure x100 by method and set (Rosenberg and Hirschberg 2007); None without a set."""
    if not sets:
        return None
    results: dict[str, Any] = {name: {} for name in methods}
    for labelled in sets:
        texts, labels = labelled.test or (labelled.texts, labelled.labels)
        if len(texts) > MAX_CLUSTERED:
            drawn = np.sort(np.random.default_rng(seed).permutation(len(texts))[:MAX_CLUSTERED])
            texts, labels = [texts[i] for i in drawn], labels[drawn]
        k_means = KMeans(len(np.unique(labels)), n_init=3, max_iter=30, random_state=seed)
        for name, embed in methods.items():
            with _quiet():
                clusters = k_means.fit_predict(unit_rows(embed(texts)))
            results[name][labelled.name] = 100 * v_measure_score(labels, clusters)
    return {"methods": results}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep scikit-learn from warning of rare labels, fits cut short and equal rows, which a score may rest on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
