"""The report: one self-contained HTML page of an evaluation's figures and pictures; no scripts, nothing from the network."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lstm_embed.evaluation.charts import Bar, Point, bar_chart, escape, line_chart, scatter
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
_STYLE = """
:root{color-scheme:light}
body{font:15px/1.5 system-ui,sans-serif;color:#1d2730;background:#fff;max-width:1060px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:0}h2{font-size:1.2rem;margin-top:2.4rem;border-bottom:1px solid #d5dde4;padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .2rem}
table{border-collapse:collapse;margin:.6rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.22rem .7rem;text-align:right;border-bottom:1px solid #e6ebef;vertical-align:top}
th:first-child,td:first-child{min-width:9rem}th:first-child,td:first-child,td.text,th.text{text-align:left}
tr.best td{background:#eef5fb}small,.dim{color:#66727d}small{white-space:nowrap}
.wide{overflow-x:auto}.pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:1rem}
figure{margin:.6rem 0}figcaption{font-weight:600}svg{width:100%;height:auto;max-width:720px}
svg text{font-size:11px;fill:#3a4650}.grid{stroke:#e1e7ec;stroke-width:1}.whisker{stroke:#1d2730;stroke-width:1;fill:none}
.legend{margin:.1rem 0;font-size:12px;color:#3a4650}.legend span{margin-right:1rem;white-space:nowrap}
.legend i{display:inline-block;width:10px;height:10px;margin-right:4px;border-radius:2px}
del{background:#fbe0dc;color:#8f2d1f}ins{background:#d7f0dd;color:inherit;text-decoration:none}
"""


def render(results: Mapping[str, Any]) -> str:
    """Return the page for the content of a results.json."""
    sections = [
        _summary(results),
        _curves(results.get("curves") or {}),
        _decoding(results.get("decoding")),
        _similarity(results.get("similarity")),
        _documents(results.get("document_similarity")),
        _labelled(results),
        _retrieval(results.get("retrieval")),
        _map(results.get("map")),
        _neighbours(results.get("neighbours")),
        _comparison(results.get("comparison")),
        _provenance(results),
    ]
    model = results.get("model", {})
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Evaluation of {escape(model.get('name', 'a model'))}</title><style>{_STYLE}</style></head><body>"
        f"<h1>Evaluation of {escape(model.get('name', 'a model'))}</h1>"
        f'<p class="dim">{escape(model.get("path", ""))} · {escape(model.get("dimension", "?"))} dimensions · fingerprint '
        f"{escape(model.get('fingerprint', '?'))}</p>{''.join(section for section in sections if section)}</body></html>\n"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[Any]], *, text_columns: int = 1, mark_first: bool = True) -> str:
    """Return a table; cells that are numbers get one decimal, None becomes a dash, cells are escaped unless `Html`."""
    cells = "".join(f"<th{_text(i, text_columns)}>{escape(name)}</th>" for i, name in enumerate(head))
    lines = [f"<tr>{cells}</tr>"]
    for number, row in enumerate(rows):
        cells = "".join(f"<td{_text(i, text_columns)}>{_cell(value)}</td>" for i, value in enumerate(row))
        lines.append(f"<tr{' class=best' if mark_first and number == 0 else ''}>{cells}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


class Html(str):
    """Text that is markup already."""


def _text(column: int, text_columns: int) -> str:
    return ' class="text"' if column < text_columns else ""


def _cell(value: Any) -> str:
    if isinstance(value, Html):
        return value
    if value is None:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else escape(value)


def _name(method: str) -> str:
    return NAMES.get(method, method)


def _section(title: str, *body: str) -> str:
    return f"<h2>{escape(title)}</h2>{''.join(body)}"


def _with_interval(figures: Mapping[str, Any], name: str) -> Any:
    low_high = figures.get(f"{name}_interval")
    if figures.get(name) is None or not low_high:
        return figures.get(name)
    return Html(f"{figures[name]:.1f}<br><small>{low_high[0]:.1f}…{low_high[1]:.1f}</small>")


def _summary(results: Mapping[str, Any]) -> str:
    headline: Mapping[str, Mapping[str, float | None]] = results.get("headline", {})
    if not headline:
        return ""
    methods = list(dict.fromkeys(method for column in headline.values() for method in column))
    rows = [[_name(method), *(column.get(method) for column in headline.values())] for method in methods]
    return _section("Summary", table(["", *headline], rows))


def _curves(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> str:
    drawn = [
        f"<figure>{line_chart(lines, 'step', name)}</figure>" for name, lines in curves.items() if any(lines.values())
    ]
    return _section("Training", f'<div class="pair">{"".join(drawn)}</div>') if drawn else ""


def _similarity(similarity: Mapping[str, Any] | None) -> str:
    if not similarity:
        return ""
    methods = similarity["methods"]
    sets = list(next(iter(methods.values()))["sets"])
    rows = [
        [
            _name(name),
            *(_with_interval(figures["sets"][s], "spearman") for s in sets),
            figures["mean_spearman"],
            _with_interval(figures["all"], "spearman"),
            figures["all"]["pearson"],
        ]
        for name, figures in methods.items()
    ]
    head = ["Spearman ×100", *sets, "mean of sets", "all pairs", "all pairs, Pearson"]
    gains = [
        [
            _name(name),
            Html(f"{gain['spearman']:+.1f} <small>{gain['interval'][0]:+.1f}…{gain['interval'][1]:+.1f}</small>"),
        ]
        for name, gain in similarity.get("gain", {}).items()
    ]
    bars = [Bar(name=_name(n), value=f["all"]["spearman"], interval=_interval(f["all"])) for n, f in methods.items()]
    drawn = [
        f"<figure><figcaption>{escape(name)}</figcaption>{_gold_against_predicted(points)}</figure>"
        for name, points in similarity.get("points", {}).items()
    ]
    return _section(
        "Similarity",
        "<p>Cosine of two sentences against people's judgement; small: 95 % interval over resampled pairs.</p>",
        table(head, rows),
        f"<figure>{bar_chart(bars, 'Spearman x100, all pairs')}</figure>",
        table(["This model's gain over", "Spearman, all pairs"], gains, mark_first=False) if gains else "",
        f'<div class="pair">{"".join(drawn)}</div>',
    )


def _interval(figures: Mapping[str, Any]) -> tuple[float, float] | None:
    ends = figures.get("spearman_interval")
    return (ends[0], ends[1]) if ends else None


def _gold_against_predicted(points: Mapping[str, Sequence[float]]) -> str:
    pairs = [
        Point(x=gold, y=predicted, group="", title=f"gold {gold:g}, cosine {predicted:.2f}")
        for gold, predicted in zip(points["gold"], points["predicted"], strict=True)
    ]
    return scatter(pairs, "gold score", "cosine", show_legend=False)


def _documents(figures: Mapping[str, Any] | None) -> str:
    if not figures:
        return ""
    rows = [[_name(name), f["pearson"], f["spearman"]] for name, f in figures.items()]
    return _section(
        "Document similarity",
        "<p>50 news texts whose pairs people judged (Lee et al. 2005, ships with gensim); a text is the mean of its "
        "sentences.</p>",
        table(["", "Pearson ×100", "Spearman ×100"], rows),
    )


def _labelled(results: Mapping[str, Any]) -> str:
    body = []
    if found := results.get("classification"):
        sets = list(next(iter(found["methods"].values()))["sets"])
        rows = [[_name(n), *(f["sets"][s]["accuracy"] for s in sets), f["mean"]] for n, f in found["methods"].items()]
        body.append("<h3>Accuracy of a linear classifier on frozen vectors (%)</h3>" + table(["", *sets, "mean"], rows))
    if found := results.get("clustering"):
        sets = list(next(iter(found["methods"].values())))
        rows = [[_name(n), *(f[s] for s in sets)] for n, f in found["methods"].items()]
        body.append(
            "<h3>Agreement of k-means clusters with the labels (v-measure ×100)</h3>" + table(["", *sets], rows)
        )
    return _section("Labelled sentences", *body) if body else ""


def _retrieval(retrieval: Sequence[Mapping[str, Any]] | None) -> str:
    titles = {
        "sentence": "A sentence looks for other sentences of its article",
        "title": "A title looks for its article",
    }
    body = []
    for corpus in retrieval or ():
        for task, title in titles.items():
            figures = corpus["tasks"].get(task)
            if not figures:
                continue
            some = next(iter(figures.values()))
            rows = [
                [_name(n), _with_interval(f, "mrr"), *(f[f"recall@{k}"] for k in (1, 10, 100))]
                for n, f in figures.items()
            ]
            body.append(
                f"<h3>{escape(title)}: {escape(corpus['name'])}, {some['queries']:,} queries, {some['rows']:,} rows</h3>"
                + table(["", "MRR ×100", "recall@1 (%)", "recall@10 (%)", "recall@100 (%)"], rows)
            )
    return _section("Retrieval without labels", *body) if body else ""


def _map(points: Sequence[Mapping[str, Any]] | None) -> str:
    if not points:
        return ""
    drawn = [Point(x=p["x"], y=p["y"], group=p["article"], title=f"{p['article']}: {p['text']}") for p in points]
    return _section(
        "Map",
        "<p>Sentence vectors of some articles on their first two principal components; hover to read.</p>",
        f"<figure>{scatter(drawn, 'first component', 'second component')}</figure>",
    )


def _neighbours(neighbours: Sequence[Mapping[str, Any]] | None) -> str:
    if not neighbours:
        return ""
    rows = []
    for entry in neighbours:
        lines = "<br>".join(f"{cosine:.2f}&nbsp; {escape(text)}" for text, cosine in entry["nearest"])
        rows.append([entry["text"], Html(lines)])
    return _section(
        "Nearest sentences", table(["sentence", "nearest, with cosine"], rows, text_columns=2, mark_first=False)
    )


def _decoding(decoding: Mapping[str, Any] | None) -> str:
    if not decoding or not decoding["rows"]:
        return ""
    sizes, methods = decoding["rows"], decoding["methods"]
    drawn = []
    for figure, title in (("exact", "Sentences that come back word for word, %"), ("in_place", "Words in place, %")):
        lines = {
            _name(method): [
                (size["words"] / size["sentences"], figures[row][figure])
                for row, size in sizes.items()
                if row not in (ALL, PARTLY_READ)
            ]
            for method, figures in methods.items()
        }
        chart = line_chart(lines, "words of the sentence", "%")
        drawn.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
    head = ["", *(f"{row} ({size['sentences']:,})" for row, size in sizes.items())]
    shares = [[_name(m), *(_two(f[row], "exact", "in_place") for row in sizes)] for m, f in methods.items()]
    proofs = [
        [_name(method), *(_two(figures[row], "proven", "proven_right") for row in sizes)]
        for method, figures in methods.items()
        if any(figures[row]["proven"] is not None for row in sizes)
    ]
    read = sizes.get(PARTLY_READ, {}).get("read")
    return _section(
        "Decoding",
        "<p>Sentences by number of words, beside what comes back out of their vectors; words as the tokenizer gives them."
        + (
            f" Of the words of the last column {read:.1f} % are known and not cut off; these count.</p>"
            if read
            else "</p>"
        ),
        f'<div class="pair">{"".join(drawn)}</div>',
        "<h3>Sentences that come back word for word (%); small: words in place (%)</h3>",
        table(head, shares, mark_first=False),
        "<h3>Sentences that are proven (%); small: of these right (%)</h3>" if proofs else "",
        table(head, proofs, mark_first=False) if proofs else "",
        _decoded(decoding["examples"]),
    )


def _two(figures: Mapping[str, float | None], first: str, second: str) -> Any:
    one, two = figures[first], figures[second]
    return None if one is None else Html(f"{one:.1f}" + ("" if two is None else f"<br><small>{two:.1f}</small>"))


def _decoded(examples: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of sentences beside what methods that prove made of them."""
    if not examples:
        return ""
    names = [name for name, made in examples[0]["made"].items() if made["proven"] is not None]
    head = ["sentence", *map(_name, names)]
    rows = [[" ".join(e["words"]), *(_beside(e["words"], **e["made"][name]) for name in names)] for e in examples]
    return "<h3>What comes back, marked where it differs</h3>" + table(
        head, rows, text_columns=len(head), mark_first=False
    )


def _beside(wanted: Sequence[str], words: Sequence[str], proven: bool) -> Html:
    """Return what came back, marked where it differs, and whether it is proven."""
    pieces = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, wanted, words, autojunk=False).get_opcodes():
        missing, added = escape(" ".join(wanted[a:b])), escape(" ".join(words[c:d]))
        if kind == "equal":
            pieces.append(added)
        else:
            pieces += [f"<del>{missing}</del>"] * (b > a) + [f"<ins>{added}</ins>"] * (d > c)
    return Html(f"{' '.join(pieces)}<br><small>{'proven' if proven else 'not proven'}</small>")


def _comparison(comparison: Mapping[str, Mapping[str, float | None]] | None) -> str:
    if not comparison:
        return ""
    figures = list(dict.fromkeys(figure for values in comparison.values() for figure in values))
    drawn = []
    for figure in figures:
        bars = [Bar(name=n, value=v) for n, values in comparison.items() if (v := values.get(figure)) is not None]
        if len(bars) > 1:
            drawn.append(f"<figure><figcaption>{escape(figure)}</figcaption>{bar_chart(bars, figure)}</figure>")
    return _section("Beside other evaluations", f'<div class="pair">{"".join(drawn)}</div>') if drawn else ""


def _provenance(results: Mapping[str, Any]) -> str:
    entries = {**results.get("settings", {}), **results.get("made_by", {})}
    notes = "".join(f"<li>{escape(note)}</li>" for note in results.get("notes", ()))
    rows = [[name, str(value)] for name, value in entries.items()]
    return _section(
        "How this was made",
        f"<ul>{notes}</ul>" if notes else "",
        table(["", ""], rows, text_columns=2, mark_first=False),
    )
