"""The own recurrence beside torch's LSTM, and through both the same loss, gradients and vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_help import SENTENCES, SMALL, SMALL_ORIGINAL, batch_of, gradients, library_lstm, make_model, padded
from torch import Tensor

from lstm_embed.model.batch import running_rows
from lstm_embed.model.config import AnyConfig
from lstm_embed.model.lstm import Lstm


@pytest.mark.parametrize("lengths", [[5, 5, 3, 2, 1, 0], [1, 4, 0, 5, 2, 2], [1], [3, 3, 3]])
@pytest.mark.parametrize("kind", ["table", "constant", "both"])
def test_the_own_recurrence_equals_torch_in_values_and_gradients(lengths: list[int], kind: str) -> None:
    torch.manual_seed(0)
    rows, steps = len(lengths), max(lengths)
    table = torch.randn(9, 4, requires_grad=True)
    constant = torch.randn(rows, 3, requires_grad=True)
    read: dict[str, Any] = {}
    if kind != "constant":
        read |= {"table_UI": table, "position_TR": torch.randint(0, 9, (steps, rows))}
    if kind != "table":
        read |= {"constant_RI": constant}
    lstm = Lstm({"table": 4, "constant": 3, "both": 7}[kind], 5)
    inside = (torch.arange(steps)[:, None] < torch.tensor(lengths))[:, :, None]
    weights = torch.randn(steps, rows, 5)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        states = lstm(running_rows(np.array(lengths), steps), **read) * inside
        trained = [p for p in lstm.parameters() if p.requires_grad]
        used = [t for t in (table, constant) if any(t is value for value in read.values())]
        return states, torch.autograd.grad((states * weights).square().sum(), [*trained, *used])

    own, own_gradients = run()
    with library_lstm():
        library, library_gradients = run()
    torch.testing.assert_close(own, library, rtol=1e-5, atol=1e-6)
    for a, b in zip(own_gradients, library_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_running_rows_hold_all_unfinished_ones_at_each_step() -> None:
    assert running_rows(np.array([3, 3, 1, 2]), 3) == (4, 4, 2)
    assert running_rows(np.array([0, 0]), 1) == (2,)


@pytest.mark.parametrize("config", [SMALL, SMALL_ORIGINAL], ids=["small", "original"])
def test_a_gpu_path_through_nn_lstm_gives_the_same_loss_gradients_and_vectors(config: AnyConfig) -> None:
    def run() -> tuple[Tensor, dict[str, Tensor], Tensor]:
        model = make_model(config, move=0.1)
        losses = model(batch_of(padded_length=config.padded_length))
        losses.total.backward()
        return losses.total, gradients(model), model.embed(*padded(SENTENCES)).detach()

    own = run()
    with library_lstm():
        library = run()
    torch.testing.assert_close(own[0], library[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own[2], library[2], rtol=0, atol=2e-6)
    assert own[1].keys() == library[1].keys()
    for name, gradient in own[1].items():
        torch.testing.assert_close(gradient, library[1][name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("config", [SMALL, SMALL_ORIGINAL], ids=["small", "original"])
def test_training_in_bfloat16_stays_near_float32(config: AnyConfig) -> None:
    batch = batch_of(padded_length=config.padded_length)
    exact, rough = make_model(config, move=0.1), make_model(config, move=0.1)
    exact(batch).total.backward()
    with torch.autocast("cpu", torch.bfloat16):
        loss = rough(batch).total
    assert loss.dtype == torch.float32
    loss.backward()
    assert abs(loss.item() - exact(batch).total.item()) < 0.05
    for name, gradient in gradients(exact).items():
        if gradient.norm() > 1e-4:
            assert torch.cosine_similarity(gradient.flatten(), gradients(rough)[name].flatten(), dim=0) > 0.98, name
