"""Checkpoints: the full state of a run at a step, in a folder that can tell by itself whether it is whole.

A checkpoint is a sealed folder (`ledger.sealed`): its manifest holds the SHA-256 of each file and, as its content, everything
that is not a tensor. Files:

    model.safetensors        the trained parameters by name, and what neighbouring sentences taught; what is given from outside
                             (word vectors, counts) is not repeated
    optimizer.safetensors    Adam's two moments and step count of each parameter
    manifest.json            hashes, progress, the unfinished line of metrics, config, fingerprints (written last)

No pickle. Which checkpoint is the newest whole one is found by looking, never by trusting a list or a folder's name.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pydantic
import safetensors.torch
import torch
from torch import Tensor, nn

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.settings import parse_json
from lstm_embed.base.tensors import opened, take_tensors
from lstm_embed.ledger import fingerprint, open_sealed, seal
from lstm_embed.ledger.manifest import MANIFEST
from lstm_embed.model.config import EARLIER
from lstm_embed.model.recipes import Model
from lstm_embed.training.run import Count, Progress, Run

KIND = "checkpoint"
FORMAT = 3
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_NAME = re.compile("step_([0-9]{8,})")
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_ADVICE = "take the folder away; the run goes on from the checkpoint before it"


@dataclass
class Window:
    """Sums over the steps that have no line of metrics yet."""

    steps: Count = 0
    losses: dict[str, pydantic.FiniteFloat] = field(default_factory=dict)
    norm: pydantic.FiniteFloat = 0.0
    sentences: Count = 0
    tokens: Count = 0
    own_tokens: Count = 0
    own_positions: Count = 0
    seconds: pydantic.FiniteFloat = 0.0
    waited: pydantic.FiniteFloat = 0.0


@dataclass(frozen=True, kw_only=True)
class State:
    """What a checkpoint holds besides tensors.

    All chance is drawn from the seed and the step, so the step is the whole state of the random numbers too.
    """

    run: str
    """Fingerprint of the run."""
    progress: Progress = field(default_factory=Progress)
    window: Window = field(default_factory=Window)
    meaning: dict[str, Any] = field(default_factory=dict)
    """What decides the run's result, for the reader."""
    config: dict[str, Any] = field(default_factory=dict)
    """As the run was last started, for the reader."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        path: Its folder.
        state: What is not a tensor.
        parameters: What `kept_tensors` named, on the CPU.
        moments: The optimizer's tensors, as `optimizer_tensors` names them.
    """

    path: str
    state: State
    parameters: dict[str, Tensor]
    moments: dict[str, Tensor]


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step_{step:08d}"


def step_of(path: str) -> int | None:
    """Return the step of a checkpoint's path, or None if it is not named like one."""
    match = _NAME.fullmatch(storage.name(path))
    return int(match[1]) if match else None


def save(directory: str, state: State, *, parameters: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> None:
    """Write a checkpoint into an empty folder.

    Args:
        directory: The folder.
        state: What is not a tensor.
        parameters: What `kept_tensors` names.
        moments: The optimizer's tensors.
    """
    for file, tensors in ((MODEL, parameters), (OPTIMIZER, moments)):
        here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        storage.write_bytes(storage.join(directory, file), safetensors.torch.save(here))
    content = {"format": FORMAT, "step": state.progress.step, **dataclasses.asdict(state)}
    seal(directory, kind=KIND, fingerprint=fingerprint(content), content=content)


def load(path: str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        FingerprintMismatch: if it is of another version.
        InputError: if it is not whole, or not of the step that its folder is named after.
    """
    path = storage.resolve(path)
    state = _state(path, open_sealed(path, kind=KIND))
    if step_of(path) not in (None, state.progress.step):
        raise InputError(f"{path} holds the checkpoint of step {state.progress.step}; {_ADVICE}")
    return Checkpoint(path, state, *(_tensors(storage.join(path, file)) for file in (MODEL, OPTIMIZER)))


def _state(path: str, manifest: dict[str, Any]) -> State:
    content, where = manifest["content"], storage.join(path, MANIFEST)
    made_by = content.get("format", 1)
    if made_by != FORMAT:
        version = EARLIER.get(made_by, "of another version") if isinstance(made_by, int) else "of another version"
        raise FingerprintMismatch(
            f"{path} is a checkpoint of lstm_embed {version}; continue its run with that version, or train again under another "
            "--run-name"
        )
    state = parse_json(json.dumps(content), State, where, advice=_ADVICE)
    with contextlib.suppress(ValueError):  # numbers that are not finite have no fingerprint
        if fingerprint(content) == manifest["fingerprint"]:
            return state
    raise InputError(f"{where} is damaged: its content is not what was sealed; {_ADVICE}")


def _tensors(path: str) -> dict[str, Tensor]:
    with opened(path) as file:
        expected = {name: ("F32", tuple(file.get_slice(name).get_shape())) for name in file.keys()}  # noqa: SIM118
        return {name: torch.from_numpy(array) for name, array in take_tensors(file, path, expected).items()}


def list_checkpoints(run_dir: str) -> list[str]:
    """Return the paths of all checkpoint folders of a run, whole or not, the newest first."""
    run_dir = storage.resolve(run_dir)
    inside = [file.path[len(run_dir) + 1 :].split("/") for file in storage.list_files(run_dir)]
    found = {names[0] for names in inside if len(names) > 1}
    named = [(step, name) for name in found if (step := step_of(name)) is not None]
    return [storage.join(run_dir, name) for _, name in sorted(named, reverse=True)]


def newest(run_dir: str, warn: Callable[[str], None], run: Run | None = None) -> Checkpoint | None:
    """Return the newest whole checkpoint of a folder, None if there is none.

    Args:
        run_dir: The run's folder.
        warn: Told of each newer one that is not whole.
        run: The run that it must be of, if given.

    Raises:
        FingerprintMismatch: if it is of another run or version.
    """
    for path in list_checkpoints(run_dir):
        try:
            found = load(path)
        except FingerprintMismatch:
            raise
        except (FileNotFoundError, InputError) as error:
            warn(f"checkpoint {storage.name(path)} is incomplete or damaged and is passed over: {error}")
            continue
        if run and (found.state.run != run.fingerprint or found.state.progress.step > run.end):
            raise FingerprintMismatch(
                f"checkpoint {path} is of a run with other settings, data or length (fingerprint {found.state.run[:8]}, this "
                f"run has {run.fingerprint[:8]} and {run.end} steps); take it out of the folder, or start from it under "
                "another --run-name with --init-from"
            )
        return found
    return None


def prune(run_dir: str, progress: Progress, keep: int) -> None:
    """Remove the checkpoints that are not needed: all but the latest and the best; later ones are of no use.

    Args:
        run_dir: The run's folder.
        progress: Where the run stands. A later checkpoint was not whole, or the run would stand there.
        keep: How many of the latest stay.
    """
    found = list_checkpoints(run_dir)
    reached = [path for path in found if (step_of(path) or 0) <= progress.step]
    kept = {*reached[:keep], storage.join(storage.resolve(run_dir), name_of(progress.best_step))}
    for path in found:
        if path not in kept:
            storage.remove_dir(path)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that training changes, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def kept_tensors(model: Model) -> dict[str, Tensor]:
    """Return what a checkpoint holds of a model, by name: trained parameters, and buffers that were made from the corpus."""
    return {**trained_parameters(model), **{name: getattr(model, name) for name in model.kept_buffers}}


def load_tensors(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Set the tensors of a model.

    Args:
        own: The model's tensors.
        tensors: Their values.
        source: Where these are from, for the message.

    Raises:
        InputError: if names or shapes are not the model's.
    """
    wrong = sorted(name for name in {*own, *tensors} if name not in own or name not in tensors)
    wrong += [name for name in own if name not in wrong and own[name].shape != tensors[name].shape]
    if wrong:
        raise InputError(
            f"the weights of {source} do not fit the model: {', '.join(wrong[:5])} differ in name or shape"
        )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(tensors[name])


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return Adam's tensors by name, such as "exp_avg.order.key.weight"."""
    return {
        f"{moment}.{name}": optimizer.state[parameter][moment]
        for name, parameter in trained_parameters(model).items()
        for moment in _MOMENTS
    }


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], source: str
) -> None:
    """Set Adam's tensors.

    Raises:
        InputError: if they are not of this model.
    """
    own = trained_parameters(model)
    shapes = {
        f"{moment}.{name}": torch.Size() if moment == "step" else parameter.shape
        for name, parameter in own.items()
        for moment in _MOMENTS
    }
    if shapes != {name: tensor.shape for name, tensor in moments.items()}:
        raise InputError(f"the optimizer's state in {source} is of another model; {_ADVICE}")
    for name, parameter in own.items():
        # The fused optimizer keeps its count beside the parameter.
        optimizer.state[parameter] = {
            moment: moments[f"{moment}.{name}"].to(parameter.device, copy=True)
            for moment in ("step", "exp_avg", "exp_avg_sq")
        }
