"""Vectors back to text: what the rows are, and the job as a user runs it, killed and run again."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_help import (
    all_files,
    change,
    decode_here,
    embed_here,
    end_group,
    make_articles,
    part_bytes,
    read_rows,
    save_model,
    start_job,
    write_articles,
)
from stages_help import chunks_here

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.embedding.config import DecodeConfig, EmbedConfig
from lstm_embed.embedding.decode import CutPart, DecodeStage, decode, decode_first
from lstm_embed.embedding.vectors import Embeddings
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.stages.runner import open_books

from conftest import run_job


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    """Embed some articles exactly, in several parts of half precision."""
    folder = tmp_path_factory.mktemp("decode")
    config = EmbedConfig(
        model=save_model(folder / "model"),
        input=(write_articles(folder / "in" / "a.jsonl", make_articles(40)),),
        output=str(folder / "embeddings"),
        embedding="exact",
        dtype="float16",
        columns=("year",),
        unit_bytes=4000,
        row_group_rows=16,
    )
    embed_here(config)
    assert len(part_bytes(config.output)) > 3
    return config


@pytest.fixture
def config(embeddings: EmbedConfig, tmp_path: Path) -> DecodeConfig:
    return DecodeConfig(embeddings=embeddings.output, output=str(tmp_path / "out"), part_rows=25)


def words_read(model: str, texts: Sequence[str]) -> list[str]:
    """Return of each text the words that the model reads."""
    encoder = SentenceEncoder.load(model)
    ids = [one[: encoder.max_tokens] for one in encoder.tokenize(texts).to_pylist()]
    return [" ".join(encoder.vocabulary.words(one)) for one in ids]


def test_every_row_has_what_its_vector_says_and_a_proven_one_is_right(
    config: DecodeConfig, embeddings: EmbedConfig
) -> None:
    summary = decode_here(config)
    found, given = read_rows(config.output), read_rows(embeddings.output)
    assert found.select(given.drop_columns(["embedding"]).column_names).equals(given.drop_columns(["embedding"]))
    assert found.column_names[-2:] == ["decoded", "proven"]
    texts, proven = found["decoded"].to_pylist(), found["proven"].to_pylist()
    words = words_read(embeddings.model, given["text"].to_pylist())
    assert [text for text, sure in zip(texts, proven, strict=True) if sure] == [
        text for text, sure in zip(words, proven, strict=True) if sure
    ]
    assert summary.rows == len(texts)
    assert summary.facts["proven"] == sum(proven)
    assert summary.facts["share proven"] == pytest.approx(sum(proven) / len(texts), abs=1e-4)
    assert sum(proven) > len(proven) / 2
    parts = [pq.read_table(pa.py_buffer(data)) for data in part_bytes(config.output).values()]
    assert max(part.num_rows for part in parts) == 25
    assert len({part.schema.remove_metadata() for part in parts}) == 1


@pytest.mark.parametrize(
    ("settings", "can_be_proven"),
    [
        ({"normalize": True}, True),
        ({"dtype": "float32", "level": "row"}, True),
        ({"embedding": "joined"}, None),
        ({"embedding": "meaning"}, False),
        ({"level": "article"}, False),
        ({"text": False, "columns": ()}, True),
    ],
)
def test_every_kind_of_vectors_says_something(
    config: DecodeConfig, embeddings: EmbedConfig, settings: dict[str, Any], can_be_proven: bool | None, tmp_path: Path
) -> None:
    other = change(embeddings, **settings, output=str(tmp_path / "other"))
    embed_here(other)
    decode_here(change(config, embeddings=other.output))
    found, given = read_rows(config.output), read_rows(other.output)
    assert found.drop_columns(["decoded", "proven"]).equals(given.drop_columns(["embedding"]))
    vectors = given["embedding"].to_pylist()
    assert [bool(text) for text in found["decoded"].to_pylist()] == [any(vector) for vector in vectors]
    proven = found.filter(found["proven"])
    assert can_be_proven is None or bool(proven.num_rows) == can_be_proven
    if "text" in found.column_names:
        assert proven["decoded"].to_pylist() == words_read(other.model, proven["text"].to_pylist())


def test_the_first_rows_are_decoded_without_ray_or_output(config: DecodeConfig, embeddings: EmbedConfig) -> None:
    decode_here(config)
    rows = read_rows(config.output)
    found = list(decode_first(DecodeConfig(embeddings=embeddings.output, limit=70)))
    assert [one.text for one in found] == rows["decoded"].to_pylist()[:70]
    assert [one.row["text"] for one in found] == rows["text"].to_pylist()[:70]
    assert [one.proven for one in found] == rows["proven"].to_pylist()[:70]
    assert len(list(decode_first(DecodeConfig(embeddings=embeddings.output, limit=10_000)))) == rows.num_rows


# Exactly once


def test_a_job_that_dies_anywhere_is_continued_to_the_same_bytes(config: DecodeConfig, tmp_path: Path) -> None:
    whole = change(config, output=str(tmp_path / "whole"))
    decode_here(whole)

    class Died(Exception):
        pass

    def dying(units: Any, read: Any, make_worker: Any, **more: Any) -> Any:
        # The last units first, and their last parts, as when actors work side by side.
        backwards = chunks_here(units[::-1], lambda unit: list(read(unit))[::-1], make_worker)
        for count, record in enumerate(backwards):
            yield record
            if count == 2:
                raise Died

    deaths = 0
    while True:
        try:
            decode_here(config, run_chunks=dying)
            break
        except Died:
            deaths += 1
    assert deaths > 1
    assert part_bytes(config.output) == part_bytes(whole.output)
    before = all_files(config.output)
    assert decode(config).already_done  # without Ray: nothing is left to distribute
    assert all_files(config.output) == before


def test_new_vectors_alone_are_decoded(embeddings: EmbedConfig, config: DecodeConfig, tmp_path: Path) -> None:
    grown = change(embeddings, input=(str(tmp_path / "in"),), output=str(tmp_path / "grown"))
    write_articles(tmp_path / "in" / "a.jsonl", make_articles(20))
    embed_here(grown)
    given = change(config, embeddings=grown.output)
    decode_here(given)
    before = part_bytes(given.output)
    write_articles(tmp_path / "in" / "b.jsonl", make_articles(3, seed=2, first=900))
    embed_here(grown)
    decode_here(given)
    after = part_bytes(given.output)
    assert {name: after[name] for name in before} == before
    assert len(after) > len(before)
    assert read_rows(given.output)["article_id"].to_pylist() == read_rows(grown.output)["article_id"].to_pylist()


def test_vectors_do_not_travel(config: DecodeConfig) -> None:
    ledger, work = open_books(DecodeStage(config))
    chunks = [table for unit in work.pending for _, table in CutPart(ledger.store, 25)(unit)]
    assert {tuple(chunk.column_names) for chunk in chunks} == {("path", "first")}
    assert len(chunks) > len(work.pending) > 3


def test_a_part_without_rows_has_the_same_columns(
    config: DecodeConfig, embeddings: EmbedConfig, tmp_path: Path
) -> None:
    source = write_articles(tmp_path / "in.jsonl", [{"id": "1", "text": "… !", "year": 1}])
    empty = change(embeddings, input=(source,), output=str(tmp_path / "empty"), empty="drop")
    assert embed_here(empty).rows == 0
    decode_here(config)
    summary = decode_here(change(config, embeddings=empty.output, output=str(tmp_path / "none")))
    assert summary.rows == 0
    assert read_rows(tmp_path / "none").schema.equals(read_rows(config.output).schema)


# Before the cluster works


def test_the_order_alone_is_refused_with_what_to_give(
    config: DecodeConfig, embeddings: EmbedConfig, tmp_path: Path
) -> None:
    order = change(embeddings, embedding="order", output=str(tmp_path / "order"))
    embed_here(order)
    result = run_job("decode", "--embeddings", order.output, "--output", config.output, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.strip().splitlines()
    assert "which says in which order words stand but not which" in line
    assert "--embedding joined or exact" in line
    assert not Path(config.output).exists()


def test_vectors_model_and_output_must_go_together(
    config: DecodeConfig, embeddings: EmbedConfig, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(FingerprintMismatch, match=r"was made with the model [0-9a-f]{8}, .* is the model [0-9a-f]{8}"):
        open_books(DecodeStage(change(config, model=other)))
    with pytest.raises(FileNotFoundError, match=r"is not at .*nowhere; name its folder \(--model\)"):
        open_books(DecodeStage(change(config, model=str(tmp_path / "nowhere"))))
    with pytest.raises(InputError, match="is a model folder; expected a embeddings folder"):
        open_books(DecodeStage(change(config, embeddings=other)))
    with pytest.raises(InputError, match="holds a embeddings; this job writes a decoded text"):
        open_books(DecodeStage(change(config, output=embeddings.output)))
    decode_here(config)
    with pytest.raises(FingerprintMismatch, match="part_rows was 25 and is now 30"):
        open_books(DecodeStage(change(config, part_rows=30)))
    copy = shutil.copytree(embeddings.output, tmp_path / "copy")
    with pytest.raises(FingerprintMismatch, match=r"was decoded from .*embeddings, and --embeddings is .*copy"):
        open_books(DecodeStage(change(config, embeddings=str(copy))))


def test_a_model_or_a_part_that_changes_under_the_job_stops_it(
    embeddings: EmbedConfig, config: DecodeConfig, tmp_path: Path
) -> None:
    moved = str(shutil.copytree(embeddings.model, tmp_path / "model"))
    copy = str(shutil.copytree(embeddings.output, tmp_path / "copy"))
    given = change(config, model=moved, embeddings=copy)
    ledger, work = open_books(DecodeStage(given))

    def run_with_another_model(*args: Any, **more: Any) -> Any:
        save_model(moved, seed=1)
        return chunks_here(*args, **more)

    with pytest.raises(FingerprintMismatch, match="when the job began"):
        decode_here(given, run_chunks=run_with_another_model)
    path = Embeddings(copy).parts[0].path
    shutil.copy(Embeddings(copy).parts[1].path, path)
    with pytest.raises(InputError, match=r"it says that it is part-\d+-\d+"):
        list(CutPart(ledger.store, 25)(work.pending[0]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"output": ""}, "--output"), ({"num_workers": "x"}, "--num-workers"), ({"part_rows": 0}, "--part-rows")],
)
def test_a_wrong_setting_names_its_flag(config: DecodeConfig, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        change(config, **fields)


# As a user runs it


def test_killed_and_run_again_the_job_leaves_the_bytes_of_a_whole_run(
    embeddings: EmbedConfig, config: DecodeConfig, tmp_path: Path
) -> None:
    one_part = change(embeddings, unit_bytes=10**6, output=str(tmp_path / "embeddings"))
    embed_here(one_part)
    config = change(config, embeddings=one_part.output, part_rows=1)
    whole = change(config, output=str(tmp_path / "whole"))
    decode_here(whole)
    flags = ["--embeddings", one_part.output, "--output", config.output, "--part-rows", "1"]
    shown = run_job("decode", *flags, "--dry-run")
    assert "dry run" in shown.stdout
    assert not Path(config.output).exists()
    job = start_job("decode", [*flags, "--num-workers", "1"], tmp_path / "log")
    try:
        deadline = time.monotonic() + 500
        while len(list((tmp_path / "out" / "parts").glob("part-*"))) < 3 and job.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job.kill()
        job.wait()
    finally:
        end_group(job)
    assert not (tmp_path / "out" / "manifest.json").exists(), "it was killed too late"
    status = json.loads(run_job("status", config.output, "--json").stdout)
    assert (status["holds"], status["finished"]) == ("decoded text", False)
    assert 3 <= status["rows_done"] < len(part_bytes(whole.output))
    result = run_job("decode", *flags, "--num-workers", "1")
    assert part_bytes(config.output) == part_bytes(whole.output)
    assert not [name for name in all_files(config.output) if ".tmp-" in name or "progress" in name]
    rows = read_rows(config.output)
    assert f"{rows.num_rows:,} rows" in result.stdout
    assert f"proven {sum(rows['proven'].to_pylist())}, share proven 0." in result.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert "everything was done already; nothing was written" in run_job("decode", *flags).stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_the_first_rows_are_printed_beside_their_texts(embeddings: EmbedConfig, tmp_path: Path) -> None:
    rows = read_rows(embeddings.output)
    shown = run_job("decode", "--embeddings", embeddings.output, "--limit", "4").stdout.splitlines()
    assert [line for line in shown if line.startswith("text ")] == [
        f"text     {text}" for text in rows["text"].to_pylist()[:4]
    ]
    proven = sum(line.startswith("proven ") for line in shown)
    assert proven + sum(line.startswith("perhaps ") for line in shown) == 4
    assert shown[-1] == f"{proven} of 4 rows are proven"
    bare = change(embeddings, text=False, output=str(tmp_path / "bare"))
    embed_here(bare)
    shown = run_job("decode", "--embeddings", bare.output, "--limit", "1").stdout.splitlines()
    assert shown[0] == "text     (Title 0, sentence 0)"


def test_an_object_store_is_decoded_too(config: DecodeConfig, embeddings: EmbedConfig, s3: str) -> None:
    for file in storage.list_files(embeddings.output):
        storage.copy_file(file.path, f"{s3}/in{file.path.removeprefix(embeddings.output)}")
    given = change(config, embeddings=f"{s3}/in", output=f"{s3}/out")
    decode_here(given)
    decode_here(config)
    assert part_bytes(f"{s3}/out") == part_bytes(config.output)
    assert decode(given).already_done
