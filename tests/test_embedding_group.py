from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_help import (
    WORDS,
    all_files,
    change,
    embed_here,
    make_articles,
    part_bytes,
    read_rows,
    save_model,
    write_articles,
)
from stages_help import units_here, without_ray
from synthetic import write_manifest

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.embedding.config import EmbedConfig, GroupConfig
from lstm_embed.embedding.group import GroupStage, assign, draw_rows, fit, group, read_centres
from lstm_embed.embedding.vectors import KIND, Embeddings, VectorFormat, unit_rows, write_vectors
from lstm_embed.ledger import PartRecord, PartStore, Unit
from lstm_embed.stages.runner import open_books

from conftest import json_of

TOPICS = 4


def write_topics(path: Path, parts: int = 3, rows: int = 60) -> tuple[Embeddings, list[list[int]]]:
    """Write vectors in well separated topics, one row in ten zero; return them and each row's topic, -1 for zero."""
    rng = np.random.default_rng(0)
    centres = np.linalg.qr(rng.normal(size=(8, 8)))[0][:TOPICS]
    store = PartStore(str(path), "f")
    made = VectorFormat(
        level="sentence", dtype="float32", normalize=False, text=True, empty="zero", row_group_rows=16, columns=()
    )
    records, topics = [], []
    for number in range(parts):
        topic = rng.integers(0, TOPICS, rows)
        vectors = (centres[topic] + 0.1 * rng.normal(size=(rows, 8))) * rng.uniform(0.5, 5, (rows, 1))
        zero = rng.random(rows) < 0.1
        vectors[zero] = 0
        texts = [f"text of topic {t}" for t in topic]
        table = pa.table(
            {
                "article_id": [f"{number}-{row}" for row in range(rows)],
                "title": [f"topic {t}" for t in topic],
                "sentence": np.arange(rows, dtype=np.int32),
                "text": texts,
            }
        )
        records.append(store.record(number, 0, last=True, rows=rows, input_digest=f"d{number}"))
        write_vectors(store, records[-1], table, vectors.astype(np.float32), made, {})
        topics.append(np.where(zero, -1, topic).tolist())
    settings = {"kind": KIND, "embedding": "joined", "precision": "fp32", "vectors": {"level": "sentence"}}
    write_manifest(str(path), KIND, records, model="m", settings=settings)
    return Embeddings(str(path)), topics


@pytest.fixture
def config(tmp_path: Path) -> GroupConfig:
    write_topics(tmp_path / "in")
    return GroupConfig(
        embeddings=str(tmp_path / "in"), output=str(tmp_path / "out"), clusters=TOPICS, words=3, nearest=2
    )


def clusters_of(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(output) / "clusters.jsonl").read_text().splitlines()]


def test_topics_are_found_and_every_row_has_its_group(config: GroupConfig, here: None, tmp_path: Path) -> None:
    _, topics = write_topics(tmp_path / "in")
    summary = group(config)
    paths = sorted((tmp_path / "out" / "parts").iterdir())
    tables = [pq.read_table(path) for path in paths]
    assert [path.name for path in paths] == [path.name for path in sorted((tmp_path / "in" / "parts").iterdir())]
    name_of = {}
    for table, topic in zip(tables, topics, strict=True):
        assert table.column_names == ["article_id", "sentence", "cluster", "cosine"]
        for cluster, wanted in zip(table["cluster"].to_pylist(), topic, strict=True):
            assert name_of.setdefault(wanted, cluster) == cluster
    assert len(set(name_of.values())) == TOPICS + 1
    assert name_of[-1] == -1
    counts = Counter(topic for part in topics for topic in part)
    for line in clusters_of(config.output):
        topic = next(t for t, cluster in name_of.items() if cluster == line["cluster"])
        assert line["size"] == counts[topic]
        assert line["words"] == []
        assert len(line["nearest"]) == 2
        assert all(hit["title"] == f"topic {topic}" and hit["text"] for hit in line["nearest"])
    assert summary.facts["groups"] == TOPICS
    assert summary.facts["without group (no word)"] == counts[-1]
    assert not (tmp_path / "out" / "staging").exists()


def test_the_nearest_rows_are_those_of_highest_cosine(config: GroupConfig, here: None) -> None:
    group(config)
    centres = read_centres(f"{config.output}/centres.parquet")
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1.0, atol=1e-6)
    rows, vectors = zip(*Embeddings(config.embeddings).batches(["article_id"]), strict=True)
    names = [name for table in rows for name in table["article_id"].to_pylist()]
    unit = unit_rows(np.concatenate(vectors))
    cluster, cosine = assign(unit, centres)
    np.testing.assert_allclose(cosine, np.where(cluster >= 0, (unit @ centres.T).max(axis=1), 0.0), atol=1e-6)
    for line in clusters_of(config.output):
        own = np.flatnonzero(cluster == line["cluster"])
        best = own[np.argsort(-cosine[own])][:2]
        assert [hit["article_id"] for hit in line["nearest"]] == [names[n] for n in best]


def test_the_same_seed_gives_the_same_bytes_and_a_finished_job_writes_nothing(
    config: GroupConfig, here: None, tmp_path: Path
) -> None:
    group(config)
    group(change(config, output=str(tmp_path / "again")))
    assert part_bytes(config.output) == part_bytes(tmp_path / "again")
    assert clusters_of(config.output) == clusters_of(str(tmp_path / "again"))
    before = all_files(config.output)
    assert group(config).already_done
    assert all_files(config.output) == before


def test_a_job_that_dies_is_continued(config: GroupConfig, here: None, tmp_path: Path) -> None:
    whole = change(config, output=str(tmp_path / "whole"))
    group(whole)

    def dying(units: Sequence[Unit], function: Any, **more: Any) -> Iterator[list[PartRecord]]:
        yield from units_here(units[:1], function)
        raise RuntimeError("died")

    died = change(whole, output=config.output)
    for _ in range(2):
        with without_ray(run_units=dying), pytest.raises(RuntimeError, match="died"):
            group(died)
    group(died)
    own, other = (
        {name: data for name, data in all_files(path).items() if not name.startswith(("owner", "job", "plan"))}
        for path in (died.output, whole.output)
    )
    assert own == other


def test_other_vectors_or_settings_are_refused(config: GroupConfig, here: None, tmp_path: Path) -> None:
    group(config)
    with pytest.raises(FingerprintMismatch, match="clusters was 4 and is now 3"):
        open_books(GroupStage(change(config, clusters=3)))
    manifest = json_of(f"{config.embeddings}/manifest.json")
    storage.write_json(f"{config.embeddings}/manifest.json", {**manifest, "fingerprint": "changed"})
    with pytest.raises(FingerprintMismatch, match="embeddings was"):
        open_books(GroupStage(config))


def test_too_few_vectors_are_refused(config: GroupConfig, here: None, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"too few for 1000 groups \(--clusters\)"):
        open_books(GroupStage(change(config, clusters=1000)))
    with pytest.raises(InputError, match="not zero; that is too few for 180 groups"):
        fit(Embeddings(config.embeddings), change(config, clusters=180))
    with pytest.raises(ValueError, match="--clusters"):
        change(config, clusters=1)


def test_rows_are_drawn_once_a_round_and_mixed(config: GroupConfig) -> None:
    parts = Embeddings(config.embeddings).parts
    drawn = draw_rows(parts, 0, 50)
    total = sum(len(np.flatnonzero(v.any(axis=1))) for _, v in Embeddings(config.embeddings).batches([]))
    first_round: list[np.ndarray] = []
    while sum(map(len, first_round)) < total:
        first_round.append(next(drawn))
    rows = np.concatenate(first_round)
    assert len(rows) == total
    assert len(np.unique(rows, axis=0)) == total
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-6)
    assert all(len(batch) == 50 for batch in first_round[:-1])


@pytest.mark.parametrize("settings", [{}, {"level": "article"}, {"text": False, "dtype": "float16"}])
def test_what_embed_writes_can_be_grouped(settings: dict[str, Any], here: None, tmp_path: Path) -> None:
    embeddings = EmbedConfig(
        model=save_model(tmp_path / "model"),
        input=(write_articles(tmp_path / "in.jsonl", make_articles(40)),),
        output=str(tmp_path / "embeddings"),
        unit_bytes=5000,
    )
    embed_here(change(embeddings, **settings))
    config = GroupConfig(embeddings=embeddings.output, output=str(tmp_path / "out"), clusters=3, fit_rows=500)
    summary = group(config)
    lines = clusters_of(config.output)
    assert sum(line["size"] for line in lines) + summary.facts["without group (no word)"] == summary.rows
    assert summary.rows == len(read_rows(embeddings.output))
    assert all(bool(line["words"]) == (line["size"] > 0) for line in lines)
    assert all(line["nearest"] for line in lines if line["size"])


# Words


TOPIC_WORDS = [WORDS[20:40], WORDS[60:80], WORDS[100:120]]


@pytest.fixture
def topics(tmp_path: Path) -> EmbedConfig:
    """Embed articles each of which has words of one topic alone."""
    rng = np.random.default_rng(0)
    articles = [
        {"id": str(n), "text": ". ".join(" ".join(rng.choice(TOPIC_WORDS[n % 3], 12)).capitalize() for _ in range(4))}
        for n in range(30)
    ]
    embeddings = EmbedConfig(
        model=save_model(tmp_path / "model"),
        input=(write_articles(tmp_path / "in.jsonl", articles),),
        output=str(tmp_path / "embeddings"),
    )
    embed_here(embeddings)
    return embeddings


class Notes:
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize("settings", [{}, {"embedding": "meaning"}, {"level": "article", "embedding": "exact"}])
def test_the_words_of_a_group_are_those_of_its_topic(
    topics: EmbedConfig, settings: dict[str, Any], here: None, tmp_path: Path
) -> None:
    embeddings = change(topics, **settings, output=str(tmp_path / "other"))
    embed_here(embeddings)
    notes = Notes()
    group(GroupConfig(embeddings=embeddings.output, output=str(tmp_path / "out"), clusters=3, words=6), notes)
    assert not notes.notes
    lines = clusters_of(str(tmp_path / "out"))
    found = [next(t for t, words in enumerate(TOPIC_WORDS) if line["words"][0] in words) for line in lines]
    assert sorted(found) == [0, 1, 2]
    for line, topic in zip(lines, found, strict=True):
        assert len(line["words"]) <= 6
        assert len(set(line["words"]) & set(TOPIC_WORDS[topic])) >= 4


def test_without_its_model_a_group_has_no_words_and_the_model_can_be_named(
    topics: EmbedConfig, here: None, tmp_path: Path
) -> None:
    (tmp_path / "model").rename(tmp_path / "moved")
    config = GroupConfig(embeddings=topics.output, output=str(tmp_path / "out"), clusters=3)
    notes = Notes()
    group(config, notes)
    assert len(notes.notes) == 1
    assert f"is not at {tmp_path / 'model'}; name its folder (--model)" in notes.notes[0]
    assert not any(line["words"] for line in clusters_of(config.output))
    named = change(config, model=str(tmp_path / "moved"), output=str(tmp_path / "named"))
    group(named)
    assert all(line["words"] for line in clusters_of(named.output))
    assert part_bytes(named.output) == part_bytes(config.output)
    assert group(change(named, model="")).already_done


def test_another_model_cannot_name_groups(topics: EmbedConfig, here: None, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(FingerprintMismatch, match="was made with the model"):
        open_books(
            GroupStage(GroupConfig(embeddings=topics.output, output=str(tmp_path / "out"), clusters=3, model=other))
        )
    with pytest.raises(FileNotFoundError, match=r"is not at .*nowhere"):
        open_books(
            GroupStage(GroupConfig(embeddings=topics.output, output=str(tmp_path / "out"), clusters=3, model="nowhere"))
        )


def test_the_order_alone_has_no_words(topics: EmbedConfig, here: None, tmp_path: Path) -> None:
    embeddings = change(topics, embedding="order", output=str(tmp_path / "order"))
    embed_here(embeddings)
    notes = Notes()
    group(GroupConfig(embeddings=embeddings.output, output=str(tmp_path / "out"), clusters=3), notes)
    assert notes.notes == ["the groups will have no words: the embedding order says nothing of words"]
