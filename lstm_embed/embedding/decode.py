"""Vectors back to text: parts of vectors in, parts with what each row says out.

A reading task cuts each part of vectors into chunks and only says where they lie; the actor that holds the model reads a
chunk's vectors, decodes them and commits the part itself, so that vectors never pass through the object store. Vectors give
their sentences back: they, and what is written here, are to be guarded like the text.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding
from lstm_embed.embedding.config import DecodeConfig
from lstm_embed.embedding.vectors import Embeddings, Matrix, open_vectors, read_slice, to_matrix
from lstm_embed.embedding.worker import committed, compute_alone, open_model
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Unit, Work
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.parts import PartInfo
from lstm_embed.ledger.units import read_plan
from lstm_embed.stages.pool import find_workers, pool_needs
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import Job, Records, UnitStage

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

KIND = "decoded_text"
FORMAT = 1
"""Version of the parts' content; raised by hand when the same vectors and model would give other rows."""
_SAMPLE_ROWS = 64
_SHOWN_COLUMNS = ("article_id", "title", "sentence", "text")


@dataclass(frozen=True)
class DecodedRow:
    """One row of a folder of embeddings, read back."""

    row: dict[str, Any]
    """What the vector was stored with."""
    text: str
    """What the vector says."""
    proven: bool
    """Whether that, encoded again, is this vector."""


def decode(config: DecodeConfig, report: Reporter = SILENT) -> Summary:
    """Decode a folder of vectors, or what is new of it.

    Raises:
        FileNotFoundError: if there are no such vectors or their model is gone.
        InputError: if vectors, model and output folder do not go together.
        OutputBusy: if another job writes the folder.
    """
    return run_stage(DecodeStage(config), report)


def decode_first(config: DecodeConfig) -> Iterator[DecodedRow]:
    """Decode the first `limit` rows here, without Ray, and write nothing; see `decode`."""
    embeddings, model = _open(config)
    encoder = embeddings.encoder(model)
    left = config.limit
    for rows, vectors in embeddings.batches(_SHOWN_COLUMNS, _SAMPLE_ROWS):
        texts, proven = _decoded(encoder, vectors[:left], embeddings.level)
        yield from map(DecodedRow, rows.to_pylist(), texts, proven.tolist())
        left -= len(texts)
        if not left:
            return


def _open(config: DecodeConfig) -> tuple[Embeddings, str]:
    """Return the vectors and the path of their model.

    Raises:
        FileNotFoundError: if one of them is not there.
        InputError: if the model is another one, or these vectors say nothing of words.
    """
    from lstm_embed.model.folder import describe_model

    embeddings = Embeddings(config.embeddings)
    model = embeddings.model_path(config.model)
    if embeddings.embedding == "order" and describe_model(model)["model"]["recipe"] != "original":
        raise InputError(
            f"{embeddings.path} holds the embedding order, which says in which order words stand but not which; embed with "
            "--embedding joined or exact to decode"
        )
    return embeddings, model


def _vectors(rows: pa.Table) -> Matrix:
    return to_matrix(rows["embedding"].combine_chunks())


def _decoded(encoder: SentenceEncoder, vectors: Matrix, level: str) -> tuple[list[str], npt.NDArray[np.bool_]]:
    """Return what vectors say and whether that is proven, which for means of vectors it never is."""
    found = encoder.decode(vectors)
    return [one.text for one in found], np.array([one.proven and level != "article" for one in found], np.bool_)


class DecodeStage(UnitStage[DecodeConfig]):
    """From parts of vectors to parts with what each row says."""

    name, kind, row_name = "decode", KIND, "rows"
    size_unit, counted, shown = ("rows", 1.0), "rows", ("proven",)

    def open(self) -> None:
        """Look at the vectors and their model."""
        self.embeddings, self.model = _open(self.config)

    def settings(self) -> dict[str, Any]:
        """Return what decides the text."""
        return {
            "content_format": FORMAT,
            "model": self.embeddings.model_fingerprint,
            "embedding": self.embeddings.embedding,
            **deciding(self.config),
        }

    def files(self) -> list[storage.FileInfo]:
        """Return the parts of vectors."""
        return self.embeddings.as_files()

    def compare(self, ledger: Ledger) -> Work:
        """Tell what is left to do.

        Raises:
            FingerprintMismatch: if the folder was made with other settings, or from another folder of vectors.
        """
        work = super().compare(ledger)
        planned, _ = read_plan(self.output)
        sources = {storage.parent(storage.parent(unit.spans[0].path)) for unit in planned.values()}
        if others := sources - {self.embeddings.path}:
            raise FingerprintMismatch(
                f"{self.output} was decoded from {min(others)}, and --embeddings is {self.embeddings.path}; choose another "
                "output folder"
            )
        return work

    def needs(self) -> Needs:
        """Return what the actors and one reader need."""
        return pool_needs(self.config.num_workers, gpu=False, output=self.output, model=self.model)

    def begin(self, report: Reporter) -> None:
        """Find out how many actors fit on the cluster."""
        self._workers = find_workers(self.config.num_workers, gpu=False, report=report)

    def make(self, job: Job) -> Records:
        """Decode each part in a pool of actors."""
        actor = functools.partial(
            DecodeChunk,
            model=self.model,
            model_fingerprint=self.embeddings.model_fingerprint,
            embedding=self.embeddings.embedding,
            precision=self.embeddings.cpu_precision,
            level=self.embeddings.level,
            store=job.ledger.store,
            erased=Erased.load(self.output),
        )
        return job.chunks(CutPart(job.ledger.store, self.config.part_rows), actor, workers=self._workers, gpu=False)

    def manifest(self) -> dict[str, Any]:
        """Return the model's fingerprint."""
        return {"model": self.embeddings.model_fingerprint}

    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return how many rows are proven."""
        proven = manifest["totals"].get("proven", 0)
        share = round(proven / max(manifest["rows"], 1), 4)
        return {"proven": proven, "share proven": share, "embedding": self.embeddings.embedding}

    def sample_rate(self, work: Work) -> float:
        """Return the rows a second that one worker decodes, measured on a few of them."""
        encoder = self.embeddings.encoder(self.model)
        for unit in work.pending[:1]:
            vectors = _vectors(read_slice(unit.spans[0].as_part, 0, _SAMPLE_ROWS))
            encoder.decode(vectors[:1])  # what is made ready once
            started = time.monotonic()
            encoder.decode(vectors)
            return len(vectors) / max(time.monotonic() - started, 1e-9)
        return 0.0


@dataclass(frozen=True)
class CutPart:
    """Cuts a part of vectors into chunks. Small and picklable."""

    store: PartStore
    part_rows: int

    def __call__(self, unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
        """Yield where the chunks of the unit lie, from the first one that is not committed yet.

        Raises:
            InputError: if the part is not what it was when the job began.
        """
        span = unit.spans[0]
        with open_vectors(unit.spans[0].as_part) as file:
            total = file.metadata.num_rows
        for number, first in enumerate(range(0, max(total, 1), self.part_rows)):
            if number >= unit.committed:
                rows = min(self.part_rows, total - first)
                last = first + rows == total
                record = self.store.record(unit.number, number, last=last, rows=rows, input_digest=span.stamp)
                yield record, pa.table({"path": [span.path], "first": [first]})


class DecodeChunk:
    """An actor that holds the model, decodes chunks and commits them as parts.

    Args:
        model: Model folder.
        model_fingerprint: Fingerprint of the model that the driver saw there.
        embedding: What the vectors consist of.
        precision: Arithmetic of the model when they were made.
        level: What has a vector.
        store: Where the parts go.
        erased: Articles that are left out.
    """

    def __init__(
        self,
        *,
        model: str,
        model_fingerprint: str,
        embedding: str,
        precision: str,
        level: str,
        store: PartStore,
        erased: Erased,
    ) -> None:
        self._encoder = open_model(model, model_fingerprint, embedding, precision=precision)
        self._level, self._store, self._erased = level, store, erased
        self._decoding = threading.Lock()

    def __call__(self, record: PartRecord, table: pa.Table) -> PartRecord:
        """Decode a chunk, commit it and return the record of the part as written; one that is there is left as it is."""
        if found := committed(self._store, record):
            return found
        part = PartInfo.at(table["path"][0].as_py(), record.input_digest)
        rows = read_slice(part, table["first"][0].as_py(), record.rows)
        rows = rows.filter(pa.array(~self._erased.marks(rows["article_id"])))
        with self._decoding:
            compute_alone()
            texts, proven = _decoded(self._encoder, _vectors(rows), self._level)
        stats = {"records": record.rows, "proven": int(proven.sum()), "rejected": {}}
        written = replace(record, rows=rows.num_rows, stats=stats)
        rows = rows.drop_columns(["embedding"]).replace_schema_metadata(None)
        rows = rows.append_column("decoded", pa.array(texts, pa.string())).append_column("proven", pa.array(proven))
        self._store.write_table(written, rows)
        return written


def recounted(stats: dict[str, Any], left: pa.Table) -> dict[str, Any]:
    """Return the stats of a part of which only some rows are left."""
    return {**stats, "proven": int(left["proven"].to_numpy().sum())}
