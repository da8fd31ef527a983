"""Retrieval without labels: does a sentence find other sentences of its article, does a title find its article?

A query's rank is that of the best row of its article among all other rows; ties count half. So recall@k is the share of
queries that find their article among the first k rows, MRR the mean of 1/rank. A corpus is read a chunk at a time and may
be larger than memory.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt

from lstm_embed.evaluation.baselines import Embed, FloatArray, Tokens
from lstm_embed.evaluation.corpora import EmbeddedCorpus, Sentences
from lstm_embed.evaluation.labelled import Floats
from lstm_embed.evaluation.similarity import interval, resample
from lstm_embed.words.scores import unit_rows

CUTOFFS = (1, 10, 100)
_BM25_QUERIES = 100
"""Queries whose BM25 scores, of the whole corpus, are held at once."""

Scored = Callable[[], Iterable[tuple[Sentences, FloatArray]]]
"""Yields, the same way at each call, the chunks of a corpus and the scores of the queries for their rows, shape (Q, n)."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What is looked for: the article of a row, by that row or by the article's title.

    Attributes:
        key: Number of the article.
        row: Number of the row within the corpus, which does not count as found; -1 for a title.
        text: Text of the row, or the title.
        vector: Vector of the row, if the corpus has vectors.
    """

    key: int
    row: int
    text: str
    vector: FloatArray | None = None


def choose_queries(chunks: Iterable[Sentences], num_queries: int, seed: int = 0) -> list[Query]:
    """Choose rows, and titles, at random in one pass: up to `num_queries` of either, and only of articles that have two rows
    in a chunk."""
    rng = np.random.default_rng(seed)
    salt = int(rng.integers(2**63))
    first = 0
    rows: dict[float, Query] = {}
    titles: dict[float, Query] = {}
    for chunk in chunks:
        _, inverse, counts = np.unique(chunk.keys, return_inverse=True, return_counts=True)
        lots = rng.random(len(chunk.keys))
        for i in np.flatnonzero((counts[inverse] > 1) & ~chunk.are_titles()):
            key = int(chunk.keys[i])
            vector = None if chunk.vectors is None else chunk.vectors[i].copy()
            rows[lots[i]] = Query(key=key, row=int(first + i), text=chunk.texts[i], vector=vector)
            if chunk.titles[i]:
                # Keys are hashes: mixed with a random number, the least ones are a random choice of articles.
                titles.setdefault(key ^ salt, Query(key=key, row=-1, text=chunk.titles[i]))
        rows, titles = (dict(heapq.nsmallest(num_queries, some.items(), key=lambda x: x[0])) for some in (rows, titles))
        first += len(chunk.keys)
    return [*rows.values(), *titles.values()]


def ranks(queries: Sequence[Query], scored: Scored) -> tuple[Floats, int]:
    """Return the rank of each query's article, and the number of rows, in two passes: find the best score of the article's
    rows, count the higher ones."""
    best = np.full(len(queries), -np.inf, np.float32)
    num_rows = 0
    for own, scores in _comparable(queries, scored):
        best = np.maximum(best, scores.max(axis=1, where=own, initial=-np.inf))
        num_rows += scores.shape[1]
    higher = np.zeros(len(queries))
    for own, scores in _comparable(queries, scored):
        higher += ((scores > best[:, None]) & ~own).sum(axis=1) + ((scores == best[:, None]) & ~own).sum(axis=1) / 2
    return 1 + higher, num_rows


def _comparable(queries: Sequence[Query], scored: Scored) -> Iterator[tuple[npt.NDArray[np.bool_], FloatArray]]:
    """Yield which rows are of a query's article, and the scores; that of the query itself, and for a title that of rows
    that only repeat one, is the least."""
    keys = np.array([query.key for query in queries], np.uint64)[:, None]
    rows = np.array([query.row for query in queries], np.int64)[:, None]
    first = 0
    for chunk, scores in scored():
        hidden = rows == np.arange(first, first + len(chunk.keys))
        hidden |= (rows < 0) & chunk.are_titles()
        yield keys == chunk.keys, np.where(hidden, np.float32(-np.inf), scores)
        first += len(chunk.keys)


def retrieve(
    corpus: Sentences | EmbeddedCorpus, embed: Embed, *, num_queries: int = 1000, bootstrap: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Score vectors by how well rows and titles find their articles.

    Args:
        corpus: Sentences with vectors.
        embed: What made the vectors; it embeds the titles.
        num_queries: Sentences, and titles, to look for.
        bootstrap: Resamplings for intervals; 0 for none.
        seed: Start of the choice and the resamplings.

    Returns:
        Figures of `sentence` and `title`; either is left out where there is nothing to look for.
    """
    queries = choose_queries(corpus.chunks(), num_queries, seed)
    if not queries:
        return {}
    titles = embed([query.text for query in queries if query.row < 0])
    units = unit_rows(np.array([*(query.vector for query in queries if query.row >= 0), *titles], np.float32))

    def scored() -> Iterator[tuple[Sentences, FloatArray]]:
        for chunk in corpus.chunks():
            assert chunk.vectors is not None
            yield chunk, units @ unit_rows(chunk.vectors).T

    return _by_task(queries, *ranks(queries, scored), bootstrap, seed)


def retrieve_bm25(
    corpus: Sentences, tokens: Tokens, *, num_queries: int = 1000, bootstrap: int = 0, seed: int = 0
) -> dict[str, Any]:
    """Score BM25 on the same queries; texts are split into words the same way as for the model."""
    queries = choose_queries(corpus.chunks(), num_queries, seed)
    index = bm25s.BM25()
    index.index(tokens.words(corpus.texts), show_progress=False)

    def ranks_of(some: Sequence[Query]) -> Floats:
        known = [[w for w in words if w in index.vocab_dict] for words in tokens.words([query.text for query in some])]
        nothing = np.zeros(len(corpus.texts), np.float32)
        scores = np.array([index.get_scores(words) if words else nothing for words in known])
        return ranks(some, lambda: [(corpus, scores)])[0]

    groups = [queries[start : start + _BM25_QUERIES] for start in range(0, len(queries), _BM25_QUERIES)]
    found = np.concatenate([np.zeros(0), *map(ranks_of, groups)])
    return _by_task(queries, found, len(corpus.texts), bootstrap, seed)


def _by_task(
    queries: Sequence[Query], found: Floats, num_rows: int, bootstrap: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return recall@k (in %) and MRR (x100) by task, with an interval for MRR."""
    are_titles = np.array([query.row < 0 for query in queries], bool)
    results: dict[str, dict[str, Any]] = {}
    for task, of_task in (("sentence", found[~are_titles]), ("title", found[are_titles])):
        if len(of_task):
            inverse = 100 / of_task
            drawn = [float(inverse[some].mean()) for some in resample(len(inverse), bootstrap, seed)]
            results[task] = {
                "queries": len(of_task),
                "rows": num_rows,
                "mrr": float(inverse.mean()),
                "mrr_interval": interval(drawn),
                **{f"recall@{k}": 100 * float((of_task <= k).mean()) for k in CUTOFFS},
            }
    return results
