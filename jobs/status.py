"""Tell how an output folder of any job stands: what is done, missing, rejected, and which inputs changed since.

Reads files only and works while the job runs. Needs neither Ray nor torch.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from console import duration
from launch import main

if TYPE_CHECKING:
    from lstm_embed.ledger.state import FolderState


@dataclass(frozen=True, kw_only=True)
class Config:
    """Tell how an output folder of any job stands."""

    path: Annotated[str, tyro.conf.Positional]
    """Output folder of a job, or the folder of a training run; local or s3://."""
    json: bool = False
    """Print one JSON object instead of lines."""


def run(config: Config) -> None:
    """Print the state of a folder."""
    from lstm_embed.base import storage
    from lstm_embed.base.errors import InputError

    path = storage.resolve(config.path)
    if not storage.exists(path):
        raise FileNotFoundError(f"no folder at {path}")
    if storage.exists(storage.join(path, "job.json")):
        state = _unit_folder(path)
    elif storage.exists(storage.join(path, "metrics.jsonl")):
        state = _training_run(path)
    elif storage.exists(storage.join(path, "manifest.json")):
        state = _sealed_folder(path)
    else:
        raise InputError(
            f"{path} is not an output folder of a job: it holds none of job.json, metrics.jsonl, manifest.json"
        )
    if config.json:
        print(json.dumps(state, ensure_ascii=False))
        return
    for name, value in state.items():
        print(f"{name.replace('_', ' ') + ':':<22} {_shown(value)}")


def _unit_folder(path: str) -> dict[str, Any]:
    from lstm_embed.base import storage
    from lstm_embed.ledger.state import folder_state

    found: FolderState = folder_state(path)
    state: dict[str, Any] = {
        "folder": path,
        "holds": found.kind.replace("_", " "),
        "finished": found.finished,
        "units_done": f"{len(found.done)} of {found.num_units}",
        "rows_done": found.rows,
        "units_missing": list(found.missing),
        "records_rejected": found.rejected,
        "inputs_changed": list(found.changed),
        "inputs_gone": list(found.gone),
    }
    progress = storage.join(path, "progress.json")
    if storage.exists(progress):
        now = storage.read_json(progress)
        left = now.get("seconds_left")
        state["running"] = (
            f"{now['stage']}: {now['done']:,.4g} of {now['total']:,.4g} {now['unit']}, {now['rate']:,.4g} {now['unit']}/s"
            + (f", {duration(left)} left" if left is not None else "")
            + f" (written {duration(max(0.0, time.time() - now['time']))} ago)"
        )
    return state


def _training_run(path: str) -> dict[str, Any]:
    from lstm_embed.base import storage

    lines = storage.read_bytes(storage.join(path, "metrics.jsonl")).splitlines()
    last: dict[str, Any] = {}
    for line in lines:
        last.update(json.loads(line))
    finished = storage.exists(storage.join(path, "model", "manifest.json"))
    return {"folder": path, "holds": "training run", "model_written": finished, **last}


def _sealed_folder(path: str) -> dict[str, Any]:
    from lstm_embed.base import storage

    manifest = storage.read_json(storage.join(path, "manifest.json"))
    return {
        "folder": path,
        "holds": manifest["kind"].replace("_", " "),
        "finished": True,
        **manifest.get("content", {}),
    }


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count:,} {name}" for name, count in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value[:10])) + (f" and {len(value) - 10} more" if len(value) > 10 else "") or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main(Config, run, __doc__)
