"""Vectors of articles that did not change, copied from earlier parts instead of computed.

The driver makes an index from the hash of an article's text to the rows that hold its vectors: through buckets on local
disk, so that memory stays bounded by a bucket. The index is two flat files, the sorted hashes and, in the same order, the
places; the actors map them into memory and search. It is a function of the earlier parts alone, which stay as they are
until the folder is finished: a job that is killed and run again copies the same vectors.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.embedding.vectors import Matrix, open_vectors, to_matrix
from lstm_embed.ledger.parts import PartInfo

_HASH_BYTES = 16
_PLACE = np.dtype([("source", "<i4"), ("first", "<i4"), ("rows", "<i4")])
_ENTRY = np.dtype([("hash", f"S{_HASH_BYTES}"), ("place", _PLACE)])
_BUCKETS = 256
_ENTRIES_AT_ONCE = 1 << 20
_READERS = 16
_CACHED_BYTES = 128 << 20

Places = npt.NDArray[Any]
"""Where articles' vectors lie, of dtype `_PLACE`: number of the part, first row, rows; part -1 where there are none."""


@dataclass(frozen=True)
class Reuse:
    """Where earlier vectors are found. Picklable; small but for the list of parts."""

    folder: str
    """Folder that holds the index."""
    sources: tuple[PartInfo, ...]
    """Earlier parts."""
    article_rows: bool
    """Whether a row is an article."""

    @property
    def hashes_path(self) -> str:
        """Sorted hashes of the articles' texts, 16 bytes each."""
        return storage.join(self.folder, "hashes.bin")

    @property
    def places_path(self) -> str:
        """For each hash where its rows are: three little-endian int32."""
        return storage.join(self.folder, "places.bin")


def build_index(folder: str, sources: Sequence[PartInfo], *, article_rows: bool, report: Reporter = SILENT) -> Reuse:
    """Index the articles of earlier parts by the hashes of their texts.

    Args:
        folder: Where the index goes.
        sources: The parts; one that cannot be read gives nothing.
        article_rows: Whether a row is an article, rather than one of its sentences.
        report: Receiver of progress, in parts.
    """
    reuse = Reuse(folder, tuple(sources), article_rows)
    with tempfile.TemporaryDirectory(prefix="lstm-embed-") as local:
        with contextlib.ExitStack() as stack:
            buckets = [stack.enter_context(open(_bucket(local, b), "wb")) for b in range(_BUCKETS)]
            for entries in _gathered(_entries(sources, article_rows, report)):
                bucket = entries.view(np.uint8).reshape(len(entries), -1)[:, 0]
                order = np.argsort(bucket, kind="stable")
                ends = np.cumsum(np.bincount(bucket, minlength=_BUCKETS))
                for file, piece in zip(buckets, np.split(entries[order], ends[:-1]), strict=True):
                    file.write(piece.tobytes())
        hashes, places = os.path.join(local, "hashes"), os.path.join(local, "places")
        with open(hashes, "wb") as hashes_file, open(places, "wb") as places_file:
            for b in range(_BUCKETS):
                entries = np.fromfile(_bucket(local, b), _ENTRY)
                place = entries["place"]
                entries = entries[np.lexsort((place["first"], place["source"], entries["hash"]))]
                first = np.ones(len(entries), np.bool_)
                first[1:] = entries["hash"][1:] != entries["hash"][:-1]
                hashes_file.write(np.ascontiguousarray(entries["hash"][first]).tobytes())
                places_file.write(np.ascontiguousarray(entries["place"][first]).tobytes())
        for path, target in ((hashes, reuse.hashes_path), (places, reuse.places_path)):
            with pa.memory_map(path) as mapped:
                storage.write_bytes(target, mapped.read_buffer())
    return reuse


def _bucket(folder: str, number: int) -> str:
    return os.path.join(folder, f"bucket-{number:03d}")


def _gathered(entries: Iterable[Places]) -> Iterator[Places]:
    """Join small arrays of entries to larger ones."""
    held: list[Places] = []
    for piece in entries:
        held.append(piece)
        if sum(map(len, held)) >= _ENTRIES_AT_ONCE:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)


def _entries(sources: Sequence[PartInfo], article_rows: bool, report: Reporter) -> Iterator[Places]:
    with ThreadPoolExecutor(_READERS) as pool:
        # A few parts ahead, not all of them at once.
        for start in range(0, len(sources), 4 * _READERS):
            numbers = range(start, min(start + 4 * _READERS, len(sources)))
            yield from pool.map(lambda number: _part_entries(sources[number], number, article_rows), numbers)
            report.progress("index earlier vectors", numbers[-1] + 1, len(sources), "parts")


def _part_entries(part: PartInfo, source: int, article_rows: bool) -> Places:
    """Return an entry for each run of rows that are one article's."""
    try:
        with open_vectors(part) as file:
            table = file.read(["article_hash"] if article_rows else ["article_hash", "sentence"])
    except (FileNotFoundError, InputError, KeyError):
        return np.zeros(0, _ENTRY)
    hashes = hash_array(table["article_hash"])
    starts = np.ones(len(hashes), np.bool_)
    if not article_rows:
        # Neighbouring articles may have the same text; the sentences of each are numbered from the start.
        sentence = table["sentence"].to_numpy()
        starts[1:] = (hashes[1:] != hashes[:-1]) | (sentence[1:] <= sentence[:-1])
    first = np.flatnonzero(starts)
    entries = np.zeros(len(first), _ENTRY)
    entries["hash"] = hashes[first]
    entries["place"]["source"] = source
    entries["place"]["first"] = first
    entries["place"]["rows"] = np.diff(np.append(first, len(hashes)))
    return entries


def hash_array(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[np.bytes_]:
    """Return a column of 16-byte hashes as an array."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if not len(array):
        return np.zeros(0, f"S{_HASH_BYTES}")
    return np.frombuffer(array.buffers()[1], f"S{_HASH_BYTES}")[array.offset : array.offset + len(array)]


class EarlierVectors:
    """Finds and copies earlier vectors; what was read last is kept for the next article beside it.

    Args:
        reuse: The index.
        dimension: Numbers in a vector.
    """

    def __init__(self, reuse: Reuse, dimension: int) -> None:
        self._reuse = reuse
        self._dimension = dimension
        self._key_columns = ("num_sentences",) if reuse.article_rows else ("sentence", "start", "end")
        self._hashes = _mapped(reuse.hashes_path, np.dtype(f"S{_HASH_BYTES}"))
        self._places = _mapped(reuse.places_path, _PLACE)
        self._groups: OrderedDict[tuple[int, int], tuple[npt.NDArray[np.int32], Matrix]] = OrderedDict()
        self._ends: dict[int, npt.NDArray[np.int64]] = {}

    def copy(self, rows: pa.Table, vectors: Matrix) -> npt.NDArray[np.bool_]:
        """Fill in the vectors that there are; return for which rows.

        Args:
            rows: Rows of a part in order, with `article`, `article_hash` and what tells a row from its neighbours.
            vectors: Array of shape (n, d) to fill in.
        """
        copied = np.zeros(rows.num_rows, np.bool_)
        if not rows.num_rows:
            return copied
        article = rows["article"].to_numpy()
        starts = np.flatnonzero(np.append(True, article[1:] != article[:-1]))
        ends = np.append(starts[1:], len(article))
        keys = self._keys(rows)
        places = self.find(hash_array(rows["article_hash"])[starts])
        for start, end, place in zip(starts.tolist(), ends.tolist(), places.tolist(), strict=True):
            if place[0] >= 0:
                old_keys, old_vectors = self._read(*place)
                new, old = _same_rows(keys[start:end], old_keys)
                vectors[start:end][new] = old_vectors[old]
                copied[start:end][new] = True
        return copied

    def find(self, hashes: npt.NDArray[np.bytes_]) -> Places:
        """Return where the articles with these hashes lie."""
        found = np.repeat(np.array([(-1, 0, 0)], _PLACE), len(hashes))
        if len(self._hashes):
            at = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
            there = self._hashes[at] == hashes
            found[there] = self._places[at[there]]
        return found

    def _keys(self, rows: pa.Table) -> npt.NDArray[np.int32]:
        return np.stack([rows[name].to_numpy() for name in self._key_columns], axis=1)

    def _read(self, source: int, first: int, rows: int) -> tuple[npt.NDArray[np.int32], Matrix]:
        """Return keys and vectors of some rows of an earlier part; none if it cannot be read any more."""
        try:
            ends = self._row_group_ends(source)
            keys, vectors = [], []
            for group in range(int(np.searchsorted(ends, first, side="right")), len(ends)):
                begin = int(ends[group - 1]) if group else 0
                if begin >= first + rows:
                    break
                group_keys, group_vectors = self._group(source, group)
                piece = slice(max(0, first - begin), first + rows - begin)
                keys.append(group_keys[piece])
                vectors.append(group_vectors[piece])
        except (FileNotFoundError, InputError, KeyError):
            keys, vectors = [], []
        if len(keys) == 1:
            return keys[0], vectors[0]
        empty = np.zeros((0, len(self._key_columns)), np.int32), np.zeros((0, self._dimension), np.float32)
        return (np.concatenate(keys), np.concatenate(vectors)) if keys else empty

    def _row_group_ends(self, source: int) -> npt.NDArray[np.int64]:
        if source not in self._ends:
            with open_vectors(self._reuse.sources[source]) as file:
                metadata = file.metadata
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._ends[source] = np.cumsum(np.array(sizes, np.int64))
        return self._ends[source]

    def _group(self, source: int, group: int) -> tuple[npt.NDArray[np.int32], Matrix]:
        if (source, group) in self._groups:
            self._groups.move_to_end((source, group))
            return self._groups[source, group]
        with open_vectors(self._reuse.sources[source]) as file:
            table = file.read_row_group(group, columns=[*self._key_columns, "embedding"], use_threads=False)
        found = self._keys(table), to_matrix(table["embedding"].combine_chunks())
        self._groups[source, group] = found
        while len(self._groups) > 1 and sum(matrix.nbytes for _, matrix in self._groups.values()) > _CACHED_BYTES:
            self._groups.popitem(last=False)
        return found


def _same_rows(
    new: npt.NDArray[np.int32], old: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.int64] | slice, npt.NDArray[np.int64] | slice]:
    """Return the positions of equal keys in two ascending lists of keys."""
    if new.shape == old.shape and np.array_equal(new, old):
        return slice(None), slice(None)
    # The sentence number tells rows of an article apart; where the cut of a sentence moved, it is another sentence.
    _, in_new, in_old = np.intersect1d(new[:, 0], old[:, 0], assume_unique=True, return_indices=True)
    same = (new[in_new] == old[in_old]).all(axis=1)
    return in_new[same], in_old[same]


def _mapped(path: str, dtype: np.dtype[Any]) -> Places:
    """Map a flat file into memory; one that is in an object store is first copied to a nameless local file."""
    if not storage.info(path).size:
        return np.zeros(0, dtype)
    if not storage.is_remote(path):
        return np.memmap(path, dtype, "r")
    with tempfile.TemporaryFile() as local, storage.open_input(path) as source:
        while block := source.read(1 << 22):
            local.write(block)
        local.flush()
        return np.memmap(local, dtype, "r")
