from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from embedding_help import (
    all_files,
    change,
    decode_here,
    embed_here,
    make_articles,
    matrix,
    part_bytes,
    read_rows,
    write_articles,
)
from stages_help import chunks_here, prepare_here, work_left

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError, OutputBusy
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.token_set import TokenSet, count_rows
from lstm_embed.embedding.config import DecodeConfig, EmbedConfig
from lstm_embed.embedding.decode import DecodeStage
from lstm_embed.embedding.embed import EmbedStage
from lstm_embed.embedding.erase import erase
from lstm_embed.ledger import PartStore
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.owner import owned
from lstm_embed.ledger.parts import open_part, record_of

from conftest import json_of, run_job

IDS = ["7", "8", "31"]


@pytest.fixture
def config(model: str, tmp_path: Path) -> EmbedConfig:
    articles = make_articles(40)
    for article in articles:
        # Something that only this article holds, to look for in bytes.
        article["text"] = f"Secret{article['id']} {article['text']}"
    source = write_articles(tmp_path / "in" / "a.jsonl", articles)
    return EmbedConfig(
        model=model, input=(source,), output=str(tmp_path / "out"), unit_bytes=4000, part_rows=50, row_group_rows=16
    )


def prepare_config(config: EmbedConfig, tmp_path: Path) -> PrepareConfig:
    return PrepareConfig(
        input=config.input,
        output=str(tmp_path / "tokens"),
        vocabulary=config.model,
        unit_bytes=4000,
        part_rows=50,
        holdout_every=5,
    )


def contents(output: str | Path) -> str:
    """Return all that can be read in a folder: its texts, and its parquet files' rows."""
    found = []
    for name, data in all_files(output).items():
        if name.endswith(".parquet"):
            table = pq.read_table(pa.py_buffer(data))
            keep = [column for column in table.column_names if column != "article_hash"]
            found.append(str(table.select(keep).to_pydict()))
        found.append(data.decode("utf-8", "replace"))
    return "\n".join(found)


def test_an_erased_article_is_in_no_file_and_everything_else_is_as_it_was(config: EmbedConfig) -> None:
    embed_here(config)
    before, parts = read_rows(config.output), part_bytes(config.output)
    vectors = matrix(before)[np.isin(before["article_id"].to_pylist(), IDS)]
    summary = erase(config.output, IDS)
    after = read_rows(config.output)
    kept = pa.array(~np.isin(before["article_id"].to_pylist(), IDS))
    assert after.equals(before.filter(kept))
    assert summary.rows == before.num_rows - after.num_rows
    assert summary.facts["articles erased"] == 3
    new = part_bytes(config.output)
    changed = [name for name in parts if new[name] != parts[name]]
    assert len(changed) == summary.facts["parts rewritten"] < len(parts)
    found = contents(config.output)
    assert not any(f"Secret{id_} " in found for id_ in IDS)
    assert "Secret9 " in found
    for vector in vectors[vectors.any(axis=1)]:
        assert not (matrix(after) == vector).all(axis=1).any()
        assert not any(vector.tobytes() in data for data in all_files(config.output).values())
    manifest = json_of(f"{config.output}/manifest.json")
    assert manifest["rows"] == after.num_rows
    assert manifest["totals"]["erased"] == 3
    assert not (Path(config.output) / "erasing.json").exists()


def test_what_was_erased_is_recorded_by_hash_and_not_by_id(config: EmbedConfig) -> None:
    embed_here(config)
    erase(config.output, ["7", "not there"])
    erase(config.output, ["8", "7"])
    lines = [json.loads(line) for line in (Path(config.output) / "erased.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert len({line["salt"] for line in lines}) == 1
    assert all(len(line["id_hash"]) == 32 and line["time"] for line in lines)
    erased = Erased.load(config.output)
    assert ["7" in erased, "8" in erased, "9" in erased, None in erased] == [True, True, False, False]
    assert "not there" not in contents(config.output)


def test_the_folder_stays_finished_and_new_runs_leave_the_article_out(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    erase(config.output, IDS)
    assert work_left(EmbedStage(config)).finished
    more = make_articles(5, seed=4, first=100)
    write_articles(tmp_path / "in" / "b.jsonl", [{**more[0], "id": "7"}, *more])
    summary = embed_here(change(config, input=(str(tmp_path / "in"),)))
    ids = read_rows(config.output)["article_id"].to_pylist()
    assert "7" not in ids
    assert {"100", "104"} <= set(ids)
    assert summary.facts["erased articles"] == 4


def test_a_rebuild_of_the_same_input_is_the_erased_output(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    erase(config.output, IDS)
    after = read_rows(config.output)
    for part in (Path(config.output) / "parts").iterdir():
        part.unlink()
    (Path(config.output) / "manifest.json").unlink()
    embed_here(config)
    assert read_rows(config.output).drop_columns(["embedding"]).equals(after.drop_columns(["embedding"]))
    np.testing.assert_allclose(matrix(read_rows(config.output)), matrix(after), atol=1e-6)


def test_reuse_hands_on_what_was_erased(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    erase(config.output, IDS)
    new = change(config, output=str(tmp_path / "new"), reuse=config.output)
    summary = embed_here(new)
    assert summary.facts["encoded"] == 0
    assert read_rows(new.output).equals(read_rows(config.output))
    assert embed_here(change(config, output=str(tmp_path / "another"))).rows > summary.rows


@pytest.mark.parametrize("settings", [{"level": "article"}, {"level": "row", "dtype": "float16"}, {"empty": "drop"}])
def test_every_kind_of_vectors_can_be_erased(config: EmbedConfig, settings: dict[str, Any]) -> None:
    embed_here(change(config, **settings))
    before = read_rows(config.output)
    parts = {name: pq.read_schema(pa.py_buffer(data)) for name, data in part_bytes(config.output).items()}
    erase(config.output, IDS)
    after = read_rows(config.output)
    assert after.equals(before.filter(pa.array(~np.isin(before["article_id"].to_pylist(), IDS))))
    for name, data in part_bytes(config.output).items():
        schema = pq.read_schema(pa.py_buffer(data))
        assert schema.equals(parts[name])
        assert schema.metadata[b"lstm_embed.vectors"] == parts[name].metadata[b"lstm_embed.vectors"]


def test_a_token_set_keeps_its_counts_and_what_is_made_of_it_follows(config: EmbedConfig, tmp_path: Path) -> None:
    tokens_config = prepare_config(config, tmp_path)
    prepare_here(tokens_config)
    embeddings = change(config, input=(tokens_config.output,))
    embed_here(embeddings)
    before = TokenSet.open(tokens_config.output)
    schemas = [before.read_part(number).schema for number in range(len(before.parts))]
    erase(tokens_config.output, IDS)
    after = TokenSet.open(tokens_config.output)
    assert not any(f"Secret{id_} " in contents(tokens_config.output) for id_ in IDS)
    assert after.fingerprint != before.fingerprint
    assert after.num_rows < before.num_rows
    tokens = 0
    for number, part in enumerate(after.parts):
        table = after.read_part(number)
        assert table.schema.equals(schemas[number])
        lengths = table["ids"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
        assert part.stats["holdout"] == count_rows(table["article"].to_numpy(), lengths, 5)
        assert part.rows == table.num_rows
        tokens += int(lengths.sum())
    assert after.num_tokens == tokens
    summary = embed_here(embeddings)
    assert not any(f"Secret{id_} " in contents(config.output) for id_ in IDS)
    assert summary.facts["encoded"] == 0
    assert summary.rows == after.num_rows


def test_prepare_leaves_out_what_was_erased_from_its_folder(config: EmbedConfig, tmp_path: Path) -> None:
    tokens_config = prepare_config(config, tmp_path)
    prepare_here(tokens_config)
    erase(tokens_config.output, IDS)
    erased = [TokenSet.open(tokens_config.output).read_part(n) for n in range(2)]
    for part in (tmp_path / "tokens" / "parts").iterdir():
        part.unlink()
    (tmp_path / "tokens" / "manifest.json").unlink()
    prepare_here(tokens_config)
    again = TokenSet.open(tokens_config.output)
    assert [again.read_part(n) for n in range(2)] == erased
    assert again.totals["erased"] == 3
    assert sum(part.stats["tokens"] for part in again.parts) == again.num_tokens


def test_decoded_text_is_erased_and_stays_so_when_it_is_made_anew(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    decoded = DecodeConfig(embeddings=config.output, output=str(tmp_path / "decoded"), part_rows=7)
    decode_here(decoded)
    before, parts = read_rows(decoded.output), part_bytes(decoded.output)
    summary = erase(decoded.output, [*IDS, "nobody"])
    after = read_rows(decoded.output)
    assert after.equals(before.filter(pa.array(~np.isin(before["article_id"].to_pylist(), IDS))))
    assert summary.facts["articles erased"] == 3  # whose rows lie in more parts than one
    assert 3 < summary.facts["parts rewritten"] < len(parts)
    assert not any(f"Secret{id_} " in contents(decoded.output) for id_ in IDS)
    totals = json_of(f"{decoded.output}/manifest.json")["totals"]
    assert totals["proven"] == sum(after["proven"].to_pylist())
    assert work_left(DecodeStage(decoded)).finished
    for part in (tmp_path / "decoded" / "parts").iterdir():
        part.unlink()
    decode_here(decoded)
    assert read_rows(decoded.output).equals(after)


def test_what_is_erased_from_vectors_goes_from_their_decoded_text_with_the_next_run(
    config: EmbedConfig, tmp_path: Path
) -> None:
    embed_here(config)
    decoded = DecodeConfig(embeddings=config.output, output=str(tmp_path / "decoded"))
    decode_here(decoded)
    before = part_bytes(decoded.output)
    erase(config.output, IDS)
    decode_here(decoded)
    assert not any(f"Secret{id_} " in contents(decoded.output) for id_ in IDS)
    assert read_rows(decoded.output).num_rows == read_rows(config.output).num_rows
    kept = [name for name, data in part_bytes(decoded.output).items() if before.get(name) == data]
    assert 0 < len(kept) < len(before)


def test_excerpts_go_unless_they_begin_with_another_articles_id(config: EmbedConfig, tmp_path: Path) -> None:
    bad = [
        '{"id": "7", "text": 1, "note": "of seven"}',
        '{"id": 31, "text": 2, "note": "of thirty-one"}',
        '{"id": "9", "text": 3, "note": "of nine"}',
        '{"note": "of whom", "id": "9", "text": 4}',
        "{broken",
    ]
    lines = [*Path(config.input[0]).read_text().splitlines(), *bad]
    Path(config.input[0]).write_text("\n".join(lines))
    embed_here(change(config, quarantine_text=True, max_bad_fraction=1.0))
    assert "of seven" in contents(config.output)
    summary = erase(config.output, IDS)
    assert summary.facts["excerpts removed"] == 4
    found = contents(config.output)
    assert "of nine" in found
    assert not any(secret in found for secret in ("of seven", "of thirty-one", "of whom", "{broken"))
    files = sorted((Path(config.output) / "quarantine").iterdir())
    entries = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(entries) == 5
    assert all({"path", "offset", "reason", "sha256"} <= set(entry) for entry in entries)


def test_killed_between_any_two_writes_it_is_finished_by_running_it_again(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    saved = shutil.copytree(config.output, tmp_path / "saved")
    whole = shutil.copytree(config.output, tmp_path / "whole")
    erase(str(whole), IDS)

    class Killed(BaseException):
        pass

    for step in itertools.count():
        shutil.rmtree(config.output)
        shutil.copytree(saved, config.output)
        count = itertools.count()

        def killed(function: Any, step: int = step, count: Any = count) -> Any:
            def run(*args: Any, **more: Any) -> Any:
                # The owner's mark is renewed by a thread; it does not count.
                if "owner" not in str(args[0]) and next(count) == step:
                    raise Killed
                return function(*args, **more)

            return run

        with pytest.MonkeyPatch.context() as patch:
            for name in ("write_bytes", "remove", "remove_dir"):
                patch.setattr(storage, name, killed(getattr(storage, name)))
            try:
                erase(config.output, IDS)
                break
            except Killed:
                pass
        # Before the first write there is nothing to finish; after it the ids are known.
        if (Path(config.output) / "erasing.json").exists():
            with pytest.raises(InputError, match="finish it first"):
                embed_here(config)
            erase(config.output, [])
        else:
            erase(config.output, IDS)
        assert read_rows(config.output).equals(read_rows(whole))
        own, other = (json.loads((Path(path) / "manifest.json").read_text()) for path in (config.output, whole))
        assert own["rows"] == other["rows"]
        assert own["totals"] == other["totals"]
        assert work_left(EmbedStage(config)).finished
    assert step >= 8


def test_an_unfinished_folder_can_be_erased_and_continued(config: EmbedConfig, tmp_path: Path) -> None:
    class Died(Exception):
        pass

    def dying(*args: Any, **more: Any) -> Any:
        for count, record in enumerate(chunks_here(*args, **more)):
            if count == 2:
                raise Died
            yield record

    with pytest.raises(Died):
        embed_here(config, run_chunks=dying)
    first = read_rows_of_parts(config.output)["article_id"].to_pylist()
    erase(config.output, [first[0], "39"])
    assert not (Path(config.output) / "manifest.json").exists()
    embed_here(config)
    whole = change(config, output=str(tmp_path / "whole"))
    embed_here(whole)
    erase(whole.output, [first[0], "39"])
    assert (
        read_rows(config.output).drop_columns(["embedding"]).equals(read_rows(whole.output).drop_columns(["embedding"]))
    )


def read_rows_of_parts(output: str) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted((Path(output) / "parts").iterdir()))


def test_an_object_store_is_erased_too(config: EmbedConfig, s3: str) -> None:
    embed_here(change(config, output=f"{s3}/out"))
    before = read_rows(f"{s3}/out")
    erase(f"{s3}/out", IDS)
    assert read_rows(f"{s3}/out").num_rows == before.filter(~np.isin(before["article_id"].to_pylist(), IDS)).num_rows
    assert work_left(EmbedStage(change(config, output=f"{s3}/out"))).finished


def test_what_cannot_be_erased_is_refused(config: EmbedConfig, model: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        erase(str(tmp_path / "nowhere"), IDS)
    with pytest.raises(InputError, match=r"no job\.json"):
        erase(model, IDS)
    embed_here(config)
    with pytest.raises(InputError, match="no article id given"):
        erase(config.output, [])
    with owned(config.output), pytest.raises(OutputBusy):
        erase(config.output, IDS)
    next((Path(config.output) / "parts").iterdir()).write_bytes(b"PAR1 damaged")
    with pytest.raises(InputError, match="is damaged"):
        erase(config.output, IDS)


def test_a_part_of_other_content_is_refused_before_anything_is_written(config: EmbedConfig) -> None:
    embed_here(config)
    path = min((Path(config.output) / "parts").iterdir())
    with open_part(str(path), "embed") as file:
        record, table = record_of(file.metadata, path.name), file.read()
    PartStore(config.output, record.fingerprint).write_table(dataclasses.replace(record, input_digest="0" * 64), table)
    before = all_files(config.output)
    with pytest.raises(InputError, match=r"its identity is .*remove the file and run embed again"):
        erase(config.output, ["0"])
    assert all_files(config.output) == before


def test_parts_under_each_others_names_are_refused_and_nothing_else_is_lost(config: EmbedConfig) -> None:
    embed_here(config)
    before = read_rows(config.output)
    parts = sorted((Path(config.output) / "parts").iterdir())
    first, second = parts[0].read_bytes(), parts[1].read_bytes()
    parts[0].write_bytes(second)
    parts[1].write_bytes(first)
    with pytest.raises(InputError, match=r"it says that it is part-.*remove the file and run embed again"):
        erase(config.output, ["0"])
    assert [part.read_bytes() for part in parts[:2]] == [second, first]
    parts[0].unlink()
    parts[1].unlink()
    summary = erase(config.output, ["0"])
    assert "parts of" in summary.notes[0]
    assert "run embed" in summary.notes[0]
    embed_here(config)
    assert read_rows(config.output)["article_id"].equals(
        before.filter(pc.not_equal(before["article_id"], "0"))["article_id"]
    )


def test_the_job_takes_ids_from_flags_and_a_file(config: EmbedConfig, tmp_path: Path) -> None:
    embed_here(config)
    (tmp_path / "ids.txt").write_bytes(b"8\r\n\n31\n 9 \n")
    result = run_job("erase", config.output, "--article-id", "7", "--ids", str(tmp_path / "ids.txt"))
    assert "articles erased 3" in result.stdout
    assert "1 of 4 ids are in no part" in result.stderr
    left = set(read_rows(config.output)["article_id"].to_pylist())
    assert not set(IDS) & left
    assert "9" in left  # blanks are part of an id
    result = run_job("erase", config.output, check=False)
    assert result.returncode == 2
    assert "no article id given (--article-id, --ids)" in result.stderr
