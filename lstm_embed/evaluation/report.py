"""The report: one self-contained HTML page of an evaluation's figures and pictures; no scripts, nothing from the network.

report.html is its template, which escapes all text.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from lstm_embed.evaluation.charts import bar_chart, line_chart, scatter
from lstm_embed.evaluation.decoding import ALL, PARTLY_READ

NAMES = {
    "model": "this model",
    "original": "second model",
    "meaning": "this model, meaning alone",
    "exact": "this model, exact",
    "joined": "this model, joined (LSTM alone)",
    "order": "this model",
    "mean": "mean of word vectors",
    "sif": "SIF",
    "sif_minus_first": "SIF minus first component",
    "log_unit": "log-weighted unit mean",
    "bm25": "BM25",
    "most_frequent_word": "most frequent word",
    "nearest_sentence": "nearest training sentence",
}


def render(results: Mapping[str, Any]) -> str:
    """Return the page for the content of a results.json."""
    page = Environment(autoescape=True, undefined=StrictUndefined)
    page.filters.update(method=_name, number=_number, beside=_beside, by_length=_by_length, by_measure=_by_measure)
    page.globals.update(line_chart=line_chart, scatter=scatter, bar_chart=bar_chart)
    template = resources.files("lstm_embed.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    return page.from_string(template).render(results)


def _name(method: str) -> str:
    return NAMES.get(method, method)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _beside(wanted: Sequence[str], words: Sequence[str]) -> Markup:
    """Return what came back, marked where it differs."""
    pieces: list[Markup | str] = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, wanted, words, autojunk=False).get_opcodes():
        missing, added = " ".join(wanted[a:b]), " ".join(words[c:d])
        if kind == "equal":
            pieces.append(added)
        else:
            pieces += [Markup("<del>{}</del>").format(missing)] * (b > a) + [Markup("<ins>{}</ins>").format(added)] * (
                d > c
            )
    return Markup(" ").join(pieces)


def _by_length(decoding: Mapping[str, Any], figure: str) -> dict[str, list[tuple[float, float | None]]]:
    """Return a line by method: a figure of the rows by length, at their mean number of words."""
    sizes = {row: size for row, size in decoding["rows"].items() if row not in (ALL, PARTLY_READ)}
    return {
        _name(method): [(size["words"] / size["sentences"], figures[row][figure]) for row, size in sizes.items()]
        for method, figures in decoding["methods"].items()
    }


def _by_measure(comparison: Mapping[str, Mapping[str, float | None]]) -> dict[str, dict[str, float]]:
    """Return, for each measure that more than one evaluation has, the figure by evaluation."""
    measures = dict.fromkeys(measure for figures in comparison.values() for measure in figures)
    columns = {
        measure: {name: value for name, figures in comparison.items() if (value := figures.get(measure)) is not None}
        for measure in measures
    }
    return {measure: column for measure, column in columns.items() if len(column) > 1}
