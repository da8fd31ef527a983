"""Clustering: do the groups k-means finds agree with labels?"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.evaluation.baselines import Embed
from lstm_embed.evaluation.classification import Labelled
from lstm_embed.words.scores import unit_rows

MAX_TEXTS = 5_000
_ITERATIONS = 30
_STARTS = 3


def v_measure(labels: npt.ArrayLike, clusters: npt.ArrayLike) -> float:
    """Return the harmonic mean of homogeneity and completeness, 0 to 1 (Rosenberg and Hirschberg 2007)."""
    _, left = np.unique(np.asarray(labels), return_inverse=True)
    _, right = np.unique(np.asarray(clusters), return_inverse=True)
    joint = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(joint, (left, right), 1 / len(left))
    by_label, by_cluster = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    both = _entropy(joint.ravel())
    homogeneity = 1 - (both - by_cluster) / by_label if by_label > 0 else 1.0
    completeness = 1 - (both - by_label) / by_cluster if by_cluster > 0 else 1.0
    total = homogeneity + completeness
    return float(2 * homogeneity * completeness / total) if total > 1e-12 else 0.0


def _entropy(shares: npt.NDArray[np.float64]) -> float:
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def clustering(sets: Sequence[Labelled], methods: Mapping[str, Embed], *, seed: int = 0) -> dict[str, Any]:
    """Cut each labelled set into as many clusters as it has classes and return the v-measure (x100).

    Of a set with more than `MAX_TEXTS` texts that many are drawn. Of a few starts of k-means the best by its own
    measure counts.
    """
    results: dict[str, Any] = {name: {} for name in methods}
    for labelled in sets:
        texts, labels = labelled.test if labelled.test else (labelled.texts, labelled.labels)
        if len(texts) > MAX_TEXTS:
            chosen = np.sort(np.random.default_rng(seed).permutation(len(texts))[:MAX_TEXTS])
            texts, labels = [texts[i] for i in chosen], labels[chosen]
        for name, embed in methods.items():
            clusters = k_means(unit_rows(embed(texts)), len(labelled.classes), seed)
            results[name][labelled.name] = 100 * v_measure(labels, clusters)
    return {"methods": results}


def k_means(vectors: npt.NDArray[np.float32], k: int, seed: int) -> npt.NDArray[np.int64]:
    """Return the cluster of each row."""
    from scipy.cluster.vq import kmeans2

    best, best_error = np.zeros(len(vectors), np.int64), np.inf
    for start in range(_STARTS):
        with warnings.catch_warnings():
            # A cluster that runs empty is allowed; scipy keeps its centre.
            warnings.simplefilter("ignore", UserWarning)
            centres, clusters = kmeans2(
                vectors, min(k, len(vectors)), iter=_ITERATIONS, minit="++", seed=np.random.default_rng([seed, start])
            )
        error = float(((vectors - centres[clusters]) ** 2).sum())
        if error < best_error:
            best, best_error = clusters.astype(np.int64), error
    return best
