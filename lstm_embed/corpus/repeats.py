"""Sentences that a corpus repeats word by word: all but the first are found, exactly and in bounded memory.

A part's sentences are hashed (BLAKE2b, 16 bytes) into a file of one row group for each of `NUM_PARTITIONS` ranges of the
hash. Finding repeats sorts one range of all files at a time and marks, in corpus order, every occurrence but the first. What
has to go is written beside the hashes, one file a unit, and is part of what decides the content of the unit's parts: where a
change elsewhere in the corpus changes the marks of a unit, exactly that unit is made again. The files stay, so that new input
is compared with all there is without reading it again.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Unit, fingerprint

FOLDER = "repeats"
NUM_PARTITIONS = 64
_READERS = 16

Mask = npt.NDArray[np.bool_]


def hash_store(output: str, fingerprint: str) -> PartStore:
    """Return the store of a folder's hash files."""
    return PartStore(storage.join(output, FOLDER), fingerprint)


def write_hashes(store: PartStore, record: PartRecord, texts: Iterable[str]) -> None:
    """Commit the hashes of a part's sentences; `record` is that of the part."""
    joined = b"".join(hashlib.blake2b(text.encode(), digest_size=16).digest() for text in texts)
    hashes = np.frombuffer(joined, "S16")
    partition = np.frombuffer(joined, np.uint8)[::16] // (256 // NUM_PARTITIONS)
    order = np.argsort(partition, kind="stable")
    sizes = np.bincount(partition, minlength=NUM_PARTITIONS).tolist()
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(hashes), [None, pa.py_buffer(hashes[order].tobytes())]
    )
    table = pa.table({"hash": column, "row": order.astype(np.int32)})
    own = store.record(record.unit, record.part, last=record.last, rows=len(hashes), input_digest=record.input_digest)
    store.write_table(own, table, row_groups=sizes, compression="none", use_dictionary=False, write_statistics=False)


def find_repeats(store: PartStore, units: Sequence[Unit], report: Reporter = SILENT) -> dict[int, str]:
    """Mark all repeated sentences of a corpus whose units' hashes are complete; write the marks.

    Returns:
        For each unit the fingerprint of its marks.
    """
    records = Ledger.complete_units(store, {unit.number for unit in units})
    parts = [record for unit in units for record in records[unit.number]]
    paths = [store.path(record.unit, record.part) for record in parts]
    # One bit a sentence is all that is held of the whole corpus.
    marks = [np.zeros((record.rows + 7) // 8, np.uint8) for record in parts]
    for partition in range(NUM_PARTITIONS):
        for number, rows in _repeats(paths, partition).items():
            mask = np.unpackbits(marks[number], count=parts[number].rows)
            mask[rows] = 1
            marks[number] = np.packbits(mask)
        report.progress("find repeats", partition + 1, NUM_PARTITIONS, "partitions")
    by_unit: dict[int, list[str]] = {unit.number: [] for unit in units}
    for record, mark in zip(parts, marks, strict=True):
        by_unit[record.unit].append(base64.b64encode(mark.tobytes()).decode() if mark.any() else "")
    return {number: _write_marks(store, number, encoded) for number, encoded in by_unit.items()}


def _repeats(paths: Sequence[str], partition: int) -> dict[int, npt.NDArray[np.int32]]:
    """Return the rows, by number of their file, whose hash occurs in an earlier row or file."""

    def read(path: str) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]:
        with storage.open_input(path) as file:
            table = pq.ParquetFile(file).read_row_group(partition)
        hashes = table["hash"].combine_chunks()
        offset = hashes.offset * 2
        halves = np.frombuffer(hashes.buffers()[1] or b"", np.uint64)[offset : offset + 2 * len(hashes)]
        return halves.reshape(-1, 2), table["row"].to_numpy()

    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(read, paths))
    halves = np.concatenate([hashes for hashes, _ in found])
    rows = np.concatenate([numbers for _, numbers in found])
    file = np.repeat(np.arange(len(paths), dtype=np.int32), [len(numbers) for _, numbers in found])
    del found
    order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: equal hashes stay in corpus order
    repeated = order[1:][(halves[order[1:]] == halves[order[:-1]]).all(axis=1)]
    return {int(number): rows[repeated[file[repeated] == number]] for number in np.unique(file[repeated])}


def _marks_path(store: PartStore, unit: int) -> str:
    return storage.join(store.output, f"unit-{unit:08d}.json")


def _write_marks(store: PartStore, unit: int, encoded: list[str]) -> str:
    content = {"dropped": encoded}
    path = _marks_path(store, unit)
    if not storage.exists(path) or storage.read_json(path) != content:
        storage.write_json(path, content)
    return fingerprint(content)


def read_marks(store: PartStore, unit: int) -> tuple[list[Mask], str]:
    """Return for each part of a unit which of its sentences have to go (an empty mask: none), and the fingerprint."""
    content: dict[str, Any] = storage.read_json(_marks_path(store, unit))
    masks = [np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).astype(bool) for text in content["dropped"]]
    return masks, fingerprint(content)


def marked_units(store: PartStore) -> dict[int, str]:
    """Return the fingerprint of the marks of each unit that has some."""
    files = storage.list_files(store.output, recursive=False)
    numbers = [int(name[5:13]) for file in files if (name := storage.name(file.path)).startswith("unit-")]
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(numbers, pool.map(lambda number: read_marks(store, number)[1], numbers), strict=True))
