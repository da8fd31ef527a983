"""Checkpoints: the full state of a run at a step, in a folder that can tell by itself whether it is whole.

A checkpoint is a sealed folder (`ledger.sealed`): its manifest holds the SHA-256 of each file and, as its content, everything
that is not a tensor. Files:

    model.safetensors        the trained parameters by name, and what neighbouring sentences taught; what is given from outside
                             (word vectors, counts) is not repeated
    optimizer.safetensors    Adam's two moments and step count of each parameter
    manifest.json            hashes, and step, schedule, scaler, metrics, config, fingerprints (written last)

No pickle. Which checkpoint is the newest whole one is found by looking, never by trusting a list of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.ledger import fingerprint, open_sealed, seal
from lstm_embed.model.config import EARLIER
from lstm_embed.model.recipes import Model

KIND = "checkpoint"
FORMAT = 3
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
_NAME = re.compile(r"step_(\d{8,})")
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was read and verified.

    Attributes:
        path: Its folder.
        state: What is not a tensor, as it was given to `save`.
        parameters: What `kept_tensors` named, on the CPU.
        moments: The optimizer's tensors, as `optimizer_tensors` names them.
    """

    path: str
    state: dict[str, Any]
    parameters: dict[str, Tensor]
    moments: dict[str, Tensor]


def name_of(step: int) -> str:
    """Return the folder name of the checkpoint after `step` steps."""
    return f"step_{step:08d}"


def step_of(path: str) -> int | None:
    """Return the step of a checkpoint's path, or None if it is not named like one."""
    match = _NAME.fullmatch(storage.name(path))
    return int(match[1]) if match else None


def save(
    directory: str,
    state: Mapping[str, Any],
    *,
    parameters: Mapping[str, Tensor],
    moments: Mapping[str, Tensor],
) -> None:
    """Write a checkpoint into an empty folder.

    Args:
        directory: The folder.
        state: JSON-like values, "step" among them.
        parameters: What `kept_tensors` names.
        moments: The optimizer's tensors.
    """
    for file, tensors in ((MODEL, parameters), (OPTIMIZER, moments)):
        here = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        storage.write_bytes(storage.join(directory, file), safetensors.torch.save(here))
    content = {"format": FORMAT, **state}
    seal(directory, kind=KIND, fingerprint=fingerprint(content), content=content)


def load(path: str) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        FileNotFoundError: if there is none.
        InputError: if it is not whole, with the reason, or of another version.
    """
    path = storage.resolve(path)
    state = open_sealed(path, kind=KIND)["content"]
    _check_format(path, state)
    parameters, moments = (
        safetensors.torch.load(storage.read_bytes(storage.join(path, file))) for file in (MODEL, OPTIMIZER)
    )
    return Checkpoint(path, state, parameters, moments)


def verify(path: str, *, hashes: bool = True) -> dict[str, Any]:
    """Return the state of a checkpoint after checking that all of it is there.

    Args:
        path: Its folder.
        hashes: Compare contents too, not only sizes.

    Raises:
        InputError: if it is not whole, with the reason.
    """
    try:
        return dict(open_sealed(path, kind=KIND, verify=hashes)["content"])
    except FileNotFoundError as error:
        raise InputError(str(error)) from None


def _check_format(path: str, state: Mapping[str, Any]) -> None:
    if state.get("format") != FORMAT:
        version = EARLIER.get(state.get("format", 1), "of another version")
        raise InputError(
            f"{path} is a checkpoint of lstm_embed {version}; continue its run with that version, or train again under another "
            "--run-name"
        )


def list_checkpoints(run_dir: str) -> list[str]:
    """Return the paths of all checkpoint folders of a run, whole or not, the newest first."""
    run_dir = storage.resolve(run_dir)
    found = {file.path[len(run_dir) + 1 :].split("/", 1)[0] for file in storage.list_files(run_dir)}
    named = [(step, name) for name in found if (step := step_of(name)) is not None]
    return [storage.join(run_dir, name) for _, name in sorted(named, reverse=True)]


def newest(run_dir: str, warn: Callable[[str], None]) -> str | None:
    """Return the path of the newest whole checkpoint of a run, None if there is none.

    Args:
        run_dir: The run's folder.
        warn: Told of each newer one that is not whole.
    """
    for path in list_checkpoints(run_dir):
        try:
            verify(path)
            return path
        except InputError as error:
            warn(f"skipping checkpoint {storage.name(path)}, which is incomplete or damaged: {error}")
    return None


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
    """Return Adam's tensors by name, such as "exp_avg.order.key.weight"; none before the first step."""
    found = {}
    for name, parameter in trained_parameters(model).items():
        for moment in _MOMENTS:
            if moment in (state := optimizer.state.get(parameter, {})):
                found[f"{moment}.{name}"] = state[moment]
    return found


def load_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, moments: Mapping[str, Tensor], source: str
) -> None:
    """Set Adam's tensors.

    Raises:
        InputError: if they are not of this model.
    """
    own = trained_parameters(model)
    expected = {f"{moment}.{name}" for name in own for moment in _MOMENTS} if moments else set()
    if expected != set(moments):
        raise InputError(f"the optimizer's state in {source} is of another model")
    for name, parameter in own.items() if moments else ():
        optimizer.state[parameter] = {
            # The fused optimizer keeps its count beside the parameter.
            moment: moments[f"{moment}.{name}"].to(parameter.device, copy=True)
            for moment in ("step", "exp_avg", "exp_avg_sq")
        }
