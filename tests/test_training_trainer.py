"""Training on Ray Train, stopped and killed in every way; the bare loop says what must come out of it."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from node_loss import two_nodes
from processes import descendants, end, kill, log_of, start_training, train_workers, wait_for
from synthetic import make_vocabulary, write_word_vectors
from test_training_tracking import wandb_lines, wandb_records
from training_help import final_weights, make_config, make_run, run_workers, write_data

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError, NonFiniteLoss, OutputBusy
from lstm_embed.ledger.owner import owned
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.training import checkpoint
from lstm_embed.training.run import Run, RunFolder
from lstm_embed.training.trainer import finished_run, recover, train
from lstm_embed.training.worker import lasting_failure


class Notes:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.steps: list[float] = []

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        self.steps.append(done)

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    return folder


def newest_step(run_dir: str) -> int:
    found = checkpoint.list_checkpoints(run_dir)
    return (checkpoint.step_of(found[0]) or 0) if found else 0


def metrics(run_dir: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]


@pytest.mark.timeout(600)
def test_a_run_that_is_stopped_and_killed_in_every_way_ends_with_the_same_bits(
    data: Path, tmp_path: Path, ray_cluster: None
) -> None:
    config = make_config(
        data, tmp_path / "runs", num_workers="2", epochs=5, log_steps=1, checkpoint_every="5", wandb_project="p"
    )
    run_dir = RunFolder.of(config).path
    # A graceful stop: a checkpoint at the very step.
    job = start_training(config, tmp_path)
    wait_for(lambda: newest_step(run_dir) >= 5 or job.poll() is not None, 200, "the first checkpoint")
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait(60) == 130, log_of(config, tmp_path)
    stopped_at = newest_step(run_dir)
    # The job's process is killed.
    job = start_training(config, tmp_path)
    wait_for(lambda: newest_step(run_dir) >= stopped_at + 5 or job.poll() is not None, 200, "a further checkpoint")
    left = descendants(job.pid, "")
    kill(job.pid)
    job.wait(10)
    end(left)
    assert f"goes on from step {stopped_at}" in log_of(config, tmp_path)
    killed_at = newest_step(run_dir)
    assert stopped_at < killed_at < 35
    os.truncate(f"{run_dir}/checkpoint_manager_snapshot.json", 30)
    # A worker is killed; the run goes on by itself.
    notes = Notes()
    killer = threading.Thread(target=_kill_a_worker, args=(run_dir, killed_at + 5))
    killer.start()
    summary = train(config, notes)
    killer.join()
    assert not summary.already_done
    assert notes.steps

    reference = make_config(data, tmp_path / "reference", epochs=5, log_steps=1, checkpoint_every="1000")
    planned = make_run(reference)
    expected = final_weights(run_workers(reference, planned, 2)[0])
    found = checkpoint.load(storage.join(run_dir, checkpoint.name_of(planned.end)))
    assert found.parameters.keys() == expected.keys()
    assert all(torch.equal(found.parameters[name], expected[name]) for name in expected)
    rows, same = metrics(run_dir), metrics(planned.path)
    assert [row["train/step"] for row in rows] == list(range(1, planned.end + 1))
    assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in same]
    # Weights & Biases: one run, and whatever came twice is the line that counts, with all its metrics.
    records = wandb_records(run_dir)
    assert len({record["run"]["run_id"] for record in records if "run" in record}) == 1
    lines = wandb_lines(records)
    assert {line["train/step"] for line in lines} == set(range(1, planned.end + 1))
    assert all(line == rows[line["train/step"] - 1] for line in lines)
    assert {"train/accuracy", "train/tokens_per_second", "val/loss", "val/words_in_place"} <= set().union(*lines)

    # The model is that of the best validation.
    losses = {row["train/step"]: row["val/loss"] for row in rows if "val/loss" in row}
    best = min(losses, key=lambda step: losses[step])
    encoder = SentenceEncoder.load(summary.output)
    assert encoder.provenance["step"] == best
    weights = checkpoint.load(storage.join(run_dir, checkpoint.name_of(best))).parameters
    tensors = encoder.model.state_dict()
    assert all(torch.equal(tensors[name], value) for name, value in weights.items())
    assert np.isfinite(encoder.encode("w1 w2 w3")).all()

    # Again: nothing to do. Another meaning: refused.
    before = Path(run_dir, "run.json").read_bytes()
    again = finished_run(config)
    assert again is not None
    assert again.already_done
    assert again.rows == summary.rows
    assert train(config, notes).already_done
    assert Path(run_dir, "run.json").read_bytes() == before
    with pytest.raises(FingerprintMismatch, match="learning_rate was"):
        finished_run(dataclasses.replace(config, learning_rate=0.1))


@pytest.mark.timeout(300)
def test_a_run_whose_node_is_lost_goes_on_with_the_same_bits(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path / "runs", num_workers="2", log_steps=1, epochs=3, checkpoint_every="3")
    run_dir = RunFolder.of(config).path
    with two_nodes(config, tmp_path) as nodes:
        raylet = nodes.raylet(0)
        wait_for(lambda: newest_step(run_dir) >= 3 or nodes.process.poll() is not None, 200, "the first checkpoint")
        kill(raylet)
        nodes.add_node()
        nodes.wait(200)
    reference = make_config(data, tmp_path / "reference", epochs=3, checkpoint_every="1000")
    planned = make_run(reference)
    expected = final_weights(run_workers(reference, planned, 2)[0])
    found = checkpoint.load(storage.join(run_dir, checkpoint.name_of(planned.end))).parameters
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [row["train/step"] for row in metrics(run_dir)] == list(range(1, planned.end + 1))


def _kill_a_worker(run_dir: str, after: int) -> None:
    wait_for(lambda: newest_step(run_dir) >= after, 200, "a checkpoint to kill a worker after")
    workers = train_workers(os.getpid())
    assert len(workers) == 2
    kill(workers[-1])


@pytest.mark.timeout(300)
def test_a_run_whose_loss_is_not_finite_fails_with_the_reason(data: Path, tmp_path: Path, ray_cluster: None) -> None:
    config = make_config(data, tmp_path, learning_rate=1e38, clip=0.0, warmup_steps=0, num_workers="2")
    with pytest.raises(NonFiniteLoss, match=r"step \d+ .* not a finite number"):
        train(config)
    assert finished_run(config) is None


def test_what_is_missing_is_said_before_anything_is_started(data: Path, tmp_path: Path) -> None:
    for field in ("tokens", "vectors", "init_from"):
        with pytest.raises(FileNotFoundError, match="missing"):
            finished_run(make_config(data, tmp_path, **{field: str(tmp_path / "missing")}))
    write_word_vectors(str(tmp_path / "vectors"), make_vocabulary(9, range(9)))
    with pytest.raises(FingerprintMismatch, match="vocabulary"):
        finished_run(make_config(data, tmp_path, vectors=str(tmp_path / "vectors")))


def test_a_run_that_another_job_is_training_is_refused(data: Path, tmp_path: Path, ray_cluster: None) -> None:
    config = make_config(data, tmp_path)
    with owned(RunFolder.of(config).path), pytest.raises(OutputBusy):
        train(config)


def test_more_workers_than_there_are_processors_are_refused_at_once(
    data: Path, tmp_path: Path, ray_cluster: None
) -> None:
    with pytest.raises(InputError, match="lower --num-workers"):
        train(make_config(data, tmp_path, micro_batches_per_step=50, num_workers="50"))
    with pytest.raises(InputError, match="--gpu"):
        train(make_config(data, tmp_path, gpu=True))


@pytest.mark.timeout(300)
def test_a_run_in_an_object_store(s3: str, data: Path, tmp_path: Path) -> None:
    for file in storage.list_files(str(data)):
        storage.copy_file(file.path, storage.join(s3, file.path[len(str(data)) + 1 :]))
    config = dataclasses.replace(
        make_config(data, tmp_path, max_steps=6),
        tokens=f"{s3}/tokens",
        vectors=f"{s3}/vectors",
        storage=f"{s3}/runs",
    )
    job = start_training(config, tmp_path)
    assert job.wait(280) == 0, log_of(config, tmp_path)
    run_dir = RunFolder.of(config).path
    assert newest_step(run_dir) == 6
    assert [json.loads(line)["train/step"] for line in storage.read_bytes(f"{run_dir}/metrics.jsonl").splitlines()] == [
        3,
        6,
    ]
    assert finished_run(config) is not None
    assert SentenceEncoder.load(f"{run_dir}/model").encode(["w1 w2"]).shape[0] == 1
    reference = run_workers(reference_config := make_config(data, tmp_path, max_steps=6), make_run(reference_config))
    found = checkpoint.load(storage.join(run_dir, checkpoint.name_of(6))).parameters
    assert all(torch.equal(found[name], value) for name, value in final_weights(reference[0]).items())


# Putting a run's folder in order, without Ray


def trained(data: Path, folder: Path) -> Run:
    """Leave a run with checkpoints at 4, 6, 8, 12, 16."""
    config = make_config(data, folder, keep=9)
    run = make_run(config)
    run_workers(config, run, crash_at=19)
    return run


def steps_left(run: Run) -> list[int]:
    return [checkpoint.step_of(path) or 0 for path in checkpoint.list_checkpoints(run.path)]


def test_a_bad_newest_checkpoint_is_removed_with_a_warning_and_the_one_before_is_taken(
    data: Path, tmp_path: Path
) -> None:
    run = trained(data, tmp_path)
    before = steps_left(run)
    newest = storage.join(run.path, checkpoint.name_of(before[0]))
    os.truncate(f"{newest}/model.safetensors", 10)
    shutil.copytree(storage.join(run.path, checkpoint.name_of(before[1])), f"{run.path}/step_99999999")
    Path(run.path, "checkpoint_manager_snapshot.json").write_text("[")
    notes: list[str] = []
    assert recover(run, 10, notes.append) == before[1]
    assert steps_left(run) == before[1:]
    assert "step_99999999" in notes[0]
    assert storage.name(newest) in notes[1]
    # Nothing of Ray's is left that could name what is gone.
    assert not Path(run.path, "checkpoint_manager_snapshot.json").exists()


def test_a_run_with_no_whole_checkpoint_says_that_it_begins_anew(data: Path, tmp_path: Path) -> None:
    run = trained(data, tmp_path)
    for path in checkpoint.list_checkpoints(run.path):
        os.unlink(f"{path}/manifest.json")
    notes: list[str] = []
    assert recover(run, 3, notes.append) == 0
    assert "begins anew" in notes[-1]
    assert not steps_left(run)


def test_a_checkpoint_of_another_run_is_refused_and_stays(data: Path, tmp_path: Path) -> None:
    run = trained(data, tmp_path)
    before = steps_left(run)
    shorter = dataclasses.replace(run, schedule=dataclasses.replace(run.schedule, end=before[0] - 1))
    for other in (dataclasses.replace(run, meaning={**run.meaning, "seed": 5}), shorter):
        with pytest.raises(FingerprintMismatch, match="--init-from"):
            recover(other, 3, print)
    assert steps_left(run) == before


def test_a_run_whose_newest_checkpoint_was_deleted_keeps_no_more_than_it_is_to(data: Path, tmp_path: Path) -> None:
    config = make_config(data, tmp_path, keep=3)
    run = make_run(config)
    run_workers(config, run, crash_at=19)
    shutil.rmtree(checkpoint.list_checkpoints(run.path)[0])
    worker = run_workers(config, run)[0]
    left = steps_left(run)
    assert left == sorted({*left[:3], worker.loop.progress.best_step}, reverse=True)
    assert left[0] == run.end


def test_a_full_disk_is_no_reason_to_start_again() -> None:
    with pytest.raises(OSError, match="No space left") as full:
        Path("/dev/full").write_text("x")
    kind, message = lasting_failure(full.value) or ("", "")
    assert kind == "LstmEmbedError"
    assert "make room" in message
    assert lasting_failure(OSError(errno.EIO, "a disk that hiccups")) is None
