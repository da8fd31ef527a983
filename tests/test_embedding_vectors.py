from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from embedding_help import embed_here, make_articles, matrix, read_rows, save_model, write_articles

from lstm_embed.base.errors import InputError
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.vectors import Embeddings, VectorFormat, unit_rows, write_vectors
from lstm_embed.ledger import PartStore


@pytest.fixture(scope="module", params=["float32", "float16"])
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    config = EmbedConfig(
        model=save_model(folder / "model"),
        input=(write_articles(folder / "in.jsonl", make_articles(20)),),
        output=str(folder / "out"),
        dtype=request.param,
        part_rows=50,
        row_group_rows=20,
        unit_bytes=2000,
    )
    embed_here(config)
    assert len(list((folder / "out" / "parts").iterdir())) > 1
    return folder / "out"


@pytest.fixture
def expected(output: Path) -> np.ndarray:
    return matrix(read_rows(output))


README = (Path(__file__).parent.parent / "jobs" / "README.md").read_text()
READERS = dict(re.findall(r"^\| ([\w ]+) \| `(.*)` \|$", README, re.MULTILINE))


MODULES = {"np": "numpy", "pq": "pyarrow.parquet", "pd": "pandas", "pl": "polars"} | {
    name: name for name in ("datasets", "duckdb", "lancedb", "torch")
}


def evaluate(line: str) -> Any:
    """Return the value of an expression of jobs/README.md."""
    names = {name: importlib.import_module(module) for name, module in MODULES.items() if f"{name}." in line}
    return eval(line, {"pyarrow": pa, **names})


@pytest.fixture
def as_in_the_readme(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "embeddings").symlink_to(output)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_the_readme_shows_a_line_for_every_reader() -> None:
    assert sorted(READERS) == ["DuckDB", "Hugging Face datasets", "pandas", "polars", "pyarrow", "torch"]


@pytest.mark.parametrize("reader", READERS)
def test_the_line_of_the_readme_reads_the_matrix(reader: str, expected: np.ndarray, as_in_the_readme: None) -> None:
    vectors = evaluate(READERS[reader])
    # These two know no half precision, or widen it.
    widened = reader in ("DuckDB", "Hugging Face datasets")
    assert str(vectors.dtype).removeprefix("torch.") == ("float32" if widened else str(expected.dtype))
    assert vectors.shape == expected.shape
    assert np.array_equal(np.asarray(vectors), expected)


def test_the_line_of_the_readme_fills_a_vector_database(expected: np.ndarray, as_in_the_readme: None) -> None:
    found = re.search(r"`(lancedb\.connect.*?)`", README, re.DOTALL)
    assert found
    table = evaluate(found[1])
    assert table.count_rows() == len(expected)
    query = expected[7].astype(np.float32)
    nearest = table.search(query, vector_column_name="embedding").metric("cosine").limit(1).to_list()[0]
    assert nearest["_distance"] == pytest.approx(0.0, abs=1e-3)
    assert np.array_equal(np.array(nearest["embedding"], expected.dtype), expected[7])


def test_pandas_reads_text_beside_vectors(output: Path) -> None:
    frame = importlib.import_module("pandas").read_parquet(output / "parts")
    assert frame["text"].str.len().min() > 0


def test_a_flat_view_is_the_matrix_without_a_copy_of_each_row(output: Path, expected: np.ndarray) -> None:
    column = pq.read_table(output / "parts", columns=["embedding"])["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    assert vectors.dtype == expected.dtype
    assert np.array_equal(vectors, expected)


def test_duckdb_finds_the_nearest(output: Path, expected: np.ndarray) -> None:
    duckdb = importlib.import_module("duckdb")
    d = expected.shape[1]
    # The cosine with a vector of zeros is NaN, which DuckDB sorts before all numbers.
    (nearest,) = (
        duckdb.connect()
        .execute(
            f"SELECT sentence, array_cosine_similarity(embedding::FLOAT[{d}], ?::FLOAT[{d}]) AS score "
            "FROM read_parquet(?) WHERE NOT isnan(score) ORDER BY score DESC LIMIT 1",
            [expected[7].tolist(), str(output / "parts" / "*.parquet")],
        )
        .fetchall()
    )
    assert nearest[1] == pytest.approx(1.0, abs=1e-3)


def test_this_package_reads_batches_beside_their_columns(output: Path, expected: np.ndarray) -> None:
    embeddings = Embeddings(str(output))
    assert embeddings.num_rows == len(expected)
    assert embeddings.dimension == expected.shape[1]
    batches = list(embeddings.batches(["title", "nowhere"], rows=7))
    assert np.array_equal(np.concatenate([vectors for _, vectors in batches]), expected)
    assert {tuple(table.column_names) for table, _ in batches} == {("title",)}
    assert max(len(vectors) for _, vectors in batches) == 7


def test_the_footer_says_what_the_vectors_are(output: Path, expected: np.ndarray) -> None:
    part = next((output / "parts").iterdir())
    about = json.loads(pq.read_metadata(part).metadata[b"lstm_embed.vectors"])
    assert about["dimension"] == expected.shape[1]
    assert about["dtype"] == str(expected.dtype)
    assert (about["level"], about["normalized"], about["precision"]) == ("sentence", False, "fp32")
    assert about["model"] == Embeddings(str(output)).model_fingerprint
    assert {"torch", "pyarrow", "lstm_embed"} <= set(about["made_with"])
    record = json.loads(pq.read_metadata(part).metadata[b"lstm_embed"])
    assert record["fingerprint"]
    assert record["rows"] == pq.read_metadata(part).num_rows


def test_the_storage_is_what_readers_want(output: Path, expected: np.ndarray) -> None:
    metadata = pq.read_metadata(next((output / "parts").iterdir()))
    assert metadata.row_group(0).num_rows <= 20
    column = next(
        metadata.row_group(0).column(n)
        for n in range(metadata.num_columns)
        if "embedding" in metadata.schema.column(n).path
    )
    assert column.compression == "ZSTD"
    split = "BYTE_STREAM_SPLIT" in column.encodings
    assert split == (expected.dtype == np.float32)  # DuckDB cannot read float16 with it


def test_a_damaged_part_is_told_from_a_whole_one(output: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    part = sorted((copy / "parts").iterdir())[0]
    data = bytearray(part.read_bytes())
    data[len(data) // 4] ^= 0xFF
    part.write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        list(Embeddings(str(copy)).batches([]))
    (copy / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a finished embeddings folder"):
        Embeddings(str(copy))


def test_large_components_stay_finite_in_half_precision(tmp_path: Path) -> None:
    store = PartStore(str(tmp_path), "f")
    made = VectorFormat(
        level="sentence", dtype="float16", normalize=False, text=False, empty="zero", row_group_rows=10, columns=()
    )
    vectors = np.array([[1e6, -1e6, 1.0]], np.float32)
    record = store.record(0, 0, last=True, rows=1, input_digest="")
    write_vectors(store, record, pa.table({"article_id": ["a"]}), vectors, made, {})
    found = pq.read_table(store.path(0, 0))["embedding"][0].as_py()
    assert found == [65504.0, -65504.0, 1.0]


def test_rows_of_length_one_leave_zeros_alone() -> None:
    found = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    assert np.array_equal(found, np.array([[0.6, 0.8], [0.0, 0.0]], np.float32))
