from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from embedding_help import (
    NUM_ARTICLES,
    TOKENIZER,
    all_files,
    change,
    decode_here,
    embed_here,
    make_articles,
    matrix,
    part_bytes,
    read_rows,
    save_model,
    save_original,
    write_articles,
)
from stages_help import chunks_here, prepare_here, work_left

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError, TooMuchRejected
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.embedding.config import DecodeConfig, EmbedConfig
from lstm_embed.embedding.embed import EmbedStage, embed
from lstm_embed.embedding.vectors import Embeddings
from lstm_embed.embedding.worker import choose_precision
from lstm_embed.model.encoder import SentenceEncoder, resolve_precision
from lstm_embed.stages.runner import open_books

from conftest import json_of


@pytest.fixture
def config(model: str, corpus: str, tmp_path: Path) -> EmbedConfig:
    return EmbedConfig(model=model, input=(corpus,), output=str(tmp_path / "out"), unit_bytes=4000, part_rows=100)


@pytest.fixture(scope="session")
def expected(model: str, corpus: str, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Return the rows of an uninterrupted run with the settings of `config`."""
    output = str(tmp_path_factory.mktemp("expected") / "out")
    embed_here(EmbedConfig(model=model, input=(corpus,), output=output, unit_bytes=4000, part_rows=100))
    return read_rows(output)


# What comes out


def test_a_sentence_has_the_vector_that_the_encoder_gives_it_alone(model: str, expected: pa.Table) -> None:
    encoder = SentenceEncoder.load(model)
    texts = expected["text"].to_pylist()
    alone = np.array([encoder.encode(text) for text in texts[:50]])
    np.testing.assert_allclose(matrix(expected)[:50], alone, atol=1e-5)
    np.testing.assert_allclose(matrix(expected), encoder.encode(texts), atol=1e-5)


def test_a_row_says_where_its_sentence_stands(corpus: str, expected: pa.Table) -> None:
    articles = {article["id"]: article for article in make_articles(NUM_ARTICLES)}
    assert expected.num_rows > 200
    for row in expected.drop_columns(["embedding"]).to_pylist():
        article = articles[row["article_id"]]
        assert row["title"] == article["title"]
        assert article["text"][row["start"] : row["end"]] == row["text"]
    numbers = expected["sentence"].to_numpy()
    new_article = np.flatnonzero(numbers == 0)
    assert len(new_article) == NUM_ARTICLES
    assert set(np.diff(numbers)[np.diff(numbers) > 0]) == {1}


@pytest.mark.parametrize(
    "change_of_size", [{"unit_bytes": 1000}, {"part_rows": 17}, {"batch_tokens": 64}, {"row_group_rows": 5}]
)
def test_sizes_of_units_parts_batches_and_row_groups_change_no_vector(
    config: EmbedConfig, expected: pa.Table, change_of_size: dict[str, int]
) -> None:
    embed_here(change(config, **change_of_size))
    found = read_rows(config.output)
    assert found.drop_columns(["embedding"]).equals(expected.drop_columns(["embedding"]))
    np.testing.assert_allclose(matrix(found), matrix(expected), atol=1e-6)


def test_a_new_part_begins_with_the_article_after_the_rows_that_were_asked_for(config: EmbedConfig) -> None:
    embed_here(change(config, unit_bytes=1_000_000, part_rows=9))
    parts = [pq.read_table(pa.py_buffer(data)) for data in part_bytes(config.output).values()]
    assert len(parts) > 10
    for part in parts:
        last = pc.equal(part["article_id"], part["article_id"][-1])
        assert part.num_rows - pc.sum(last).as_py() < 9
    assert all(part.num_rows >= 9 for part in parts[:-1])


def prepared(corpus: str, model: str, output: Path, **more: Any) -> str:
    """Prepare a token set with the model's vocabulary, without Ray."""

    prepare_here(PrepareConfig(input=(corpus,), output=str(output), vocabulary=model, unit_bytes=4000, **more))
    return str(output)


def test_a_token_set_gives_the_vectors_its_articles_give(
    config: EmbedConfig, model: str, corpus: str, expected: pa.Table, tmp_path: Path
) -> None:
    tokens = prepared(corpus, model, tmp_path / "tokens", part_rows=50)
    embed_here(change(config, input=(tokens,)))
    found = read_rows(config.output)
    assert found.drop_columns(["embedding"]).equals(expected.drop_columns(["embedding"]))
    np.testing.assert_allclose(matrix(found), matrix(expected), atol=1e-6)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["totals"]["articles"] == NUM_ARTICLES


def test_a_token_set_that_the_model_cannot_use_is_refused(
    config: EmbedConfig, model: str, corpus: str, tmp_path: Path
) -> None:
    tokens = prepared(corpus, model, tmp_path / "tokens")
    other = prepared(corpus, "", tmp_path / "other", num_pieces=600)
    short = prepared(corpus, model, tmp_path / "short", max_tokens=5)
    with pytest.raises(InputError, match=r"vocabulary [0-9a-f]{8}, the model"):
        open_books(EmbedStage(change(config, input=(other,))))
    with pytest.raises(InputError, match=r"keeps 5 tokens of a sentence \(--max-tokens\), the model reads 24"):
        open_books(EmbedStage(change(config, input=(short,))))
    with pytest.raises(InputError, match="names the token set"):
        open_books(EmbedStage(change(config, input=(tokens, corpus))))
    with pytest.raises(InputError, match="--columns and --level row need articles"):
        open_books(EmbedStage(change(config, input=(tokens,), level="row")))


def test_sentences_without_a_word_are_zero_or_dropped_and_counted(
    config: EmbedConfig, expected: pa.Table, tmp_path: Path
) -> None:
    zero = ~matrix(expected).any(axis=1)
    assert 3 < zero.sum() < len(zero) / 4
    assert set(expected.filter(pa.array(zero))["text"].to_pylist()) == {"…."}
    summary = embed_here(change(config, empty="drop", normalize=True))
    found = read_rows(config.output)
    assert found.num_rows == summary.rows == (~zero).sum()
    assert summary.facts["without words"] == zero.sum()
    assert found["text"].to_pylist() == expected.filter(pa.array(~zero))["text"].to_pylist()


@pytest.mark.parametrize("level", ["sentence", "row", "article"])
def test_vectors_can_be_scaled_to_length_one_and_are_never_nan(config: EmbedConfig, level: str) -> None:
    embed_here(change(config, level=level, normalize=True))
    vectors = matrix(read_rows(config.output))
    assert np.isfinite(vectors).all()
    lengths = np.linalg.norm(vectors, axis=1)
    np.testing.assert_allclose(lengths[lengths > 0], 1.0, atol=1e-6)


def test_an_article_has_the_mean_of_its_sentences_vectors(config: EmbedConfig, expected: pa.Table) -> None:
    embed_here(change(config, level="article"))
    found = read_rows(config.output)
    assert found.num_rows == NUM_ARTICLES
    assert not {"text", "sentence", "start", "end"} & set(found.column_names)
    ids, vectors = np.array(expected["article_id"].to_pylist()), matrix(expected)
    for row, vector in zip(found.drop_columns(["embedding"]).to_pylist(), matrix(found), strict=True):
        own = vectors[ids == row["article_id"]]
        assert row["num_sentences"] == len(own)
        known = own[own.any(axis=1)]
        np.testing.assert_allclose(vector, known.mean(axis=0) if len(known) else 0.0, atol=1e-6)


def test_a_row_has_one_vector_of_its_whole_text_also_if_it_is_blank(
    config: EmbedConfig, model: str, tmp_path: Path
) -> None:
    articles = [
        *make_articles(5),
        {"id": "blank", "text": "  \n"},
        {"id": "none", "text": ""},
        {"id": "last", "text": " waa\n"},
    ]
    source = write_articles(tmp_path / "rows.jsonl", articles)
    embed_here(change(config, input=(source,), level="row"))
    found = read_rows(config.output)
    assert found["article_id"].to_pylist() == ["0", "1", "2", "3", "4", "blank", "none", "last"]
    encoder = SentenceEncoder.load(model)
    np.testing.assert_allclose(matrix(found), encoder.encode([article["text"] for article in articles]), atol=1e-6)
    assert not matrix(found)[5:7].any()
    assert [found[name][7].as_py() for name in ("start", "end", "text")] == [1, 4, "waa"]
    summary = embed_here(change(config, input=(source,), level="row", empty="drop", output=str(tmp_path / "dropped")))
    assert summary.rows == 6
    assert summary.facts["without words"] == 2


@pytest.mark.parametrize("embedding", ["meaning", "joined", "exact", "order"])
def test_an_output_has_the_embedding_that_was_asked_for_and_says_so(
    config: EmbedConfig, model: str, embedding: str
) -> None:
    summary = embed_here(change(config, embedding=embedding))
    rows = read_rows(config.output)
    encoder = SentenceEncoder.load(model, embedding=embedding)
    np.testing.assert_allclose(matrix(rows), encoder.encode(rows["text"].to_pylist()), atol=1e-5)
    settings = json_of(f"{config.output}/manifest.json")["settings"]
    assert settings["embedding"] == summary.facts["embedding"] == Embeddings(config.output).embedding == embedding
    assert settings["model"] == SentenceEncoder.load(model).fingerprint
    about = pq.read_metadata(Embeddings(config.output).parts[0].path).metadata[b"lstm_embed.vectors"]
    assert json.loads(about)["embedding"] == embedding


def test_the_embedding_of_the_model_is_the_default_and_named_it_is_the_same(config: EmbedConfig) -> None:
    embed_here(config)
    assert work_left(EmbedStage(change(config, embedding="joined"))).finished


def test_vectors_of_the_original_are_its_code_and_can_be_decoded(config: EmbedConfig, tmp_path: Path) -> None:
    config = change(config, model=save_original(tmp_path / "original"))
    embed_here(config)
    assert Embeddings(config.output).embedding == "order"
    decoded = DecodeConfig(embeddings=config.output, output=str(tmp_path / "decoded"))
    assert decode_here(decoded).facts["proven"] == 0  # and what an untrained decoder says is not known
    assert read_rows(decoded.output)["text"].equals(read_rows(config.output)["text"])
    with pytest.raises(InputError, match="expected --embedding order, or none, and not meaning"):
        open_books(EmbedStage(change(config, embedding="meaning")))


def test_a_folder_of_the_first_version_is_refused_with_the_version_that_reads_it(config: EmbedConfig) -> None:
    embed_here(config)
    for name in ("job.json", "manifest.json"):
        made = json_of(f"{config.output}/{name}")
        del made["settings"]["embedding"]
        storage.write_json(f"{config.output}/{name}", made)
    for look in (lambda: open_books(EmbedStage(config)), lambda: Embeddings(config.output)):
        with pytest.raises(InputError, match=r"made by lstm_embed 0\.1; read it with that version"):
            look()
    stage = EmbedStage(change(config, output=f"{config.output}-new", reuse=config.output))
    stage.open()
    assert stage.earlier
    assert stage.earlier.parts == []


def test_text_can_be_left_out(config: EmbedConfig, expected: pa.Table) -> None:
    embed_here(change(config, text=False))
    assert read_rows(config.output).equals(expected.drop_columns(["text"]))


# Exactly once


def test_a_job_that_dies_anywhere_is_continued_to_the_same_bytes_and_no_part_is_written_twice(
    config: EmbedConfig, tmp_path: Path
) -> None:
    whole = change(config, output=str(tmp_path / "whole"))
    embed_here(whole)
    expected = part_bytes(whole.output)
    inodes: dict[str, int] = {}

    class Died(Exception):
        pass

    def dying(units: Any, read: Any, make_worker: Any, **more: Any) -> Any:
        # Units in another order each time, some of their parts from the end, as when actors work side by side.
        units = units[::-1]
        for count, record in enumerate(chunks_here(units, lambda unit: list(read(unit))[::-1], make_worker)):
            yield record
            if count == 2:
                raise Died

    for _ in range(100):
        try:
            embed_here(config, run_chunks=dying)
            break
        except Died:
            assert not (Path(config.output) / "manifest.json").exists()
            parts = {path.name: path.stat().st_ino for path in (Path(config.output) / "parts").iterdir()}
            assert all(parts[name] == inode for name, inode in inodes.items())
            inodes = parts
    assert part_bytes(config.output) == expected
    own, others = (json.loads((Path(path) / "manifest.json").read_text()) for path in (config.output, whole.output))
    assert own == others


def test_what_a_killed_worker_was_writing_is_gone_from_the_finished_folder(config: EmbedConfig) -> None:
    half_written = Path(config.output) / "parts" / ".part-00000000-0000.parquet.tmp-4711-0123abcd"

    def with_a_killed_worker(*args: Any, **more: Any) -> Any:
        for record in chunks_here(*args, **more):
            half_written.write_bytes(b"half")
            yield record

    embed_here(config, run_chunks=with_a_killed_worker)
    assert not half_written.exists()
    assert not [name for name in all_files(config.output) if "tmp" in name]


def test_changed_and_new_input_redoes_only_its_units(config: EmbedConfig, corpus: str, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name in os.listdir(corpus):
        storage.copy_file(f"{corpus}/{name}", str(folder / name))
    given = change(config, input=(str(folder),), unit_bytes=5000)
    embed_here(given)
    before = part_bytes(config.output)
    assert len(before) > 3
    write_articles(folder / "articles-015.jsonl", make_articles(4, seed=5, first=100))
    write_articles(folder / "articles-020.jsonl", make_articles(3, seed=6, first=200))
    summary = embed_here(given)
    after = part_bytes(config.output)
    assert 2 <= len(set(after) - set(before)) < len(before)
    assert 1 <= len(set(before) - set(after)) <= 2
    assert all(after[name] == data for name, data in before.items() if name in after)
    assert summary.facts["reused"] == 0
    (folder / "articles-020.jsonl").unlink()
    assert embed_here(given).already_done  # what it gave is kept
    embed_here(change(given, prune=True))
    assert "200" not in read_rows(config.output)["article_id"].to_pylist()


def test_another_model_or_setting_is_refused_with_both_named(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    other = save_model(tmp_path / "other", seed=1)
    with pytest.raises(FingerprintMismatch, match=r"model was \"[0-9a-f]{32}\" and is now \"[0-9a-f]{32}\""):
        open_books(EmbedStage(change(config, model=other)))
    with pytest.raises(FingerprintMismatch, match=r"embedding was \"joined\" and is now \"meaning\""):
        open_books(EmbedStage(change(config, embedding="meaning")))
    with pytest.raises(FingerprintMismatch, match=r"vectors.dtype was \"float32\" and is now \"float16\""):
        open_books(EmbedStage(change(config, dtype="float16")))


def test_a_model_that_changes_under_the_job_stops_it(config: EmbedConfig, tmp_path: Path) -> None:
    path = save_model(tmp_path / "model")

    def run_with_another_model(*args: Any, **more: Any) -> Any:
        save_model(path, seed=1)
        return chunks_here(*args, **more)

    with pytest.raises(FingerprintMismatch, match="when the job began"):
        embed_here(change(config, model=path), run_chunks=run_with_another_model)


def test_rejected_input_is_listed_and_too_much_of_it_fails_the_job(config: EmbedConfig, tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    lines = [json.dumps(article) for article in make_articles(10)]
    source.write_text("\n".join([*lines[:5], "{broken", *lines[5:]]))
    given = change(config, input=(str(source),), unit_bytes=10**6)
    with pytest.raises(TooMuchRejected, match="1 of 11 records were rejected"):
        embed_here(given)
    summary = embed_here(change(given, max_bad_fraction=0.2))
    assert summary.facts["rejected"] == 1
    assert "not JSON" in (tmp_path / "out" / "quarantine" / "unit-00000000.jsonl").read_text()


def test_progress_counts_sentences_parts_and_rejections(config: EmbedConfig) -> None:
    seen: list[dict[str, float]] = []

    class Report:
        def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
            seen.append({"done": done, "total": total, **counters})

        def note(self, message: str) -> None:
            raise AssertionError(message)

    summary = embed_here(config, Report())
    assert seen[0]["done"] == 0
    assert seen[-1]["done"] == pytest.approx(seen[-1]["total"])
    assert seen[-1]["sentences"] == summary.rows
    assert seen[-1]["parts"] == len(part_bytes(config.output))
    assert seen[-1]["sentences_per_second"] > 0


def test_output_in_an_object_store_has_the_same_rows(
    config: EmbedConfig, expected: pa.Table, model: str, s3: str
) -> None:
    for file in storage.list_files(model):
        storage.copy_file(file.path, f"{s3}/model/{storage.name(file.path)}")
    given = change(config, model=f"{s3}/model", output=f"{s3}/out")
    embed_here(given)
    assert read_rows(f"{s3}/out").equals(expected)
    assert embed(given).already_done


# Before the cluster works


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level": "word"}, "--level"),
        ({"embedding": "code"}, "--embedding"),
        ({"dtype": "int8"}, "--dtype"),
        ({"num_workers": "3:2"}, "--num-workers"),
        ({"num_workers": "0:2"}, "--num-workers"),
        ({"precision": "fp16"}, "without --gpu"),
        ({"part_rows": 0}, "--part-rows"),
        ({"input": ()}, "--input"),
    ],
)
def test_a_wrong_setting_names_its_flag(config: EmbedConfig, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        change(config, **fields)


def test_a_dry_run_estimates_the_rate_and_writes_nothing(config: EmbedConfig) -> None:
    summary = embed(change(config, dry_run=True))  # without Ray
    assert summary.dry_run
    assert summary.rows == summary.facts["new units"] > 3
    assert summary.facts["MB a second and CPU, in a small sample"] > 0
    assert not Path(config.output).exists()


def test_a_precision_is_chosen_by_a_measurement_of_what_is_faster_here(model: str) -> None:
    threads = torch.get_num_threads()
    precision, gain = choose_precision(model, "joined")
    assert precision == ("bf16" if gain >= 1.5 else "fp32")
    assert (gain > 0) == (resolve_precision("auto") == "bf16")
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(("chosen", "later"), [("fp32", "bf16"), ("bf16", "fp32")])
def test_a_folder_keeps_the_precision_that_was_measured_when_it_was_begun(
    config: EmbedConfig, monkeypatch: pytest.MonkeyPatch, chosen: str, later: str
) -> None:
    config, place = change(config, precision="auto"), "lstm_embed.embedding.embed.choose_precision"
    monkeypatch.setattr(place, lambda *_: (chosen, 1.5))
    assert embed_here(config).facts["precision"] == chosen
    assert json_of(f"{config.output}/job.json")["settings"]["precision"] == chosen
    before = all_files(config.output)
    monkeypatch.setattr(place, lambda *_: (later, 1.5))
    for asked in ("auto", chosen):
        assert embed_here(change(config, precision=asked)).already_done
    assert all_files(config.output) == before
    with pytest.raises(FingerprintMismatch, match="precision"):
        embed_here(change(config, precision=later))


def test_the_tokenizer_of_the_model_decides_how_articles_are_cut(config: EmbedConfig) -> None:
    stage = EmbedStage(config)
    stage.open()
    assert {name: getattr(stage.text, name) for name in TOKENIZER} == TOKENIZER


def test_sentences_are_cut_off_at_pieces_and_counted(config: EmbedConfig, tmp_path: Path) -> None:
    # As many words as are kept, of which the last one is no piece in the second sentence.
    texts = [" ".join(["Waa"] * 512), " ".join(["Waa"] * 511 + ["лес"]), "Waa", "…"]
    source = write_articles(tmp_path / "in.jsonl", [{"id": str(n), "text": text} for n, text in enumerate(texts)])
    embed_here(change(config, input=(source,)))
    totals = json_of(f"{config.output}/manifest.json")["totals"]
    assert (totals["sentences"], totals["sentences_cut"], totals["tokens"]) == (4, 1, 512 + 512 + 1)
    assert totals["without_words"] == 1
    np.testing.assert_allclose(
        matrix(read_rows(config.output)), SentenceEncoder.load(config.model).encode(texts), atol=1e-6
    )


# With Ray


def test_any_number_of_workers_gives_the_same_bytes_and_the_stages_stay_apart(
    config: EmbedConfig, ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from lstm_embed.stages import units as distribute

    alone = change(config, output=str(tmp_path / "alone"))
    embed_here(alone)
    plans: list[str] = []
    make = distribute._chunk_dataset

    def spy(*args: Any, **more: Any) -> Any:
        dataset = make(*args, **more)
        dataset.explain()
        plans.append(capsys.readouterr().out)
        return dataset

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distribute, "_chunk_dataset", spy)
        for number in ("1", "1:3"):
            output = str(tmp_path / f"out-{number[-1]}")
            embed(change(config, output=output, num_workers=number))
            assert part_bytes(output) == part_bytes(alone.output)
    physical = plans[0].partition("Physical Plan (Optimized)")[2]
    assert len(re.findall(r"TaskPoolMapOperator\[[^\]]*read_unit", physical)) == 1
    assert len(re.findall(r"ActorPoolMapOperator\[[^\]]*_ChunkActor", physical)) == 1
    assert "->" not in physical


def test_more_workers_than_the_cluster_holds_are_refused_at_once(config: EmbedConfig, ray_cluster: None) -> None:
    with pytest.raises(InputError, match=r"4 workers need a CPU each, and reading 0\.5 CPU; the cluster has 4 CPUs"):
        embed(change(config, num_workers="4"))
    assert not Path(config.output).exists()
