"""results.json: what it may hold, the few numbers that stand for it, and how it is read again."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pydantic
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.settings import read_json
from lstm_embed.evaluation.decoding import ALL

RESULTS = "results.json"
_MAX_POINTS = 400
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that HTML cannot hold."""

Headline = dict[str, dict[str, float | None]]
"""One number by measure and method."""


def plain(value: Any) -> Any:
    """Return a value as JSON and HTML can hold it: numbers rounded to four decimals, NaN as None, no control characters."""
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return _FORBIDDEN.sub("\ufffd", value) if isinstance(value, str) else value


def results_path(path: str) -> str:
    """Return the results.json of an evaluation that is given as a folder or as that file."""
    path = storage.resolve(path)
    return path if path.endswith(".json") else storage.join(path, RESULTS)


class _Measured(TypedDict):
    name: str
    fingerprint: str
    embedding: str


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class Results(TypedDict):
    """What has to be in results.json."""

    model: _Measured
    headline: dict[str, dict[str, float | None]]


def read_results(path: str, flag: str) -> dict[str, Any]:
    """Return what an evaluation found, given as its folder or results.json.

    Args:
        path: The folder or file.
        flag: Flag that named it, for the message.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is no result of an evaluation.
    """
    path = results_path(path)
    if not storage.exists(path):
        raise FileNotFoundError(f"no file at {path} ({flag})")
    return dict(read_json(path, Results, advice=f"expected what an evaluation found ({flag})"))


def headline(results: Mapping[str, Any]) -> Headline:
    """Return one number by measure and method: what the summary shows and comparisons draw."""

    def column(section: str, figure: str) -> dict[str, float | None]:
        found = results.get(section) or {}
        return {name: figures[figure] for name, figures in found.get("methods", found).items()}

    columns = {
        "similarity, mean Spearman": column("similarity", "mean_spearman"),
        "news texts, Pearson": column("document_similarity", "pearson"),
        "classification, mean accuracy": column("classification", "mean"),
    }
    for corpus in results["retrieval"]:
        which = ", embedded corpus" if corpus["name"] == "the embedded corpus" else ""
        for task in ("sentence", "title"):
            figures = corpus["tasks"].get(task, {})
            columns[f"{task} finds article, MRR{which}"] = {name: found["mrr"] for name, found in figures.items()}
    own = results["model"]["embedding"]
    decoded = ((results["decoding"] or {}).get("methods") or {}).items()
    for figure, title in (("exact", "sentences decoded word for word, %"), ("in_place", "words decoded in place, %")):
        columns[title] = {
            "model" if name == own else name: rows[ALL][figure] if ALL in rows else None for name, rows in decoded
        }
    return {title: figures for title, figures in columns.items() if figures}


def training_curves(path: str) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return what a metrics.jsonl holds by what it measures: {"loss": {"train": [(step, value)], "val": […]}}.

    Lines that are no JSON (a run may be writing the last one) are passed over; long curves are thinned.
    """
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    with storage.open_stream(path) as lines:
        for line in lines:
            try:
                entry = json.loads(line)
                step = float(entry.pop("train/step"))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
            for name, value in entry.items():
                part, slash, measure = name.partition("/")
                if slash and isinstance(value, int | float) and math.isfinite(value):
                    curves.setdefault(measure, {}).setdefault(part, []).append((step, float(value)))
    return {
        measure: {part: points[:: -(-len(points) // _MAX_POINTS)] for part, points in parts.items()}
        for measure, parts in curves.items()
    }
