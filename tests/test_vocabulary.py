"""Vocabularies: exact counts in bounded memory, and ids that stay."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed import storage
from lstm_embed.corpus import counts
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.errors import InputError

words = st.text("abж'1", min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.lists(words, max_size=60), min_size=1, max_size=6),
    min_count=st.integers(1, 4),
    most=st.integers(0, 12),
    rows=st.integers(1, 30),
)
def test_counts_merged_from_parts_are_those_of_a_counter(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[str]], min_count: int, most: int, rows: int
) -> None:
    folder = str(tmp_path_factory.getbasetemp() / "counts")
    paths = []
    for number, part in enumerate(parts):
        ids, distinct, word_counts, sizes = counts.local_dictionary(pa.array(part, pa.string()))
        assert [distinct[int(i)].as_py() for i in ids] == part
        assert sum(sizes) == len(distinct) == len(set(part))
        paths.append(f"{folder}/{number}.parquet")
        counts.write_counts(paths[-1], distinct, word_counts, sizes)
        back = counts.read_counts(paths[-1])
        assert (back[0].equals(distinct), back[1].tolist(), back[2]) == (True, word_counts.tolist(), sizes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counts, "_MERGE_ROWS", rows)
        patch.setattr(counts, "_READERS", 2)
        config = PrepareConfig(input=("x",), output="y", min_count=min_count, max_vocabulary=most)
        merged = counts.merge_counts(paths, config)
    expected = Counter(word for part in parts for word in part)
    kept = sorted((-count, word.encode()) for word, count in expected.items() if count >= min_count)
    kept = kept[:most] if most else kept
    assert [word.encode() for word in merged.words[2:]] == [word for _, word in kept]
    assert merged.counts[2:].tolist() == [-count for count, _ in kept]
    assert merged.counts.sum() == sum(expected.values())
    direct = Vocabulary.from_counts(
        pa.array(list(expected), pa.string()),
        pa.array(list(expected.values()), pa.int64()),
        min_count=min_count,
        max_words=most,
    )
    assert direct.fingerprint == merged.fingerprint


def small() -> Vocabulary:
    return Vocabulary(["<pad>", "<unk>", "the", "cat", "жук"], [0, 5, 10, 4, 1])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["the", "cat", "жук", "dog", "<pad>x"]), max_size=6), max_size=6))
def test_ids_are_those_of_a_dictionary(sentences: list[list[str]]) -> None:
    index = {"the": 2, "cat": 3, "жук": 4}
    expected = [[index.get(word, 1) for word in sentence] for sentence in sentences]
    column = pa.array(sentences, pa.list_(pa.string()))
    assert small().id_lists(column).to_pylist() == expected
    assert small().id_lists(pa.array([["x"], *sentences], pa.list_(pa.string())).slice(1)).to_pylist() == expected
    flat = [word for sentence in sentences for word in sentence]
    assert small().ids(flat).tolist() == [i for ids in expected for i in ids]
    assert small().ids(flat).dtype == np.int32
    assert [small().id(word) for word in flat] == small().ids(flat).tolist()


def test_probabilities_leave_padding_out_and_sum_to_one() -> None:
    assert small().probabilities().tolist() == [0.0, 0.25, 0.5, 0.2, 0.05]
    assert Vocabulary(["<pad>", "<unk>"], [0, 0]).probabilities().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_a_saved_vocabulary_comes_back_the_same(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    folder = str(tmp_path) if place == "local" else request.getfixturevalue("s3")
    path = storage.join(folder, "vocabulary.parquet")
    small().save(path, {"min_count": 3})
    back = Vocabulary.load(path)
    assert (back.words, back.counts.tolist()) == (small().words, small().counts.tolist())
    assert back.fingerprint == small().fingerprint
    assert Vocabulary.read_made(path) == {"min_count": 3}
    small().save(path)
    assert Vocabulary.read_made(path) == {}


def test_the_fingerprint_knows_words_and_counts() -> None:
    assert Vocabulary(["<pad>", "<unk>", "the", "cat", "жук"], [0, 5, 10, 4, 2]).fingerprint != small().fingerprint
    assert Vocabulary(["<pad>", "<unk>", "the", "cat", "бук"], [0, 5, 10, 4, 1]).fingerprint != small().fingerprint


def test_files_that_are_no_vocabulary_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    tables = [
        {"word": ["a", "b"], "count": [1, 2]},
        {"word": ["<pad>", "<unk>", "a", "a"], "count": [0, 0, 1, 2]},
        {"word": ["<pad>", "<unk>", None], "count": [0, 0, 1]},
        {"term": ["<pad>", "<unk>"], "count": [0, 0]},
    ]
    for table in tables:
        pq.write_table(pa.table(table), path)
        with pytest.raises(InputError, match="vocabulary"):
            Vocabulary.load(str(path))
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"v.parquet is not a vocabulary"):
        Vocabulary.load(str(path))
    with pytest.raises(FileNotFoundError):
        Vocabulary.load(f"{tmp_path}/none.parquet")
