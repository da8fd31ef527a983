"""The model on a GPU beside the same on a CPU, from vectors to a run that goes from one to the other. Skipped without a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_model_encoder import CONFIGS, make_encoder, make_sentences
from training_help import final_weights, make_config, make_run, write_data

from lstm_embed.training.run import Run, read_metrics
from lstm_embed.training.session import LocalSession
from lstm_embed.training.setup import Worker, set_up

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = "cuda"
SENTENCES = make_sentences(60)
CLOSE = {"fp32": 2e-5, "fp16": 1e-2, "bf16": 5e-2}
"""By how much a number of a vector may differ; the parts of a vector are about 1 long."""


@pytest.mark.parametrize("precision", CLOSE)
@pytest.mark.parametrize("name", CONFIGS)
def test_a_gpu_gives_the_vectors_of_a_cpu_whatever_is_beside_a_sentence(name: str, precision: str) -> None:
    expected = make_encoder(CONFIGS[name]).encode(SENTENCES)
    encoder = make_encoder(CONFIGS[name], device=GPU, precision=precision)
    np.testing.assert_allclose(encoder.encode(SENTENCES), expected, atol=CLOSE[precision])
    np.testing.assert_allclose(encoder.encode(SENTENCES, batch_size=1), expected, atol=CLOSE[precision])
    assert np.array_equal(encoder.encode(SENTENCES), encoder.encode(SENTENCES))


@pytest.mark.parametrize("name", ["joined", "exact", "original"])
def test_what_one_encoded_the_other_decodes(name: str) -> None:
    cpu, gpu = make_encoder(CONFIGS[name]), make_encoder(CONFIGS[name], device=GPU)
    vectors = cpu.encode(SENTENCES)
    expected = cpu.decode(vectors)
    for found in (gpu.decode(vectors), cpu.decode(gpu.encode(SENTENCES))):
        # Rounding may settle a tie.
        assert np.mean([one == other for one, other in zip(found, expected, strict=True)]) >= 0.95
    assert name != "exact" or any(made.proven for made in expected)


class Stopping(LocalSession):
    """A run in this process that is asked to stop after some steps."""

    def __init__(self, run: Run, device: str, after: int) -> None:
        super().__init__(run.path, device)
        self._left = after

    def wants_stop(self) -> bool:
        self._left -= 1
        return self._left < 0


def train(data: Path, folder: Path, *devices: str, precision: str = "fp32") -> tuple[Run, Worker]:
    """Train a run to its end, for some steps on each device in turn and on the last one to the end."""
    config = make_config(data, folder, epochs=8, log_steps=1, checkpoint_every="1000", precision=precision)
    run = make_run(config)
    for number, device in enumerate(devices, 1):
        after = 6 if number < len(devices) else run.end
        worker = set_up(config, run, Stopping(run, device, after))
        assert worker.loop.train() == (number == len(devices))
    return run, worker


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_gpu_trains_as_a_cpu_does(tmp_path: Path, precision: str) -> None:
    write_data(tmp_path)
    found, _ = train(tmp_path, tmp_path / "gpu", GPU, precision=precision)
    expected, _ = train(tmp_path, tmp_path / "cpu", "cpu")
    losses, same = ([row["train/loss"] for row in read_metrics(run.path)] for run in (found, expected))
    assert len(losses) == found.end
    # Rounding grows from step to step.
    np.testing.assert_allclose(losses[:3], same[:3], rtol=1e-2 if precision == "fp32" else 5e-2)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert np.mean(losses[-5:]) == pytest.approx(np.mean(same[-5:]), rel=0.1)


def test_a_run_goes_on_on_another_kind_of_device(tmp_path: Path) -> None:
    write_data(tmp_path)
    run, worker = train(tmp_path, tmp_path / "runs", GPU, "cpu", GPU)
    rows = read_metrics(run.path)
    assert [row["train/step"] for row in rows] == list(range(1, run.end + 1))
    assert np.mean([row["train/loss"] for row in rows[-5:]]) < 0.9 * np.mean([row["train/loss"] for row in rows[:5]])
    assert {tensor.device.type for tensor in final_weights(worker).values()} == {GPU}
