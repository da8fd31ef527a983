"""Grouping sentences by meaning: parts of vectors in, parts with a group for each row out.

Rows are scaled to length 1 and grouped by cosine (spherical k-means, Dhillon and Modha 2001). The centres are found by
scikit-learn's mini-batch k-means on rows drawn at random; every part is then assigned by a task of its own, which also keeps
the rows nearest to each centre. A group's words are what its centre decodes to. Memory is bounded by the batches and by what
is listed of each group.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding
from lstm_embed.embedding.config import GroupConfig
from lstm_embed.embedding.vectors import (
    Embeddings,
    Matrix,
    finite_matrix,
    open_vectors,
    read_vectors,
    to_matrix,
    unit_rows,
)
from lstm_embed.ledger import PartRecord, PartStore, Unit, Work
from lstm_embed.ledger.parts import PartInfo, open_part
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import Job, Records, UnitStage

KIND = "groups"
FORMAT = 3
"""Version of the parts' content."""
NO_GROUP = -1
"""Group of a row whose vector is zero."""
_BATCH_ROWS = 8192
_MIXED_GROUPS = 8
"""Row groups whose rows are mixed before they are drawn: neighbours in a corpus are alike."""
_READERS = 8
_ROW_COLUMNS = ("article_id", "title", "sentence", "text")


def group(config: GroupConfig, report: Reporter = SILENT) -> Summary:
    """Group the rows of a folder of vectors.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, or the output folder holds something else.
        OutputBusy: if another job writes the output folder.
    """
    return run_stage(GroupStage(config), report)


class GroupStage(UnitStage[GroupConfig]):
    """From parts of vectors to parts with a group for each row."""

    name, kind, row_name = "group", KIND, "rows"
    size_unit, counted = ("rows", 1.0), "rows"

    def open(self) -> None:
        """Look at the vectors, and whether there will be words for the groups."""
        self.embeddings = Embeddings(self.config.embeddings)
        if self.embeddings.num_rows < self.config.clusters:
            raise InputError(
                f"{self.embeddings.path} has {self.embeddings.num_rows} vectors; that is too few for "
                f"{self.config.clusters} groups (--clusters)"
            )
        self._unnamed = self._why_unnamed()

    def _why_unnamed(self) -> str:
        """Return why there will be no words; empty if there will, or none are wanted."""
        if not self.config.words:
            return ""
        if self.embeddings.embedding == "order":
            return "the embedding order says nothing of words"
        try:
            self.embeddings.model_path(self.config.model)
        except (OSError, InputError) as error:
            if self.config.model:
                raise
            return str(error)
        return ""

    def settings(self) -> dict[str, Any]:
        """Return what decides the groups."""
        embeddings = self.embeddings.manifest["fingerprint"]
        return {"content_format": FORMAT, "embeddings": embeddings, **deciding(self.config)}

    def files(self) -> list[storage.FileInfo]:
        """Return the parts of vectors."""
        return self.embeddings.as_files()

    def make(self, job: Job) -> Records:
        """Find the centres, assign every row, and say what is typical of each group."""
        if self._unnamed:
            job.report.note(f"the groups will have no words: {self._unnamed}")
        task = AssignTask(
            centres_path=storage.join(self.output, "centres.parquet"),
            store=job.ledger.store,
            nearest=PartStore(storage.join(self.staging_dir, "nearest"), job.ledger.store.fingerprint),
            num_nearest=self.config.nearest,
        )
        if not storage.exists(task.centres_path):
            write_centres(task.centres_path, fit(self.embeddings, self.config, job.report))
        new = job.units(task, name="assign groups")
        records = {**job.work.records, **new}
        self._describe([record for unit in job.work.units for record in records[unit.number]], task)
        return new

    def manifest(self) -> dict[str, Any]:
        """Return the vectors' fingerprint."""
        return {"embeddings": self.embeddings.manifest["fingerprint"]}

    def _describe(self, records: Sequence[PartRecord], task: AssignTask) -> None:
        """Write what is typical of each group."""
        sizes = sum((np.array(record.stats["sizes"]) for record in records), np.zeros(self.config.clusters, np.int64))
        words = self._words(read_centres(task.centres_path), sizes)
        nearest = merge_nearest(task.nearest, [r.stem for r in records], len(sizes), self.config.nearest)
        lines = [
            json.dumps(
                {"cluster": number, "size": int(size), "words": w, "nearest": n}, ensure_ascii=False, default=str
            )
            for number, (size, w, n) in enumerate(zip(sizes, words, nearest, strict=True))
        ]
        storage.write_bytes(storage.join(self.output, "clusters.jsonl"), ("\n".join(lines) + "\n").encode())

    def _words(self, centres: Matrix, sizes: npt.NDArray[np.int64]) -> list[list[str]]:
        """Return the words that each group's centre leans to; none for empty groups, or where no model tells them."""
        words: list[list[str]] = [[] for _ in sizes]
        if self.config.words and not self._unnamed:
            filled = np.flatnonzero(sizes)
            found = self.embeddings.encoder(self.config.model).decode(centres[filled])
            for number, decoded in zip(filled.tolist(), found, strict=True):
                words[number] = list(decoded.words[: self.config.words])
        return words

    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return how large the groups are."""
        sizes = np.array(manifest["totals"]["sizes"])
        return {
            "groups": int((sizes > 0).sum()),
            "largest": int(sizes.max()),
            "without group (no word)": manifest["rows"] - int(sizes.sum()),
        }

    def sample_rate(self, work: Work) -> float:
        """Return the rows a second that one CPU assigns, measured on one batch."""
        for unit in work.pending[:1]:
            started = time.monotonic()
            for _, vectors in read_vectors(unit.spans[0].as_part, _ROW_COLUMNS, _BATCH_ROWS):
                assign(
                    unit_rows(vectors.astype(np.float32)), np.ones((self.config.clusters, vectors.shape[1]), np.float32)
                )
                return len(vectors) / max(time.monotonic() - started, 1e-9)
        return 0.0


# Finding the centres


def fit(embeddings: Embeddings, config: GroupConfig, report: Reporter = SILENT) -> Matrix:
    """Return the groups' centres, shape (k, d), of length 1.

    Raises:
        InputError: if there are too few vectors that are not zero.
    """
    from sklearn.cluster import MiniBatchKMeans

    total = min(config.fit_rows, 10 * embeddings.num_rows)
    model = MiniBatchKMeans(config.clusters, random_state=config.seed, n_init=1, compute_labels=False)
    drawn = 0
    for rows in draw_rows(embeddings.parts, config.seed, max(_BATCH_ROWS, 4 * config.clusters)):
        if not drawn and len(rows) < config.clusters:
            raise InputError(
                f"{embeddings.path} has {len(rows)} vectors that are not zero; that is too few for {config.clusters} "
                "groups (--clusters)"
            )
        model.partial_fit(rows)
        drawn += len(rows)
        report.progress("find groups", min(drawn, total), total, "rows")
        if drawn >= total:
            break
    if not drawn:
        raise InputError(f"{embeddings.path} has no vector that is not zero; there is nothing to group")
    return unit_rows(model.cluster_centers_.astype(np.float32))


def draw_rows(parts: Sequence[PartInfo], seed: int, batch_rows: int) -> Iterator[Matrix]:
    """Yield batches of unit vectors at random, over and over again; rows of zeros are left out, and none if all are.

    The row groups of all parts are read in random order, and the rows of some of them mixed.
    """
    rng = np.random.default_rng(seed)
    with ThreadPoolExecutor(_READERS) as pool:
        counts = list(pool.map(_num_row_groups, parts))
        groups = [(part, number) for part, count in zip(parts, counts, strict=True) for number in range(count)]
        drawn = -1
        while drawn:
            order, drawn = rng.permutation(len(groups)), 0
            held: list[Matrix] = []
            for start in range(0, len(order), _MIXED_GROUPS):
                chosen = [groups[number] for number in order[start : start + _MIXED_GROUPS]]
                held += pool.map(lambda found: _group_rows(*found), chosen)
                mixed = np.concatenate(held)[rng.permutation(sum(map(len, held)))]
                is_last = start + _MIXED_GROUPS >= len(order)
                end = len(mixed) if is_last else len(mixed) - len(mixed) % batch_rows
                drawn += end
                for first in range(0, end, batch_rows):
                    yield mixed[first : min(first + batch_rows, end)]
                held = [mixed[end:]]


def _num_row_groups(part: PartInfo) -> int:
    with open_vectors(part) as file:
        return int(file.num_row_groups)


def _group_rows(part: PartInfo, number: int) -> Matrix:
    with open_vectors(part) as file:
        table = file.read_row_group(number, columns=["embedding"])
    rows = unit_rows(finite_matrix(table["embedding"].combine_chunks(), part).astype(np.float32))
    return rows[rows.any(axis=1)]


def write_centres(path: str, centres: Matrix) -> None:
    """Write the centres as a parquet file with the columns `cluster` and `centre`."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(centres.ravel()), centres.shape[1])
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"cluster": np.arange(len(centres), dtype=np.int32), "centre": column}), sink)
    storage.write_bytes(path, sink.getvalue())


def read_centres(path: str) -> Matrix:
    """Return the centres of `write_centres`."""
    with storage.open_input(path) as file:
        return to_matrix(pq.read_table(file)["centre"].combine_chunks())


# Assigning rows


def assign(rows: Matrix, centres: Matrix) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return for each unit vector the group with the nearest centre and its cosine; `NO_GROUP` and 0 for a zero vector."""
    scores = rows @ centres.T
    cluster = scores.argmax(axis=1).astype(np.int32)
    cosine = scores[np.arange(len(rows)), cluster].clip(-1.0, 1.0).astype(np.float32)
    known = rows.any(axis=1)
    return np.where(known, cluster, np.int32(NO_GROUP)), np.where(known, cosine, np.float32(0))


@dataclass(frozen=True, kw_only=True)
class AssignTask:
    """Assigns one part of vectors; commits a part of groups, after its rows nearest to each centre."""

    centres_path: str
    store: PartStore
    nearest: PartStore
    num_nearest: int

    def __call__(self, unit: Unit) -> Iterable[PartRecord]:
        centres = read_centres(self.centres_path)
        span = unit.spans[0]
        tables: list[pa.Table] = []
        candidates: list[pa.Table] = []
        for rows, vectors in read_vectors(unit.spans[0].as_part, _ROW_COLUMNS, _BATCH_ROWS):
            cluster, cosine = assign(unit_rows(vectors.astype(np.float32)), centres)
            made = rows.append_column("cluster", pa.array(cluster)).append_column("cosine", pa.array(cosine))
            tables.append(made.drop_columns([name for name in ("text", "title") if name in made.column_names]))
            candidates = [_nearest([*candidates, made], self.num_nearest)]
        if not tables:
            tables = [_empty_like(unit.spans[0].as_part)]
            candidates = tables[:1]
        table = pa.concat_tables(tables)
        clusters = table["cluster"].to_numpy()
        sizes = np.bincount(clusters[clusters != NO_GROUP], minlength=len(centres))
        record = self.store.record(
            unit.number,
            0,
            last=True,
            rows=table.num_rows,
            input_digest=span.stamp,
            stats={"records": table.num_rows, "sizes": sizes.tolist(), "rejected": {}},
        )
        listed = candidates[0]
        self.nearest.write_table(replace(record, rows=listed.num_rows), listed)
        self.store.write_table(record, table)
        yield record


def _empty_like(part: PartInfo) -> pa.Table:
    with open_vectors(part) as file:
        schema = file.schema_arrow
    fields = [schema.field(name) for name in _ROW_COLUMNS if name in schema.names and name not in ("text", "title")]
    fields += [pa.field("cluster", pa.int32()), pa.field("cosine", pa.float32())]
    return pa.schema(fields).empty_table()


def _nearest(tables: Sequence[pa.Table], number: int) -> pa.Table:
    """Return the rows with the highest cosine of each group, best first; of equal ones the first."""
    table = pa.concat_tables(tables, promote_options="default")
    cluster, cosine = table["cluster"].to_numpy(), table["cosine"].to_numpy()
    order = np.lexsort((-cosine, cluster))
    sorted_clusters = cluster[order]
    first = np.searchsorted(sorted_clusters, sorted_clusters)
    kept = order[(np.arange(len(order)) - first < number) & (sorted_clusters != NO_GROUP)]
    return table.take(pa.array(kept))


def merge_nearest(store: PartStore, stems: Sequence[str], num_clusters: int, number: int) -> list[list[dict[str, Any]]]:
    """Return the nearest rows of each group over all parts."""
    best: pa.Table | None = None
    for stem in stems:
        with open_part(storage.join(store.folder, f"{stem}.parquet"), "group") as file:
            table = file.read().replace_schema_metadata(None)
        best = _nearest([table] if best is None else [best, table], number)
    found: list[list[dict[str, Any]]] = [[] for _ in range(num_clusters)]
    for row in best.to_pylist() if best else []:
        found[row.pop("cluster")].append({**row, "cosine": round(row["cosine"], 4)})
    return found
