"""Preparing a corpus: the same bytes whatever the workers, order or accidents, and nothing lost on the way."""

from __future__ import annotations

import bz2
import contextlib
import functools
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from prepare_help import (
    Killed,
    backwards,
    by_article,
    check_ids,
    config,
    die_at,
    fill,
    json_lines,
    rows_of,
    run,
    snapshot,
    source,
    stamps,
    tokens_of,
)
from stages_help import without_ray
from synthetic import vocabulary_of

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError, TooMuchRejected
from lstm_embed.corpus import sentences, tasks
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers.article import make_article
from lstm_embed.corpus.sentences import UnitReader, part_chunks
from lstm_embed.corpus.text import split_sentences
from lstm_embed.ledger import Span, Unit
from lstm_embed.stages.units import run_units

from conftest import json_of


def test_one_two_and_four_workers_and_any_order_give_the_same_bytes(tmp_path: Path, ray_cluster: None) -> None:
    fill(tmp_path / "in")
    found = []
    for cpus in (4, 2, 1):
        with mock.patch("lstm_embed.stages.units.run_units", functools.partial(run_units, num_cpus=cpus)):
            summary = run(tmp_path)
        found.append(snapshot(tmp_path))
        storage.remove_dir(f"{tmp_path}/out")
    with without_ray(run_units=backwards):
        run(tmp_path)
    found.append(snapshot(tmp_path))
    assert all(files == found[0] for files in found)
    assert len([name for name in found[0] if name.startswith("parts/")]) > 10
    assert not any(name.startswith("staging") for name in found[0])
    assert summary.rows == tokens_of(tmp_path).num_rows
    assert summary.facts["articles"] == 72


@pytest.mark.usefixtures("small_and_here")
def test_every_sentence_of_every_article_is_there_with_its_place_its_words_and_its_hash(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    texts = source(tmp_path)
    rows = rows_of(tmp_path)
    assert len(texts) == 72
    for row in rows:
        text = texts[row["article_id"]]
        assert text[row["start"] : row["end"]] == row["text"]
        assert row["article_hash"] == hashlib.blake2b(text.encode(), digest_size=16).digest()
        assert row["title"] == f"Title {row['article_id']}"
    expected = {id_: [text[a:b] for a, b in split_sentences(text)] for id_, text in texts.items()}
    assert by_article(rows) == {id_: list(dict.fromkeys(found)) for id_, found in expected.items()}
    check_ids(tmp_path)


@pytest.mark.usefixtures("small_and_here")
def test_articles_are_whole_in_their_parts_and_parts_are_bounded_and_in_order(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    found = tokens_of(tmp_path)
    seen: set[str] = set()
    for number, part in enumerate(found.parts):
        table = found.read_part(number)
        assert table.num_rows == part.rows
        article_numbers = table["article"].to_numpy()
        assert (np.diff(article_numbers) >= 0).all()
        ids = table["article_id"].to_pylist()
        assert not seen & set(ids)
        seen |= set(ids)
        for number_, group in itertools.groupby(
            zip(article_numbers, table["sentence"].to_pylist(), strict=True), lambda p: p[0]
        ):
            assert [sentence_number for _, sentence_number in group] == list(
                range(ids.count(ids[list(article_numbers).index(number_)]))
            )
        assert part.rows <= 50 + 30
    assert sorted(part.name for part in found.parts) == [part.name for part in found.parts]


@pytest.mark.usefixtures("small_and_here")
def test_added_changed_and_removed_files_redo_only_what_they_hold(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    first, units = stamps(tmp_path), json_of(f"{tmp_path}/out/manifest.json")["units"]
    (tmp_path / "in" / "AA" / "wiki_00b").write_bytes(json_lines(500, 10))
    run(tmp_path)
    second = stamps(tmp_path)
    assert {name: second.get(name) for name in first} == first
    assert len(second) > len(first)
    assert {"500", "509"} <= set(by_article(rows_of(tmp_path)))

    (tmp_path / "in" / "AA" / "wiki_01.bz2").write_bytes(bz2.compress(json_lines(600, 5)))
    run(tmp_path)
    third = stamps(tmp_path)
    gone = {name[5:13] for name in set(second) - set(third)}
    assert len(gone) == 1
    assert all(third[name] == stamp for name, stamp in second.items() if name[5:13] not in gone)
    found = set(by_article(rows_of(tmp_path)))
    assert {"600", "604"} <= found
    assert "100" not in found

    (tmp_path / "in" / "rows.parquet").unlink()
    assert run(tmp_path).already_done
    assert "300" in by_article(rows_of(tmp_path))
    run(tmp_path, prune=True)
    assert not {str(n) for n in range(300, 316)} & set(by_article(rows_of(tmp_path)))
    now = json_of(f"{tmp_path}/out/manifest.json")["units"]
    assert len(set(units) & set(now)) >= len(units) - 4
    check_ids(tmp_path)


@pytest.mark.usefixtures("small_and_here")
def test_killed_at_any_step_the_same_command_ends_with_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, first in (("a", 0), ("b", 5)):
        (tmp_path / "in" / name).write_bytes(json_lines(0, 3) + json_lines(first, 8))
    options: dict[str, Any] = {"unit_bytes": 1500, "part_rows": 40}
    run(tmp_path, **options)
    whole = snapshot(tmp_path)
    for step in itertools.count():
        storage.remove_dir(f"{tmp_path}/out")
        with pytest.MonkeyPatch.context() as patch:
            done = die_at(patch, step)
            with contextlib.suppress(Killed):
                run(tmp_path, **options)
            killed = len(done) > step
        run(tmp_path, **options)
        assert snapshot(tmp_path) == whole
        if not killed:
            break
    assert step > 25


@pytest.mark.usefixtures("small_and_here")
def test_a_token_set_of_an_earlier_version_is_not_mixed_with_this_ones(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    for name in ("job.json", "manifest.json"):
        made = json_of(f"{tmp_path}/out/{name}")
        made["settings"]["content_format"] = 2
        storage.write_json(f"{tmp_path}/out/{name}", made)
    before = snapshot(tmp_path)
    with pytest.raises(FingerprintMismatch, match=r"content_format was 2 and is now \d"):
        run(tmp_path)
    assert snapshot(tmp_path) == before


@pytest.mark.usefixtures("small_and_here")
def test_other_settings_are_refused_with_both_values(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    with pytest.raises(FingerprintMismatch, match=r'text.language was "en" and is now "bg"'):
        run(tmp_path, language="bg")


@pytest.mark.usefixtures("small_and_here")
def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    texts = ["One two three four five. One two. !!! ... One two.\nOne two.", "", "   \n ", "One."]
    data = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()
    (tmp_path / "in" / "a").write_bytes(data)
    summary = run(tmp_path, max_tokens=3, whole_word_count=1)
    rows = rows_of(tmp_path)
    assert [row["text"] for row in rows] == ["One two three four five.", "One two.", "!!! ...", "One."]
    assert [len(row["ids"]) for row in rows] == [3, 2, 0, 1]
    assert [row["sentence"] for row in rows] == [0, 1, 2, 0]
    expected = {"articles": 4, "articles_without_sentences": 2, "sentences_cut": 1, "sentences_repeated": 2}
    expected |= {"sentences_without_tokens": 1, "tokens": 6, "rejected": 0, "bytes": len(data) - 4}
    assert summary.facts == expected | {"vocabulary": len(tokens_of(tmp_path).vocabulary)}


def bad_input(folder: Path, bad: int, good: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = json_lines(0, good).splitlines(keepends=True)
    secret = [b'{"text": "SECRET \xff"}\n', b"SECRET\n", b'{"SECRET": 1}\n']
    (folder / "a").write_bytes(b"".join(lines[:5] + [secret[n % 3] for n in range(bad)] + lines[5:]))


@pytest.mark.usefixtures("small_and_here")
@pytest.mark.parametrize("with_text", [False, True])
def test_bad_lines_are_quarantined_counted_and_their_text_is_kept_out(tmp_path: Path, with_text: bool) -> None:
    bad_input(tmp_path / "in", 4, 500)
    summary = run(tmp_path, quarantine_text=with_text, unit_bytes=1_000_000)
    assert summary.facts["rejected"] == 4
    assert summary.facts["rejected_as"] == "2 invalid UTF-8, 1 no text, 1 not JSON"
    assert summary.facts["rejected_listed_in"] == f"{tmp_path}/out/quarantine"
    (listed,) = (tmp_path / "out" / "quarantine").iterdir()
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    assert [entry["reason"] for entry in entries] == ["invalid UTF-8", "not JSON", "no text", "invalid UTF-8"]
    data = (tmp_path / "in" / "a").read_bytes()
    for entry in entries:
        line = data[entry["offset"] :].split(b"\n", 1)[0]
        assert hashlib.sha256(line).hexdigest() == entry["sha256"]
        assert entry["path"] == f"{tmp_path}/in/a"
    assert any(b"SECRET" in content for content in snapshot(tmp_path).values()) == with_text


@pytest.mark.usefixtures("small_and_here")
def test_input_of_which_nothing_can_be_used_says_so_before_anything_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(InputError, match="holds no usable file: found 0 files"):
        run(tmp_path)
    (folder / "zero").write_bytes(b"")
    with pytest.raises(InputError, match="holds only empty files"):
        run(tmp_path)
    with pytest.raises(InputError, match=r"zero is empty \(0 bytes\)"):
        run(tmp_path, input=(f"{folder}/zero",))
    bad_input(folder, 300, 0)
    with pytest.raises(InputError, match=r"none of the first records of .* 34 invalid UTF-8, 33 not JSON, 33 no text"):
        run(tmp_path)
    (folder / "a").write_bytes(b'{"body": "Hello there."}\n' * 10)
    with pytest.raises(InputError, match=r"10 no text; .* with the text in 'text' \(--text-column\)"):
        run(tmp_path)
    assert not (tmp_path / "out").exists()
    run(tmp_path, text_column="body")


@pytest.mark.usefixtures("small_and_here")
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"not json", "holds no usable article .rejected: 30 not JSON"),
        (b'{"text": " "}', "the input's 30 articles hold no word"),
        (b'{"text": "!"}', "the input's 30 articles hold no word"),
    ],
)
@pytest.mark.parametrize("given", [False, True])
def test_input_without_words_is_an_error_at_the_end_too(tmp_path: Path, line: bytes, message: str, given: bool) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes((line + b"\n") * 30)
    vocabulary = ""
    if given:
        vocabulary = f"{tmp_path}/mine.parquet"
        vocabulary_of(["kara"]).save(vocabulary)
        if b"!" in line:
            pytest.skip("sentences without words are sentences")
    with pytest.raises(InputError, match=message):
        run(tmp_path, max_bad_fraction=1, vocabulary=vocabulary)


@pytest.mark.usefixtures("small_and_here")
def test_rows_can_be_sentences(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path, split="none")
    texts = source(tmp_path)
    assert by_article(rows_of(tmp_path)) == {id_: [text.strip()] for id_, text in texts.items()}


@pytest.mark.usefixtures("small_and_here")
def test_text_can_be_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path, text=False)
    assert "text" not in tokens_of(tmp_path).read_part(0).column_names
    assert tokens_of(tmp_path).num_rows > 500


@pytest.mark.usefixtures("small_and_here")
def test_an_output_inside_the_input_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    with pytest.raises(InputError, match="the input holds the output"):
        run(tmp_path, output=f"{tmp_path}/in/AA/out")
    assert not (tmp_path / "in" / "AA" / "out").exists()


@pytest.mark.usefixtures("small_and_here")
def test_input_and_output_may_lie_in_an_object_store(s3: str, tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    for file in storage.list_files(f"{tmp_path}/in"):
        storage.copy_file(file.path, f"{s3}/in/{file.path[len(str(tmp_path)) + 4 :]}")
    run(s3)
    assert rows_of(s3) == rows_of(tmp_path)
    assert run(s3).already_done
    storage.copy_file(f"{tmp_path}/in/docs.txt", f"{s3}/in/more.txt")
    run(s3)
    assert tokens_of(s3).num_rows > tokens_of(tmp_path).num_rows


def test_a_unit_is_read_no_further_than_the_part_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in"
    path.write_bytes(json_lines(0, 2000))
    read = 0
    real = make_article

    def counting(*arguments: Any) -> Any:
        nonlocal read
        read += 1
        return real(*arguments)

    monkeypatch.setattr("lstm_embed.corpus.readers.json_lines.make_article", counting)
    unit = Unit(0, (Span.whole(storage.info(str(path))),))
    parts = tasks.read_parts(unit, config(tmp_path, part_rows=100))
    for number, _, _ in itertools.islice(parts, 5):
        assert read <= (number + 2) * 100


def test_chunks_and_parts_end_by_bytes_where_rows_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "_CHUNK_CHARS", 5000)
    monkeypatch.setattr(sentences, "_PART_BYTES", 20_000)
    path = tmp_path / "in"
    path.write_bytes(b"".join(json.dumps({"text": f"{n} " + "x" * 1000}).encode() + b"\n" for n in range(100)))
    reader = UnitReader([Span.whole(storage.info(str(path)))], TextConfig(split="none"))
    parts = [chunk for chunk, _ in part_chunks(reader.chunks(), 1000)]
    assert sum(chunk.table.num_rows for chunk in parts) == 100
    assert max(chunk.table["text"].nbytes for chunk in parts) < 21_000
    assert len(parts) < 10


@pytest.mark.usefixtures("small_and_here")
def test_a_file_that_is_lost_weighs_its_bytes_and_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.jsonl").write_bytes(json_lines(0, 200))
    lost = json_lines(300, 100).decode().encode("utf-16")
    (folder / "export.json").write_bytes(lost)
    with pytest.raises(
        TooMuchRejected, match=rf"1 of 201 records were rejected .* with {len(lost):,} of .*export.json: UTF"
    ):
        run(tmp_path)
    summary = run(tmp_path, max_bad_fraction=0.9)
    assert summary.facts["files_rejected"].startswith(f"1 ({folder}/export.json: UTF-16 text (convert it")
    assert summary.facts["rejected_bytes"] == len(lost)
    (folder / "export.json").write_bytes(b"[" + json_lines(300, 100).strip().replace(b"\n", b",") + b"]")
    assert run(tmp_path).facts["articles"] == 300


@pytest.mark.usefixtures("small_and_here")
def test_characters_that_were_replaced_are_counted(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(json_lines(0, 20) + b'{"id": "x", "text": "A\\u0000b \\ud83d c."}\n')
    assert run(tmp_path).facts["characters_replaced"] == 2
    assert by_article(rows_of(tmp_path))["x"] == ["A\ufffdb \ufffd c."]


@pytest.mark.usefixtures("small_and_here")
def test_files_passed_over_are_told(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    (tmp_path / "in" / "table.csv").write_text("a,b\n")
    assert run(tmp_path).facts["files_passed_over_for_their_names"] == f"1 (such as {tmp_path}/in/table.csv)"
