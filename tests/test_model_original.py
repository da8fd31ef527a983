"""The preset `original`: the function and the loss of the Keras system, computed here once more."""

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
    SMALL_ORIGINAL,
    VECTORS,
    WORD_SIZE,
    WORDS,
    batch_of,
    keras_lstm,
    keras_weights,
    make_model,
    padded,
)
from synthetic import vocabulary_of

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.original import OriginalModel


def keras_system(model: Any, sentence: list[int], positions: int) -> tuple[np.ndarray, float]:
    """Return the code of a sentence and its mean squared error, all positions of the padded sentence counted."""
    vectors = np.where(np.arange(NUM_WORDS)[:, None] < 1, 0.0, VECTORS.astype(np.float64))
    inputs = np.zeros((positions, WORD_SIZE))
    inputs[positions - len(sentence) :] = vectors[sentence]
    forward = keras_lstm(inputs, *keras_weights(model.forward_lstm))
    backward = keras_lstm(inputs[::-1], *keras_weights(model.backward_lstm))
    code = np.concatenate([forward[-1], backward[-1]])
    decoded = keras_lstm(np.tile(code, (positions, 1)), *keras_weights(model.decoder))
    dense, bias = (p.detach().double().numpy() for p in model.output.parameters())
    return code, float(np.mean((np.tanh(decoded @ dense.T + bias) - inputs) ** 2))


@pytest.mark.parametrize("positions", [9, 64])
def test_original_computes_the_function_and_loss_of_the_keras_system(positions: int) -> None:
    model = make_model(dataclasses.replace(SMALL_ORIGINAL, max_tokens=positions), move=0.2)
    expected = [keras_system(model, sentence, positions) for sentence in SENTENCES]
    np.testing.assert_allclose(model.embed(*padded(SENTENCES)).detach(), [code for code, _ in expected], atol=1e-6)
    losses = model(batch_of(padded_length=positions))
    assert losses.total.item() == pytest.approx(np.mean([loss for _, loss in expected]), rel=1e-5)


def test_original_starts_like_keras_does() -> None:
    kernel, recurrent, bias = keras_weights(make_model(SMALL_ORIGINAL).forward_lstm)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(6), atol=1e-5)
    assert np.abs(kernel).max() <= np.sqrt(6 / (WORD_SIZE + 24))
    np.testing.assert_array_equal(bias, np.repeat([0.0, 1.0, 0.0, 0.0], 6))


def test_a_sentence_without_words_has_a_zero_code_and_no_loss() -> None:
    model = make_model(SMALL_ORIGINAL, move=0.3)
    codes = model.embed(*padded([[], [5]]))
    assert codes.any(1).tolist() == [False, True]
    with_empty = model(batch_of([[3, 4], []], padded_length=9)).total
    assert with_empty.item() == pytest.approx(model(batch_of([[3, 4]], padded_length=9)).total.item(), rel=1e-6)
    assert model(batch_of([[]], padded_length=9)).total.item() == 0


def test_original_learns_and_gives_words_back() -> None:
    vocabulary = vocabulary_of([word.removeprefix("▁") for word in WORDS[1:]], COUNTS[1:])
    vectors = np.zeros((len(vocabulary), WORD_SIZE), np.float32)
    vectors[FIRST_LEARNED : FIRST_LEARNED + NUM_WORDS - 1] = 0.3 * VECTORS[1:]  # what tanh can reach
    config = dataclasses.replace(SMALL_ORIGINAL, hidden_size=24)
    model = OriginalModel.start(config, vectors, vocabulary.counts, vocabulary.pieces)
    sentences = [[FIRST_LEARNED + n for n in ids] for ids in ([3, 5, 7, 9, 2], [4, 6, 2], [12], [13, 14, 13, 2])]
    batch = batch_of(sentences, padded_length=9)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(400):
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()
    encoder = SentenceEncoder(model, vocabulary, {"profile": "default"})
    codes = encoder.encode_ids(sentences)
    found = encoder.decode(np.concatenate([codes, np.zeros_like(codes[:1])]))
    assert [one.text for one in found] == [" ".join(vocabulary.words(ids)) for ids in (*sentences, [])]
    assert found[2].words == (WORDS[13].removeprefix("▁"),)
    # A learned decoder proves nothing.
    assert not any(one.proven for one in found)
    with pytest.raises(InputError, match="has 48 numbers"):
        encoder.decode(np.ones((2, 5)))
