"""Tensors from safetensors files, which are compared with what is expected before anything is allocated.

The library maps a file into memory, bounds its header and checks that shapes and offsets fit the file's size; here names,
types and shapes are compared with the declaration, and the numbers must be finite.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.text import printable

Shape = tuple[int | None, ...]
"""Sizes, None where any will do."""
Expected = Mapping[str, tuple[str, Shape]]
"""Type, as safetensors names it ("F32", "I64"), and shape of each tensor by its name."""
Arrays = dict[str, npt.NDArray[Any]]

_MOST_TENSORS = 10_000
_REMEDY = "copy or make its folder again"


def open_tensors(path: str, expected: Expected, *, sha256: str = "") -> Arrays:
    """Read a file that holds exactly the expected tensors.

    Args:
        path: The file; local or in an object store.
        expected: What it must hold.
        sha256: Hash that the file was sealed with, compared if given; a remote file is fetched once for both.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is damaged, no safetensors file, holds other tensors, or numbers that are not finite.
    """
    with opened(path, sha256=sha256) as file:
        return take_tensors(file, path, expected)


@contextlib.contextmanager
def opened(path: str, *, sha256: str = "") -> Iterator[Any]:
    """Open a safetensors file, for its `metadata` and for `take_tensors`; no tensor is read yet.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is damaged or no safetensors file.
    """
    path = storage.resolve(path)
    storage.info(path)
    with storage.local_file(path) as local:
        if sha256 and storage.digest(local) != sha256:
            raise InputError(f"{path} is damaged: its hash is not the one that was sealed; {_REMEDY}")
        try:
            handle = safetensors.safe_open(local, framework="np")
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or no safetensors file ({error}); {_REMEDY}") from None
        with handle as file:
            if len(file.keys()) > _MOST_TENSORS:
                raise InputError(
                    f"{path} holds more than {_MOST_TENSORS:,} tensors, as no file of ours does; {_REMEDY}"
                )
            yield file


def take_tensors(file: Any, path: str, expected: Expected) -> Arrays:
    """Return the tensors of an opened file; `path` is its name in messages.

    Raises:
        InputError: if they are others than expected, or hold numbers that are not finite.
    """
    names = set(file.keys())
    for name in sorted(names | set(expected)):
        if name not in names:
            raise InputError(f"{path} lacks the tensor {name}; expected {_words(*expected[name])}; {_REMEDY}")
        if name not in expected:
            raise InputError(
                f"{path} holds a tensor {printable(name, 60)}; expected {', '.join(expected)} alone; {_REMEDY}"
            )
        found = file.get_slice(name)
        _compare(f"tensor {name} of {path}", found.get_dtype(), tuple(found.get_shape()), *expected[name])
    return {name: _finite(file.get_tensor(name), f"tensor {name} of {path}") for name in expected}


def _compare(what: str, dtype: str, shape: tuple[int, ...], expected_dtype: str, expected_shape: Shape) -> None:
    fits = len(shape) == len(expected_shape) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected_shape, strict=True)
    )
    if dtype != expected_dtype or not fits:
        raise InputError(
            f"{what} is {_words(dtype, shape)}; expected {_words(expected_dtype, expected_shape)}; {_REMEDY}"
        )


def _words(dtype: str, shape: Shape) -> str:
    return f"{dtype} of shape [{', '.join('any' if size is None else str(size) for size in shape)}]"


def _finite(array: npt.NDArray[Any], what: str) -> npt.NDArray[Any]:
    # The extremes tell without a mask of the array's size: NaN is handed on by both.
    if array.size and np.issubdtype(array.dtype, np.floating):
        extremes = float(array.min()), float(array.max())
        if not all(map(math.isfinite, extremes)):
            raise InputError(f"{what} holds NaN or infinite numbers; expected finite ones; {_REMEDY}")
    return array
