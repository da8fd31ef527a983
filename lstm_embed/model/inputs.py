"""What people pass to an encoder: texts, token ids and vectors, as lists or as columns of any library, checked before any work.

Messages name types, places and shapes. They never print what was passed, which may be large, or somebody's text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from lstm_embed.base.errors import InputError
from lstm_embed.model.batch import FIRST_WORD

Ids = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.floating[Any]]


def as_texts(given: Any, name: str = "sentences") -> list[str]:
    """Return texts as a list.

    Args:
        given: A list, a tuple, an iterator, an array or a column of a table.
        name: What errors call it.

    Raises:
        InputError: if it is one text, a table or no texts at all, or if one of them is missing or no text.
    """
    shape = getattr(given, "shape", None)
    is_column = isinstance(given, Iterable) and (shape is None or len(shape) == 1)
    if isinstance(given, (str, bytes, bytearray, Mapping, Set)) or not is_column:
        raise InputError(
            f"{name} is of type {type(given).__name__}; expected texts: a list of them, or one column of a table, as in "
            "table['text']"
        )
    texts = given.to_pylist() if isinstance(given, (pa.Array, pa.ChunkedArray)) else list(given)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(
                f"{name}[{number}] is of type {type(text).__name__}; expected a text, an empty one where there is none"
            )
    return texts


def as_ids(
    given: pa.ListArray | pa.ChunkedArray | Iterable[npt.ArrayLike], vocabulary_size: int
) -> tuple[Ids, Ids, Ids]:
    """Return lists of token ids as all ids one after the other, where each list starts, and its length.

    Args:
        given: The lists; a missing one is empty.
        vocabulary_size: Ids that there are, padding counted.

    Raises:
        InputError: if there are others.
    """
    if isinstance(given, pa.ChunkedArray):
        given = given.combine_chunks()
    if isinstance(given, pa.Array):
        lengths = pc.fill_null(pc.list_value_length(given), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        flat = given.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    else:
        arrays = _id_arrays(given)
        lengths = np.array([len(array) for array in arrays], np.int64)
        flat = np.concatenate([np.zeros(0, np.int64), *arrays])
    if len(flat) and (flat.min() < FIRST_WORD or flat.max() >= vocabulary_size):
        raise InputError(
            f"token ids from {flat.min()} to {flat.max()}; the model's vocabulary has ids from {FIRST_WORD} to "
            f"{vocabulary_size - 1}; the text was prepared with another vocabulary"
        )
    return flat, np.cumsum(lengths) - lengths, lengths


def _id_arrays(given: Any) -> list[Ids]:
    """Return lists of ids as an array each."""
    try:
        arrays = [np.asarray(() if one is None else one) for one in given]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the token ids are no lists of numbers ({error}); expected a list of them for each text"
        ) from None
    for number, array in enumerate(arrays):
        if array.ndim != 1 or (len(array) and array.dtype.kind not in "iu"):
            raise InputError(
                f"the token ids of text {number} are of shape {array.shape} and type {array.dtype}; expected a list of whole "
                "numbers"
            )
    return [array.astype(np.int64) for array in arrays]


def as_vectors(given: Any, name: str = "vectors") -> Matrix:
    """Return vectors as a matrix, one a row, of the type they have.

    Args:
        given: A matrix, one vector, or a list or column of vectors.
        name: What errors call it.

    Raises:
        InputError: if they are of several dimensions, or no finite real numbers.
    """
    if np.ma.is_masked(given):
        raise InputError(f"{name} hold masked numbers; expected whole vectors")
    if isinstance(given, Tensor):
        given = given.detach().cpu()
        given = given.float() if given.dtype == torch.bfloat16 else given
    try:
        matrix = np.asarray(given)
        if matrix.dtype == object:  # a column, each of its cells a vector
            matrix = np.array(matrix.tolist())
    except ValueError:
        raise InputError(f"{name} have several dimensions; expected one vector as long as the other") from None
    if matrix.dtype.kind not in "fiu" or matrix.ndim not in (1, 2):
        raise InputError(
            f"{name} are of shape {matrix.shape} and type {matrix.dtype}; expected a matrix of numbers, one vector a row"
        )
    if not np.isfinite(matrix).all():
        raise InputError(f"{name} hold numbers that are not finite; expected vectors that a model made")
    return np.atleast_2d(matrix)


def unit_rows(vectors: Matrix) -> npt.NDArray[np.float32]:
    """Return vectors of any finite size as rows of length 1, float32; zero rows stay zero."""
    largest = np.abs(vectors.astype(np.float64)).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(vectors, largest, out=np.zeros(vectors.shape), where=largest > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    return np.divide(scaled, norms, out=scaled, where=norms > 0).astype(np.float32)
