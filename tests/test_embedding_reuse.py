from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from embedding_help import (
    all_files,
    assert_same_parts,
    change,
    embed_here,
    make_articles,
    matrix,
    read_rows,
    save_model,
    write_articles,
)
from stages_help import chunks_here

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT
from lstm_embed.embedding import reuse as reuse_module
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.reuse import EarlierVectors, build_index
from lstm_embed.ledger import PartStore
from lstm_embed.ledger.parts import PartInfo

from conftest import json_of

Articles = list[dict[str, Any]]


class Notes:
    """Keeps what a job says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture
def articles() -> Articles:
    """Return 80 articles; two have the same text, and some have none."""
    found = make_articles(80)
    found[41]["text"] = found[40]["text"]
    found[50]["text"] = ""
    return found


def write_corpus(folder: Path, articles: Articles, files: int = 4) -> str:
    for number, piece in enumerate(np.array_split(np.arange(len(articles)), files)):
        write_articles(folder / f"{number}.jsonl", [articles[n] for n in piece])
    return str(folder)


@pytest.fixture
def config(model: str, articles: Articles, tmp_path: Path) -> EmbedConfig:
    source = write_corpus(tmp_path / "in", articles)
    return EmbedConfig(
        model=model, input=(source,), output=str(tmp_path / "out"), unit_bytes=9000, part_rows=60, row_group_rows=16
    )


def by_sentence(output: str) -> dict[tuple[Any, ...], np.ndarray]:
    """Return the vectors of an output by article and sentence."""
    rows = read_rows(output)
    names = [name for name in ("article_id", "title", "sentence", "start", "end", "text") if name in rows.column_names]
    keys = zip(*(rows[name].to_pylist() for name in names), strict=True)
    found = dict(zip(keys, matrix(rows), strict=True))
    assert len(found) == rows.num_rows
    return found


def assert_same_vectors(found: dict[tuple[Any, ...], np.ndarray], expected: dict[tuple[Any, ...], np.ndarray]) -> None:
    assert set(found) == set(expected)
    for key, vector in found.items():
        np.testing.assert_allclose(vector, expected[key], atol=1e-6)


def changed(articles: Articles) -> Articles:
    """Return the articles with some changed, some moved, ten deleted and some new in the middle."""
    new = [dict(article) for article in articles]
    new[3]["text"] += " Waa wab wac."
    new[30]["text"] = make_articles(1, seed=9)[0]["text"]
    new[20]["title"] = "Another title"
    new[60], new[5] = new[5], new[60]
    return [*new[:25], *make_articles(4, seed=8, first=900), *new[25:66], *new[76:]]


def num_encoded(summary: Any) -> int:
    return int(summary.facts["encoded"])


@pytest.mark.parametrize(
    "settings", [{}, {"normalize": True, "dtype": "float16"}, {"level": "row"}, {"level": "article"}]
)
def test_in_place_only_changed_and_new_articles_are_encoded_and_the_result_is_that_of_a_rebuild(
    config: EmbedConfig, articles: Articles, settings: dict[str, Any], tmp_path: Path
) -> None:
    config = change(config, **settings)
    before = embed_here(config)
    assert num_encoded(before) == before.rows
    new = changed(articles)
    write_corpus(tmp_path / "in", new)
    after = embed_here(config)
    embed_here(change(config, output=str(tmp_path / "rebuilt")))
    assert_same_vectors(by_sentence(config.output), by_sentence(str(tmp_path / "rebuilt")))
    fresh = {article["id"] for article in new} - {article["id"] for article in articles} | {"3", "30"}
    assert len(fresh) == 6
    ids = read_rows(config.output)["article_id"].to_pylist()
    # The sentence-wise vectors of article 3, which only grew, are kept by no rule: its text is another one.
    assert num_encoded(after) == sum(id_ in fresh for id_ in ids)
    assert after.facts["reused"] == after.rows - num_encoded(after)
    assert not (tmp_path / "out" / "staging").exists()


def test_from_another_folder_the_parts_are_those_of_a_rebuild(
    config: EmbedConfig, articles: Articles, tmp_path: Path
) -> None:
    embed_here(config)
    source = write_corpus(tmp_path / "next month", changed(articles), files=7)
    new = change(config, input=(source,), output=str(tmp_path / "new"), columns=("year",), part_rows=25, text=False)
    embed_here(change(new, output=str(tmp_path / "rebuilt")))
    notes = Notes()
    summary = embed_here(change(new, reuse=config.output), notes)
    assert_same_parts(new.output, tmp_path / "rebuilt")
    assert num_encoded(summary) < 60 < summary.facts["reused"]
    assert notes.notes == [f"vectors of unchanged articles are copied from {config.output}"]
    manifests = [json_of(f"{path}/manifest.json") for path in (new.output, tmp_path / "rebuilt")]
    for manifest in manifests:
        for part in manifest["parts"]:
            del part["bytes"]  # of vectors that may differ in their last bits
    assert manifests[0] == manifests[1]


def test_an_object_store_lends_its_vectors_too(config: EmbedConfig, tmp_path: Path, s3: str) -> None:
    old = change(config, output=f"{s3}/old")
    embed_here(old)
    summary = embed_here(change(config, output=f"{s3}/new", reuse=f"{s3}/old"))
    assert num_encoded(summary) == 0
    assert_same_parts(f"{s3}/new", f"{s3}/old")
    assert not storage.list_files(f"{s3}/new/staging")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"dtype": "float16"}, "dtype was"),
        ({"embedding": "meaning"}, "embedding was"),
        ({"level": "row"}, "level was"),
        ({"normalize": True}, "normalize was"),
    ],
)
def test_another_setting_recomputes_everything_and_says_so(
    config: EmbedConfig, settings: dict[str, Any], named: str, tmp_path: Path
) -> None:
    embed_here(config)
    notes = Notes()
    summary = embed_here(change(config, output=str(tmp_path / "new"), reuse=config.output, **settings), notes)
    assert num_encoded(summary) == summary.rows
    assert len(notes.notes) == 1
    assert named in notes.notes[0]
    assert "every vector is computed anew" in notes.notes[0]


def test_another_model_recomputes_everything_and_says_so(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    notes = Notes()
    other = save_model(tmp_path / "other", seed=1)
    summary = embed_here(change(config, model=other, output=str(tmp_path / "new"), reuse=config.output), notes)
    assert num_encoded(summary) == summary.rows
    assert "model was" in notes.notes[0]


def test_a_renamed_folder_is_not_computed_again(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    before = by_sentence(config.output)
    shutil.move(tmp_path / "in", tmp_path / "moved")
    summary = embed_here(change(config, input=(str(tmp_path / "moved"),), prune=True))
    assert num_encoded(summary) == 0
    assert_same_vectors(by_sentence(config.output), before)


def test_sentences_that_were_dropped_before_are_encoded_where_they_are_wanted(
    config: EmbedConfig, tmp_path: Path
) -> None:
    dropped = embed_here(change(config, empty="drop"))
    whole = change(config, output=str(tmp_path / "whole"))
    embed_here(whole)
    summary = embed_here(change(config, output=str(tmp_path / "new"), reuse=config.output))
    assert num_encoded(summary) == dropped.facts["without words"]
    assert_same_parts(tmp_path / "new", whole.output)


def test_sentences_that_are_cut_otherwise_now_are_encoded(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    part = sorted((tmp_path / "out" / "parts").iterdir())[0]
    import pyarrow.parquet as pq

    table = pq.read_table(part)
    moved = np.append(table["end"].to_numpy()[:-1], table["end"].to_numpy()[-1] + 1).astype(np.int32)
    moved[0] -= 1
    pq.write_table(
        table.set_column(table.schema.get_field_index("end"), "end", pa.array(moved)), part, row_group_size=16
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    next(entry for entry in manifest["parts"] if entry["name"] == part.name)["bytes"] = part.stat().st_size
    (tmp_path / "out" / "manifest.json").write_text(json.dumps(manifest))
    summary = embed_here(change(config, output=str(tmp_path / "new"), reuse=config.output))
    assert num_encoded(summary) == 2


def test_a_damaged_earlier_part_only_costs_time(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    whole = shutil.copytree(tmp_path / "out", tmp_path / "whole")
    parts = sorted((tmp_path / "out" / "parts").iterdir())
    parts[0].write_bytes(b"no parquet")
    data = bytearray(parts[1].read_bytes())
    for position in range(len(data) // 2, len(data) // 2 + 200):
        data[position] ^= 0xFF
    parts[1].write_bytes(data)
    summary = embed_here(change(config, output=str(tmp_path / "new"), reuse=config.output))
    assert 0 < num_encoded(summary) < summary.rows
    assert_same_parts(tmp_path / "new", whole)


@pytest.mark.parametrize("reuse", [False, True])
def test_a_job_that_dies_copies_the_same_vectors_when_it_is_run_again(
    config: EmbedConfig, articles: Articles, reuse: bool, tmp_path: Path
) -> None:
    embed_here(config)
    shutil.copytree(tmp_path / "out", tmp_path / "straight")
    write_corpus(tmp_path / "in", changed(articles))
    if reuse:
        old = change(config, reuse=str(tmp_path / "straight"))
        died, straight = change(old, output=str(tmp_path / "a")), change(old, output=str(tmp_path / "b"))
    else:
        died, straight = config, change(config, output=str(tmp_path / "straight"))
    embed_here(straight)

    class Died(Exception):
        pass

    def dying(units: Any, read: Any, make_worker: Any, **more: Any) -> Any:
        for count, record in enumerate(chunks_here(units[::-1], read, make_worker)):
            if count == 2:
                raise Died
            yield record

    deaths = 0
    while True:
        try:
            summary = embed_here(died, run_chunks=dying)
            break
        except Died:
            deaths += 1
    assert deaths
    assert_same_parts(died.output, straight.output)
    assert num_encoded(summary) < summary.rows
    assert not [name for name in all_files(died.output) if "staging" in name or ".tmp" in name]


def test_an_unfinished_or_wrong_folder_lends_nothing(config: EmbedConfig, model: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a model folder; expected a"):
        embed_here(change(config, reuse=model))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        embed_here(change(config, reuse=str(tmp_path / "nowhere")))
    embed_here(config)
    (tmp_path / "out" / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a finished"):
        embed_here(change(config, output=str(tmp_path / "new"), reuse=config.output))


def test_the_index_finds_every_article_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reuse_module, "_ENTRIES_AT_ONCE", 64)
    monkeypatch.setattr(reuse_module, "_CACHED_BYTES", 3000)
    rng = np.random.default_rng(0)
    expected: dict[bytes, np.ndarray] = {}
    sources = []
    for number in range(9):
        hashes, sentences, vectors = [], [], []
        for _ in range(int(rng.integers(0, 40))):
            digest = hashlib.blake2b(rng.bytes(2), digest_size=16).digest()  # some come twice
            digest = b"\0" + digest[:14] + b"\0" if rng.random() < 0.3 else digest
            rows = rng.normal(size=(int(rng.integers(1, 9)), 5)).astype(np.float32)
            expected.setdefault(digest, rows)
            hashes += [digest] * len(rows)
            sentences += range(len(rows))
            vectors.append(rows)
        flat = np.concatenate([np.zeros((0, 5), np.float32), *vectors])
        table = pa.table(
            {
                "article_hash": pa.array(hashes, pa.binary(16)),
                "sentence": pa.array(sentences, pa.int32()),
                "start": pa.array(sentences, pa.int32()),
                "end": pa.array(sentences, pa.int32()),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel()), 5),
            }
        )
        store = PartStore(str(tmp_path), "f")
        store.write_table(store.record(number, 0, last=True, rows=len(table), input_digest=""), table, row_group_size=7)
        sources.append(PartInfo.at(store.path(number, 0)))
    earlier = EarlierVectors(build_index(str(tmp_path / "index"), sources, article_rows=False, report=SILENT), 5)
    assert len(expected) > 100
    digests = [*expected, *(rng.bytes(16) for _ in range(50))]
    wanted = [(article, digest, n) for article, digest in enumerate(digests) for n in range(10)]
    rows = pa.table(
        {
            "article": [article for article, _, _ in wanted],
            "article_hash": pa.array([digest for _, digest, _ in wanted], pa.binary(16)),
            **{name: pa.array([n for _, _, n in wanted], pa.int32()) for name in ("sentence", "start", "end")},
        }
    )
    vectors = np.full((len(wanted), 5), np.nan, np.float32)
    copied = earlier.copy(rows, vectors)
    for (_, digest, n), there, vector in zip(wanted, copied, vectors, strict=True):
        assert there == (digest in expected and n < len(expected[digest]))
        if there:
            assert np.array_equal(vector, expected[digest][n])
    assert not earlier.copy(rows.slice(0, 0), vectors[:0]).any()


def test_an_index_of_nothing_finds_nothing(tmp_path: Path) -> None:
    earlier = EarlierVectors(build_index(str(tmp_path), [], article_rows=True), 3)
    assert earlier.find(np.array([b"x" * 16], "S16"))["source"].tolist() == [-1]
