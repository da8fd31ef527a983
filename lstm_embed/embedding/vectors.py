"""Parts of vectors: writing them, and reading them back without Ray or torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NotRequired

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pydantic
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.ledger import PartRecord, PartStore, provenance
from lstm_embed.ledger.manifest import JOB, UnitManifest, listed_parts, read_folder_config, read_manifest
from lstm_embed.ledger.parts import PartInfo, open_part

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

KIND = "embeddings"
_REMEDY = "remove the file and run embed again"
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


def refuse_earlier(path: str, settings: Mapping[str, Any]) -> None:
    """Refuse a folder of vectors that version 0.1 wrote: it does not say what they consist of.

    Raises:
        InputError: with the version that reads it.
    """
    if settings.get("kind") == KIND and "embedding" not in settings:
        raise InputError(
            f"{path} holds vectors made by lstm_embed 0.1; read it with that version, or embed again into another folder"
        )


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class _Vectors(TypedDict):
    level: str


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class _Settings(TypedDict):
    kind: str
    embedding: NotRequired[str]
    precision: str
    vectors: _Vectors


class _Manifest(UnitManifest):
    settings: _Settings
    model: str


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
        self.manifest = read_manifest(self.path, kind=KIND, declared=_Manifest)
        refuse_earlier(self.path, self.manifest["settings"])
        self.model_fingerprint: str = self.manifest["model"]
        self.embedding: str = self.manifest["settings"]["embedding"]
        self.precision: str = self.manifest["settings"]["precision"]
        self.level: str = self.manifest["settings"]["vectors"]["level"]
        self.num_rows: int = self.manifest["rows"]
        self.parts = listed_parts(self.path, self.manifest)

    def as_files(self) -> list[storage.FileInfo]:
        """Return the parts as input of a stage."""
        return [part.as_file for part in self.parts]

    @property
    def dimension(self) -> int:
        """Dimension of a vector; 0 if there is none."""
        if not self.parts:
            return 0
        with open_vectors(self.parts[0]) as file:
            return int(file.schema_arrow.field("embedding").type.list_size)

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
            recorded = read_folder_config(storage.join(self.path, JOB)).get("config", {}).get("model")
        except (FileNotFoundError, InputError):
            recorded = None
        if not isinstance(recorded, str) or not recorded:
            raise InputError(f"{self.path} does not say where its model is; name the model's folder (--model)")
        return recorded

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
        for part in self.parts:
            yield from read_vectors(part, columns, rows)


@contextlib.contextmanager
def open_vectors(part: PartInfo | str) -> Iterator[pq.ParquetFile]:
    """Open a part of vectors; see `open_part`.

    Raises:
        FileNotFoundError: if it is not there.
        InputError: if it is damaged, another part than is meant, or has no column of vectors.
    """
    with open_part(part, "embed") as file:
        names = file.schema_arrow.names
        kind = file.schema_arrow.field("embedding").type if "embedding" in names else pa.null()
        if not (pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type)):
            raise InputError(f"{_path(part)} has no column embedding that holds vectors; {_REMEDY}")
        yield file


def read_vectors(part: PartInfo | str, columns: Sequence[str], rows: int = 8192) -> Iterator[tuple[pa.Table, Matrix]]:
    """Yield the rows of one part in batches: some of its columns, and the vectors of shape (n, d).

    Raises:
        InputError: as of `open_vectors`, or if a vector has a number that is not finite.
    """
    with open_vectors(part) as file:
        wanted = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(rows, columns=[*wanted, "embedding"]):
            yield pa.table(batch).select(wanted), finite_matrix(batch.column("embedding"), part)


def read_slice(part: PartInfo | str, first: int, rows: int) -> pa.Table:
    """Return some rows of one part with all their columns; only the row groups that hold them are read."""
    with open_vectors(part) as file:
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        ends = np.cumsum(sizes, dtype=np.int64)
        wanted = np.flatnonzero((ends > first) & (ends - sizes < first + rows))
        begin = int(ends[wanted[0]] - sizes[wanted[0]]) if len(wanted) else first
        return file.read_row_groups(wanted.tolist(), use_threads=False).slice(first - begin, rows)


def _path(part: PartInfo | str) -> str:
    return part if isinstance(part, str) else part.path


def to_matrix(column: pa.FixedSizeListArray) -> Matrix:
    """Return a column of vectors as an array of shape (n, d)."""
    flat: Matrix = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def finite_matrix(column: pa.FixedSizeListArray, part: PartInfo | str) -> Matrix:
    """Return a column of a part's vectors as an array of shape (n, d).

    Raises:
        InputError: if a number in it is not finite.
    """
    matrix = to_matrix(column)
    if not np.isfinite(matrix).all():
        raise InputError(f"{_path(part)} is damaged: it holds vectors that are no numbers; {_REMEDY}")
    return matrix


def encode_queries(encoder: SentenceEncoder, queries: Sequence[str]) -> Matrix:
    """Return unit vectors of query texts, shape (q, d), float32."""
    vectors = np.asarray(encoder.encode(list(queries)), np.float32)
    return unit_rows(vectors)
