"""Retrieval without labels: does a sentence find other sentences of its article, does a title find its article?

A query's rank is that of the best row of its article among all other rows; ties count half. So recall@k is the share of
queries that find their article among the first k rows, MRR the mean of 1/rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.evaluation.baselines import Bm25, Embed, FloatArray, Tokens
from lstm_embed.evaluation.corpora import EmbeddedCorpus, Keys, Rows, Sentences
from lstm_embed.evaluation.similarity import interval
from lstm_embed.words.scores import unit_rows

CUTOFFS = (1, 10, 100)
_CHUNK_ROWS = 8_192

ScoreChunks = Callable[[], Iterator[tuple[int, Keys, FloatArray]]]
"""Yields, the same way at each call: number of the first row, the rows' keys (n,), scores of the queries (Q, n)."""


@dataclass(frozen=True, kw_only=True)
class Queries:
    """What is looked for.

    Attributes:
        keys: Article of each query, shape (Q,).
        rows: Its own row in the corpus, which does not count; -1 for a title.
        titles: Titles to look for, empty where the queries are rows.
    """

    keys: Keys
    rows: npt.NDArray[np.int64]
    titles: list[str]


def choose_queries(chunks: Iterator[Rows], num_queries: int, seed: int = 0) -> tuple[Queries, Queries]:
    """Choose rows, and titles, at random in one pass; only those of articles with at least two rows.

    Returns:
        Sentence queries and title queries, in the order of the corpus; either may be empty.
    """
    rows, keys = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    titles: dict[int, tuple[int, str]] = {}
    for chunk in chunks:
        _, inverse, counts = np.unique(chunk.keys, return_inverse=True, return_counts=True)
        usable = np.flatnonzero((counts[inverse] > 1) & ~chunk.is_title())
        rows, keys = np.append(rows, usable + chunk.first), np.append(keys, chunk.keys[usable])
        least = np.argsort(_noise(rows.astype(np.uint64), seed), kind="stable")[:num_queries]
        rows, keys = rows[least], keys[least]
        for number in usable[np.unique(chunk.keys[usable], return_index=True)[1]]:
            if chunk.titles[number]:
                key = int(chunk.keys[number])
                titles.setdefault(key, (int(chunk.first + number), chunk.titles[number]))
        if len(titles) > num_queries:
            known = np.array(list(titles), np.uint64)
            least = np.argsort(_noise(known, seed + 1), kind="stable")[:num_queries]
            titles = {int(key): titles[int(key)] for key in known[least]}
    order = np.argsort(rows)
    named = sorted(titles.items(), key=lambda item: item[1][0])
    return (
        Queries(keys=keys[order], rows=rows[order], titles=[]),
        Queries(
            keys=np.array([key for key, _ in named], np.uint64),
            rows=np.full(len(named), -1),
            titles=[title for _, (_, title) in named],
        ),
    )


def _noise(values: npt.NDArray[np.uint64], seed: int) -> npt.NDArray[np.uint64]:
    """Mix bits (the finaliser of SplitMix64), so that the least values are a random choice."""
    mixed = values + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    result: npt.NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return result


def ranks(queries: Queries, score_chunks: ScoreChunks) -> npt.NDArray[np.float64]:
    """Return the rank of each query's article in two passes: find the best score of its rows, count the higher ones."""
    best = np.full(len(queries.keys), -np.inf, np.float32)
    for first, keys, scores in score_chunks():
        ours = _ours(queries, first, keys)
        best = np.maximum(best, np.where(ours, scores, -np.inf).max(axis=1))
    higher = np.zeros(len(best))
    for _, keys, scores in score_chunks():
        others = keys[None, :] != queries.keys[:, None]
        higher += (others & (scores > best[:, None])).sum(axis=1)
        higher += (others & (scores == best[:, None])).sum(axis=1) / 2
    return 1 + higher


def _ours(queries: Queries, first: int, keys: Keys) -> npt.NDArray[np.bool_]:
    ours = keys[None, :] == queries.keys[:, None]
    own = queries.rows - first
    inside = np.flatnonzero((own >= 0) & (own < len(keys)))
    ours[inside, own[inside]] = False
    return ours


def figures(found: npt.NDArray[np.float64], num_rows: int, bootstrap: int = 0, seed: int = 0) -> dict[str, Any]:
    """Return recall@k (in %) and MRR (x100) of some ranks, with an interval for MRR."""
    result: dict[str, Any] = {"queries": len(found), "rows": num_rows}
    if not len(found):
        return {**result, "mrr": None, **{f"recall@{k}": None for k in CUTOFFS}}
    result["mrr"] = 100 * float((1 / found).mean())
    if bootstrap:
        chosen = np.random.default_rng(seed).integers(0, len(found), (bootstrap, len(found)))
        result["mrr_interval"] = interval(100 * (1 / found)[chosen].mean(axis=1))
    return {**result, **{f"recall@{k}": 100 * float((found <= k).mean()) for k in CUTOFFS}}


def _scores_of(vectors: FloatArray, keys: Keys, queries: FloatArray) -> ScoreChunks:
    def chunks() -> Iterator[tuple[int, Keys, FloatArray]]:
        for first in range(0, len(keys), _CHUNK_ROWS):
            yield first, keys[first : first + _CHUNK_ROWS], queries @ vectors[first : first + _CHUNK_ROWS].T

    return chunks


def retrieve_in_memory(
    corpus: Sentences,
    methods: Mapping[str, Embed],
    *,
    bm25: Tokens | None = None,
    num_queries: int = 1000,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score methods, and BM25 if it is given a tokenizer, on sentences held in memory.

    Returns:
        `sentence` and `title`: the figures of each method (`title` is empty without titles).
    """
    by_row, by_title = choose_queries(iter([corpus.rows()]), num_queries, seed)
    # A row that only repeats the title would make the second task trivial.
    content = ~corpus.rows().is_title()
    results: dict[str, dict[str, Any]] = {"sentence": {}, "title": {}}

    def measure(name: str, embed_rows: Callable[[Queries], FloatArray], rows: FloatArray) -> None:
        for task, queries, keep in (("sentence", by_row, np.ones(len(content), bool)), ("title", by_title, content)):
            if len(queries.keys):
                found = ranks(queries, _scores_of(rows[keep], corpus.keys[keep], embed_rows(queries)))
                results[task][name] = figures(found, int(keep.sum()), bootstrap, seed)

    for name, embed in methods.items():
        units = unit_rows(embed(corpus.texts))

        def query_units(queries: Queries, units: FloatArray = units, embed: Embed = embed) -> FloatArray:
            return unit_rows(embed(queries.titles)) if queries.titles else units[queries.rows]

        measure(name, query_units, units)
    if bm25 is not None and len(by_row.keys):
        for task, found in _bm25_ranks(corpus, by_row, by_title, content, bm25).items():
            results[task]["bm25"] = figures(found, len(corpus.texts), bootstrap, seed)
    return results


def _bm25_ranks(
    corpus: Sentences, by_row: Queries, by_title: Queries, content: npt.NDArray[np.bool_], tokens: Tokens
) -> dict[str, npt.NDArray[np.float64]]:
    index = Bm25(corpus.texts, tokens)
    found = {}
    for task, queries in (("sentence", by_row), ("title", by_title)):
        texts = queries.titles or [corpus.texts[row] for row in queries.rows]
        collected = []
        for start in range(0, len(texts), 100):
            some = slice(start, start + 100)
            scores = index.scores(texts[some])
            if task == "title":
                scores[:, ~content] = -1.0
            part = Queries(keys=queries.keys[some], rows=queries.rows[some], titles=[])
            collected.append(ranks(part, lambda scores=scores: iter([(0, corpus.keys, scores)])))  # type: ignore[misc]
        if collected:
            found[task] = np.concatenate(collected)
    return found


def retrieve_embedded(
    corpus: EmbeddedCorpus,
    *,
    embed_titles: Embed | None = None,
    num_queries: int = 1000,
    bootstrap: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """Score stored vectors by streaming the folder a few times; memory does not grow with it.

    Args:
        corpus: The embeddings.
        embed_titles: The model that made them, for title queries; without it they are left out.
        num_queries: Sentences, and titles, to look for.
        bootstrap: Resamplings for intervals; 0 for none.
        seed: Decides the choice.

    Returns:
        Figures by task: `sentence`, `title`.
    """
    by_row, by_title = choose_queries(corpus.chunks(), num_queries, seed)
    num_rows = 0
    taken = []
    for rows in corpus.chunks(vectors=True, texts=False):
        own = by_row.rows - rows.first
        inside = own[(own >= 0) & (own < len(rows.keys))]
        assert rows.vectors is not None
        taken.append(rows.vectors[inside])
        num_rows += len(rows.keys)
    results: dict[str, Any] = {}
    if len(by_row.keys):
        found = ranks(by_row, _stored_scores(corpus, unit_rows(np.concatenate(taken)), drop_titles=False))
        results["sentence"] = figures(found, num_rows, bootstrap, seed)
    if embed_titles and by_title.titles:
        found = ranks(by_title, _stored_scores(corpus, unit_rows(embed_titles(by_title.titles)), drop_titles=True))
        results["title"] = figures(found, num_rows, bootstrap, seed)
    return results


def _stored_scores(corpus: EmbeddedCorpus, queries: FloatArray, *, drop_titles: bool) -> ScoreChunks:
    def chunks() -> Iterator[tuple[int, Keys, FloatArray]]:
        for rows in corpus.chunks(vectors=True, texts=drop_titles):
            assert rows.vectors is not None
            scores = queries @ unit_rows(rows.vectors).T
            if drop_titles:
                scores[:, rows.is_title()] = -np.inf
            yield rows.first, rows.keys, scores

    return chunks


def article_retrieval(
    embeddings: str, *, num_queries: int = 1000, max_rows: int = 200_000, seed: int = 0
) -> dict[str, Any]:
    """Return how well the sentences of an embeddings folder find their articles: `recall@k` (in %), `mrr` (x100), `queries`,
    `rows`; all None if no article has two sentences.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is no finished embeddings folder.
    """
    corpus = EmbeddedCorpus(embeddings, max_rows)
    found = retrieve_embedded(corpus, num_queries=num_queries, seed=seed)
    return dict(found.get("sentence", figures(np.zeros(0), 0)))
