"""Classification on frozen vectors: softmax regression, as SentEval does (Conneau and Kiela 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.evaluation.baselines import Embed, FloatArray
from lstm_embed.evaluation.similarity import read_columns, stem

Ints = npt.NDArray[np.int64]

PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
"""L2 penalties tried on a fifth of the training part; from strong to weak, each fit starting from the one before."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled sentences; `test` is None where there is no given split.

    Attributes:
        name: Of the set.
        texts: Of the training part, or of all.
        labels: Class numbers of `texts`.
        classes: Names of the classes.
        test: Texts and class numbers of the test part.
    """

    name: str
    texts: list[str]
    labels: Ints
    classes: list[str]
    test: tuple[list[str], Ints] | None


def read_sets(paths: Sequence[str]) -> list[Labelled]:
    """Read files of lines `label TAB text`, joining `X.train.tsv` with the `X.test.tsv` beside it.

    Raises:
        FileNotFoundError: if a file or the other half of a pair is missing.
        InputError: if a line is not of that form, or there is one class only.
    """
    sets: dict[str, Labelled] = {}
    for path in map(storage.resolve, paths):
        name = stem(path)
        base, _, half = name.rpartition(".")
        if half in ("train", "test"):
            if base not in sets:
                folder, file = storage.parent(path), storage.name(path)
                halves = [storage.join(folder, file.replace(f".{half}.", f".{h}.")) for h in ("train", "test")]
                sets[base] = _labelled(base, *halves)
        else:
            sets[name] = _labelled(name, path, None)
    return list(sets.values())


def _labelled(name: str, path: str, test_path: str | None) -> Labelled:
    labels, texts = _read(path)
    test_labels, test_texts = _read(test_path) if test_path else ([], [])
    classes = sorted({*labels, *test_labels})
    if len(set(labels)) < 2:
        raise InputError(f"{path} has the label {classes[0]!r} only; expected at least two")
    number = {label: i for i, label in enumerate(classes)}
    test = (test_texts, np.array([number[label] for label in test_labels])) if test_path else None
    return Labelled(
        name=name, texts=texts, labels=np.array([number[label] for label in labels]), classes=classes, test=test
    )


def _read(path: str) -> tuple[list[str], list[str]]:
    rows = read_columns(path, 2)
    return [fields[0] for _, fields in rows], [fields[1] for _, fields in rows]


@dataclass(frozen=True, kw_only=True)
class SoftmaxRegression:
    """A fitted linear classifier: argmax over k classes of x W + b."""

    weights_dk: FloatArray
    bias_k: FloatArray

    def predict(self, x_nd: FloatArray) -> Ints:
        """Return the class number of each row."""
        return np.argmax(x_nd @ self.weights_dk + self.bias_k, axis=1)


def fit_softmax(
    x_nd: FloatArray, y_n: Ints, num_classes: int, penalty: float, start: SoftmaxRegression | None = None
) -> SoftmaxRegression:
    """Minimise mean cross entropy + penalty / 2 * |W|^2 with L-BFGS.

    Args:
        x_nd: float32 features, of about unit scale.
        y_n: Class numbers.
        num_classes: k.
        penalty: Strength of the L2 penalty; the bias is free.
        start: Where to start.
    """
    from scipy.optimize import minimize

    n, d = x_nd.shape
    rows = np.arange(n)

    def objective(flat: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights = flat[: d * num_classes].reshape(d, num_classes)
        logits = (x_nd @ weights.astype(np.float32)).astype(np.float64) + flat[d * num_classes :]
        logits -= logits.max(axis=1, keepdims=True)
        total = np.exp(logits).sum(axis=1, keepdims=True)
        loss = float((np.log(total[:, 0]) - logits[rows, y_n]).mean() + penalty / 2 * (weights * weights).sum())
        error = np.exp(logits) / total
        error[rows, y_n] -= 1
        error /= n
        gradient = (x_nd.T @ error.astype(np.float32)).astype(np.float64) + penalty * weights
        return loss, np.concatenate([gradient.ravel(), error.sum(axis=0)])

    first = (
        np.concatenate([start.weights_dk.ravel(), start.bias_k]).astype(np.float64)
        if start
        else np.zeros((d + 1) * num_classes)
    )
    found = minimize(
        objective, first, jac=True, method="L-BFGS-B", options={"maxiter": 200, "gtol": 1e-4, "ftol": 1e-6}
    ).x
    return SoftmaxRegression(
        weights_dk=found[: d * num_classes].reshape(d, num_classes).astype(np.float32),
        bias_k=found[d * num_classes :].astype(np.float32),
    )


def train_and_test(
    x_train: FloatArray, y_train: Ints, x_test: FloatArray, y_test: Ints, num_classes: int, rng: np.random.Generator
) -> float:
    """Return the accuracy on the test part; the penalty is chosen on a fifth of the training part, then all of it is used.

    Features are scaled one by one, by mean and deviation of the training part: the parts of a vector differ in scale.
    """
    mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
    # What is constant but for rounding stays as it is.
    deviation[deviation <= 1e-6 * np.abs(x_train).max(axis=0)] = 1
    x_train, x_test = (x_train - mean) / deviation, (x_test - mean) / deviation
    order = rng.permutation(len(x_train))
    held_in, rest = order[: max(1, len(order) // 5)], order[max(1, len(order) // 5) :]
    best, best_accuracy = None, -1.0
    model: SoftmaxRegression | None = None
    for penalty in PENALTIES:
        model = fit_softmax(x_train[rest], y_train[rest], num_classes, penalty, model)
        accuracy = float((model.predict(x_train[held_in]) == y_train[held_in]).mean())
        if accuracy > best_accuracy:
            best, best_accuracy, best_model = penalty, accuracy, model
    assert best is not None
    final = fit_softmax(x_train, y_train, num_classes, best, best_model)
    return float((final.predict(x_test) == y_test).mean())


def accuracy(labelled: Labelled, embed: Embed, *, folds: int = 10, seed: int = 0) -> dict[str, Any]:
    """Return the accuracy (in %) of a classifier on frozen vectors: on the given test part, or by cross-validation.

    Args:
        labelled: The set.
        embed: Turns texts into vectors; never trained.
        folds: Of the cross-validation, at most the number of texts.
        seed: Decides the folds.
    """
    rng = np.random.default_rng(seed)
    x, num_classes = embed(labelled.texts), len(labelled.classes)
    if labelled.test:
        texts, y_test = labelled.test
        value = train_and_test(x, labelled.labels, embed(texts), y_test, num_classes, rng)
        return {"accuracy": 100 * value, "test": len(texts), "train": len(x)}
    parts = np.array_split(rng.permutation(len(x)), min(folds, len(x)))
    values = []
    for test in parts:
        train = np.setdiff1d(np.arange(len(x)), test)
        values.append(
            train_and_test(x[train], labelled.labels[train], x[test], labelled.labels[test], num_classes, rng)
        )
    weights = [len(test) for test in parts]
    return {"accuracy": 100 * float(np.average(values, weights=weights)), "folds": len(parts), "rows": len(x)}


def classification(
    sets: Sequence[Labelled], methods: Mapping[str, Embed], *, folds: int = 10, seed: int = 0
) -> dict[str, Any]:
    """Return for every method the accuracy on each set and their mean."""
    results: dict[str, Any] = {}
    for name, embed in methods.items():
        by_set = {labelled.name: accuracy(labelled, embed, folds=folds, seed=seed) for labelled in sets}
        results[name] = {"sets": by_set, "mean": float(np.mean([f["accuracy"] for f in by_set.values()]))}
    return {"methods": results}
