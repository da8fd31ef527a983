"""Small models of both recipes, sentences they read, and two more ways to compute their LSTMs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lstm_embed.model.batch import Batch, collate
from lstm_embed.model.config import AnyConfig, ModelConfig, OriginalConfig
from lstm_embed.model.lstm import Lstm
from lstm_embed.model.recipes import Model, class_of

NUM_WORDS, WORD_SIZE = 40, 8
COUNTS = np.concatenate([[0], 1000 // np.arange(1, NUM_WORDS)])
VECTORS = np.random.default_rng(0).normal(size=(NUM_WORDS, WORD_SIZE)).astype(np.float32)
WORDS = ["<pad>", *(f"▁{stem}{end}" for stem in ("walk", "tea", "r", "öl", "中") for end in ("", "s", "ed"))]
WORDS += [f"▁w{number}" for number in range(NUM_WORDS - len(WORDS))]
# Constants as they are computed with here once more, whatever the defaults are.
SMALL = ModelConfig(
    hidden_size=5,
    order_size=12,
    decoder_hidden_size=7,
    position_size=16,
    spelling_size=16,
    word_constant=5e-3,
    spelling_constant=3e-4,
    neighbour_strength=2.0,
)
SMALL_ORIGINAL = OriginalConfig(hidden_size=6, max_tokens=9)
SENTENCES = [[3, 5, 7, 9, 2], [4, 6, 2], [30, 2, 8, 1, 6, 5, 11, 2, 2], [12], [13, 14, 13, 2], [2, 16, 17, 18]]
"""Of all lengths, with repeated words."""


def make_model(config: AnyConfig = SMALL, seed: int = 0, move: float = 0.0) -> Any:
    """Make a small model; `move` adds noise to all trained weights and, to the model's `neighbours`, some symmetric matrix."""
    start: Any = class_of(config).start
    model: Model = start(config, VECTORS, COUNTS, WORDS, seed=seed)
    return moved(model, move) if move else model


def moved(model: Any, by: float) -> Any:
    """Return a model after what training might have done to it: other weights, another metric of the meaning."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=generator))
        if "neighbours" in model.kept_buffers:
            noise = torch.randn(model.neighbours.shape, generator=generator)
            model.neighbours.add_(by * (noise + noise.t()) / len(noise) ** 0.5 / 2)
    return model


def padded(sentences: Sequence[Sequence[int]], width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return ids padded on the right with 0, and lengths."""
    lengths = np.array([len(sentence) for sentence in sentences])
    ids = np.zeros((len(sentences), max(width, *lengths, 1)), np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = sentence
    return ids, lengths


def batch_of(sentences: Sequence[Sequence[int]] = SENTENCES, padded_length: int = 0) -> Batch:
    """Return a micro-batch as the loader makes it."""
    return collate(*padded(sentences), padded_length)


def orders(words: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the different orders of some words."""
    return sorted(set(itertools.permutations(words)))


@contextmanager
def library_lstm() -> Iterator[None]:
    """Compute with `nn.LSTM`, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lstm, "recurs", property(lambda self: False))
        yield


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients that there are, by name."""
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# The function of Keras' LSTM, step by step in numpy


def keras_lstm(inputs: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return all states of one sentence, (steps, units); the gates stand in the order i, f, c, o."""
    units = recurrent.shape[0]
    state, cell, states = np.zeros(units), np.zeros(units), []
    for x in inputs:
        i, f, c, o = np.split(x @ kernel + state @ recurrent + bias, 4)
        cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(c)
        state = _sigmoid(o) * np.tanh(cell)
        states.append(state)
    return np.array(states).reshape(len(inputs), units)


def keras_weights(lstm: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kernel, recurrent kernel and bias of one of our LSTMs, in double precision."""
    kernel, recurrent, bias, unused = (weight.detach().double().numpy() for weight in lstm.weights)
    assert not unused.any()
    return kernel.T, recurrent.T, bias


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))
