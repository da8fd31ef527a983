"""Parts of vectors: writing them, and reading them back without Ray or torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.ledger import PartRecord, PartStore, provenance
from lstm_embed.ledger.sealed import read_manifest

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

KIND = "embeddings"
_METADATA_KEY = b"lstm_embed.vectors"

Matrix = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class VectorFormat:
    """How vectors are written."""

    level: str
    dtype: str
    normalize: bool
    text: bool
    empty: str
    row_group_rows: int
    columns: tuple[str, ...]
    """Carried along, as "name:type"."""


def unit_rows(vectors: Matrix) -> Matrix:
    """Return rows of length 1; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def write_vectors(
    store: PartStore, record: PartRecord, table: pa.Table, vectors: Matrix, format: VectorFormat, about: dict[str, Any]
) -> None:
    """Commit one part of vectors beside the columns of `table`; `about` goes into the footer as well."""
    if format.dtype == "float16":
        # Rounding to infinity would turn a large component into a NaN cosine.
        vectors = np.clip(vectors, -65504, 65504)
    field = embedding_field(format.dtype, vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors, format.dtype).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, type=field.type)
    about = {
        **about,
        "dimension": vectors.shape[1],
        "dtype": format.dtype,
        "normalized": format.normalize,
        "level": format.level,
    }
    if format.level == "article":
        about["article_vector"] = "mean of the sentence vectors"
    metadata = {_METADATA_KEY: json.dumps(about, sort_keys=True).encode()}
    table = table.append_column(field, column).replace_schema_metadata(metadata)
    store.write_table(record, table, **parquet_options(table, format.row_group_rows))


def embedding_field(dtype: str, dimension: int) -> pa.Field:
    """Return the column of vectors; nothing in it is null, which makes it faster to write and to read."""
    element = pa.field("element", pa.from_numpy_dtype(dtype), nullable=False)
    return pa.field("embedding", pa.list_(element, dimension), nullable=False)


def parquet_options(table: pa.Table, row_group_rows: int) -> dict[str, Any]:
    """Return how a table with vectors is written to parquet."""
    others = [name for name in table.column_names if name != "embedding"]
    is_float32 = table.schema.field("embedding").type.value_type == pa.float32()
    return {
        "row_group_size": row_group_rows,
        "use_dictionary": [name for name in others if name not in ("text", "start", "end")],
        # DuckDB cannot read float16 with this encoding.
        "use_byte_stream_split": ["embedding.list.element"] if is_float32 else False,
        "write_statistics": [name for name in others if name != "text"],
    }


def made_with() -> dict[str, str]:
    """Return the versions that made a part; not when and where, for equal parts shall have equal bytes."""
    here = provenance()
    return {name: here[name] for name in ("python", "lstm_embed", "torch", "pyarrow") if name in here}


def read_about(path: str) -> dict[str, Any]:
    """Return what a part's footer says of its vectors: model, dimension, dtype, normalized, level, versions…"""
    with storage.open_input(path) as file:
        return dict(json.loads((pq.read_metadata(file).metadata or {})[_METADATA_KEY]))


def refuse_earlier(path: str, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of vectors that version 0.1 wrote: it does not say what they consist of.

    Raises:
        InputError: with the version that reads it.
    """
    if settings.get("kind") == KIND and "embedding" not in settings:
        raise InputError(
            f"{path} holds vectors made by lstm_embed 0.1; read it with that version, or embed again into another folder"
        )


class Embeddings:
    """A finished folder of vectors.

    Args:
        path: The folder that embed wrote.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, of another kind, or of version 0.1.
    """

    def __init__(self, path: str) -> None:
        self.path = storage.resolve(path)
        self.manifest = read_manifest(self.path, kind=KIND)
        refuse_earlier(self.path, self.manifest["settings"])
        self.model_fingerprint: str = self.manifest["model"]
        self.embedding: str = self.manifest["settings"]["embedding"]
        self.precision: str = self.manifest["settings"]["precision"]
        self.level: str = self.manifest["settings"]["vectors"]["level"]
        self.num_rows: int = self.manifest["rows"]
        self.part_paths = [storage.join(self.path, "parts", part["name"]) for part in self.manifest["parts"]]

    def as_files(self) -> list[storage.FileInfo]:
        """Return the parts as input of a stage: measured in rows, changed where their content is another."""
        return [
            storage.FileInfo(path, part["rows"], f"{part['fingerprint']}-{part['input_digest']}")
            for path, part in zip(self.part_paths, self.manifest["parts"], strict=True)
        ]

    @property
    def dimension(self) -> int:
        """Dimension of a vector; 0 if there is none."""
        return int(read_about(self.part_paths[0])["dimension"]) if self.part_paths else 0

    def model_path(self, model: str = "") -> str:
        """Return the folder of the model that made the vectors.

        Args:
            model: Where the user says it is; empty for where embed found it.

        Raises:
            FileNotFoundError: if it is not there.
            InputError: if something else is.
        """
        from lstm_embed.model.folder import open_model

        path = storage.resolve(model or self._recorded_model())
        try:
            fingerprint = open_model(path)["fingerprint"]
        except FileNotFoundError:
            raise FileNotFoundError(
                f"the model that made {self.path} is not at {path}; name its folder (--model)"
            ) from None
        if fingerprint != self.model_fingerprint:
            raise FingerprintMismatch(
                f"{self.path} was made with the model {self.model_fingerprint[:8]}, {path} is the model {fingerprint[:8]}; "
                "give the model that made the vectors (--model), or embed again"
            )
        return path

    def _recorded_model(self) -> str:
        try:
            return str(storage.read_json(storage.join(self.path, "job.json"))["config"]["model"])
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            raise InputError(
                f"{self.path} does not say where its model is; name the model's folder (--model)"
            ) from None

    @property
    def cpu_precision(self) -> str:
        """The precision the vectors were made in, or, where no CPU has it, full precision."""
        return self.precision if self.precision != "fp16" else "fp32"

    def encoder(self, model: str = "") -> SentenceEncoder:
        """Load the model that made the vectors on the CPU, with their embedding and precision; see `model_path`."""
        path = self.model_path(model)
        from lstm_embed.model.encoder import SentenceEncoder

        return SentenceEncoder.load(path, precision=self.cpu_precision, embedding=self.embedding)

    def batches(self, columns: Sequence[str], rows: int = 8192) -> Iterator[tuple[pa.Table, Matrix]]:
        """Yield the rows in order: the asked columns that there are, and the vectors of shape (n, d)."""
        for path in self.part_paths:
            yield from read_vectors(path, columns, rows)


def read_vectors(path: str, columns: Sequence[str], rows: int = 8192) -> Iterator[tuple[pa.Table, Matrix]]:
    """Yield the rows of one part in batches: some of its columns, and the vectors of shape (n, d)."""
    with storage.open_input(path) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            wanted = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(rows, columns=[*wanted, "embedding"]):
                yield pa.table(batch).select(wanted), to_matrix(batch.column("embedding"))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from None


def read_slice(path: str, first: int, rows: int) -> pa.Table:
    """Return some rows of one part with all their columns; only the row groups that hold them are read."""
    with storage.open_input(path) as source:
        try:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            ends = np.cumsum(sizes, dtype=np.int64)
            wanted = np.flatnonzero((ends > first) & (ends - sizes < first + rows))
            begin = int(ends[wanted[0]] - sizes[wanted[0]]) if len(wanted) else first
            return file.read_row_groups(wanted.tolist(), use_threads=False).slice(first - begin, rows)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from None


def _damaged(path: str, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({error}); run embed again")


def to_matrix(column: pa.FixedSizeListArray) -> Matrix:
    """Return a column of vectors as an array of shape (n, d)."""
    flat: Matrix = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def encode_queries(encoder: SentenceEncoder, queries: Sequence[str]) -> Matrix:
    """Return unit vectors of query texts, shape (q, d), float32."""
    vectors = np.asarray(encoder.encode(list(queries)), np.float32)
    return unit_rows(vectors)
