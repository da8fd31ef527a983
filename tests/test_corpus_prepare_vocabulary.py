"""The vocabulary that preparing a corpus learns, is given, keeps and rebuilds."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from prepare_help import (
    Killed,
    check_ids,
    die_at,
    fill,
    json_lines,
    rows_of,
    run,
    tokens_of,
)
from synthetic import vocabulary_of

from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.progress import Summary
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, Vocabulary


def test_a_second_vocabulary_in_the_same_workers_is_not_taken_for_the_first(tmp_path: Path, ray_cluster: None) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    run(tmp_path, num_pieces=512, whole_word_count=3, rebuild_vocabulary=True)
    check_ids(tmp_path)


def counts_of_ids(tmp_path: Path) -> list[int]:
    """Return how often each id is in the parts."""
    ids = np.concatenate([row["ids"] for row in rows_of(tmp_path)]).astype(np.int64)
    return np.bincount(ids, minlength=len(tokens_of(tmp_path).vocabulary)).tolist()


@pytest.mark.usefixtures("small_and_here")
def test_the_vocabulary_is_learned_from_all_words_and_counts_what_is_in_the_parts(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    counted = Counter(word for row in rows_of(tmp_path) for word in tokenize([row["text"]]).to_pylist()[0])
    words = sorted(counted, key=str.encode)
    vocabulary = tokens_of(tmp_path).vocabulary
    expected = Vocabulary.learn(words, np.array([counted[word] for word in words]), num_pieces=700)
    assert vocabulary.fingerprint == expected.fingerprint
    assert vocabulary.counts.tolist() == counts_of_ids(tmp_path)
    assert vocabulary.counts.sum() == tokens_of(tmp_path).num_tokens
    assert vocabulary.counts[0] == 0


@pytest.mark.usefixtures("small_and_here")
def test_words_that_are_frequent_enough_stay_whole(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    counted = Counter(word for row in rows_of(tmp_path) for word in tokenize([row["text"]]).to_pylist()[0])
    occurrences = sorted(counted.values())
    least = occurrences[len(occurrences) // 2]
    run(tmp_path, whole_word_count=least, rebuild_vocabulary=True)
    vocabulary = tokens_of(tmp_path).vocabulary
    frequent = {word for word, count in counted.items() if count >= least}
    assert 10 < len(frequent) < len(counted)
    assert all(vocabulary.id(f"▁{word}") for word in frequent)
    for row in rows_of(tmp_path):
        words = vocabulary.words(row["ids"])
        whole = [vocabulary.id(f"▁{word}") for word in words if word in frequent]
        assert [number for number in row["ids"] if number in set(whole)] == whole
    check_ids(tmp_path)
    assert run(tmp_path, whole_word_count=least).already_done
    with pytest.raises(FingerprintMismatch, match=rf"is frozen: whole_word_count was {least} and is now 0"):
        run(tmp_path)


@pytest.mark.usefixtures("small_and_here")
def test_the_vocabulary_is_frozen_until_it_is_rebuilt(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    before = tokens_of(tmp_path).vocabulary.fingerprint
    with pytest.raises(FingerprintMismatch, match=r"is frozen: num_pieces was 700 and is now 800; .* --rebuild-voc"):
        run(tmp_path, num_pieces=800)
    new = json.dumps({"id": "n", "text": "Φόξος " * 40}).encode() + b"\n"
    (tmp_path / "in" / "new").write_bytes(new)
    run(tmp_path)
    assert tokens_of(tmp_path).vocabulary.fingerprint == before
    (before_ids,) = [row["ids"] for row in rows_of(tmp_path) if row["article_id"] == "n"]
    check_ids(tmp_path)

    run(tmp_path, rebuild_vocabulary=True)
    vocabulary = tokens_of(tmp_path).vocabulary
    (ids,) = [row["ids"] for row in rows_of(tmp_path) if row["article_id"] == "n"]
    # Letters that were bytes are pieces now.
    assert min(ids) >= FIRST_LEARNED > min(before_ids)
    assert len(ids) < len(before_ids)
    assert run(tmp_path, rebuild_vocabulary=True).already_done

    path = str(tmp_path / "out" / "vocabulary.parquet")
    other = Vocabulary(vocabulary.piece_array, vocabulary.counts + 1, vocabulary.scores)
    other.save(path, Vocabulary.read_made(path))
    with pytest.raises(
        InputError, match=r"is not the vocabulary that the folder's manifest.json tells of; .*--rebuild-voc"
    ):
        run(tmp_path)
    run(tmp_path, rebuild_vocabulary=True)
    assert tokens_of(tmp_path).vocabulary.fingerprint == vocabulary.fingerprint
    assert run(tmp_path).already_done
    run(tmp_path, rebuild_vocabulary=True, whole_word_count=3)
    larger = tokens_of(tmp_path).vocabulary
    assert [row["ids"] for row in rows_of(tmp_path) if row["article_id"] == "n"] == [[larger.id("▁φοξοσ")] * 40]
    assert len(larger) > len(vocabulary)
    check_ids(tmp_path)


@pytest.mark.usefixtures("small_and_here")
def test_a_rebuild_that_is_killed_is_taken_up(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    run(tmp_path)
    (tmp_path / "in" / "new").write_bytes(json_lines(700, 20))
    run(tmp_path)
    run(tmp_path / "..", input=(f"{tmp_path}/in",), output=f"{tmp_path}/other/out", rebuild_vocabulary=True)
    expected = tokens_of(tmp_path / "other")
    for step in range(5, 120, 15):
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, step)
            with contextlib.suppress(Killed):
                run(tmp_path, rebuild_vocabulary=True)
    run(tmp_path, rebuild_vocabulary=True)
    assert tokens_of(tmp_path).vocabulary.fingerprint == expected.vocabulary.fingerprint
    check_ids(tmp_path)


@pytest.mark.usefixtures("small_and_here")
def test_a_vocabulary_can_be_given(tmp_path: Path) -> None:
    fill(tmp_path / "in")
    mine, other = vocabulary_of(["kara", "лоне"], [7, 1]), vocabulary_of(["mira"], [7])
    mine.save(f"{tmp_path}/mine.parquet")
    run(tmp_path, vocabulary=f"{tmp_path}/mine.parquet")
    assert tokens_of(tmp_path).vocabulary.fingerprint == mine.fingerprint
    check_ids(tmp_path)
    assert run(tmp_path, vocabulary=f"{tmp_path}/mine.parquet").already_done
    assert run(tmp_path, num_pieces=900, whole_word_count=3).already_done  # it was not learned here
    other.save(f"{tmp_path}/other/vocabulary.parquet")
    with pytest.raises(InputError, match=r"has another vocabulary than .*/other/vocabulary.parquet"):
        run(tmp_path, vocabulary=f"{tmp_path}/other")
    run(tmp_path, vocabulary=f"{tmp_path}/other", rebuild_vocabulary=True)
    assert tokens_of(tmp_path).vocabulary.fingerprint == other.fingerprint
    check_ids(tmp_path)
    with pytest.raises(FileNotFoundError):
        run(tmp_path, vocabulary=f"{tmp_path}/nothing.parquet")
    with pytest.raises(InputError, match="cannot be used: its columns are"):
        run(tmp_path, vocabulary=f"{tmp_path}/in/rows.parquet")
    pq.write_table(pa.table({"word": ["<pad>", "<unk>", "kara"], "count": [0, 3, 7]}), tmp_path / "old.parquet")
    with pytest.raises(
        InputError,
        match=r"old.parquet cannot be used: it is a vocabulary of whole words, as lstm_embed 0\.2",
    ):
        run(tmp_path, vocabulary=f"{tmp_path}/old.parquet")


@pytest.mark.usefixtures("small_and_here")
@pytest.mark.parametrize("given", [False, True])
def test_sentences_are_cut_off_at_pieces_and_counted_the_first_time_and_later(tmp_path: Path, given: bool) -> None:
    (tmp_path / "in").mkdir()
    long = "Kara лоне kara xyz. " + "Kara " * 9 + "."
    texts = ["Kara лоне.", "Kara kara kara kara.", long, "Kara kara kara kara kara.", "!"]
    (tmp_path / "in" / "a").write_text("".join(json.dumps({"id": n, "text": t}) + "\n" for n, t in enumerate(texts)))
    options: dict[str, Any] = {"max_tokens": 4, "drop_repeated": False}
    if given:
        # Words that it lacks are bytes: лоне is the mark of a word's begin and eight of them.
        vocabulary_of(["kara"]).save(f"{tmp_path}/mine.parquet")
        options["vocabulary"] = f"{tmp_path}/mine.parquet"
    summary = run(tmp_path, **options)
    check_cut_off(tmp_path, summary, 4)
    # New input goes straight to its final parts.
    (tmp_path / "in" / "b").write_text(json.dumps({"id": "new", "text": long}) + "\n")
    check_cut_off(tmp_path, run(tmp_path, **options), 4)


def check_cut_off(tmp_path: Path, summary: Summary, most: int) -> None:
    vocabulary, rows = tokens_of(tmp_path).vocabulary, rows_of(tmp_path)
    whole = vocabulary.id_lists(tokenize([row["text"] for row in rows])).to_pylist()
    assert [row["ids"] for row in rows] == [ids[:most] for ids in whole]
    assert 0 < summary.facts["sentences_cut"] == sum(len(ids) > most for ids in whole) < len(rows)
    assert summary.facts["tokens"] == tokens_of(tmp_path).num_tokens == sum(len(row["ids"]) for row in rows)
    assert summary.facts["sentences_without_tokens"] == sum(not ids for ids in whole) == 1
