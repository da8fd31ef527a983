"""Exact nearest neighbours over parts of vectors, read as a stream.

Exact: every vector is compared in float32, none is skipped by an index. Memory is bounded by the batches in the hands of the
threads, whatever the number of rows or queries.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.embedding.vectors import Embeddings, Matrix, open_vectors, read_vectors
from lstm_embed.ledger.parts import PartInfo

_HIDDEN = ("embedding", "article_hash")
_BATCH_ROWS = 8192
_SCORES_AT_ONCE = 1 << 24
"""Most scores (queries times rows) one thread holds."""
_QUERIES_AT_ONCE = 4096


class Hit(NamedTuple):
    """One found row."""

    score: float
    """Cosine of query and row."""
    row: dict[str, Any]
    """What the vectors were stored with: article_id, title, sentence, start, end, text, columns that were carried along."""


class _Top(NamedTuple):
    """The best rows so far of every query: scores (q, k), and the position (part, row) of each."""

    scores: npt.NDArray[np.float32]
    part: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]


def search(embeddings: Embeddings, queries: Matrix, top_k: int, report: Reporter = SILENT) -> list[list[Hit]]:
    """Return the rows with the highest cosine to each query, best first.

    Args:
        embeddings: A finished folder of vectors.
        queries: Unit vectors, shape (q, d); a zero vector finds nothing.
        top_k: Hits a query.
        report: Receiver of progress, in parts.

    Returns:
        q lists of at most `top_k` hits. Equal scores are ordered by position. Zero vectors are never hits.

    Raises:
        InputError: if the queries have another dimension than the vectors.
    """
    dimension = embeddings.dimension
    if dimension and queries.shape[1] != dimension:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions; the vectors of {embeddings.path} have {dimension}"
        )
    found: list[list[Hit]] = []
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        found += _search(embeddings, queries[start : start + _QUERIES_AT_ONCE], top_k, report)
    return found


def _search(embeddings: Embeddings, queries: Matrix, top_k: int, report: Reporter) -> list[list[Hit]]:
    best = _empty(len(queries), top_k)
    parts = embeddings.parts
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        # Arrow decodes and numpy multiplies outside the interpreter lock; a few parts at a time bound the memory.
        for first in range(0, len(parts), 4 * threads):
            group = range(first, min(first + 4 * threads, len(parts)))
            for found in pool.map(lambda number: _search_part(parts[number], number, queries, top_k), group):
                best = _merge(best, found, top_k)
            report.progress("search", group[-1] + 1, len(parts), "parts", rows=embeddings.num_rows)
        rows = _fetch(embeddings, best)
    return [
        [Hit(float(score), rows[int(part), int(row)]) for score, part, row in zip(*each, strict=True) if part >= 0]
        for each in zip(best.scores, best.part, best.row, strict=True)
    ]


def _empty(num_queries: int, top_k: int) -> _Top:
    shape = (num_queries, top_k)
    return _Top(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), np.full(shape, -1, np.int64))


def _search_part(part: PartInfo, number: int, queries: Matrix, top_k: int) -> _Top:
    best = _empty(len(queries), top_k)
    offset = 0
    batch_rows = min(_BATCH_ROWS, max(256, _SCORES_AT_ONCE // max(1, len(queries))))
    for _, vectors in read_vectors(part, (), batch_rows):
        cosines = _cosines(queries, vectors)
        for query, scores in enumerate(cosines):
            # Of equal scores the earlier row wins, so a later one must be better than the worst that is kept.
            rows = np.flatnonzero(scores > best.scores[query, -1])
            if len(rows) > top_k:
                rows = rows[scores[rows] >= np.partition(scores[rows], -top_k)[-top_k]]
            if len(rows):
                _take(best, query, scores[rows], rows + offset, number)
        offset += len(vectors)
    return best


def _take(best: _Top, query: int, scores: npt.NDArray[np.float32], rows: npt.NDArray[np.int64], part: int) -> None:
    """Let rows of a part, all behind those already kept, compete for the best of one query."""
    all_scores = np.concatenate([best.scores[query], scores])
    all_rows = np.concatenate([best.row[query], rows])
    order = np.argsort(-all_scores, kind="stable")[: best.scores.shape[1]]
    best.scores[query], best.row[query] = all_scores[order], all_rows[order]
    best.part[query] = np.where(best.row[query] >= 0, part, -1)


def _cosines(queries: Matrix, vectors: Matrix) -> npt.NDArray[np.float32]:
    """Return cosines, shape (q, n); minus infinity where query or row is zero."""
    rows = vectors.astype(np.float32, copy=False)
    lengths = np.sqrt(np.einsum("ij,ij->i", rows, rows))  # half the time of np.linalg.norm
    scores: npt.NDArray[np.float32] = np.asarray(queries, np.float32) @ rows.T
    scores /= np.where(lengths == 0, 1.0, lengths)
    np.clip(scores, -1.0, 1.0, out=scores)  # rounding passes the bounds
    scores[:, lengths == 0] = -np.inf
    scores[~queries.any(axis=1)] = -np.inf
    return scores


def _merge(a: _Top, b: _Top, top_k: int) -> _Top:
    scores = np.concatenate([a.scores, b.scores], axis=1)
    part = np.concatenate([a.part, b.part], axis=1)
    row = np.concatenate([a.row, b.row], axis=1)
    order = np.lexsort((row, part, -scores), axis=1)[:, :top_k]
    return _Top(*(np.take_along_axis(values, order, axis=1) for values in (scores, part, row)))


def _fetch(embeddings: Embeddings, best: _Top) -> dict[tuple[int, int], dict[str, Any]]:
    """Read the columns of the found rows."""
    wanted: dict[int, set[int]] = {}
    for part, row in zip(best.part.ravel().tolist(), best.row.ravel().tolist(), strict=True):
        if part >= 0:
            wanted.setdefault(part, set()).add(row)
    found = {}
    for part, rows in wanted.items():
        for row, values in _rows(embeddings.parts[part], sorted(rows)):
            found[part, row] = values
    return found


def _rows(part: PartInfo, rows: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield some rows of a part without their vectors, reading only the row groups that hold them."""
    with open_vectors(part) as file:
        columns = [name for name in file.schema_arrow.names if name not in _HIDDEN]
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            inside = [row for row in rows if first <= row < first + size]
            if inside:
                table = file.read_row_group(group, columns=columns)
                picked = table.take(pa.array([row - first for row in inside]))
                yield from zip(inside, picked.to_pylist(), strict=True)
            first += size
