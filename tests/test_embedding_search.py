from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from embedding_help import change, embed_here, make_articles, matrix, read_rows, save_model, write_articles
from synthetic import write_manifest

from lstm_embed.base.errors import InputError
from lstm_embed.embedding import search as search_module
from lstm_embed.embedding.config import EmbedConfig, SearchConfig
from lstm_embed.embedding.search import search
from lstm_embed.embedding.vectors import KIND, Embeddings, VectorFormat, encode_queries, write_vectors
from lstm_embed.ledger import PartStore


def write_output(path: Path, parts: list[np.ndarray]) -> Embeddings:
    """Write vectors as embed would have written them."""
    store = PartStore(str(path), "f")
    made = VectorFormat(
        level="sentence", dtype="float32", normalize=False, text=True, empty="zero", row_group_rows=16, columns=()
    )
    records = []
    for number, vectors in enumerate(parts):
        rows = len(vectors)
        names = [f"{number}-{row}" for row in range(rows)]
        table = pa.table(
            {"article_id": names, "title": names, "sentence": np.arange(rows, dtype=np.int32), "text": names}
        )
        records.append(store.record(number, 0, last=True, rows=rows, input_digest=""))
        write_vectors(store, records[-1], table, vectors.astype(np.float32), made, {})
    settings = {"kind": KIND, "embedding": "joined", "precision": "fp32", "vectors": {"level": "sentence"}}
    write_manifest(str(path), KIND, records, model="m", settings=settings)
    return Embeddings(str(path))


def brute_force(parts: list[np.ndarray], query: np.ndarray, top_k: int) -> list[tuple[float, str]]:
    rows = [(f"{n}-{r}", vector) for n, part in enumerate(parts) for r, vector in enumerate(part)]
    scored = [(float(query @ v / np.linalg.norm(v)), name) for name, v in rows if v.any() and query.any()]
    return sorted(scored, key=lambda pair: -pair[0])[:top_k]


@pytest.mark.parametrize("top_k", [1, 5, 40, 1000])
def test_hits_are_exactly_those_of_brute_force(tmp_path: Path, top_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_BATCH_ROWS", 13)
    monkeypatch.setattr(search_module, "_QUERIES_AT_ONCE", 4)
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(rows, 7)).astype(np.float32) * rng.uniform(0.1, 9) for rows in (50, 1, 90, 0, 33)]
    parts[0][[3, 4]] = 0
    parts[2][20:30] = parts[0][10]  # the same sentence many times
    queries = rng.normal(size=(9, 7)).astype(np.float32)
    queries[5] = parts[0][10]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for query, hits in zip(queries, search(write_output(tmp_path, parts), queries, top_k), strict=True):
        wanted = brute_force(parts, query, top_k)
        np.testing.assert_allclose([hit.score for hit in hits], [score for score, _ in wanted], atol=1e-5)
        sure = [name for score, name in wanted if sum(abs(score - other) < 1e-5 for other, _ in wanted) == 1]
        assert set(sure) <= {hit.row["article_id"] for hit in hits}


def test_of_equal_rows_the_first_are_found_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_module, "_BATCH_ROWS", 8)
    parts = [np.tile([[1.0, 2.0, 0.0, 1.0]], (30, 1))] * 2
    query = parts[0][:1].astype(np.float32) / np.sqrt(6, dtype=np.float32)
    (hits,) = search(write_output(tmp_path, parts), query, 35)
    assert [hit.row["article_id"] for hit in hits] == [f"0-{n}" for n in range(30)] + [f"1-{n}" for n in range(5)]


def test_a_query_without_words_finds_nothing(tmp_path: Path) -> None:
    output = write_output(tmp_path, [np.eye(4)])
    assert search(output, np.zeros((1, 4), np.float32), 3) == [[]]
    assert search(output, np.zeros((0, 4), np.float32), 3) == []


def test_queries_of_another_dimension_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="queries have 5 dimensions; the vectors"):
        search(write_output(tmp_path, [np.eye(4)]), np.ones((1, 5), np.float32), 3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    folder = tmp_path_factory.mktemp("corpus")
    config = EmbedConfig(
        model=save_model(folder / "model"),
        input=(write_articles(folder / "in.jsonl", make_articles(40)),),
        output=str(folder / "out"),
        columns=("year", "tags"),
        unit_bytes=3000,
    )
    embed_here(config)
    return config


@pytest.mark.parametrize("settings", [{}, {"dtype": "float16"}, {"embedding": "meaning"}, {"embedding": "order"}])
def test_the_text_of_a_row_finds_that_row_whatever_the_embedding(
    corpus: EmbedConfig, settings: dict[str, str], tmp_path: Path
) -> None:
    config = change(corpus, **settings, output=str(tmp_path / "out"))
    embed_here(config)
    rows = read_rows(config.output)
    known = np.flatnonzero(matrix(rows).any(axis=1))[::17]
    texts = rows["text"].take(pa.array(known)).to_pylist()
    embeddings = Embeddings(config.output)
    queries = encode_queries(embeddings.encoder(), texts)
    for number, hits in zip(known.tolist(), search(embeddings, queries, 3), strict=True):
        assert hits[0].score == pytest.approx(1.0, abs=1e-3)
        names = ("article_id", "title", "sentence", "text", "year", "tags")
        best = [hit.row for hit in hits if hit.score > hits[0].score - 1e-5]  # a text may stand there twice
        assert {name: rows[name][number].as_py() for name in names} in [
            {name: row[name] for name in names} for row in best
        ]


def test_progress_counts_the_parts(corpus: EmbedConfig) -> None:
    seen: list[tuple[float, float]] = []

    class Report:
        def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
            seen.append((done, total))

        def note(self, message: str) -> None: ...

    embeddings = Embeddings(corpus.output)
    search(embeddings, np.ones((1, embeddings.dimension), np.float32), 1, Report())
    assert seen[-1] == (len(embeddings.parts),) * 2


@pytest.mark.parametrize(("fields", "message"), [({"top_k": 0}, "--top-k"), ({"query": ()}, "--query")])
def test_a_wrong_setting_names_its_flag(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SearchConfig(**{"model": "m", "embeddings": "e", "query": ("q",), **fields})
