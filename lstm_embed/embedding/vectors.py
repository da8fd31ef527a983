"""Parts of vectors: what the actors write, and reading them back without Ray or torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed import storage
from lstm_embed.errors import InputError
from lstm_embed.ledger import PartRecord, PartStore
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
    model_fingerprint: str


class EmbedChunk:
    """An actor that holds the model, embeds chunks and commits them as parts.

    Args:
        model: Model folder.
        store: Where the parts go.
        format: How they are written.
        precision: Of the model's arithmetic, as the driver resolved it.
        gpu: Compute on the GPU.
        batch_tokens: Tokens of one batch through the model.
    """

    def __init__(
        self, *, model: str, store: PartStore, format: VectorFormat, precision: str, gpu: bool, batch_tokens: int
    ) -> None:
        import torch

        from lstm_embed.model.encoder import SentenceEncoder

        if not gpu:
            torch.set_num_threads(1)  # two threads that wait for each other at every step are slower than one
        self._encoder: SentenceEncoder = SentenceEncoder.load(
            model, device="cuda" if gpu else "cpu", precision=precision
        )
        self._store = store
        self._format = format
        self._batch_tokens = batch_tokens * (16 if gpu else 1)

    def __call__(self, record: PartRecord, table: pa.Table) -> PartRecord:
        """Embed a chunk, commit it and return the record of the part as written."""
        ids = table["ids"].combine_chunks()
        vectors = self._encoder.encode_ids(ids, batch_tokens=self._batch_tokens)
        known: npt.NDArray[np.bool_] = np.any(vectors, axis=1)
        table = table.drop_columns(["ids"])
        if self._format.level == "article":
            table, vectors, known = article_means(table, vectors, known)
        stats = {**record.stats, "without_known_words": int((~known).sum())}
        if self._format.empty == "drop" and not known.all():
            table, vectors = table.filter(pa.array(known)), vectors[known]
        if self._format.normalize:
            vectors = unit_rows(vectors)
        written = replace(record, rows=table.num_rows, stats=stats)
        write_vectors(self._store, written, table, vectors, self._format)
        return written


def article_means(
    table: pa.Table, vectors: Matrix, known: npt.NDArray[np.bool_]
) -> tuple[pa.Table, Matrix, npt.NDArray[np.bool_]]:
    """Return one row an article: the mean of its sentences' vectors (those with a known word)."""
    article = table["article"].to_numpy()
    starts = np.flatnonzero(np.append(True, article[1:] != article[:-1])) if len(article) else np.zeros(0, np.int64)
    sums = np.add.reduceat(vectors * known[:, None], starts, axis=0) if len(starts) else vectors[:0]
    counts = np.add.reduceat(known.astype(np.int64), starts) if len(starts) else np.zeros(0, np.int64)
    num_sentences = np.diff(np.append(starts, len(article)))
    means = (sums / np.maximum(counts, 1)[:, None]).astype(vectors.dtype)
    rows = table.take(pa.array(starts)).drop_columns(["sentence", "start", "end"])
    rows = rows.append_column("num_sentences", pa.array(num_sentences.astype(np.int32)))
    return rows, means, counts > 0


def unit_rows(vectors: Matrix) -> Matrix:
    """Return rows of length 1; zero rows stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)


def write_vectors(store: PartStore, record: PartRecord, table: pa.Table, vectors: Matrix, format: VectorFormat) -> None:
    """Commit one part of vectors beside the columns of `table`."""
    dtype = np.dtype(format.dtype)
    if format.dtype == "float16":
        # Rounding to infinity would turn a large component into a NaN cosine.
        vectors = np.clip(vectors, -65504, 65504)
    flat = pa.array(np.ascontiguousarray(vectors, dtype).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    table = table.drop_columns(["article"]).append_column("embedding", column)
    about = {
        "model": format.model_fingerprint,
        "dimension": vectors.shape[1],
        "dtype": format.dtype,
        "normalized": format.normalize,
        "level": format.level,
    }
    if format.level == "article":
        about["article_vector"] = "mean of the sentence vectors"
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(about, sort_keys=True).encode()})
    others = [name for name in table.column_names if name != "embedding"]
    store.write_table(
        record,
        table,
        row_group_size=format.row_group_rows,
        use_dictionary=[name for name in others if name in ("article_id", "title", "article_hash")],
        # DuckDB cannot read float16 with this encoding.
        use_byte_stream_split=["embedding.list.element"] if format.dtype == "float32" else False,
        write_statistics=[name for name in others if name != "text"],
    )


class Embeddings:
    """A finished folder of vectors.

    Args:
        path: The folder that embed wrote.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished or of another kind.
    """

    def __init__(self, path: str) -> None:
        self.path = storage.resolve(path)
        self.manifest = read_manifest(self.path, kind=KIND)
        self.model_fingerprint: str = self.manifest["model"]
        self.num_rows: int = self.manifest["rows"]
        self.part_paths = [storage.join(self.path, "parts", part["name"]) for part in self.manifest["parts"]]

    def batches(self, columns: Sequence[str], rows: int = 8192) -> Iterator[tuple[pa.Table, Matrix]]:
        """Yield the rows in order: the asked columns that there are, and the vectors of shape (n, d)."""
        for path in self.part_paths:
            yield from read_vectors(path, columns, rows)


def read_vectors(path: str, columns: Sequence[str], rows: int = 8192) -> Iterator[tuple[pa.Table, Matrix]]:
    """Yield the rows of one part in batches: some of its columns, and the vectors of shape (n, d)."""
    with storage.open_input(path) as source:
        try:
            file = pq.ParquetFile(source)
            wanted = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(rows, columns=[*wanted, "embedding"]):
                yield pa.table(batch).select(wanted), to_matrix(batch.column("embedding"))
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path} is damaged ({error}); run embed again") from None


def to_matrix(column: pa.FixedSizeListArray) -> Matrix:
    """Return a column of vectors as an array of shape (n, d)."""
    flat: Matrix = column.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), column.type.list_size)


def encode_queries(encoder: SentenceEncoder, queries: Sequence[str]) -> Matrix:
    """Return unit vectors of query texts, shape (q, d), float32."""
    vectors = np.asarray(encoder.encode(list(queries)), np.float32)
    return unit_rows(vectors)
