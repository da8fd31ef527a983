"""Words that are typical of groups of sentences.

A word t of group c scores tf(t, c) log(1 + A / f(t)): tf its share of the group's words, f its count in all groups, A the mean
number of words of a group (class-based TF-IDF; Grootendorst 2022, arXiv 2203.05794, equation 2). Counts are exact: each part's
are written in partitions of the words, and merged one partition at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.corpus.text import tokenize
from lstm_embed.ledger import PartRecord, PartStore
from lstm_embed.progress import SILENT, Reporter

NUM_PARTITIONS = 16
_MERGE_ROWS = 4_000_000
"""Rows gathered before they are added up."""
_SCHEMA = pa.schema([("cluster", pa.int32()), ("word", pa.string()), ("count", pa.int64())])


class Counter:
    """Counts the words of a part's groups.

    Args:
        profile: Token rule of the model.
    """

    def __init__(self, profile: str) -> None:
        self._profile = profile
        self._counts = _SCHEMA.empty_table()

    def add(self, texts: pa.ChunkedArray, cluster: npt.NDArray[np.int32]) -> None:
        """Count the words of some sentences; negative groups are none."""
        lists = tokenize(texts, self._profile)
        words = lists.flatten().dictionary_encode()
        lengths = np.asarray(lists.value_lengths(), np.int64)
        pair = np.repeat(cluster.astype(np.int64), lengths) * max(1, len(words.dictionary)) + np.asarray(words.indices)
        pairs, counts = np.unique(pair[np.repeat(cluster >= 0, lengths)], return_counts=True)
        number, word = np.divmod(pairs, max(1, len(words.dictionary)))
        columns = [pa.array(number, pa.int32()), words.dictionary.take(pa.array(word)), pa.array(counts, pa.int64())]
        self._counts = _add_up([self._counts, pa.table(columns, schema=_SCHEMA)])

    def write(self, store: PartStore, record: PartRecord) -> None:
        """Commit the counts: one row group for each partition of the words (by CRC-32)."""
        words = self._counts["word"].to_pylist()
        partition = np.fromiter((zlib.crc32(word.encode()) % NUM_PARTITIONS for word in words), np.int64, len(words))
        table = self._counts.append_column("partition", pa.array(partition))
        table = table.sort_by([(name, "ascending") for name in ("partition", "word", "cluster")]).drop_columns(
            "partition"
        )
        own = store.record(
            record.unit, record.part, last=record.last, rows=table.num_rows, input_digest=record.input_digest
        )
        store.write_table(own, table, row_groups=np.bincount(partition, minlength=NUM_PARTITIONS).tolist())


def merge(paths: Sequence[str], num_clusters: int, number: int, report: Reporter = SILENT) -> list[list[str]]:
    """Return the words with the highest scores of each group, best first.

    Args:
        paths: What `Counter.write` wrote for each part.
        num_clusters: Number of groups.
        number: Words of each group.
        report: Told of the partitions merged.
    """
    in_group = np.zeros(num_clusters, np.int64)
    for partition in range(NUM_PARTITIONS):
        for table in _partition(paths, partition):
            np.add.at(in_group, table["cluster"].to_numpy(), table["count"].to_numpy())
    best: list[list[tuple[float, str]]] = [[] for _ in range(num_clusters)]
    mean = in_group.sum() / num_clusters
    for partition in range(NUM_PARTITIONS):
        counts = _add_up(list(_partition(paths, partition)) or [_SCHEMA.empty_table()])
        words = counts["word"].combine_chunks().dictionary_encode()
        word, cluster = np.asarray(words.indices, np.int64), counts["cluster"].to_numpy()
        count = counts["count"].to_numpy()
        in_all = np.bincount(word, weights=count, minlength=len(words.dictionary))
        score = count / np.maximum(in_group[cluster], 1) * np.log1p(mean / in_all[word])
        order = np.lexsort((-score, cluster))
        first = np.searchsorted(cluster[order], cluster[order])
        for at in order[np.arange(len(order)) - first < number].tolist():
            best[cluster[at]].append((-float(score[at]), words.dictionary[int(word[at])].as_py()))
        best = [sorted(entries)[:number] for entries in best]
        report.progress("typical words", partition + 1, NUM_PARTITIONS, "partitions")
    return [[word for _, word in entries] for entries in best]


def _partition(paths: Sequence[str], partition: int) -> Iterator[pa.Table]:
    """Yield one partition of all parts' counts, added up now and then."""
    gathered: list[pa.Table] = []
    rows = 0
    for path in paths:
        with storage.open_input(path) as file:
            table = pq.ParquetFile(file).read_row_group(partition).replace_schema_metadata(None)
        gathered.append(table)
        rows += table.num_rows
        if rows > _MERGE_ROWS:
            gathered = [_add_up(gathered)]
            rows = gathered[0].num_rows
    if gathered:
        yield _add_up(gathered)


def _add_up(tables: Sequence[pa.Table]) -> pa.Table:
    found = pa.concat_tables(tables).group_by(["cluster", "word"]).aggregate([("count", "sum")])
    return found.select(["cluster", "word", "count_sum"]).rename_columns(["cluster", "word", "count"]).cast(_SCHEMA)
