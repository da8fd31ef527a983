"""Exact word counts of any corpus in bounded memory.

Before words have ids, a part numbers the words by a dictionary of its own, and writes that dictionary with its counts as a
counts file: one row group for each of `NUM_PARTITIONS` partitions of the words (by CRC-32). Merging works on one partition of
all counts files at a time.
"""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed import storage

NUM_PARTITIONS = 16
_MERGE_ROWS = 2_000_000
"""Rows gathered before they are added up."""


def local_dictionary(words: pa.Array) -> tuple[npt.NDArray[np.int32], pa.Array, npt.NDArray[np.int64], list[int]]:
    """Number the words of a part by partition, in the order in which they come.

    Args:
        words: All its tokens, n strings.

    Returns:
        The n local ids; the distinct words by local id; their counts; how many words each partition has.
    """
    encoded = words.dictionary_encode()
    distinct = encoded.dictionary
    hashes = map(zlib.crc32, distinct.cast(pa.binary()).to_pylist())
    partition = np.fromiter(hashes, np.int64, len(distinct)) % NUM_PARTITIONS
    order = np.argsort(partition, kind="stable")
    rank = np.empty(len(distinct), np.int32)
    rank[order] = np.arange(len(distinct), dtype=np.int32)
    local = rank[encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32)]
    word_counts = np.bincount(local, minlength=len(distinct)).astype(np.int64)
    sizes = np.bincount(partition, minlength=NUM_PARTITIONS).tolist()
    return local, distinct.take(pa.array(order)), word_counts, sizes


def write_counts(path: str, words: pa.Array, counts: npt.NDArray[np.int64], sizes: list[int]) -> None:
    """Commit the counts file of one part."""
    table = pa.table({"word": words, "count": counts})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size), row_group_size=max(size, 1))
            start += size
    storage.write_bytes(path, sink.getvalue())


def read_words(path: str) -> pa.Array:
    """Return the words of a counts file by local id."""
    with storage.open_input(path) as file:
        return pq.read_table(file, columns=["word"])["word"].combine_chunks()


def merge_partition(paths: list[str], partition: int, min_count: int) -> tuple[pa.Table, int]:
    """Add up one partition of many counts files.

    Returns:
        The words with at least `min_count` occurrences and their counts; the sum of the counts of all others.
    """
    gathered: list[pa.Table] = []
    rows = 0
    for path in paths:
        with storage.open_input(path) as file:
            table = pq.ParquetFile(file).read_row_group(partition)
        gathered.append(table)
        rows += table.num_rows
        if rows > _MERGE_ROWS:
            gathered = [_add_up(gathered)]
            rows = gathered[0].num_rows
    merged = _add_up(gathered)
    counts = merged["count"].to_numpy()
    kept = counts >= min_count
    return merged.filter(pa.array(kept)).sort_by("word"), int(counts[~kept].sum())


def _add_up(tables: list[pa.Table]) -> pa.Table:
    joined = pa.concat_tables(tables)
    return joined.group_by("word").aggregate([("count", "sum")]).rename_columns(["word", "count"])
