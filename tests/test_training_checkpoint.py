"""Checkpoints and run folders: whole or refused, found by looking, and clear about what differs."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from training_help import make_config

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.ledger import fingerprint
from lstm_embed.training import checkpoint
from lstm_embed.training.checkpoint import State
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import Progress, Run, RunFolder, Schedule, plan_run, read_metrics

from conftest import json_of


def write_checkpoint(run_dir: str, step: int, value: float = 1.0, name: str = "") -> str:
    path = storage.join(run_dir, name or checkpoint.name_of(step))
    checkpoint.save(
        path,
        State(run="r", progress=Progress(step=step, best_loss=0.1), meaning={"note": "ä"}),
        parameters={"weight": torch.full((3, 2), value)},
        moments={"exp_avg.weight": torch.zeros(3, 2), "step.weight": torch.tensor(7.0)},
    )
    return path


def change(path: str, **fields: Any) -> None:
    """Change what a checkpoint says of itself, as a tool would that seals it again."""
    manifest = json_of(f"{path}/manifest.json")
    content = {**manifest["content"], **fields}
    storage.write_json(f"{path}/manifest.json", {**manifest, "content": content, "fingerprint": fingerprint(content)})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    found = checkpoint.load(write_checkpoint(str(tmp_path), 7, 0.1))
    assert found.state == State(run="r", progress=Progress(step=7, best_loss=0.1), meaning={"note": "ä"})
    assert torch.equal(found.parameters["weight"], torch.full((3, 2), 0.1))
    assert found.moments.keys() == {"exp_avg.weight", "step.weight"}
    assert found.moments["step.weight"] == 7


def test_a_checkpoint_in_an_object_store_comes_back_as_it_was(s3: str) -> None:
    write_checkpoint(s3, 3)
    path = write_checkpoint(s3, 12)
    assert newest(s3) == path
    assert checkpoint.load(path).state.progress.step == 12


def newest(run_dir: str, warn: Any = lambda message: None) -> str | None:
    found = checkpoint.newest(run_dir, warn)
    return found.path if found else None


def cut_short(path: Path) -> None:
    data = (path / "optimizer.safetensors").read_bytes()
    (path / "optimizer.safetensors").write_bytes(data[:-5])


def flip_a_bit(path: Path) -> None:
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)


def seal_nan(path: Path) -> None:
    shutil.rmtree(path)
    write_checkpoint(str(path.parent), 150, float("nan"))


def change_what_was_sealed(path: Path) -> None:
    manifest = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(manifest.replace('"best_loss": 0.1', '"best_loss": 0.2'))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (cut_short, "bytes"),
        (flip_a_bit, "damaged"),
        (seal_nan, "NaN"),
        (change_what_was_sealed, "not what was sealed"),
        (lambda path: (path / "manifest.json").unlink(), "manifest.json"),
        (lambda path: (path / "model.safetensors").unlink(), "missing"),
        (lambda path: (path / "manifest.json").write_text('{"kind"'), "damaged"),
        (lambda path: (path / "manifest.json").write_text(""), "damaged"),
        (lambda path: change(str(path), progress={"step": "150"}), "progress.step is '150'; expected a valid integer"),
        (lambda path: change(str(path), progress={"step": -1}), "progress.step is -1"),
        (lambda path: change(str(path), window=[]), "window is []; expected"),
        (lambda path: change(str(path), run=None), "run is None; expected a valid string"),
        (lambda path: change(str(path), progress={"step": 149}), "holds the checkpoint of step 149"),
        (lambda path: shutil.copytree(path, path.parent / ("step_" + "9" * 200)), "holds the checkpoint of step 150"),
    ],
)
def test_a_bad_checkpoint_is_passed_over_with_a_warning(tmp_path: Path, damage: Any, told: str) -> None:
    whole = write_checkpoint(str(tmp_path), 100)
    path = Path(write_checkpoint(str(tmp_path), 150))
    damage(path)
    warnings: list[str] = []
    found = newest(str(tmp_path), warnings.append)
    assert found == (str(path) if len(list(tmp_path.iterdir())) == 3 else whole)
    assert len(warnings) == 1
    assert "\n" not in warnings[0]
    assert re.search(r"step_0*150|step_9{200}", warnings[0])
    assert told in warnings[0]


def test_the_newest_checkpoint_is_the_one_of_the_latest_step_whatever_else_lies_there(tmp_path: Path) -> None:
    for step in (99_999_999, 100_000_001, 5):
        write_checkpoint(str(tmp_path), step)
    (tmp_path / "model").mkdir()
    (tmp_path / "step_x").mkdir()
    (tmp_path / "step_100000002").write_text("no folder")
    (tmp_path / "metrics.jsonl").write_text("{}")
    found = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path))]
    assert found == [100_000_001, 99_999_999, 5]
    assert newest(str(tmp_path / "nothing")) is None


@pytest.mark.parametrize(
    ("step", "best", "left"),
    [(16, 12, [16, 12, 8]), (16, 4, [16, 12, 8, 4]), (12, -1, [12, 8, 6]), (0, -1, [])],
)
def test_the_latest_checkpoints_and_the_best_stay_and_none_beyond_where_the_run_stands(
    tmp_path: Path, step: int, best: int, left: list[int]
) -> None:
    for number in (4, 6, 8, 12, 16):
        write_checkpoint(str(tmp_path), number)
    checkpoint.prune(str(tmp_path), Progress(step=step, best_step=best), 3)
    assert [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(str(tmp_path))] == left


@pytest.mark.parametrize(("made_by", "version"), [(None, "0.1"), (2, "0.2")])
def test_a_checkpoint_or_run_of_an_earlier_version_is_refused_with_what_reads_it(
    tmp_path: Path, made_by: int | None, version: str
) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    folder, _ = started(config)
    path = write_checkpoint(folder.path, 7)
    change(path, format=made_by or 1)
    with pytest.raises(InputError) as refused:
        checkpoint.newest(folder.path, print)
    assert f"step_00000007 is a checkpoint of lstm_embed {version}; continue its run with that" in str(refused.value)
    values = json_of(f"{folder.path}/run.json")
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
        State(run="r"),
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
    run = plan_run(config, folder.read(), DATA, end)
    folder.write(run, config)
    return folder, run


def test_a_run_is_what_its_folder_says_and_the_same_command_continues_it(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    folder, run = started(config)
    assert folder.read() == run
    other = make_config(tmp_path, tmp_path / "runs", num_workers="2", keep=9, wandb_project="p", log_steps=1)
    assert plan_run(other, folder.read(), DATA, 100) == run


def test_a_run_name_with_another_meaning_is_refused_naming_the_differences(tmp_path: Path) -> None:
    _, run = started(make_config(tmp_path, tmp_path / "runs"))
    model = dataclasses.replace(make_config(tmp_path, tmp_path).model, order_share=0.1)
    changed = make_config(tmp_path, tmp_path / "runs", learning_rate=0.5, model=model)
    with pytest.raises(FingerprintMismatch) as caught:
        plan_run(changed, run, {**DATA, "tokens": "u"}, 100)
    message = str(caught.value)
    for part in (
        "run small",
        "learning_rate was 0.05 and is now 0.5",
        "model.order_share was 0.8 and is now 0.1",
        "tokens was",
    ):
        assert part in message


def test_a_run_of_another_length_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs", epochs=1)
    _, run = started(config)
    with pytest.raises(FingerprintMismatch, match=r"epochs was 1 and is now 3.* with --init-from"):
        plan_run(dataclasses.replace(config, epochs=3), run, DATA, 300)


def test_a_run_that_an_earlier_version_continued_with_more_epochs_is_what_it_was(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs", epochs=3)
    folder, run = started(config)
    values = json_of(f"{folder.path}/run.json")
    phases = [{"start": 0, "end": 40, "epochs": 1, "max_steps": 0}, {**values["phases"][0], "start": 40}]
    storage.write_json(f"{folder.path}/run.json", {**values, "phases": phases, "rolled_back_to": ""})
    found = folder.read()
    assert found is not None
    assert found.schedule == Schedule(40, 100, 3, 0)
    assert found.schedule.rate(40, 10, 0.05) == pytest.approx(1 / 11)
    assert plan_run(config, found, DATA, 100) is found
    assert found.fingerprint == run.fingerprint


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path / "runs")
    os.makedirs(RunFolder.of(config).path)
    assert RunFolder.of(config).read() is None
    (Path(RunFolder.of(config).path) / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="something else"):
        RunFolder.of(config).read()


def test_a_file_in_place_of_a_folder_is_refused_with_its_flag(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"file is a file; .*--storage"):
        RunFolder.of(make_config(tmp_path, tmp_path / "file")).read()
    with pytest.raises(InputError, match=r"file is a file; .*--run-name"):
        RunFolder.of(make_config(tmp_path, tmp_path, run_name="file")).read()


DONE = {
    "step": 9,
    "best_step": 6,
    "best_loss": 1.5,
    "sentences": 9,
    "tokens": 9,
    "epochs": 1,
    "run": "r",
    "model_step": 6,
}


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("run.json", b'{"format": 1', "no JSON"),
        ("run.json", b"[" * 100_000, "no JSON"),
        ("run.json", b"\xff\xfe{}", "no JSON"),
        ("run.json", b"[]", "expected"),
        ("run.json", {"meaning": None}, "meaning is None"),
        ("run.json", {"meaning": {}}, "meaning.precision is missing"),
        ("run.json", {"phases": []}, "phases is empty"),
        ("run.json", {"phases": [{"start": 0, "end": 0, "epochs": 1, "max_steps": 0}]}, "phases.0.end is 0"),
        ("run.json", {"wandb_id": "../x"}, "wandb_id is '../x'"),
        ("run.json", {"format": "3"}, "format is '3'; expected a valid integer"),
        ("done.json", b"null", "expected"),
        ("done.json", {"step": "9"}, "step is '9'; expected a valid integer"),
        ("done.json", {"best_loss": "low"}, "best_loss is 'low'"),
        ("done.json", b'{"best_loss": NaN}', "no JSON"),
        ("metrics.jsonl", b"{}\n", "line 1 of"),
        ("metrics.jsonl", b'{"train/step": 1}\n[]\n', "line 2 of"),
        ("metrics.jsonl", b'{"train/step": 1, "train/loss": Infinity}\n', "no JSON"),
    ],
)
def test_a_damaged_file_of_a_run_is_told_in_a_line_and_is_never_a_new_start(
    tmp_path: Path, file: str, content: Any, told: str
) -> None:
    folder, _ = started(make_config(tmp_path, tmp_path / "runs"))
    path = Path(folder.path, file)
    if isinstance(content, dict):
        whole = json.loads(path.read_text()) if path.exists() else DONE
        content = json.dumps({**whole, **content}).encode()
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        {"run.json": folder.read, "done.json": folder.done, "metrics.jsonl": lambda: read_metrics(folder.path)}[file]()
    assert str(path) in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_of_metrics_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"train/step": 1, "train/loss": 2.5}\n{"train/step": 2, "tra')
    assert read_metrics(str(tmp_path)) == [{"train/step": 1, "train/loss": 2.5}]
    assert read_metrics(str(tmp_path / "nothing")) == []


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
    schedule = Schedule(start, start + length, 1, 0)
    rates = [schedule.rate(step, warmup, final) for step in range(start, start + length)]
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
        ("precision", "fp16", "--precision"),
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
