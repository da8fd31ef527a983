"""Semantic similarity: cosines of sentence pairs against people's judgement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.evaluation.baselines import Embed, FloatArray
from lstm_embed.words.scores import shipped_file, unit_rows

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A similarity set: its name, and for each pair the gold score and the two sentences."""

    name: str
    gold: Floats
    left: list[str]
    right: list[str]


def read_pairs(path: str) -> Pairs:
    """Read a file of lines `score TAB sentence TAB sentence`; further columns are ignored.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a line is not of that form.
    """
    gold, left, right = [], [], []
    for number, fields in read_columns(path, 3):
        try:
            gold.append(float(fields[0]))
        except ValueError:
            raise InputError(f"{path}:{number} begins with {fields[0][:40]!r}; expected a score, a number") from None
        left.append(fields[1])
        right.append(fields[2])
    return Pairs(name=stem(path), gold=np.array(gold), left=left, right=right)


def read_columns(path: str, num_columns: int) -> list[tuple[int, list[str]]]:
    """Return line number and columns of each line of a tab-separated file without header or quoting.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a line has fewer columns, or there is none.
    """
    with storage.open_stream(storage.resolve(path)) as stream:
        lines = stream.read().decode("utf-8-sig", "replace").split("\n")
    rows = []
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r").split("\t")
        if not line.strip():
            continue
        if len(fields) < num_columns:
            raise InputError(f"{path}:{number} has {len(fields)} columns; expected {num_columns}, separated by tabs")
        rows.append((number, fields))
    if not rows:
        raise InputError(f"{path} has no lines")
    return rows


def stem(path: str) -> str:
    """Return the name of a file without codec and .tsv."""
    name = storage.name(path)
    if codec := storage.codec(name):
        name = name[: -len(codec)]
    return name.removesuffix(".tsv").removesuffix(".txt")


def cosines(left: FloatArray, right: FloatArray) -> Floats:
    """Return the cosine of each pair of rows; 0 where one is zero."""
    result: Floats = np.einsum("nd,nd->n", unit_rows(left), unit_rows(right)).astype(np.float64)
    return result


def spearman(x: Floats, y: Floats) -> Floats:
    """Return Spearman's rho along the last axis (ties share their mean rank); 0 where one side is constant."""
    from scipy import stats

    return pearson(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def pearson(x: Floats, y: Floats) -> Floats:
    """Return Pearson's r along the last axis; 0 where one side is constant."""
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    result: Floats = (x * y).sum(axis=-1) / np.where(scale > 0, scale, 1.0)
    return result


def correlate(gold: Floats, predicted: Floats, drawn: Floats | None = None) -> dict[str, Any]:
    """Return Spearman and Pearson x100 and, given what resampling drew for Spearman, its 95 % interval."""
    result: dict[str, Any] = {
        "spearman": 100 * float(spearman(gold, predicted)),
        "pearson": 100 * float(pearson(gold, predicted)),
        "pairs": len(gold),
    }
    if drawn is not None and len(drawn):
        result["spearman_interval"] = interval(drawn)
    return result


def resampled_spearman(gold: Floats, predicted: Floats, bootstrap: int, seed: int) -> Floats:
    """Return Spearman x100 of resampled pairs; the same seed draws the same pairs, whatever was predicted.

    Only how often each pair was drawn is needed: the ranks of repeated values follow from the sorted originals.
    """
    rng = np.random.default_rng(seed)
    sides = [np.unique(values, return_inverse=True)[1] for values in (gold, predicted)]
    found = np.zeros(bootstrap)
    for number in range(bootstrap):
        times = np.bincount(rng.integers(0, len(gold), len(gold)), minlength=len(gold)).astype(np.float64)
        x, y = (_mean_ranks(side, times) for side in sides)
        x, y = x - np.average(x, weights=times), y - np.average(y, weights=times)
        scale = np.sqrt((times * x * x).sum() * (times * y * y).sum())
        found[number] = 100 * (times * x * y).sum() / scale if scale > 0 else 0.0
    return found


def _mean_ranks(order: npt.NDArray[np.intp], times: Floats) -> Floats:
    """Return the mean rank of each value when value i stands in the list `times[i]` times; `order` is its place among the
    distinct values."""
    size = np.bincount(order, weights=times)
    ranks: Floats = (np.cumsum(size) - size + (size + 1) / 2)[order]
    return ranks


def interval(values: Floats) -> list[float]:
    """Return the middle 95 % of some values."""
    return [float(v) for v in np.quantile(values, [0.025, 0.975])]


def similarity(
    sets: Sequence[Pairs], methods: Mapping[str, Embed], *, bootstrap: int = 300, seed: int = 0
) -> dict[str, Any]:
    """Score every method on every set.

    Args:
        sets: At least one.
        methods: By name; the first is the one that others are compared with.
        bootstrap: Resamplings for intervals; 0 for none.
        seed: Of the resampling.

    Returns:
        `methods`: for each the figures of each set, `all` (sets concatenated: they should have one scale) and
        `mean_spearman` over the sets; `gain`: how much the first method is above each other in `all`, with interval;
        `points`: gold and predicted of the first method, for drawing.
    """
    predicted = {
        name: [cosines(embed(pairs.left), embed(pairs.right)) for pairs in sets] for name, embed in methods.items()
    }
    gold = np.concatenate([pairs.gold for pairs in sets])
    joined = {name: np.concatenate(scores) for name, scores in predicted.items()}
    drawn = {name: resampled_spearman(gold, scores, bootstrap, seed) for name, scores in joined.items()}
    results: dict[str, Any] = {}
    for name, scores in predicted.items():
        by_set = {
            pairs.name: correlate(pairs.gold, score, resampled_spearman(pairs.gold, score, bootstrap, seed))
            for pairs, score in zip(sets, scores, strict=True)
        }
        results[name] = {
            "sets": by_set,
            "all": correlate(gold, joined[name], drawn[name]),
            "mean_spearman": float(np.mean([figures["spearman"] for figures in by_set.values()])),
        }
    first, *others = methods
    points = {
        pairs.name: {"gold": pairs.gold, "predicted": score}
        for pairs, score in zip(sets, predicted[first], strict=True)
    }
    gain = {name: _gain(drawn[first] - drawn[name]) for name in others} if bootstrap else {}
    return {"methods": results, "gain": gain, "points": points}


def _gain(differences: Floats) -> dict[str, Any]:
    return {"spearman": float(differences.mean()), "interval": interval(differences)}


def document_similarity(methods: Mapping[str, Embed], split: Any) -> dict[str, Any]:
    """Score methods on the 50 news texts of Lee, Pincombe and Welsh (2005) that ship with gensim, whose pairs 83 students
    judged. A document's vector is the mean of its sentences' unit vectors.

    Args:
        methods: By name.
        split: Cuts a text into (start, end) spans of sentences.
    """
    with open(shipped_file("lee.cor"), encoding="latin-1") as file:
        documents = [line.strip() for line in file if line.strip()]
    judged = np.loadtxt(shipped_file("similarities0-1.txt"))
    upper = np.triu_indices(len(documents), 1)
    sentences = [[text[a:b] for a, b in split(text)] for text in documents]
    owner = np.repeat(np.arange(len(documents)), [len(s) for s in sentences])
    flat = [sentence for some in sentences for sentence in some]
    results = {}
    for name, embed in methods.items():
        units = unit_rows(embed(flat))
        means = np.zeros((len(documents), units.shape[1]), np.float32)
        np.add.at(means, owner, units)
        cosine = unit_rows(means) @ unit_rows(means).T
        results[name] = correlate(judged[upper], cosine[upper].astype(np.float64))
    return results
