"""What an evaluation leaves behind: results.json, the page drawn from it, and the few numbers that stand for it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.evaluation.decoding import ALL
from lstm_embed.evaluation.report import render

RESULTS, PAGE = "results.json", "report.html"


def write_results(output: str, results: Mapping[str, Any]) -> None:
    """Write results.json and the page drawn from it."""
    content = plain(results)
    storage.write_json(storage.join(output, RESULTS), content)
    storage.write_bytes(storage.join(output, PAGE), render(content).encode("utf-8", "replace"))


def results_path(path: str) -> str:
    """Return the results.json of an evaluation that is given as a folder or as that file."""
    path = storage.resolve(path)
    return path if path.endswith(".json") else storage.join(path, RESULTS)


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: numbers rounded to four decimals, NaN as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return round(float(value), 4) if math.isfinite(value) else None
    return value


def compared(results: Mapping[str, Any], others: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return the model's numbers in this evaluation and in others, by the names of the models.

    Raises:
        FileNotFoundError: if another evaluation is not there.
        InputError: if a file is none.
    """

    def of_model(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
        return {name: column.get("model") for name, column in scores.items()}

    found = {results["model"]["name"]: of_model(results["headline"])}
    for path in map(results_path, others):
        other = storage.read_json(path)
        if not isinstance(other, dict) or "headline" not in other:
            raise InputError(f"{path} is no result of an evaluation (--compare)")
        name = other["model"]["name"]
        found[f"{name} ({path})" if name in found else name] = of_model(other["headline"])
    return found


def headline(results: Mapping[str, Any]) -> dict[str, dict[str, float | None]]:
    """Return one number a measure and method: what the summary shows and comparisons draw."""
    columns: dict[str, dict[str, float | None]] = {}

    def take(title: str, methods: Mapping[str, Any] | None, value: Callable[[Any], float | None]) -> None:
        if methods:
            columns[title] = {name: value(figures) for name, figures in methods.items()}

    def methods_of(section: str) -> Mapping[str, Any] | None:
        found: Mapping[str, Any] | None = (results.get(section) or {}).get("methods")
        return found

    take("similarity, mean Spearman", methods_of("similarity"), lambda f: f["mean_spearman"])
    take("news texts, Pearson", results.get("document_similarity"), lambda f: f["pearson"])
    take("classification, mean accuracy", methods_of("classification"), lambda f: f["mean"])
    for corpus in results.get("retrieval") or ():
        which = ", embedded corpus" if corpus["name"] == "the embedded corpus" else ""
        for task, title in (("sentence", "sentence finds article, MRR"), ("title", "title finds article, MRR")):
            take(title + which, corpus["tasks"].get(task), lambda f: f["mrr"])
    own = (results.get("model") or {}).get("embedding")
    decoded = {"model" if name == own else name: f.get(ALL) for name, f in (methods_of("decoding") or {}).items()}
    for figure, title in (("exact", "sentences decoded word for word, %"), ("in_place", "words decoded in place, %")):
        take(title, decoded, lambda f, figure=figure: f and f[figure])  # type: ignore[misc]
    return columns


def training_curves(lines: bytes) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return the lines of a metrics.jsonl by what they measure: {"loss": {"train": [(step, value)], "val": […]}}.

    Lines that are no JSON (a run may be writing the last one) are passed over; long curves are thinned.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in lines.splitlines():
        try:
            entry = json.loads(line)
            step = float(entry["train/step"])
        except (ValueError, KeyError, TypeError):
            continue
        for name, value in entry.items():
            part, slash, measure = name.partition("/")
            if slash and isinstance(value, int | float) and math.isfinite(value):
                curves.setdefault(measure, {}).setdefault(part, []).append((step, float(value)))
    curves.pop("step", None)
    for drawn in curves.values():
        for part, points in drawn.items():
            drawn[part] = points[:: -(-len(points) // 400)]
    return curves
