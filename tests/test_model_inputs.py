"""What people pass to an encoder is taken in every form that is clear, and refused in words in every other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from lstm_embed.base.errors import InputError
from lstm_embed.model.inputs import as_texts, as_vectors

TEXTS = ["one", "", "два", "three\0four"]
VECTORS = np.arange(6, dtype=np.float32).reshape(3, 2)

COLUMNS: list[Callable[[list[str]], Any]] = [
    list,
    tuple,
    iter,
    np.array,
    lambda texts: np.array(texts, object),
    lambda texts: pd.Series(texts, index=range(4, 0, -1)),
    lambda texts: pd.Series(texts, dtype="category"),
    pl.Series,
    pa.array,
    lambda texts: pa.array(texts, pa.large_string()),
    lambda texts: pa.array(texts).dictionary_encode(),
    lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
]


@pytest.mark.parametrize("column", COLUMNS)
def test_texts_are_taken_from_columns_of_any_library(column: Callable[[list[str]], Any]) -> None:
    assert as_texts(column(TEXTS)) == TEXTS


@pytest.mark.parametrize("column", [*COLUMNS[:2], *COLUMNS[4:]])
def test_a_missing_text_is_refused_with_its_place_and_without_the_others(column: Callable[[list[Any]], Any]) -> None:
    with pytest.raises(InputError, match=r"^X\[2\] is of type \w+; expected a text, an empty one") as refused:
        as_texts(column(["secret", "", None, "secret"]), "X")
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (pd.DataFrame({"text": TEXTS}), "DataFrame"),
        (pl.DataFrame({"text": TEXTS}), "DataFrame"),
        (pa.table({"text": TEXTS}), "Table"),
        (pa.record_batch({"text": TEXTS}), "RecordBatch"),
        ({"text": TEXTS}, "dict"),
        (set(TEXTS), "set"),
        (np.array([TEXTS]), "ndarray"),
        (np.array("secret"), "ndarray"),
        ("secret", "str"),
        (b"secret", "bytes"),
        (None, "NoneType"),
        (True, "bool"),
        (5, "int"),
    ],
)
def test_what_is_no_column_of_texts_is_refused_with_what_to_pass(given: Any, kind: str) -> None:
    with pytest.raises(InputError) as refused:
        as_texts(given)
    assert str(refused.value) == (
        f"sentences is of type {kind}; expected texts: a list of them, or one column of a table, as in table['text']"
    )


@pytest.mark.parametrize(
    "form",
    [
        np.array,
        torch.tensor,
        lambda vectors: torch.tensor(vectors, dtype=torch.bfloat16, requires_grad=True),
        lambda vectors: vectors.tolist(),
        lambda vectors: vectors.astype(np.float16),
        lambda vectors: [torch.tensor(vector) for vector in vectors],
        lambda vectors: pa.array(list(vectors)),
        lambda vectors: pa.chunked_array([pa.FixedSizeListArray.from_arrays(vectors.ravel(), 2)]),
        lambda vectors: pl.Series(vectors),
        lambda vectors: pd.Series(list(vectors)),
        pd.DataFrame,
    ],
)
def test_vectors_are_taken_in_any_form(form: Callable[[np.ndarray], Any]) -> None:
    np.testing.assert_array_equal(as_vectors(form(VECTORS)), VECTORS)
    assert as_vectors(VECTORS.astype(np.float16)).dtype == np.float16
    assert as_vectors(VECTORS[1]).shape == (1, 2)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, r"of shape \(\) and type object"),
        (5, r"of shape \(\) and type int64"),
        ("secret", "of shape"),
        (["secret"], r"of shape \(1,\) and type <U6"),
        ([[True]], "type bool"),
        ([[1j]], "type complex128"),
        ({"a": [1.0]}, "type object"),
        (np.zeros((1, 2, 3)), r"of shape \(1, 2, 3\)"),
        ([[1.0, 2.0], [1.0]], "have several dimensions"),
        (pa.array([[1.0], None]), "have several dimensions"),
        ([[1.0, np.nan]], "not finite"),
        (np.ma.array([[1, 2]], mask=[[0, 1]]), "masked"),
        (np.array([np.inf], np.float16), "not finite"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^vectors .*{message}") as refused:
        as_vectors(given)
    assert "secret" not in str(refused.value)
