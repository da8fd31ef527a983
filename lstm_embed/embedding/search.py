"""Exact nearest neighbours over parts of vectors, read as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.embedding.vectors import Embeddings, Matrix, read_vectors
from lstm_embed.progress import SILENT, Reporter

COLUMNS = ("article_id", "title", "sentence", "text")
_BATCH_ROWS = 8192


class Hit(NamedTuple):
    """One found row."""

    score: float
    """Cosine of query and row."""
    row: dict[str, Any]
    """Those of `COLUMNS` that the vectors were stored with."""


class _Top(NamedTuple):
    """The best rows so far of every query: scores (q, k), and the position (part, row) of each."""

    scores: npt.NDArray[np.float32]
    part: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]


def search(embeddings: Embeddings, queries: Matrix, top_k: int, report: Reporter = SILENT) -> list[list[Hit]]:
    """Return the rows with the highest cosine to each query, best first.

    Args:
        embeddings: A finished folder of vectors.
        queries: Unit vectors, shape (q, d).
        top_k: Hits a query.
        report: Told of the parts read.

    Returns:
        q lists of at most `top_k` hits. Equal scores are ordered by position. Zero vectors are never hits.
    """
    best = _empty(len(queries), top_k)
    paths = embeddings.part_paths
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        # Arrow decodes and numpy multiplies outside the interpreter lock; a few parts at a time bound the memory.
        for first in range(0, len(paths), 4 * threads):
            group = range(first, min(first + 4 * threads, len(paths)))
            for found in pool.map(lambda part: _search_part(paths[part], part, queries, top_k), group):
                best = _merge(best, found, top_k)
            report.progress("search", group[-1] + 1, len(paths), "parts", rows=embeddings.num_rows)
        rows = _fetch(embeddings, best)
    return [
        [Hit(float(score), rows[int(part), int(row)]) for score, part, row in zip(*each, strict=True) if part >= 0]
        for each in zip(best.scores, best.part, best.row, strict=True)
    ]


def _empty(num_queries: int, top_k: int) -> _Top:
    shape = (num_queries, top_k)
    return _Top(np.full(shape, -np.inf, np.float32), np.full(shape, -1, np.int64), np.full(shape, -1, np.int64))


def _search_part(path: str, part: int, queries: Matrix, top_k: int) -> _Top:
    best = _empty(len(queries), top_k)
    offset = 0
    for _, vectors in read_vectors(path, (), _BATCH_ROWS):
        scores = _cosines(queries, vectors)
        kept = min(top_k, scores.shape[1])
        columns = (
            np.argpartition(-scores, kept - 1, axis=1)[:, :kept] if kept else np.zeros((len(queries), 0), np.int64)
        )
        found = np.take_along_axis(scores, columns, axis=1)
        position = np.where(np.isfinite(found), columns + offset, -1)
        best = _merge(best, _Top(found, np.where(position < 0, -1, part), position), top_k)
        offset += len(vectors)
    return best


def _cosines(queries: Matrix, vectors: Matrix) -> npt.NDArray[np.float32]:
    """Return cosines, shape (q, n); minus infinity where the row is zero."""
    rows = vectors.astype(np.float32, copy=False)
    norms = np.linalg.norm(rows, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(norms > 0, (queries @ rows.T) / norms, -np.inf).astype(np.float32)


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
        for row, values in _rows(embeddings.part_paths[part], sorted(rows)):
            found[part, row] = values
    return found


def _rows(path: str, rows: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield some rows of a part without their vectors, reading only the row groups that hold them."""
    with storage.open_input(path) as source:
        file = pq.ParquetFile(source)
        columns = [name for name in COLUMNS if name in file.schema_arrow.names]
        first = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            inside = [row for row in rows if first <= row < first + size]
            if inside:
                table = file.read_row_group(group, columns=columns)
                picked = table.take(pa.array([row - first for row in inside]))
                yield from zip(inside, picked.to_pylist(), strict=True)
            first += size
