"""Checkpoints and run folders: whole or refused, found by looking, and clear about what differs."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_help import make_config

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.training import checkpoint
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import Phase, Run, RunFolder, plan_run


def write_checkpoint(run_dir: str, step: int, value: float = 1.0) -> str:
    path = storage.join(run_dir, checkpoint.name_of(step))
    checkpoint.save(
        path,
        {"step": step, "note": "ä"},
        parameters={"weight": torch.full((3, 2), value)},
        moments={"exp_avg.weight": torch.zeros(3, 2)},
    )
    return path


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    found = checkpoint.load(write_checkpoint(str(tmp_path), 7, 0.1))
    assert found.state == {"format": checkpoint.FORMAT, "step": 7, "note": "ä"}
    assert torch.equal(found.parameters["weight"], torch.full((3, 2), 0.1))
    assert set(found.moments) == {"exp_avg.weight"}


def test_a_checkpoint_in_an_object_store_comes_back_as_it_was(s3: str) -> None:
    write_checkpoint(s3, 3)
    path = write_checkpoint(s3, 12)
    assert checkpoint.newest(s3, lambda message: None) == path
    assert checkpoint.load(path).state["step"] == 12


def cut_short(path: Path) -> None:
    data = (path / "optimizer.safetensors").read_bytes()
    (path / "optimizer.safetensors").write_bytes(data[:-5])


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    "damage",
    [
        cut_short,
        flip_a_bit,
        lambda path: (path / "manifest.json").unlink(),
        lambda path: (path / "model.safetensors").unlink(),
        lambda path: (path / "manifest.json").write_text('{"kind"'),
        lambda path: (path / "manifest.json").write_text(""),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: Any) -> None:
    whole = write_checkpoint(str(tmp_path), 100)
    damage(Path(write_checkpoint(str(tmp_path), 150)))
    warnings: list[str] = []
    assert checkpoint.newest(str(tmp_path), warnings.append) == whole
    assert len(warnings) == 1
    assert "step_00000150" in warnings[0]


def test_the_newest_checkpoint_is_the_one_of_the_latest_step_whatever_else_lies_there(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_001, 5):
        write_checkpoint(str(tmp_path), step)
    (tmp_path / "model").mkdir()
    (tmp_path / "step_x").mkdir()
    (tmp_path / "metrics.jsonl").write_text("{}")
    found = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path))]
    assert found == [100_000_001, 99_999_999, 5]
    assert checkpoint.newest(str(tmp_path / "nothing"), lambda message: None) is None


@pytest.mark.parametrize(("made_by", "version"), [(None, "0.1"), (2, "0.2")])
def test_a_checkpoint_or_run_of_an_earlier_version_is_refused_with_what_reads_it(
    tmp_path: Path, made_by: int | None, version: str
) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    folder, _ = started(config)
    path = write_checkpoint(folder.path, 7)
    manifest = storage.read_json(f"{path}/manifest.json")
    del manifest["content"]["format"]
    if made_by:
        manifest["content"]["format"] = made_by
    storage.write_json(f"{path}/manifest.json", manifest)
    with pytest.raises(InputError) as refused:
        checkpoint.load(path)
    assert f"step_00000007 is a checkpoint of lstm_embed {version}; continue its run with that" in str(refused.value)
    values = storage.read_json(f"{folder.path}/run.json")
    storage.write_json(f"{folder.path}/run.json", {**values, "format": made_by or 1})
    with pytest.raises(InputError) as refused:
        folder.read()
    assert f"small is a run of lstm_embed {version} " in str(refused.value)
    assert "or choose another --run-name" in str(refused.value)


def test_weights_of_another_shape_are_refused_by_name() -> None:
    own = dict(torch.nn.Linear(3, 2).named_parameters())
    for tensors, wrong in (
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(2)}, "weight"),
        ({"weight": torch.zeros(2, 3)}, "bias"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "key": torch.zeros(1)}, "key"),
    ):
        with pytest.raises(InputError, match=f"the weights of somewhere do not fit the model: {wrong} differ"):
            checkpoint.load_tensors(own, tensors, "somewhere")


def test_the_optimizer_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    def step(model: torch.nn.Linear, optimizer: torch.optim.Optimizer, seed: int) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()

    first, second = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    adam = torch.optim.Adam(first.parameters(), fused=True)
    step(first, adam, 0)
    checkpoint.save(
        str(tmp_path / "c"),
        {},
        parameters=checkpoint.trained_parameters(first),
        moments=checkpoint.optimizer_tensors(first, adam),
    )
    step(first, adam, 1)
    found = checkpoint.load(str(tmp_path / "c"))
    other = torch.optim.Adam(second.parameters(), fused=True)
    checkpoint.load_tensors(dict(second.named_parameters()), found.parameters, found.path)
    checkpoint.load_optimizer(second, other, found.moments, found.path)
    step(second, other, 1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


DATA = {"tokens": "t", "vectors": "v", "precision": "fp32"}


def started(config: TrainingConfig, end: int = 100) -> tuple[RunFolder, Run]:
    folder = RunFolder.of(config)
    run = plan_run(config, folder.read(), DATA, end, path=folder.path, finished=False)
    folder.write(run, config)
    return folder, run


def test_a_run_is_what_its_folder_says_and_the_same_command_continues_it(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    folder, run = started(config)
    assert folder.read() == run
    other = make_config(tmp_path, tmp_path / "runs", num_workers="2", keep=9, wandb_project="p", log_steps=1)
    assert plan_run(other, folder.read(), DATA, 100, path=folder.path, finished=False) == run


def test_a_run_name_with_another_meaning_is_refused_naming_the_differences(tmp_path: Path) -> None:
    folder, run = started(make_config(tmp_path, tmp_path / "runs"))
    model = dataclasses.replace(make_config(tmp_path, tmp_path).model, order_share=0.1)
    changed = make_config(tmp_path, tmp_path / "runs", learning_rate=0.5, model=model)
    with pytest.raises(FingerprintMismatch) as caught:
        plan_run(changed, run, {**DATA, "tokens": "u"}, 100, path=folder.path, finished=False)
    message = str(caught.value)
    for part in (
        "run small",
        "learning_rate was 0.05 and is now 0.5",
        "model.order_share was 0.8 and is now 0.1",
        "tokens was",
    ):
        assert part in message


def test_a_setting_that_a_later_version_adds_does_not_make_an_old_run_another_one(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    folder, run = started(config)
    old = dataclasses.replace(run, meaning={name: v for name, v in run.meaning.items() if name != "seed"})
    assert plan_run(config, old, DATA, 100, path=folder.path, finished=False) is old
    with pytest.raises(FingerprintMismatch, match="seed was 0 and is now 4"):
        plan_run(dataclasses.replace(config, seed=4), old, DATA, 100, path=folder.path, finished=False)


def test_more_epochs_add_a_phase_to_a_finished_run_and_to_no_other(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs", epochs=1)
    folder, run = started(config)
    longer = dataclasses.replace(config, epochs=3)
    with pytest.raises(FingerprintMismatch, match="epochs was 1 and is now 3"):
        plan_run(longer, run, DATA, 300, path=folder.path, finished=False)
    grown = plan_run(longer, run, DATA, 300, path=folder.path, finished=True)
    assert grown.phases == (Phase(0, 100, 1, 0), Phase(100, 300, 3, 0))
    assert grown.fingerprint == run.fingerprint
    assert grown.wandb_id == run.wandb_id
    assert grown.phase(100).rate(100, 10, 0.05) == pytest.approx(1 / 11)
    with pytest.raises(FingerprintMismatch, match="this command asks for 100"):
        plan_run(config, grown, DATA, 100, path=folder.path, finished=True)


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    os.makedirs(RunFolder.of(config).path)
    assert RunFolder.of(config).read() is None
    (Path(RunFolder.of(config).path) / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="something else"):
        RunFolder.of(config).read()


def test_a_damaged_run_file_is_an_error_and_never_a_new_start(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    folder, _ = started(config)
    (Path(folder.path) / "run.json").write_text('{"format": 1')
    with pytest.raises(InputError, match="damaged"):
        folder.read()


@settings(deadline=None)
@given(
    start=st.integers(0, 1000),
    length=st.integers(1, 2000),
    warmup=st.integers(0, 500),
    final=st.floats(0, 1),
)
def test_the_learning_rate_rises_to_one_and_falls_to_its_end(
    start: int, length: int, warmup: int, final: float
) -> None:
    phase = Phase(start, start + length, 1, 0)
    rates = [phase.rate(step, warmup, final) for step in range(start, start + length)]
    top = min(warmup, length - 1)
    assert all(0 < rate <= 1 or rate == final == 0 for rate in rates)
    assert all(a < b for a, b in itertools.pairwise(rates[: top + 1]))
    assert all(a >= b for a, b in itertools.pairwise(rates[top:]))
    assert rates[top] == 1.0


@pytest.mark.parametrize(
    ("field", "value", "flag"),
    [
        ("epochs", 0, "--epochs"),
        ("micro_batch_sentences", 0, "--micro-batch-sentences"),
        ("learning_rate", float("nan"), "--learning-rate"),
        ("min_tokens", 9, "--min-tokens"),
        ("num_workers", "3:2", "--num-workers"),
        ("num_workers", "5", "--micro-batches-per-step"),
        ("checkpoint_every", "0", "--checkpoint-every"),
        ("checkpoint_every", "2.5", "--checkpoint-every"),
        ("precision", "fp16", "--gpu"),
        ("run_name", "../x", "--run-name"),
        ("final_rate", 1.5, "--final-rate"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_flag(tmp_path: Path, field: str, value: Any, flag: str) -> None:
    with pytest.raises(ValueError, match=field) as caught:
        make_config(tmp_path, tmp_path, **{field: value})
    assert repr(value) in str(caught.value)
    assert flag in str(caught.value)


def test_the_settings_import_neither_torch_nor_ray() -> None:
    import subprocess
    import sys

    code = "import sys, lstm_embed.training.config, lstm_embed.training.run; print({'torch', 'ray'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
