"""Exact word counts of any corpus, and a vocabulary learned from them, in bounded memory.

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

from lstm_embed.base import storage
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger.parts import encode_table

NUM_PARTITIONS = 16
_MOST_WORDS = 100_000
"""Words that pieces are learned from."""
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
    """Add up all counts files; return the vocabulary that is learned from a sample of the words.

    The sample stands for all words, whatever the corpus (Duffield, Lund and Thorup 2007, "Priority sampling for estimation of
    arbitrary subset sums"): a word has the priority count/u, u from 0 to 1 by its hash. Those of highest priority are taken,
    and each is counted at least as often as the first of the others has priority.
    """
    sample = whole = pa.table({"word": pa.array([], pa.string()), "count": pa.array([], pa.int64())})
    for partition in range(NUM_PARTITIONS):
        table = merge_partition(paths, partition)
        sample = pa.concat_tables([sample, table])
        sample = sample.take(np.argsort(-_priorities(sample), kind="stable")[: _MOST_WORDS + 1])
        if config.whole_word_count:
            frequent = table["count"].to_numpy() >= config.whole_word_count
            whole = pa.concat_tables([whole, table.filter(pa.array(frequent))])
        report.progress("merge counts", partition + 1, NUM_PARTITIONS, "partitions")
    least = float(_priorities(sample[_MOST_WORDS:]).max(initial=0.0))
    # In an order that no hash decides.
    sample = sample[:_MOST_WORDS].sort_by("word")
    counts = np.maximum(sample["count"].to_numpy(), round(least))
    return Vocabulary.learn(
        sample["word"].to_pylist(), counts, num_pieces=config.num_pieces, whole=whole["word"].to_pylist()
    )


def _priorities(table: pa.Table) -> npt.NDArray[np.float64]:
    hashes = map(zlib.crc32, table["word"].cast(pa.binary()).to_pylist())
    # The lowest bits are the partition's.
    places = np.fromiter(hashes, np.int64, table.num_rows) // NUM_PARTITIONS
    return table["count"].to_numpy() * (2.0**32 / NUM_PARTITIONS) / (places + 0.5)


def merge_partition(paths: Sequence[str], partition: int) -> pa.Table:
    """Return the words of one partition of many counts files, by word, and their counts added up."""

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
    return _add_up(gathered).sort_by("word")


def _add_up(tables: list[pa.Table]) -> pa.Table:
    joined = pa.concat_tables(tables)
    return joined.group_by("word").aggregate([("count", "sum")]).rename_columns(["word", "count"])
