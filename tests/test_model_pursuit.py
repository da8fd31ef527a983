from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.model.dictionary import Dictionary
from lstm_embed.model.leanings import find_leanings
from lstm_embed.model.pursuit import Bag, find_words

WORDS = 400
COUNTS = np.concatenate([[0], 20_000 / np.arange(1, WORDS)]).astype(np.int64)
WITHOUT_VECTOR = 17


@cache
def parts() -> tuple[np.ndarray, np.ndarray]:
    """Return words and spelling: frequent words short in both, 6 and 7 almost the same, rows without a word zero."""
    rng = np.random.default_rng(0)
    words, spelling = rng.normal(size=(WORDS, 60)), rng.normal(size=(WORDS, 50))
    words[7] = words[6] + 0.1 * rng.normal(size=60)
    spelling[7] = spelling[6] + 0.3 * rng.normal(size=50)
    p = COUNTS / COUNTS.sum()
    for part, length, constant in ((words, 3.0, 5e-3), (spelling, 1.0, 3e-4)):
        part *= length / np.linalg.norm(part, axis=1, keepdims=True) * (constant / (constant + p))[:, None]
        part[[0, WITHOUT_VECTOR]] = 0.0
    return words.astype(np.float32), spelling.astype(np.float32)


@cache
def dictionary() -> Dictionary:
    return Dictionary(*parts(), COUNTS, block=64)


def find(words: np.ndarray, spelling: np.ndarray) -> list[Bag]:
    return find_words(dictionary(), words, spelling, most_words=64)


def sums(sentences: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    words, spelling = parts()
    return (
        np.array([words[list(ids)].sum(0) for ids in sentences], np.float32).reshape(-1, 60),
        np.array([spelling[list(ids)].sum(0) for ids in sentences], np.float32).reshape(-1, 50),
    )


def rounded(part: np.ndarray) -> np.ndarray:
    """Return rows as a vector of fp16 has them: the direction, and the logarithm of the length."""
    lengths = np.linalg.norm(part, axis=1, keepdims=True)
    directions = (part / np.maximum(lengths, 1e-9)).astype(np.float16).astype(np.float32)
    return directions * np.expm1(np.log1p(lengths).astype(np.float16).astype(np.float32))


def as_counts(bag: Bag) -> dict[int, int]:
    return dict(zip(bag.ids.tolist(), bag.counts.tolist(), strict=True))


WORD = st.integers(1, WORDS - 1).filter(lambda word: word != WITHOUT_VECTOR)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORD, min_size=1, max_size=12), st.booleans())
def test_words_and_counts_come_back_from_rounded_sums(ids: list[int], half: bool) -> None:
    given = sums([ids])
    (bag,) = find(*(map(rounded, given) if half else given))
    assert as_counts(bag) == Counter(ids)
    assert bag.agrees
    assert bag.residual < (0.001 if half else 0.0001)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=64))
def test_frequent_words_are_counted_exactly(ids: list[int]) -> None:
    (bag,) = find(*map(rounded, sums([ids])))
    assert as_counts(bag) == Counter(ids)


def test_words_that_are_almost_the_same_are_told_apart() -> None:
    sentences = [[6, 40, 41], [7, 40, 41], [6, 7, 40], [7, 7, 90, 5, 2, 2]]
    bags = find(*map(rounded, sums(sentences)))
    assert [as_counts(bag) for bag in bags] == [Counter(ids) for ids in sentences]


def test_an_answer_depends_neither_on_the_batch_nor_on_the_run() -> None:
    rng = np.random.default_rng(1)
    sentences = [rng.integers(20, WORDS, n).tolist() for n in rng.integers(1, 12, 50)]
    words, spelling = map(rounded, sums(sentences))
    together = find(words, spelling)
    assert [as_counts(bag) for bag in together] == [Counter(ids) for ids in sentences]
    again = find(words, spelling)
    assert [bag.residual for bag in again] == [bag.residual for bag in together]
    in_sevens = [bag for start in range(0, 50, 7) for bag in find(words[start:][:7], spelling[start:][:7])]
    assert [as_counts(bag) for bag in in_sevens] == [as_counts(bag) for bag in together]


def test_a_zero_row_has_no_word_and_no_rows_have_no_answer() -> None:
    zeros = np.zeros((2, 60), np.float32), np.zeros((2, 50), np.float32)
    assert all(len(bag.ids) == 0 and not bag.agrees for bag in find(*zeros))
    assert [len(ids) for ids in find_leanings(dictionary(), *zeros)] == [0, 0]
    assert find(zeros[0][:0], zeros[1][:0]) == []
    assert find_leanings(dictionary(), zeros[0][:0], zeros[1][:0]) == []


@pytest.mark.parametrize("length", [1e-6, 1.0, 30.0, 1e20])
def test_noise_has_an_answer_that_does_not_agree(length: float) -> None:
    rng = np.random.default_rng(2)
    words, spelling = (length * rng.normal(size=(5, size)).astype(np.float32) for size in (60, 50))
    with np.errstate(over="ignore"):
        bags = find(words, spelling)
    assert not any(bag.agrees for bag in bags)
    assert all(set(bag.ids.tolist()) <= set(range(1, WORDS)) - {WITHOUT_VECTOR} for bag in bags)


def test_a_disturbed_sum_is_not_taken_for_a_sentence() -> None:
    words, spelling = sums([[20, 30, 40]])
    words[0] += 0.1 * np.random.default_rng(3).normal(size=60).astype(np.float32)
    (bag,) = find(words, spelling)
    assert not bag.agrees


def test_a_vector_without_length_leans_to_its_words() -> None:
    sentences = [[100, 120, 140], [200, 220]]
    words, spelling = sums(sentences)
    found = find_leanings(dictionary(), 7.0 * words, 0.01 * spelling)
    assert [sorted(ids.tolist()) for ids in found] == sentences
    mean = find_leanings(dictionary(), words.mean(0, keepdims=True), spelling.mean(0, keepdims=True))[0]
    assert set(mean.tolist()) == {100, 120, 140, 200, 220}


def test_noise_leans_to_a_few_words() -> None:
    rng = np.random.default_rng(4)
    noise = rng.normal(size=(3, 60)).astype(np.float32), rng.normal(size=(3, 50)).astype(np.float32)
    found = find_leanings(dictionary(), *noise)
    assert all(1 <= len(ids) <= 16 and len(set(ids.tolist())) == len(ids) for ids in found)


@pytest.mark.parametrize("first", [0, 30])
@pytest.mark.parametrize("most", [1, 20, 64, 100, 1000])
def test_the_likeliest_words_are_those_of_the_best_scores(most: int, first: int) -> None:
    scores = np.random.default_rng(5).integers(0, 200, (7, len(dictionary().table_VE))).astype(np.float32)
    found = dictionary().likeliest(lambda block: scores[:, block], 7, most, first=first)
    wanted = first + np.argsort(-scores[:, first:], axis=1, kind="stable")[:, :most]
    assert np.array_equal(found, wanted)
