"""Vocabularies: counts in bounded memory, and ids that stay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import vocabulary_of

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus import counts
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.pieces import SPECIAL_PIECES
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, PAD, Vocabulary

words = st.text("abж'1", min_size=1, max_size=3)


def write_parts(folder: str, parts: Sequence[Sequence[str]]) -> list[str]:
    """Write the counts file of each part of a corpus; return their paths."""
    paths = []
    for number, part in enumerate(parts):
        ids, distinct, word_counts, sizes = counts.local_dictionary(pa.array(part, pa.string()))
        assert [distinct[int(i)].as_py() for i in ids] == list(part)
        assert sum(sizes) == len(distinct) == len(set(part))
        paths.append(f"{folder}/{number}.parquet")
        counts.write_counts(paths[-1], distinct, word_counts, sizes)
        back = counts.read_counts(paths[-1])
        assert (back[0].equals(distinct), back[1].tolist(), back[2]) == (True, word_counts.tolist(), sizes)
    return paths


@contextmanager
def learning_recorded() -> Iterator[list[tuple[dict[str, int], dict[str, Any]]]]:
    """Record what vocabularies are learned from: the words with their counts, and how."""
    found: list[tuple[dict[str, int], dict[str, Any]]] = []
    learn = Vocabulary.learn

    def recorded(given: Sequence[str], given_counts: np.ndarray, **how: Any) -> Vocabulary:
        found.append((dict(zip(given, given_counts.tolist(), strict=True)), how))
        return learn(given, given_counts, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Vocabulary, "learn", recorded)
        yield found


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.lists(words, max_size=60), min_size=1, max_size=6).filter(any),
    whole_word_count=st.integers(0, 4),
    rows=st.integers(1, 30),
)
def test_counts_merged_from_parts_are_those_of_a_counter(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]], whole_word_count: int, rows: int
) -> None:
    paths = write_parts(str(tmp_path_factory.getbasetemp() / "counts"), parts)
    config = PrepareConfig(input=("x",), output="y", num_pieces=600, whole_word_count=whole_word_count)
    with pytest.MonkeyPatch.context() as patch, learning_recorded() as recorded:
        patch.setattr(counts, "_MERGE_ROWS", rows)
        patch.setattr(counts, "_READERS", 2)
        merged = counts.merge_counts(paths, config)
    expected = Counter(word for part in parts for word in part)
    ((counted, how),) = recorded
    assert counted == expected
    assert list(counted) == sorted(counted, key=str.encode)
    frequent = {word for word, count in expected.items() if whole_word_count and count >= whole_word_count}
    assert how["num_pieces"] == 600
    assert set(how["whole"]) == frequent
    assert {merged.words(ids)[0] for ids in merged.id_lists(pa.array([[word] for word in expected])).to_pylist()} == {
        *expected
    }
    assert all(merged.id(f"▁{word}") for word in frequent)


# A corpus of more words than pieces are learned from


def long_tail(seed: int = 0) -> list[str]:
    """Return the words of a corpus in which a few are frequent and thousands occur once or twice."""
    rng = np.random.default_rng(seed)
    ranks = np.concatenate([rng.zipf(1.5, 20_000) % 30_000, 30_000 + rng.integers(0, 6000, 10_000)])
    return [f"w{rank}x" for rank in rng.permutation(ranks)]


def test_with_fewer_words_than_the_limit_all_are_taken_with_their_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = long_tail()
    expected = Counter(corpus)
    paths = write_parts(str(tmp_path), [corpus])
    config = PrepareConfig(input=("x",), output="y", num_pieces=512)
    for most in (len(expected), len(expected) + 1, 10 * len(expected)):
        monkeypatch.setattr(counts, "_MOST_WORDS", most)
        with learning_recorded() as recorded:
            counts.merge_counts(paths, config)
        assert recorded[0][0] == expected


def test_a_sample_of_the_words_stands_for_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = long_tail()
    expected = Counter(corpus)
    assert len(expected) > 5000
    parts = [corpus[::2], corpus[1::2]]
    monkeypatch.setattr(counts, "_MOST_WORDS", 1000)
    config = PrepareConfig(input=("x",), output="y", num_pieces=512, whole_word_count=3)
    with learning_recorded() as recorded:
        counts.merge_counts(write_parts(f"{tmp_path}/a", parts), config)
        # Which words are taken depends on nothing but the counts.
        counts.merge_counts(write_parts(f"{tmp_path}/b", [corpus[:7000], corpus[7000:7001], corpus[7001:]]), config)
    (estimated, how), (again, _) = recorded
    assert again == estimated
    assert len(estimated) == 1000
    assert sum(estimated.values()) == pytest.approx(len(corpus), rel=0.05)
    # No estimate is below the truth; those of frequent words are the truth.
    least = min(estimated.values())
    assert 1 < least < 100
    assert all(estimated[word] == max(expected[word], least) for word in estimated)
    assert all(estimated[word] == count for word, count in expected.items() if count >= least + 1)
    # The others stand for all rare words, those of any kind for as many as there are.
    rare = [word for word in estimated if expected[word] < least]
    assert len(rare) > 300
    odd = sum(count for word, count in expected.items() if word[-2] in "13579")
    assert sum(count for word, count in estimated.items() if word[-2] in "13579") == pytest.approx(odd, rel=0.15)
    # Whole words are counted without a sample.
    assert set(how["whole"]) == {word for word, count in expected.items() if count >= 3}


def small() -> Vocabulary:
    return vocabulary_of(["the", "cat", "жук"], [10, 4, 1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([*small().pieces, "dog", "", "▁the", "▁dog"]), max_size=12))
def test_ids_of_pieces_are_those_of_a_dictionary(pieces: list[str]) -> None:
    index = {piece: number for number, piece in enumerate(small().pieces)}
    expected = [index.get(piece, PAD) for piece in pieces]
    assert small().ids(pieces).tolist() == expected
    assert small().ids(pieces).dtype == np.int32
    assert [small().id(piece) for piece in pieces] == expected


def test_probabilities_leave_padding_out_and_sum_to_one() -> None:
    found = small().probabilities()
    assert found[FIRST_LEARNED : FIRST_LEARNED + 3].tolist() == [10 / 15, 4 / 15, 1 / 15]
    assert found.sum() == pytest.approx(1)
    given = Vocabulary(small().pieces, np.ones(len(small())), small().scores).probabilities()
    assert given[PAD] == 0
    assert given.sum() == pytest.approx(1)
    nothing = Vocabulary(SPECIAL_PIECES, [0] * 257, [0.0] * 257).probabilities()
    assert not nothing.any()


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_saved_vocabulary_comes_back_the_same(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = str(tmp_path) if place == "local" else request.getfixturevalue("s3")
    path = storage.join(folder, "vocabulary.parquet")
    small().save(path, {"num_pieces": 700})
    back = Vocabulary.load(path)
    assert (back.pieces, back.counts.tolist()) == (small().pieces, small().counts.tolist())
    assert np.array_equal(back.scores, small().scores)
    assert back.fingerprint == small().fingerprint
    assert Vocabulary.read_made(path) == {"num_pieces": 700}
    small().save(path)
    assert Vocabulary.read_made(path) == {}


def test_the_fingerprint_knows_pieces_counts_and_scores() -> None:
    assert vocabulary_of(["the", "cat", "жук"], [10, 4, 2]).fingerprint != small().fingerprint
    assert vocabulary_of(["the", "cat", "бук"], [10, 4, 1]).fingerprint != small().fingerprint
    scores = small().scores.copy()
    scores[-1] -= 1 / 64
    assert Vocabulary(small().pieces, small().counts, scores).fingerprint != small().fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pieces": small().pieces[:-1]}, "pieces, .* counts and .* scores; expected one of each"),
        ({"pieces": [*small().pieces[:-1], "▁the"]}, "missing or repeated pieces"),
        ({"pieces": pa.array([*small().pieces[:-1], None])}, "missing or repeated pieces"),
        ({"pieces": ["<unk>", *small().pieces[1:]]}, "begins with .*; expected padding and the 256 bytes"),
        ({"pieces": ["<pad>", "<unk>", *(f"{n}" for n in range(len(small()) - 2))]}, "expected padding and the 256"),
        ({"counts": small().counts - 1}, "counts or scores that are none"),
        ({"scores": np.where(np.arange(len(small())) == 260, np.nan, -1)}, "counts or scores that are none"),
    ],
)
def test_what_is_no_vocabulary_is_refused(change: dict[str, Any], message: str) -> None:
    right = {"pieces": small().pieces, "counts": small().counts, "scores": small().scores}
    Vocabulary(**right)
    with pytest.raises(InputError, match=message):
        Vocabulary(**{**right, **change})


def test_a_vocabulary_of_whole_words_is_refused_with_the_version_that_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"word": ["<pad>", "<unk>", "the"], "count": [0, 3, 9]}), path)
    with pytest.raises(
        InputError, match=r"v\.parquet cannot be used: it is a vocabulary of whole words, as lstm_embed 0\.2 makes them"
    ) as no:
        Vocabulary.load(str(path))
    assert "\n" not in str(no.value)


def test_files_that_are_no_vocabulary_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    full = {"piece": small().pieces, "count": small().counts, "score": small().scores}
    tables = [
        {"piece": ["a", "b"], "count": [1, 2], "score": [-1.0, -1.0]},
        {**full, "piece": [*small().pieces[:-1], "▁the"]},
        {**full, "piece": [*small().pieces[:-1], None]},
        {name: full[name] for name in ("piece", "count")},
        {"term": ["<pad>", "<unk>"], "count": [0, 0]},
    ]
    for table in tables:
        pq.write_table(pa.table(table), path)
        with pytest.raises(InputError, match=r"v\.parquet .*vocabulary"):
            Vocabulary.load(str(path))
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"v.parquet is not a vocabulary"):
        Vocabulary.load(str(path))
    with pytest.raises(FileNotFoundError):
        Vocabulary.load(f"{tmp_path}/none.parquet")
