from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.model.assignment import AGREES, find_orders
from lstm_embed.model.positions import frequencies, phases_of, rotated_sum

WORDS = ["<pad>", "▁", *(f"word{number}" for number in range(98)), "\ud800"]
SIZE = 256
PHASES, OMEGA = phases_of(WORDS, SIZE), frequencies(SIZE)


def sums(sentences: list[list[int]]) -> np.ndarray:
    position_TR = torch.zeros(max(map(len, sentences)), len(sentences), dtype=torch.long)
    for row, ids in enumerate(sentences):
        position_TR[: len(ids), row] = torch.tensor(ids)
    return rotated_sum(torch.from_numpy(PHASES), position_TR, OMEGA).numpy()


def rounded(sum_Rs: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(sum_Rs, axis=1, keepdims=True)
    directions = (sum_Rs / lengths).astype(np.float16).astype(np.float32)
    return directions * np.expm1(np.log1p(lengths).astype(np.float16).astype(np.float32))


def test_the_sum_is_that_of_the_formula() -> None:
    ids = [5, 2, 5, 77]
    words = np.exp(1j * (PHASES[ids] * (2.0 * np.pi / 256) + np.arange(4)[:, None] * OMEGA)).sum(0)
    np.testing.assert_allclose(sums([ids])[0], np.concatenate([words.real, words.imag]), atol=1e-5)


def test_a_sentence_has_the_same_bits_in_every_batch_and_whatever_padding_is_behind_it() -> None:
    rng = np.random.default_rng(0)
    sentences = [rng.integers(1, len(WORDS), n).tolist() for n in rng.integers(1, 65, 300)]
    together = sums(sentences)
    for row in (0, 7, 255, 256, 299):
        np.testing.assert_array_equal(sums([sentences[row]])[0], together[row])
    padding = [[*sentences[0], 0], [*sentences[1], *([0] * 70)]]
    np.testing.assert_array_equal(sums(padding), together[:2])
    assert not sums([[0, 0], [0, 0]]).any()


def test_phases_and_frequencies_are_fixed_by_the_words_and_by_nothing_else() -> None:
    assert PHASES.shape == (len(WORDS), SIZE // 2)
    assert not PHASES[0].any()
    assert PHASES[1:].any(1).all()
    np.testing.assert_array_equal(phases_of(["a", "b", "word3"], SIZE)[2], PHASES[5])
    assert PHASES[5, :4].tolist() == phases_of(["", "", "word3"], 8)[2].tolist()
    assert OMEGA.dtype == np.float64
    assert (OMEGA >= 0.0).all()
    assert (2 * np.pi > OMEGA).all()
    np.testing.assert_array_equal(frequencies(64), OMEGA[:32])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, len(WORDS) - 1), min_size=1, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_known_words_comes_back(ids: list[int], random: object) -> None:
    bag = ids.copy()
    random.shuffle(bag)  # type: ignore[attr-defined]
    (order,) = find_orders([np.array(bag)], rounded(sums([ids])), PHASES, OMEGA)
    assert order.ids.tolist() == ids
    assert order.residual < 0.001


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=48))
def test_words_that_are_repeated_often_come_back(ids: list[int]) -> None:
    (order,) = find_orders([np.array(ids)], rounded(sums([ids])), PHASES, OMEGA)
    assert order.ids.tolist() == ids


def test_long_sentences_come_back_and_the_rest_says_which() -> None:
    rng = np.random.default_rng(1)
    sentences = [rng.integers(1, len(WORDS), 60).tolist() for _ in range(20)]
    orders = find_orders([np.array(ids) for ids in sentences], rounded(sums(sentences)), PHASES, OMEGA)
    right = [order.ids.tolist() == ids for order, ids in zip(orders, sentences, strict=True)]
    assert sum(right) >= 18
    assert [order.residual < AGREES for order in orders] == right


def test_the_same_sum_has_the_same_answer_alone_and_among_others() -> None:
    rng = np.random.default_rng(2)
    bags = [rng.integers(1, len(WORDS), n) for n in (3, 64, 20, 1)]
    noise = rng.normal(size=(4, SIZE)).astype(np.float32)
    together = find_orders(bags, noise, PHASES, OMEGA, restarts=2)
    for row, bag in enumerate(bags):
        (alone,) = find_orders([bag[::-1]], noise[row : row + 1], PHASES, OMEGA, restarts=2)
        assert alone.ids.tolist() == together[row].ids.tolist()
        assert alone.residual == together[row].residual


@pytest.mark.parametrize("words", [[], [7], [7, 7, 8], list(range(2, 50))])
def test_noise_and_zeros_have_an_answer_that_does_not_agree(words: list[int]) -> None:
    noise = np.random.default_rng(3).normal(size=(1, SIZE)).astype(np.float32)
    for sum_Rs in (noise, 0.0 * noise):
        (order,) = find_orders([np.array(words, np.int64)], sum_Rs, PHASES, OMEGA, restarts=1)
        assert sorted(order.ids.tolist()) == words
        assert order.residual > 0.1 or (not words and not sum_Rs.any())
