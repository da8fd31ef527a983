"""What a vector is made of, each part computed here once more."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from model_help import (
    COUNTS,
    NUM_WORDS,
    SENTENCES,
    SMALL,
    VECTORS,
    WORDS,
    batch_of,
    gradients,
    keras_lstm,
    keras_weights,
    make_model,
    padded,
)

from lstm_embed.base.errors import InputError
from lstm_embed.model.config import EMBEDDINGS, ModelConfig
from lstm_embed.model.positions import frequencies
from lstm_embed.model.sentence_model import SentenceModel
from lstm_embed.model.spelling import spelling_sums

P = COUNTS / COUNTS.sum()


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-30)


def parts_of(model: SentenceModel, sentence: list[int]) -> dict[str, np.ndarray]:
    """Return the parts of a sentence's vector."""
    units = 3.0 * VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    grams = spelling_sums(WORDS, 16).astype(np.float64)
    word_sum = np.sum([5e-3 / (5e-3 + P[word]) * units[word] for word in sentence], axis=0)
    spelling = np.sum([3e-4 / (3e-4 + P[word]) * unit(grams[word]) for word in sentence], axis=0)
    inputs = units[sentence]
    forward = keras_lstm(inputs, *keras_weights(model.order.forward_lstm))
    backward = keras_lstm(inputs[::-1], *keras_weights(model.order.backward_lstm))
    dense, bias = (p.detach().double().numpy() for p in model.order.to_code.parameters())
    code = dense @ np.concatenate([forward[-1], backward[-1]]) + bias
    angles = 2 * np.pi * model.phases.numpy()[sentence] / 256 + np.arange(len(sentence))[:, None] * frequencies(16)
    waves = np.exp(1j * angles).sum(0)
    positions = np.concatenate([waves.real, waves.imag])
    return {
        "meaning": np.concatenate([unit(word_sum), unit(spelling)]) @ model.neighbours.double().numpy(),
        "order": code / np.sqrt(code @ code + np.sum(dense**2) / 4),
        "lengths": 0.005 * np.log1p([np.linalg.norm(word_sum), np.linalg.norm(spelling)]),
        "positions": 0.04 * unit(positions),
        "length of positions": 0.005 * np.log1p([np.linalg.norm(positions)]),
    }


@pytest.mark.parametrize("order_share", [0.2, 1.0])
def test_a_vector_is_put_together_of_its_parts(order_share: float) -> None:
    model = make_model(dataclasses.replace(SMALL, order_share=order_share), move=0.3)
    parts = [parts_of(model, sentence) for sentence in SENTENCES]
    joined = [np.concatenate([one["meaning"], order_share * 2**0.5 * one["order"], one["lengths"]]) for one in parts]
    expected = {
        "meaning": [one["meaning"] for one in parts],
        "joined": joined,
        "exact": [
            np.concatenate([first, one["positions"], one["length of positions"]])
            for first, one in zip(joined, parts, strict=True)
        ],
        "order": [one["order"] for one in parts],
    }
    for embedding in EMBEDDINGS:
        found = model.embed(*padded(SENTENCES), embedding).detach()
        assert found.shape == (len(SENTENCES), model.embedding_dimension(embedding))
        np.testing.assert_allclose(found, expected[embedding], atol=2e-6)
    assert [model.embedding_dimension(e) for e in EMBEDDINGS] == [8 + 16, 8 + 16 + 12 + 2, 38 + 16 + 1, 12]
    assert torch.equal(model.embed(*padded(SENTENCES)), model.embed(*padded(SENTENCES), "joined"))


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_what_stands_behind_a_sentences_length_is_not_read(embedding: str) -> None:
    model = make_model(move=0.3)
    ids, lengths = padded(SENTENCES, width=12)
    beyond = np.where(np.arange(12) < lengths[:, None], ids, 17)
    assert torch.equal(model.embed(ids, lengths, embedding), model.embed(beyond, lengths, embedding))
    assert torch.equal(model.embed(ids, lengths, embedding), model.embed(*padded(SENTENCES), embedding))


@pytest.mark.parametrize("spelling_size", [0, 16])
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_a_sentence_without_words_is_a_zero_vector(embedding: str, spelling_size: int) -> None:
    model = make_model(dataclasses.replace(SMALL, spelling_size=spelling_size), move=0.3)
    vectors = model.embed(*padded([[], [1, 3], [5]]), embedding)
    assert torch.equal(vectors[:1], torch.zeros(1, model.embedding_dimension(embedding)))
    assert torch.isfinite(vectors).all()
    assert (vectors[1:].norm(dim=1) > 0).all()
    assert torch.equal(model.embed(*padded([[]]), embedding), torch.zeros(1, model.embedding_dimension(embedding)))


def test_lengths_and_positions_change_no_cosine_by_more_than_a_few_thousandths() -> None:
    model = make_model(move=0.3)
    rng = np.random.default_rng(0)
    sentences = [rng.integers(1, NUM_WORDS, rng.integers(1, 20)).tolist() for _ in range(200)]
    sentences += [sentence[::-1] for sentence in sentences[:40]] + [sentence * 3 for sentence in sentences[:40]]

    def cosines(vectors: np.ndarray) -> np.ndarray:
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return units @ units.T

    joined, exact = (model.embed(*padded(sentences), e).detach().double().numpy() for e in ("joined", "exact"))
    without_lengths = np.delete(joined, [joined.shape[1] - 2, joined.shape[1] - 1], axis=1)
    assert np.abs(cosines(exact) - cosines(joined)).max() < 0.005
    assert np.abs(cosines(joined) - cosines(without_lengths)).max() < 0.005


def test_meaning_asks_for_no_lstm(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(move=0.3)
    monkeypatch.setattr(model.order, "code", None)
    monkeypatch.setattr(model.order, "project", None)
    assert model.embed(*padded(SENTENCES), "meaning").any()
    assert model.look_up(torch.arange(5), "meaning", project=True).projected is None


# How a model begins


def test_word_vectors_have_one_length_and_words_without_one_stay_without() -> None:
    vectors = VECTORS * np.linspace(1, 9, NUM_WORDS, dtype=np.float32)[:, None]
    vectors[7] = 0  # a word whose vector an imported file did not have
    made = SentenceModel.start(SMALL, vectors, COUNTS, WORDS).word_vectors.numpy()
    assert not made[[0, 7]].any()
    rows = [row for row in range(1, NUM_WORDS) if row != 7]
    units = vectors[rows] / np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(made[rows], 3 * units, atol=1e-6)


def test_pieces_that_are_written_alike_have_like_spelling() -> None:
    pieces = ["▁walk", "▁walked", "▁talk", "▁sea", "a", "", "▁氣候變化", "▁氣候", "x" * 500, "alk", "<0x41>", "<0x42>"]
    sums = spelling_sums(pieces, 512).astype(np.float64)
    assert np.array_equal(sums[:2], spelling_sums(pieces[:2], 512))
    units = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1)
    near = units @ units.T
    # Of the n-grams ▁wa wal alk ▁wal walk the piece ▁walked has all of its nine, ▁talk has alk.
    assert near[0, 1] > 0.6 > near[0, 2] > 0.1 > abs(near[0, 3])
    # What is inside a word is part of it; a beginning is not an inside.
    assert near[0, 9] > 0.25
    assert near[6, 7] > 0.35
    assert np.abs(sums[8]).max() == 127  # not wrapped around
    # Short pieces and bytes stand for themselves: bytes that are not the same have nothing in common.
    assert near[4, 4] > 0.9
    assert abs(near[10, 11]) < 0.15
    assert spelling_sums([], 16).shape == (0, 16)
    # As it was when models were made with it: their exports and their next versions must read pieces the same way.
    assert spelling_sums(["▁walk"], 16)[0].tolist() == [1, 1, 3, -1, -3, 1, -1, 3, -1, 5, -1, -1, -3, -3, 1, -3]


def test_the_spelling_of_hangul_is_that_of_its_letters() -> None:
    # One syllable more closed than the other: most letters are the same, no syllable is.
    sums = spelling_sums(["▁가나다", "▁각낙닥", "▁소리"], 512).astype(np.float64)
    units = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    assert units[0] @ units[1] > 0.1 > abs(units[0] @ units[2])


def test_the_seed_decides_the_start_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = make_model(seed=1), make_model(seed=1), make_model(seed=2)
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.order.forward_lstm.weights[0], other.order.forward_lstm.weights[0])


@pytest.mark.parametrize(
    ("vectors", "counts", "words", "message"),
    [
        (VECTORS, COUNTS[1:], WORDS, r"shape \(40, 8\), 39 counts and 40 words"),
        (VECTORS, COUNTS, WORDS[1:], "39 words"),
        (VECTORS[:1], COUNTS[:1], WORDS[:1], "at least 2 ids"),
        (VECTORS[0], COUNTS, WORDS, r"shape \(8,\)"),
    ],
)
def test_vectors_counts_and_words_that_are_not_one_for_each_id_are_refused(
    vectors: Any, counts: Any, words: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        SentenceModel.start(SMALL, vectors, counts, words)


# Gradients


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_gradients_flow_from_a_vector_into_the_encoder_of_the_order_alone(embedding: str) -> None:
    model = make_model(move=0.1)
    found = model.embed(*padded([[], *SENTENCES]), embedding)
    if embedding == "meaning":
        assert not found.requires_grad
        return
    found.square().mul(torch.arange(found.shape[1])).sum().backward()
    trained = {
        name
        for name, p in model.named_parameters()
        if p.requires_grad and not name.startswith(("order.decoder", "order.key"))
    }
    assert {name for name, gradient in gradients(model).items() if gradient.any()} == trained
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


def test_gradients_stay_finite_with_empty_sentences_and_sentences_of_one_word() -> None:
    model = make_model(move=0.1)
    losses = model(batch_of([[], [1], [5], [3, 4], [2], [1, 1, 6]]))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())


def test_the_same_batch_gives_the_same_bits() -> None:
    found = []
    for _ in range(2):
        model = make_model(ModelConfig(hidden_size=20), move=0.2)
        losses = model(batch_of())
        losses.total.backward()
        found.append((losses.total, gradients(model)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())
