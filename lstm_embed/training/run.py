"""The folder of a run: what the run is, how long it is to be, and what is in it. Imports neither torch nor Ray.

    run.json          what decides the result, the resolved config, the phases, the Weights & Biases id
    step_NNNNNNNN/    checkpoints
    metrics.jsonl     one line for every few steps
    model/            the model folder, made from the best checkpoint
    done.json         written when the last phase has ended; a start that asks for no more does nothing
    owner/            marks of the job that is writing

A *phase* is a stretch of steps with one schedule of the learning rate. A run has one; asking a finished run for more epochs
adds another.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from dataclasses import dataclass, field
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.ledger import fingerprint, provenance
from lstm_embed.ledger.plan import differences
from lstm_embed.model.config import EARLIER
from lstm_embed.training.config import TrainingConfig

RUN, DONE, METRICS, MODEL = "run.json", "done.json", "metrics.jsonl", "model"
FORMAT = 3


@dataclass(frozen=True)
class Phase:
    """Steps `start` to before `end`, with a learning rate that rises, then falls."""

    start: int
    end: int
    epochs: int
    max_steps: int

    def rate(self, step: int, warmup_steps: int, final_rate: float) -> float:
        """Return the factor on the learning rate for a step: linear warm-up, then linear decay to `final_rate`."""
        done, length = step - self.start, self.end - self.start
        warmup = min(warmup_steps, length - 1)
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return 1.0 - (1.0 - final_rate) * (done - warmup) / max(1, length - warmup)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is, as `run.json` holds it."""

    path: str
    """The run's folder."""
    meaning: dict[str, Any]
    """Everything that decides the result: settings, and the fingerprints of the data."""
    phases: tuple[Phase, ...]
    wandb_id: str
    rolled_back_to: str = ""
    """The last `--from-checkpoint` that was applied."""

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the result, apart from its length."""
        return fingerprint(self.meaning)

    @property
    def end(self) -> int:
        """Steps of the whole run."""
        return self.phases[-1].end

    def is_rolled_back(self, source: str) -> bool:
        """Tell whether there is no going back to do: nowhere to go, or it was done by an earlier start."""
        return not source or self.rolled_back_to == storage.resolve(source)

    def phase(self, step: int) -> Phase:
        """Return the phase a step belongs to."""
        return next(phase for phase in self.phases if step < phase.end)


@dataclass
class RunFolder:
    """Reads and writes the folder of a run; of several jobs only its owner may write."""

    path: str
    _values: dict[str, Any] | None = field(default=None, init=False)

    @classmethod
    def of(cls, config: TrainingConfig) -> RunFolder:
        """Return the folder of a config's run."""
        return cls(storage.join(storage.resolve(config.storage), config.run_name))

    @property
    def model_dir(self) -> str:
        """Where the model folder lies."""
        return storage.join(self.path, MODEL)

    def read(self) -> Run | None:
        """Return the run that is there, None if there is none.

        Raises:
            InputError: if the folder holds something else.
        """
        path = storage.join(self.path, RUN)
        if not storage.exists(path):
            if storage.list_files(self.path, recursive=False):
                raise InputError(f"{self.path} holds files of something else; choose another --run-name or --storage")
            return None
        try:
            values = storage.read_json(path)
            run_format, phases = values["format"], tuple(Phase(**phase) for phase in values["phases"])
            run = Run(
                path=self.path,
                meaning=values["meaning"],
                phases=phases,
                wandb_id=values["wandb_id"],
                rolled_back_to=values.get("rolled_back_to", ""),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is damaged ({error}); restore it, or choose another --run-name") from None
        if run_format != FORMAT:
            raise InputError(
                f"{self.path} is a run of lstm_embed {EARLIER.get(run_format, 'of another version')} (format {run_format}, "
                f"this version reads {FORMAT}); continue it with that version, or choose another --run-name"
            )
        return run

    def write(self, run: Run, config: TrainingConfig) -> None:
        """Write what the run is and the config it was last started with."""
        values = {
            "format": FORMAT,
            "kind": "run",
            "meaning": run.meaning,
            "phases": [dataclasses.asdict(phase) for phase in run.phases],
            "wandb_id": run.wandb_id,
            "rolled_back_to": run.rolled_back_to,
            "config": config.to_dict(),
            "made_by": provenance(),
        }
        storage.write_json(storage.join(self.path, RUN), values)

    def done(self) -> dict[str, Any] | None:
        """Return what the run came to, None if it has not ended."""
        with contextlib.suppress(OSError, ValueError):
            return dict(storage.read_json(storage.join(self.path, DONE)))
        return None

    def write_done(self, facts: dict[str, Any]) -> None:
        """Write what the run came to."""
        storage.write_json(storage.join(self.path, DONE), facts)


def plan_run(
    config: TrainingConfig, existing: Run | None, data: dict[str, Any], end: int, *, path: str, finished: bool
) -> Run:
    """Return what a run is to be, given what it was.

    Args:
        config: Of this start.
        existing: The run as it was, None for a new one.
        data: Fingerprints of the data and the resolved precision.
        end: Steps the config asks for.
        path: The run's folder.
        finished: Whether the existing run has ended.

    Raises:
        FingerprintMismatch: if the existing run was another one, naming the differences.
    """
    meaning = {**config.meaning(), **data}
    if existing is None:
        phase = Phase(0, end, config.epochs, config.max_steps)
        return Run(path=path, meaning=meaning, phases=(phase,), wandb_id=secrets.token_hex(4))
    # A setting that this version added does not make an old run another one.
    recorded = {**defaults(), **existing.meaning}
    if recorded != meaning:
        raise FingerprintMismatch(
            f"run {config.run_name} in {storage.parent(path)} was started with other settings or data: "
            f"{differences(recorded, meaning)}; use the same, or another --run-name (with --init-from "
            f"{storage.name(path)}'s folder it starts from these weights)"
        )
    if end == existing.end:
        return existing
    last = existing.phases[-1]
    asked = f"epochs was {last.epochs} and is now {config.epochs}"
    if last.max_steps or config.max_steps:
        asked += f", max_steps was {last.max_steps} and is now {config.max_steps}"
    if end < existing.end:
        raise FingerprintMismatch(
            f"run {config.run_name} was to make {existing.end} steps, this command asks for {end}: {asked}; "
            "use the same, or another --run-name"
        )
    if not finished:
        raise FingerprintMismatch(
            f"run {config.run_name} has not made its {existing.end} steps yet, and this command asks for {end}: {asked}; "
            "let it finish with the same command as before, then raise --epochs"
        )
    phase = Phase(existing.end, end, config.epochs, config.max_steps)
    return dataclasses.replace(existing, phases=(*existing.phases, phase))


def defaults() -> dict[str, Any]:
    """Return the default of every setting that decides the result."""
    return TrainingConfig(tokens="-", vectors="-", storage="-", run_name="x").meaning()
