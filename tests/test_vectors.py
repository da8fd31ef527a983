from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_help import embed_here, make_articles, matrix, read_rows, save_model, write_articles

from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.vectors import Embeddings, VectorFormat, read_about, unit_rows, write_vectors
from lstm_embed.errors import InputError
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


# The lines the README shows.


def test_numpy_and_pyarrow_read_the_matrix(output: Path, expected: np.ndarray) -> None:
    column = pq.read_table(output / "parts", columns=["embedding"])["embedding"].combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), -1)
    assert vectors.dtype == expected.dtype
    assert np.array_equal(vectors, expected)


def test_pandas_reads_the_matrix(output: Path, expected: np.ndarray) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.read_parquet(output / "parts")
    vectors = np.stack(frame["embedding"])
    assert vectors.dtype == expected.dtype
    assert np.array_equal(vectors, expected)
    assert frame["text"].str.len().min() > 0


def test_polars_reads_the_matrix(output: Path, expected: np.ndarray) -> None:
    pl = pytest.importorskip("polars")
    vectors = pl.read_parquet(output / "parts")["embedding"].to_numpy()
    assert vectors.shape == expected.shape
    assert np.array_equal(vectors, expected)


def test_duckdb_reads_the_matrix_and_finds_the_nearest(output: Path, expected: np.ndarray) -> None:
    duckdb = pytest.importorskip("duckdb")
    files, d = str(output / "parts" / "*.parquet"), expected.shape[1]
    query = f"SELECT embedding::FLOAT[{d}] AS embedding FROM read_parquet(?) ORDER BY filename, file_row_number"
    options = query.replace("read_parquet(?)", "read_parquet(?, filename=true, file_row_number=true)")
    vectors = np.stack(duckdb.execute(options, [files]).fetchnumpy()["embedding"])
    assert np.array_equal(vectors.astype(expected.dtype), expected)
    # The cosine with a vector of zeros is NaN, which DuckDB sorts before all numbers.
    nearest = duckdb.execute(
        f"SELECT sentence, array_cosine_similarity(embedding::FLOAT[{d}], ?::FLOAT[{d}]) AS score "
        "FROM read_parquet(?) WHERE NOT isnan(score) ORDER BY score DESC LIMIT 1",
        [expected[7].tolist(), files],
    ).fetchone()
    assert nearest
    assert nearest[1] == pytest.approx(1.0, abs=1e-3)


def test_torch_reads_the_matrix(output: Path, expected: np.ndarray) -> None:
    import torch

    column = pq.read_table(output / "parts", columns=["embedding"])["embedding"].combine_chunks()
    vectors = torch.from_numpy(column.flatten().to_numpy().copy()).view(len(column), -1)
    assert str(vectors.dtype) == f"torch.{expected.dtype}"
    assert np.array_equal(vectors.numpy(), expected)


def test_hugging_face_datasets_read_the_matrix(output: Path, expected: np.ndarray, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_parquet(str(output / "parts" / "*.parquet"), cache_dir=str(tmp_path))
    vectors = data.with_format("numpy")["embedding"][:]
    assert np.array_equal(np.asarray(vectors), expected)


def test_lancedb_takes_the_parts_and_finds_the_nearest(output: Path, expected: np.ndarray, tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    table = lancedb.connect(str(tmp_path)).create_table("sentences", pq.read_table(output / "parts"))
    found = (
        table.search(expected[7].astype(np.float32), vector_column_name="embedding").metric("cosine").limit(1).to_list()
    )
    assert found[0]["_distance"] == pytest.approx(0.0, abs=1e-3)


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
    about = read_about(str(part))
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
