"""The encoder as a step of a Ray Data pipeline of one's own: a text column in, a column of vectors added.

Here vectors travel through the object store like any other column. For a whole corpus `jobs/embed.py` is the better way: its
actors write what they compute, and it is restartable.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lstm_embed.base.errors import InputError


class EmbedBatch:
    """A callable class for `Dataset.map_batches`, with batch_format "pyarrow" or "numpy".

    Args:
        model: Model folder; each actor reads it, so it must be on storage that all nodes see.
        text_column: Column of the texts; a missing text counts as an empty one.
        output_column: Column of the vectors, new.
        embedding: What the vectors consist of, if not what the folder says; see `SentenceEncoder.load`.
        normalize: Scale vectors to length 1.
        dtype: "float32" or "float16".
        device: "cpu" or "cuda"; for the latter give the actors a GPU (`num_gpus=1`).
        precision: "fp32", "bf16", "fp16" (GPU) or "auto".

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is no model.
    """

    def __init__(
        self,
        model: str,
        *,
        text_column: str = "text",
        output_column: str = "embedding",
        embedding: str = "",
        normalize: bool = False,
        dtype: str = "float32",
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        from lstm_embed.model.encoder import SentenceEncoder

        self._encoder = SentenceEncoder.load(model, device=device, precision=precision, embedding=embedding)
        self._text_column, self._output_column = text_column, output_column
        self._normalize, self._dtype = normalize, dtype

    def __call__(self, batch: Any) -> Any:
        """Return the batch with one more column: fixed-size lists in a table, a matrix of shape (n, E) in a dict of arrays.

        Raises:
            InputError: if there is no such text column, it holds no texts, or the batch is neither table nor dict.
        """
        if isinstance(batch, pa.Table):
            names = batch.column_names
        elif isinstance(batch, dict):
            names = list(batch)
        else:
            raise InputError(f"the batch is a {type(batch).__name__}; expected batch_format='pyarrow' or 'numpy'")
        if names.count(self._text_column) != 1 or self._output_column in names:
            raise InputError(
                f"the columns are {', '.join(names)}; expected one text column {self._text_column!r} and no "
                f"{self._output_column!r} (text_column, output_column)"
            )
        column = batch[self._text_column]
        values = column.to_pylist() if isinstance(column, pa.ChunkedArray) else list(column)
        texts = ["" if value is None else value for value in values]
        vectors = self._encoder.encode(texts, normalize_embeddings=self._normalize, dtype=self._dtype)
        if isinstance(batch, dict):
            return {**batch, self._output_column: vectors}
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return batch.append_column(self._output_column, lists)
