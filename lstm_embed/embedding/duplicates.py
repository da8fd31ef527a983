"""Pairs of sentences that are nearly the same, found inside groups.

Exact inside a group: every pair of its distinct vectors is compared; pairs across groups are not looked for. Of vectors that
are equal bit by bit (repeated boilerplate) the first is paired with each of the others, not all with all. Vectors are laid out
by group on local disk, so that memory is bounded by blocks of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.embedding.vectors import Matrix, read_vectors, unit_rows

_BUCKETS = 64
_BLOCK_ROWS = 2048
_BATCH_ROWS = 8192

Pairs = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]]
"""Numbers of the first rows, of the second rows, and their cosines."""


@dataclass(frozen=True)
class Found:
    """What was listed."""

    pairs: int
    cut_off: bool
    """There are more than could be listed."""


def list_near_duplicates(
    parts: Sequence[tuple[str, str]],
    output: str,
    *,
    threshold: float,
    max_pairs: int,
    columns: Sequence[str],
    report: Reporter = SILENT,
) -> Found:
    """Write the pairs of each group whose cosine is at least `threshold`.

    Args:
        parts: Paths of each part of vectors and of its groups.
        output: Folder for the pairs: parquet with the cosine, and the columns of both rows under `a_…` and `b_…`.
        threshold: Least cosine.
        max_pairs: Most pairs to write.
        columns: Columns that identify a row, those of them that there are.
        report: Told of the buckets done.
    """
    storage.remove_dir(output)
    total = 0
    with tempfile.TemporaryDirectory(prefix="lstm-embed-") as folder:
        dimension = _lay_out(parts, folder, columns, report)
        for bucket in range(_BUCKETS):
            pairs = _bucket_pairs(folder, bucket, dimension, threshold, max_pairs + 1 - total)
            count = sum(len(scores) for _, _, scores in pairs)
            if count:
                keep = min(count, max_pairs - total)
                if keep:
                    _write(storage.join(output, f"pairs-{bucket:04d}.parquet"), _rows_path(folder, bucket), pairs, keep)
                total += keep
                if keep < count:
                    return Found(total, True)
            report.progress("near duplicates", bucket + 1, _BUCKETS, "buckets", pairs=total)
    return Found(total, False)


def _vectors_path(folder: str, bucket: int) -> str:
    return os.path.join(folder, f"vectors-{bucket}")


def _clusters_path(folder: str, bucket: int) -> str:
    return os.path.join(folder, f"clusters-{bucket}")


def _rows_path(folder: str, bucket: int) -> str:
    return os.path.join(folder, f"rows-{bucket}")


def _lay_out(parts: Sequence[tuple[str, str]], folder: str, columns: Sequence[str], report: Reporter) -> int:
    """Write vectors, groups and identifying columns of all rows into the buckets of their groups; return the dimension."""
    dimension = 0
    with contextlib.ExitStack() as stack:
        vector_files = [stack.enter_context(open(_vectors_path(folder, b), "wb")) for b in range(_BUCKETS)]
        cluster_files = [stack.enter_context(open(_clusters_path(folder, b), "wb")) for b in range(_BUCKETS)]
        row_files: list[pa.RecordBatchStreamWriter | None] = [None] * _BUCKETS
        for number, (vectors_path, groups_path) in enumerate(parts, 1):
            with storage.open_input(groups_path) as file:
                clusters = pq.read_table(file, columns=["cluster"])["cluster"].to_numpy()
            first = 0
            for rows, vectors in read_vectors(vectors_path, columns, _BATCH_ROWS):
                dimension = vectors.shape[1]
                cluster = clusters[first : first + len(vectors)]
                first += len(vectors)
                unit = unit_rows(vectors.astype(np.float32))
                bucket_of = np.where(cluster >= 0, cluster % _BUCKETS, -1)
                for bucket in np.unique(bucket_of[bucket_of >= 0]).tolist():
                    mine = bucket_of == bucket
                    vector_files[bucket].write(unit[mine].tobytes())
                    cluster_files[bucket].write(cluster[mine].astype(np.int32).tobytes())
                    writer = row_files[bucket]
                    if writer is None:
                        sink = stack.enter_context(pa.OSFile(_rows_path(folder, bucket), "wb"))
                        writer = stack.enter_context(pa.ipc.new_stream(sink, rows.schema))
                        row_files[bucket] = writer
                    writer.write_table(rows.filter(pa.array(mine)))
            report.progress("lay out groups", number, len(parts), "parts")
    return dimension


def _bucket_pairs(folder: str, bucket: int, dimension: int, threshold: float, limit: int) -> Pairs:
    """Return the pairs of the groups of one bucket, at most about `limit`; numbers count the bucket's rows."""
    clusters = np.fromfile(_clusters_path(folder, bucket), np.int32)
    found: Pairs = []
    if not len(clusters):
        return found
    vectors = np.memmap(_vectors_path(folder, bucket), np.float32, "r").reshape(len(clusters), dimension)
    for cluster in np.unique(clusters).tolist():
        rows = np.flatnonzero(clusters == cluster)
        for pairs in _group_pairs(vectors, rows, threshold):
            found.append(pairs)
            limit -= len(pairs[2])
            if limit <= 0:
                return found
    return found


def _group_pairs(
    vectors: Matrix, rows: npt.NDArray[np.int64], threshold: float
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]]:
    """Yield the pairs of one group's rows, a block of rows against another at a time."""
    first_of = _first_equal(vectors, rows)
    repeated = first_of != rows
    if repeated.any():
        yield first_of[repeated], rows[repeated], np.ones(int(repeated.sum()), np.float32)
    rows = rows[~repeated]
    for start in range(0, len(rows), _BLOCK_ROWS):
        left = rows[start : start + _BLOCK_ROWS]
        left_vectors = np.asarray(vectors[left])
        for other in range(start, len(rows), _BLOCK_ROWS):
            right = rows[other : other + _BLOCK_ROWS]
            scores = left_vectors @ np.asarray(vectors[right]).T
            if other == start:
                scores[np.tril_indices(len(left))] = -1.0
            a, b = np.nonzero(scores >= threshold)
            if len(a):
                yield left[a], right[b], np.minimum(scores[a, b], 1.0).astype(np.float32)


def _first_equal(vectors: Matrix, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each row the first one that has the very same vector."""
    seen: dict[bytes, int] = {}
    return np.array([seen.setdefault(_digest(vectors[row]), row) for row in rows.tolist()], np.int64)


def _digest(vector: Matrix) -> bytes:
    return hashlib.blake2b(vector.tobytes(), digest_size=16).digest()


def _write(path: str, rows_path: str, pairs: Pairs, keep: int) -> None:
    """Write pairs, the nearest first, with the columns of both rows."""
    a, b, cosine = (np.concatenate([pair[number] for pair in pairs]) for number in range(3))
    order = np.argsort(-cosine, kind="stable")[:keep]
    with pa.memory_map(rows_path) as file:
        rows = pa.ipc.open_stream(file).read_all()
        left, right = rows.take(pa.array(a[order])), rows.take(pa.array(b[order]))
    table = pa.table(
        {"cosine": cosine[order]}
        | {f"a_{name}": left[name] for name in rows.column_names}
        | {f"b_{name}": right[name] for name in rows.column_names}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(path, sink.getvalue())
