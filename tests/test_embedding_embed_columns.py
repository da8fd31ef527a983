"""Columns of the input that embed carries along."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_help import (
    NUM_ARTICLES,
    change,
    embed_here,
    make_articles,
    read_rows,
    write_articles,
)

from lstm_embed.base.errors import InputError
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.embed import EmbedStage
from lstm_embed.stages.runner import open_books


@pytest.fixture
def config(model: str, corpus: str, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(model=model, input=(corpus,), output=str(tmp_path / "out"), unit_bytes=4000, part_rows=100)


def test_columns_keep_their_types_and_values(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(change(config, columns=("year", "score:double", "tags")))
    found = read_rows(config.output)
    assert [str(found.schema.field(name).type) for name in ("year", "score", "tags")] == [
        "int64",
        "double",
        "list<element: string>",
    ]
    articles = {article["id"]: article for article in make_articles(NUM_ARTICLES)}
    for row in found.select(["article_id", "year", "score", "tags"]).to_pylist():
        assert all(row[name] == articles[row["article_id"]][name] for name in ("year", "score", "tags"))


def test_parquet_columns_keep_dates_and_numbers(config: EmbedConfig, tmp_path: Path) -> None:
    import datetime

    table = pa.table(
        {
            "body": ["Waa wab.", "Wac wad. Wae."],
            "id": pa.array([1, 2]),
            "when": pa.array([datetime.datetime(2020, 1, 2, 3), None]),
            "day": [datetime.date(2020, 1, 2)] * 2,
            "small": pa.array([1, 2], pa.int8()),
            "half": pa.array([0.5, None], pa.float32()),
        }
    )
    pq.write_table(table, tmp_path / "in.parquet")
    names = ("when", "day", "small", "half")
    embed_here(change(config, input=(str(tmp_path / "in.parquet"),), text_column="body", columns=names))
    found = read_rows(config.output)
    assert [str(found.schema.field(name).type) for name in names] == [
        "timestamp[us, tz=UTC]",
        "date32[day]",
        "int64",
        "double",
    ]
    assert found["small"].to_pylist() == [1, 2, 2]
    assert found["half"].to_pylist() == [0.5, None, None]
    assert found["day"].to_pylist() == [datetime.date(2020, 1, 2)] * 3
    assert found["when"][0].as_py() == datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC)


def test_a_value_that_does_not_fit_its_column_is_null_and_counted_and_every_part_has_the_same_schema(
    config: EmbedConfig, tmp_path: Path
) -> None:
    articles = make_articles(30)
    articles[20]["year"] = "1920"
    articles[21]["year"] = "long ago"
    articles[22]["year"] = {"from": 1}
    del articles[23]["year"]
    source = write_articles(tmp_path / "in.jsonl", articles)
    summary = embed_here(change(config, input=(source,), columns=("year:int64", "tags:string"), part_rows=20))
    assert summary.facts["values of another type, now null"] == "year 2"
    assert len({pq.read_schema(path).remove_metadata() for path in (tmp_path / "out" / "parts").iterdir()}) == 1
    years = dict(zip(*(read_rows(config.output)[name].to_pylist() for name in ("article_id", "year")), strict=True))
    assert [years[str(n)] for n in (19, 20, 21, 22, 23)] == [1919, 1920, None, None, None]
    assert set(read_rows(config.output)["tags"].to_pylist()) == {'["a", "t0"]', '["a", "t1"]', '["a", "t2"]'}


def test_new_input_keeps_the_types_of_the_first_run(config: EmbedConfig, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write_articles(folder / "a.jsonl", make_articles(3))
    given = change(config, input=(str(folder),), columns=("year",))
    embed_here(given)
    write_articles(folder / "0.jsonl", [{"id": "x", "text": "Waa.", "year": 2.5}])
    embed_here(given)
    found = read_rows(config.output)
    assert found["year"].type == pa.int64()
    assert found["year"].to_pylist()[-1] is None


def test_a_column_that_is_nowhere_is_refused(config: EmbedConfig) -> None:
    with pytest.raises(InputError, match=r"no value in yaer \(--columns\)"):
        open_books(EmbedStage(change(config, columns=("yaer",))))
    with pytest.raises(ValueError, match="have anyway"):
        change(config, columns=("embedding",))
    with pytest.raises(ValueError, match="expected different names"):
        change(config, columns=("year", "year:string"))
