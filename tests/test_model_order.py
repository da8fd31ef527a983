"""The LSTM autoencoder of the order: its loss beside a slow one, its beam beside all orders there are."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_help import (
    NUM_WORDS,
    SENTENCES,
    SMALL,
    batch_of,
    gradients,
    keras_lstm,
    keras_weights,
    make_model,
    orders,
    padded,
)

from lstm_embed.model.order import OrderAutoencoder


def words_left(order: OrderAutoencoder, code: np.ndarray, vectors: np.ndarray, words: list[int]) -> list[Any]:
    """Return for each step of a sentence the words that are left with their probabilities, repeated ones as one."""
    key = vectors @ order.key.weight.detach().double().numpy().T
    inputs = [np.concatenate([before, code]) for before in (np.zeros(vectors.shape[1]), *vectors[words[:-1]])]
    states = keras_lstm(np.array(inputs), *keras_weights(order.decoder))
    found = []
    for step, state in enumerate(states):
        left = Counter(words[step:])
        scores = np.array([n * math.exp(state @ key[word]) for word, n in left.items()])
        found.append(dict(zip(left, scores / scores.sum(), strict=True)))
    return found


def codes_of(model: Any, sentences: list[list[int]]) -> np.ndarray:
    codes = model.embed(*padded(sentences), "order").detach().double().numpy()
    return codes / np.linalg.norm(codes, axis=1, keepdims=True).clip(1e-30) * SMALL.order_size**0.5


def test_the_loss_is_the_cross_entropy_over_the_words_that_are_left_repeated_ones_together() -> None:
    model = make_model(move=0.3)
    vectors = model.word_vectors.double().numpy()
    loss = right = 0.0
    for sentence, code in zip(SENTENCES, codes_of(model, SENTENCES), strict=True):
        for word, left in zip(sentence, words_left(model.order, code, vectors, sentence), strict=True):
            assert sum(left.values()) == pytest.approx(1)
            loss -= math.log(left[word])
            right += left[word] == max(left.values())
    batch = batch_of()
    assert batch.num_tokens == sum(map(len, SENTENCES))
    losses = model(batch)
    assert losses.total.item() == pytest.approx(loss / batch.num_tokens, rel=1e-5)
    assert losses.accuracy.item() == pytest.approx(right / batch.num_tokens)
    assert losses.words_in_place is None


def test_what_is_given_away_costs_nothing() -> None:
    model = make_model(move=0.3)
    assert model(batch_of([[5], [7, 7, 7]])).total.item() == pytest.approx(0, abs=1e-6)
    assert model(batch_of([[], []])).total.item() == 0


def test_gradients_are_the_finite_differences_of_the_loss() -> None:
    model = make_model(move=0.2).double()
    batch = batch_of()
    # Scores are single precision, so differences are taken over steps that it resolves.
    model(batch).total.backward()
    found = gradients(model)
    rng = np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        direction = torch.from_numpy(rng.choice([-1.0, 1.0], parameter.shape))
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(direction, alpha=sign * 1e-3)
                values.append(model(batch).total.item())
                parameter.add_(direction, alpha=-sign * 1e-3)
        expected = float((found[name] * direction).sum())
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(expected, rel=0.02, abs=2e-4), name


def test_micro_batches_in_one_pass_are_the_mean_of_single_passes_weighted_by_their_words() -> None:
    pieces = [SENTENCES, [[3, 4], [20, 21, 22], [], [24, 25, 7, 7, 7, 8, 9, 10]], [[31, 32], [33]], [[], []]]
    together, apart = make_model(move=0.2), make_model(move=0.2)
    losses = together(batch_of([sentence for piece in pieces for sentence in piece]))
    losses.total.backward()
    batches = [batch_of(piece) for piece in pieces]
    single = [apart(batch) for batch in batches]
    num_words = sum(batch.num_tokens for batch in batches)
    total = sum(one.total * batch.num_tokens for one, batch in zip(single, batches, strict=True)) / num_words
    total.backward()
    torch.testing.assert_close(losses.total, total, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients(together).items():
        torch.testing.assert_close(gradient, gradients(apart)[name], rtol=1e-3, atol=1e-6)
    right = sum(one.accuracy * batch.num_tokens for one, batch in zip(single, batches, strict=True)) / num_words
    torch.testing.assert_close(losses.accuracy, right)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_in_half_precision_stay_finite(dtype: torch.dtype) -> None:
    model = make_model(move=0.3)
    with torch.no_grad():
        # States and keys that half precision holds, and products that it does not.
        model.order.decoder.weights[2].add_(5.0)
        model.order.key.weight.copy_(1e4 * model.order.key.weight[:1])
    with torch.autocast("cpu", dtype):
        losses = model(batch_of())
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


# Putting words in order


def arrange(model: Any, code: np.ndarray, sentences: list[list[int]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each sentence `width` orders of its words, as words, and their log-probabilities."""
    lengths = np.array([len(sentence) for sentence in sentences])
    by_length = np.argsort(-lengths, kind="stable")
    ids, _ = padded([sorted(sentences[row]) for row in by_length])
    places, totals = model.order.arrange(
        torch.from_numpy(code[by_length]).float(),
        model.word_vectors[torch.from_numpy(ids)],
        torch.from_numpy(ids),
        torch.from_numpy(lengths[by_length]),
        width,
    )
    back = np.argsort(by_length)
    return np.take_along_axis(ids[:, None], places.numpy(), 2)[back], totals.numpy()[back]


@settings(max_examples=25, deadline=None)
@given(
    sentences=st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=5), min_size=1, max_size=4),
    seed=st.integers(0, 50),
)
def test_a_wide_beam_finds_all_orders_and_their_probabilities(sentences: list[list[int]], seed: int) -> None:
    model = make_model(dataclasses.replace(SMALL), seed=seed, move=0.5)
    vectors = model.word_vectors.double().numpy()
    codes = codes_of(model, sentences)
    # As many hypotheses as five words have orders: nothing is cut off.
    found, totals = arrange(model, codes, sentences, 120)
    for sentence, code, rows, logs in zip(sentences, codes, found, totals, strict=True):
        expected = {}
        for order in orders(sentence):
            steps = words_left(model.order, code, vectors, list(order))
            expected[order] = sum(math.log(left[word]) for word, left in zip(order, steps, strict=True))
        assert math.fsum(map(math.exp, expected.values())) == pytest.approx(1)
        likely = logs > -1e20
        assert {tuple(row[: len(sentence)]) for row in rows[likely]} == set(expected)
        assert likely.sum() == len(expected)
        assert (np.diff(logs[likely]) <= 1e-6).all()
        for row, log in zip(rows[likely], logs[likely], strict=True):
            assert log == pytest.approx(expected[tuple(row[: len(sentence)])], abs=1e-4)


def test_a_narrow_beam_returns_orders_of_the_words_and_a_wider_one_no_worse() -> None:
    model = make_model(move=0.5)
    rng = np.random.default_rng(0)
    sentences = [rng.integers(2, NUM_WORDS, length).tolist() for length in (12, 1, 7, 9, 2)]
    codes = codes_of(model, sentences)
    best = []
    for width in (1, 4, 16):
        found, totals = arrange(model, codes, sentences, width)
        assert found.shape[1] == width
        for sentence, rows, logs in zip(sentences, found, totals, strict=True):
            for row, log in zip(rows, logs, strict=True):
                if log > -1e20:
                    assert sorted(row[: len(sentence)]) == sorted(sentence)
        best.append(totals[:, 0])
    assert (np.diff(best, axis=0) > -1e-5).all()
    # Whoever is beside a sentence.
    for row, sentence in enumerate(sentences):
        alone, total = arrange(model, codes[row : row + 1], [sentence], 16)
        assert alone[0, 0].tolist() == found[row, 0, : len(sentence)].tolist()
        np.testing.assert_allclose(total[0], totals[row], rtol=1e-5)


def test_training_brings_the_words_back_into_their_places() -> None:
    model = make_model(dataclasses.replace(SMALL, hidden_size=16, order_size=24, decoder_hidden_size=24))
    batch = batch_of()
    before = model(batch, measure=True)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()
    after = model(batch, measure=True)
    assert after.total < 0.05 * before.total
    assert before.words_in_place < 0.9
    assert after.accuracy == after.words_in_place == 1.0


def test_words_in_place_are_counted_against_the_decoders_own_choice() -> None:
    model = make_model(move=0.5)
    found, _ = arrange(model, codes_of(model, SENTENCES), SENTENCES, 1)
    right = sum(int((row[0, : len(one)] == one).sum()) for one, row in zip(SENTENCES, found, strict=True))
    measured = model(batch_of(), measure=True).words_in_place
    assert measured.item() == pytest.approx(right / sum(map(len, SENTENCES)))
    assert 0.1 < measured < 0.9
