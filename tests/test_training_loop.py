"""The training loop with workers as threads: exact whatever interrupts it, and however many share it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import write_token_set, write_word_vectors
from torch import Tensor
from training_help import Crash, Team, ThreadSession, final_weights, make_config, make_run, run_workers, write_data

from lstm_embed.base.errors import FingerprintMismatch, NonFiniteLoss
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.model.config import original
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.folder import load_model
from lstm_embed.training import checkpoint, setup
from lstm_embed.training.finish import finish
from lstm_embed.training.learner import Layout
from lstm_embed.training.run import Run, RunFolder
from lstm_embed.training.session import LocalSession
from lstm_embed.training.setup import set_up

LOSSES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy", "val/words_in_place")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder, seed=15)
    return folder


@pytest.fixture(scope="module")
def whole(
    data: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[dict[str, Tensor], list[dict[str, Any]]]]:
    """Uninterrupted runs: final weights and metrics by number of workers."""
    runs = {}
    for size in (1, 2, 4):
        config = make_config(data, tmp_path_factory.mktemp("runs"))
        run = make_run(config)
        workers = run_workers(config, run, size)
        runs[size] = (final_weights(workers[0]), read_metrics(run))
    return runs


def read_metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run.path, "metrics.jsonl").read_text().splitlines()]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def measured(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Return what of the metrics must not depend on when and where they were made."""
    return [{name: row[name] for name in ("train/step", "train/epoch", *LOSSES) if name in row} for row in rows]


@settings(max_examples=2, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(2, 18), min_size=1, max_size=2))
@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bits(
    data: Path, whole: dict[int, Any], tmp_path: Path, size: int, cuts: list[int]
) -> None:
    storage = tmp_path / "runs"
    shutil.rmtree(storage, ignore_errors=True)
    config = make_config(data, storage)
    run = make_run(config)
    for cut in cuts:
        run_workers(config, run, size, crash_at=cut)
    workers = run_workers(config, run, size)
    weights, rows = whole[size]
    assert all(same(final_weights(worker), weights) for worker in workers)
    assert measured(read_metrics(run)) == measured(rows)


@pytest.mark.parametrize("size", [1, 2])
def test_a_run_that_is_stopped_saves_the_step_it_stands_at_and_goes_on_from_there(
    data: Path, whole: dict[int, Any], tmp_path: Path, size: int
) -> None:
    config = make_config(data, tmp_path, checkpoint_every="1000", validate_steps=0)
    run = make_run(config)
    stopped = run_workers(config, run, size, stop_at=8)
    step = stopped[0].loop.progress.step
    assert 0 < step < run.end
    assert checkpoint.step_of(checkpoint.list_checkpoints(run.path)[0]) == step
    workers = run_workers(config, run, size)
    assert same(final_weights(workers[0]), whole[size][0])


def test_other_numbers_of_workers_train_on_the_same_micro_batches_and_end_nearly_alike(
    data: Path, whole: dict[int, Any], tmp_path: Path
) -> None:
    weights, rows = whole[1]
    for size in (2, 4):
        for name, tensor in whole[size][0].items():
            assert torch.allclose(tensor, weights[name], rtol=1e-3, atol=1e-4), name
        for one, other in zip(measured(rows), measured(whole[size][1]), strict=True):
            assert other == pytest.approx(one, rel=1e-4)
    # The number may change on the way.
    config = make_config(data, tmp_path)
    run = make_run(config)
    for size, cut in ((2, 8), (4, 7), (3, 7), (1, 10_000)):
        workers = run_workers(config, run, size, crash_at=cut)
    assert workers[0].loop.progress.step == run.end
    for one, other in zip(measured(rows), measured(read_metrics(run)), strict=True):
        assert other == pytest.approx(one, rel=1e-4)


def test_few_sentences_are_learned_by_heart(tmp_path: Path) -> None:
    write_data(tmp_path, num_articles=6, num_parts=1, holdout_every=1000)
    config = make_config(tmp_path, tmp_path / "runs", epochs=20, micro_batches_per_step=1, checkpoint_every="1000")
    run = make_run(config)
    run_workers(config, run)
    rows = read_metrics(run)
    assert rows[-1]["train/loss"] < 0.5 * rows[0]["train/loss"]
    assert rows[0]["train/accuracy"] < 0.7 < rows[-1]["train/accuracy"]


def test_the_metrics_tell_what_a_run_does(whole: dict[int, Any]) -> None:
    _, rows = whole[1]
    assert [row["train/step"] for row in rows] == sorted({row["train/step"] for row in rows})
    validations = [row for row in rows if "val/loss" in row]
    assert len(validations) >= 3
    for name in ("val/accuracy", "val/words_in_place"):
        assert all(0 < row[name] < 1 for row in validations)
    for name in ("learning_rate", "gradient_norm", "sentences_per_second", "tokens_per_second", "peak_memory_mib"):
        assert all(row[f"train/{name}"] > 0 for row in rows)
    assert all(0.9 <= row["train/padding_efficiency"] <= 1 for row in rows)
    assert all(0 <= row["train/data_wait_fraction"] <= 1 for row in rows)
    assert rows[-1]["train/seconds_left"] == 0
    assert rows[-1]["train/epoch"] == 2


def test_a_checkpoint_holds_the_whole_state(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path, checkpoint_every="5")
    run = make_run(config)
    run_workers(config, run, crash_at=7)
    found = checkpoint.load(checkpoint.list_checkpoints(run.path)[0])
    state = found.state
    assert state.progress.step == 5
    assert state.window.steps == 2
    assert state.window.sentences > 0
    assert state.meaning["tokens"] == TokenSet.open(config.tokens).fingerprint
    assert state.config == json.loads(json.dumps(config.to_dict()))
    assert state.run == run.fingerprint
    assert {name.partition(".")[0] for name in found.moments} == {"exp_avg", "exp_avg_sq", "step"}
    model = set_up(config, run, LocalSession(run.path)).loop.learner.model
    assert found.parameters.keys() == {"neighbours", *checkpoint.trained_parameters(model)}
    assert "word_vectors" not in found.parameters


def test_a_torn_newest_checkpoint_falls_back_to_the_one_before_with_a_warning(
    data: Path, whole: dict[int, Any], tmp_path: Path
) -> None:
    config = make_config(data, tmp_path)
    run = make_run(config)
    run_workers(config, run, crash_at=11)
    newest, before = checkpoint.list_checkpoints(run.path)[:2]
    os.truncate(f"{newest}/model.safetensors", 100)
    session = LocalSession(run.path)
    notes: list[str] = []
    session.note = notes.append  # type: ignore[method-assign]
    worker = set_up(config, run, session)
    assert worker.loop.progress.step == checkpoint.step_of(before)
    assert checkpoint.name_of(checkpoint.step_of(newest) or 0) in notes[0]
    workers = run_workers(config, run)
    assert same(final_weights(workers[0]), whole[1][0])


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_it(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path)
    run = make_run(config)
    worker = set_up(config, run, LocalSession(run.path))
    counts = worker.tokens.vocabulary.counts
    word = int(np.argsort(np.where(counts > 0, counts, counts.max()))[3])
    with torch.no_grad():
        worker.loop.learner.model.word_vectors[word] = torch.nan
    step = next(
        share.step
        for share in worker.loop.loader.steps(0, run.end)
        if any(word in batch.ids_BT for batch in share.work.micro_batches)
    )
    before: list[dict[str, Tensor]] = []
    make = worker.loop.learner.step

    def remember(*args: Any, **more: Any) -> Any:
        before.append(final_weights(worker))
        return make(*args, **more)

    worker.loop.learner.step = remember  # type: ignore[method-assign]
    with pytest.raises(NonFiniteLoss, match=rf"step {step} .* the loss is not a finite number"):
        worker.loop.train()
    assert len(before) == step + 1
    assert same(before[-1], final_weights(worker))


def test_all_workers_stop_at_a_step_that_is_not_finite(tmp_path: Path) -> None:
    write_data(tmp_path)
    config = make_config(tmp_path, tmp_path / "runs", learning_rate=1e38, clip=0.0, warmup_steps=0)
    with pytest.raises(NonFiniteLoss, match="not a finite number"):
        run_workers(config, make_run(config), 2)


def test_results_that_are_looked_at_later_change_nothing(data: Path, whole: dict[int, Any], tmp_path: Path) -> None:
    """On a GPU the host looks at what a step came to some steps later, so that it never waits for it."""
    config = make_config(data, tmp_path)
    run = make_run(config)
    for crash_at in (12, -1):
        worker = set_up(config, run, ThreadSession(run.path, 0, Team(1), crash_at=crash_at))
        worker.loop.lag = 3
        with contextlib.suppress(Crash):
            worker.loop.train()
    weights, rows = whole[1]
    assert same(final_weights(worker), weights)
    assert measured(read_metrics(run)) == measured(rows)
    # A bad step is found late, but nothing was changed by it or after it.
    other = dataclasses.replace(run, path=str(tmp_path / "other"))
    worker = set_up(config, other, ThreadSession(other.path, 0, Team(1), stop_at=7))
    worker.loop.lag = 3
    assert not worker.loop.train()
    before = final_weights(worker)
    with torch.no_grad():
        worker.loop.learner.model.word_vectors.fill_(torch.nan)
    worker.loop.session = LocalSession(other.path)
    with pytest.raises(NonFiniteLoss, match=rf"step {worker.loop.progress.step} "):
        worker.loop.train()
    assert same(final_weights(worker), before)


def test_micro_batches_computed_in_one_pass_or_one_after_the_other_give_the_same_gradient(
    data: Path, tmp_path: Path
) -> None:
    gradients = []
    for together in (False, True):
        config = make_config(data, tmp_path)
        worker = set_up(config, make_run(config), LocalSession(str(tmp_path / "x")))
        worker.loop.loader._transform = Layout(0, together=together, pin=False)
        step = next(worker.loop.loader.steps(0, 1))
        assert len(step.work.batches) == (1 if together else len(step.work.micro_batches))
        learner = worker.loop.learner
        outcome = learner.step(step, 0.0, stop=False, save=False).result()
        gradients.append((outcome, learner._gradient.clone()))
    assert gradients[0][0].losses == pytest.approx(gradients[1][0].losses, rel=1e-5)
    assert torch.allclose(gradients[0][1], gradients[1][1], rtol=1e-3, atol=1e-6)


def test_validation_is_the_same_whoever_computes_it(data: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 3):
        config = make_config(data, tmp_path / str(size), max_steps=1)
        run = make_run(config)
        run_workers(config, run, size)
        found.append([row["val/loss"] for row in read_metrics(run)])
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_the_best_validation_is_remembered_across_resumes(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path)
    run = make_run(config)
    run_workers(config, run, crash_at=12)
    workers = run_workers(config, run)
    losses = {row["train/step"]: row["val/loss"] for row in read_metrics(run) if "val/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    assert workers[0].loop.progress.best_step == best
    assert workers[0].loop.progress.best_loss == losses[best]


def test_a_run_without_held_out_sentences_still_trains(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path / "tokens"), holdout_every=1000)
    write_word_vectors(str(tmp_path / "vectors"), tokens.vocabulary)
    config = make_config(tmp_path, tmp_path / "runs", max_steps=4)
    run = make_run(config)
    workers = run_workers(config, run)
    assert workers[0].loop.progress.best_loss is None
    assert checkpoint.newest(run.path, print) is not None


@pytest.mark.parametrize("precision", ["bf16"])
def test_bf16_trains_and_resumes_with_the_same_bits(data: Path, tmp_path: Path, precision: str) -> None:
    weights = []
    for name, cuts in (("whole", []), ("cut", [7])):
        config = make_config(data, tmp_path / name, precision=precision, max_steps=8)
        run = make_run(config)
        for cut in cuts:
            run_workers(config, run, crash_at=cut)
        weights.append(final_weights(run_workers(config, run)[0]))
    assert same(*weights)


def test_word_vectors_of_another_vocabulary_are_refused(data: Path, tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path / "tokens"), num_words=50)
    write_word_vectors(str(tmp_path / "vectors"), tokens.vocabulary)
    config = dataclasses.replace(make_config(data, tmp_path / "runs"), vectors=str(tmp_path / "vectors"))
    with pytest.raises(FingerprintMismatch, match="vocabulary"):
        run_workers(config, make_run(config))


# What neighbours teach, once


def test_the_neighbours_are_learned_once_and_broadcast_and_kept(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    learn = setup.teach_neighbours

    def count(*args: Any) -> int:
        learned.append(learn(*args))
        return learned[-1]

    monkeypatch.setattr(setup, "teach_neighbours", count)
    config = make_config(data, tmp_path)
    run = make_run(config)
    run_workers(config, run, 3, crash_at=12)
    assert len(learned) == 1
    assert learned[0] > 100
    kept = checkpoint.load(checkpoint.list_checkpoints(run.path)[0]).parameters["neighbours"]
    assert (kept - torch.eye(len(kept))).norm() > 0.1
    # Data that would teach otherwise by now.
    monkeypatch.setattr(setup, "teach_neighbours", None)
    workers = run_workers(config, run, 2)
    assert all(torch.equal(worker.loop.learner.model.neighbours, kept) for worker in workers)
    finish(workers[0])
    model = load_model(RunFolder.of(config).model_dir).model
    assert torch.equal(model.neighbours, kept)


def test_a_strength_of_zero_leaves_the_neighbours_out(data: Path, tmp_path: Path) -> None:
    model = dataclasses.replace(make_config(data, tmp_path).model, neighbour_strength=0.0)
    config = make_config(data, tmp_path, model=model)
    found = set_up(config, make_run(config), LocalSession(str(tmp_path / "x"))).loop.learner.model
    assert torch.equal(found.neighbours, torch.eye(16 + 16))


def test_the_original_trains_and_resumes_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(original(), hidden_size=6, max_tokens=12)
    weights = []
    for name, cuts in (("whole", []), ("cut", [6])):
        config = make_config(data, tmp_path / name, preset="original", model=recipe, min_tokens=1, max_steps=8)
        run = make_run(config)
        for cut in cuts:
            run_workers(config, run, 2, crash_at=cut)
        worker = run_workers(config, run, 2)[0]
        weights.append(final_weights(worker))
    assert same(*weights)
    rows = read_metrics(run)
    losses = [row["val/loss"] for row in rows if "val/loss" in row]
    assert losses[-1] < losses[0]
    assert not any("accuracy" in name or "in_place" in name for row in rows for name in row)
    assert (finish(worker).best_loss or 0) > 0
    encoder = SentenceEncoder.load(RunFolder.of(config).model_dir)
    assert encoder.reconstruct(["w1 w2", ""])[1].text == ""
