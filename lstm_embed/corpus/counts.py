"""Exact word counts of any corpus in bounded memory.

Before words have ids, a part numbers the words by a dictionary of its own, and writes that dictionary with its counts as a
counts file: one row group for each of `NUM_PARTITIONS` partitions of the words (by CRC-32). Merging works on one partition of
all counts files at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.vocabulary import Vocabulary, most_frequent
from lstm_embed.ledger.parts import encode_table
from lstm_embed.progress import SILENT, Reporter

NUM_PARTITIONS = 16
_MERGE_ROWS = 2_000_000
"""Rows gathered before they are added up."""
_READERS = 32


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
    storage.write_bytes(path, encode_table(table, sizes, compression="zstd"))


def read_counts(path: str) -> tuple[pa.Array, npt.NDArray[np.int64], list[int]]:
    """Return the words of a counts file by local id, their counts, and how many words each partition has."""
    with storage.open_input(path) as file:
        source = pq.ParquetFile(file)
        table = source.read()
        sizes = [source.metadata.row_group(group).num_rows for group in range(source.num_row_groups)]
    return table["word"].combine_chunks(), table["count"].to_numpy(), sizes


def merge_counts(paths: Sequence[str], config: PrepareConfig, report: Reporter = SILENT) -> Vocabulary:
    """Add up all counts files; return the vocabulary of the words that are frequent enough."""
    kept = pa.table({"word": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    unknown = 0
    for partition in range(NUM_PARTITIONS):
        table, dropped = merge_partition(paths, partition, config.min_count)
        kept, beyond = most_frequent(pa.concat_tables([kept, table]), config.max_vocabulary)
        unknown += dropped + beyond
        report.progress("merge counts", partition + 1, NUM_PARTITIONS, "partitions")
    return Vocabulary.from_table(kept, unknown)


def merge_partition(paths: Sequence[str], partition: int, min_count: int) -> tuple[pa.Table, int]:
    """Add up one partition of many counts files.

    Returns:
        The words with at least `min_count` occurrences and their counts; the sum of the counts of all others.
    """

    def read(path: str) -> pa.Table:
        with storage.open_input(path) as file:
            return pq.ParquetFile(file).read_row_group(partition)

    gathered: list[pa.Table] = []
    rows = 0
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(paths), _READERS):
            tables = list(pool.map(read, paths[start : start + _READERS]))
            gathered += tables
            rows += sum(table.num_rows for table in tables)
            if rows > _MERGE_ROWS:
                gathered = [_add_up(gathered)]
                rows = gathered[0].num_rows
    merged = _add_up(gathered)
    counts = merged["count"].to_numpy()
    kept = counts >= min_count
    return merged.filter(pa.array(kept)), int(counts[~kept].sum())


def _add_up(tables: list[pa.Table]) -> pa.Table:
    joined = pa.concat_tables(tables)
    return joined.group_by("word").aggregate([("count", "sum")]).rename_columns(["word", "count"])
