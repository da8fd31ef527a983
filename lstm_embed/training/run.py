"""The folder of a run: what the run is, how long it is to be, and what is in it. Imports neither torch nor Ray.

run.json          what decides the result, the resolved config, the length, the Weights & Biases id
step_NNNNNNNN/    checkpoints
metrics.jsonl     one line for every few steps
model/            the model folder, made from the best checkpoint
done.json         what the run came to, written when it has ended
owner/            marks of the job that is writing
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import annotated_types
import pydantic
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.settings import Range, parse_json, read_json
from lstm_embed.ledger import fingerprint, provenance
from lstm_embed.ledger.plan import differences
from lstm_embed.model.config import EARLIER
from lstm_embed.training.config import TrainingConfig

RUN, DONE, METRICS, MODEL = "run.json", "done.json", "metrics.jsonl", "model"
FORMAT = 3
STEP, TIME = "train/step", "time"
"""Names of two metrics of each line of `metrics.jsonl`; the others are in `tracking`."""

Count = Annotated[int, Range(0)]
Row = dict[str, int | float]
"""A line of metrics, by their names."""


@dataclass(frozen=True)
class Schedule:
    """Steps `start` to before `end`, with a learning rate that rises, then falls.

    A run starts at 0; one that an earlier version continued with more epochs starts where these begin.
    """

    start: Count
    end: Annotated[int, Range(1)]
    epochs: Count
    max_steps: Count

    def rate(self, step: int, warmup_steps: int, final_rate: float) -> float:
        """Return the factor on the learning rate for a step: linear warm-up, then linear decay to `final_rate`."""
        done, length = step - self.start, self.end - self.start
        warmup = min(warmup_steps, length - 1)
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return 1.0 - (1.0 - final_rate) * (done - warmup) / max(1, length - warmup)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is."""

    path: str
    """The run's folder."""
    meaning: dict[str, Any]
    """Everything that decides the result: settings, and the fingerprints of the data."""
    schedule: Schedule
    wandb_id: str

    @property
    def fingerprint(self) -> str:
        """Hash of what decides the result, apart from its length."""
        return fingerprint(self.meaning)

    @property
    def end(self) -> int:
        """Steps of the whole run."""
        return self.schedule.end


@dataclass
class Progress:
    """How far a run has come; part of every checkpoint.

    Attributes:
        step: Steps made.
        best_step: Step of the best validation, -1 before the first.
        best_loss: Its loss.
        sentences: Sentences trained on.
        tokens: Their tokens.
    """

    step: Count = 0
    best_step: Annotated[int, Range(-1)] = -1
    best_loss: pydantic.FiniteFloat | None = None
    sentences: Count = 0
    tokens: Count = 0


@dataclass(kw_only=True)
class Done(Progress):
    """What a run came to: its progress at the end.

    Attributes:
        epochs: Passes over the corpus.
        run: Fingerprint of the run.
        model_step: Step of the checkpoint that the model was made of.
    """

    epochs: Count
    run: str
    model_step: Count


class _Version(TypedDict):
    format: int


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class _Meaning(TypedDict):
    precision: Literal["fp32", "bf16", "fp16"]


class _RunFile(_Version):
    meaning: _Meaning
    phases: Annotated[list[Schedule], annotated_types.MinLen(1)]
    """One; of earlier versions also those that had ended."""
    wandb_id: Annotated[str, pydantic.StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]


@dataclass(frozen=True)
class RunFolder:
    """Reads and writes the folder of a run; of several jobs only its owner may write."""

    path: str

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
            InputError: if the folder holds something else, or there can be none.
        """
        for path, flag in ((storage.parent(self.path), "--storage"), (self.path, "--run-name")):
            if storage.exists(path) and not storage.is_dir(path):
                raise InputError(f"{path} is a file; expected a folder, or nothing yet ({flag})")
        path = storage.join(self.path, RUN)
        if not storage.exists(path):
            if storage.list_files(self.path, recursive=False):
                raise InputError(f"{self.path} holds files of something else; choose another --run-name or --storage")
            return None
        advice = "restore it, or choose another --run-name"
        made_by = read_json(path, _Version, advice=advice)["format"]
        if made_by != FORMAT:
            raise InputError(
                f"{self.path} is a run of lstm_embed {EARLIER.get(made_by, 'of another version')} (format {made_by}, "
                f"this version reads {FORMAT}); continue it with that version, or choose another --run-name"
            )
        values = read_json(path, _RunFile, advice=advice)
        return Run(
            path=self.path, meaning={**values["meaning"]}, schedule=values["phases"][-1], wandb_id=values["wandb_id"]
        )

    def write(self, run: Run, config: TrainingConfig) -> None:
        """Write what the run is and the config it was last started with."""
        values = {
            "format": FORMAT,
            "kind": "run",
            "meaning": run.meaning,
            "phases": [dataclasses.asdict(run.schedule)],
            "wandb_id": run.wandb_id,
            "config": config.to_dict(),
            "made_by": provenance(),
        }
        storage.write_json(storage.join(self.path, RUN), values)

    def done(self) -> Done | None:
        """Return what the run came to, None if it has not ended.

        Raises:
            InputError: if the note of that is damaged.
        """
        path = storage.join(self.path, DONE)
        if not storage.exists(path):
            return None
        return read_json(path, Done, advice="remove it and run the same command again, which makes it anew")

    def write_done(self, done: Done) -> None:
        """Write what the run came to."""
        storage.write_json(storage.join(self.path, DONE), dataclasses.asdict(done))


def _with_step(row: Row) -> Row:
    if type(row.get(STEP)) is not int:
        raise ValueError(f"{STEP} is {row.get(STEP)!r}; expected a whole number")
    return row


_Line: Any = Annotated[dict[str, int | pydantic.FiniteFloat], pydantic.AfterValidator(_with_step)]


def read_metrics(run_dir: str) -> list[Row]:
    """Return the lines of a run's metrics, without the last one if it is torn: its writer was killed, or is writing it.

    Raises:
        InputError: if another line is damaged.
    """
    path = storage.join(run_dir, METRICS)
    if not storage.exists(path):
        return []
    *lines, _torn = storage.read_bytes(path).split(b"\n")
    advice = "remove the line, or the file"
    return [parse_json(line, _Line, f"line {number} of {path}", advice=advice) for number, line in enumerate(lines, 1)]


def plan_run(config: TrainingConfig, existing: Run | None, data: dict[str, Any], end: int) -> Run:
    """Return what a run is to be, given what it was.

    Args:
        config: Of this start.
        existing: The run as it was, None for a new one.
        data: Fingerprints of the data and the resolved precision.
        end: Steps the config asks for.

    Raises:
        FingerprintMismatch: if the existing run was another one, naming the differences.
    """
    meaning = {**config.meaning(), **data}
    path = RunFolder.of(config).path
    if existing is None:
        schedule = Schedule(0, end, config.epochs, config.max_steps)
        return Run(path=path, meaning=meaning, schedule=schedule, wandb_id=secrets.token_hex(4))
    if existing.meaning != meaning:
        raise FingerprintMismatch(
            f"run {config.run_name} in {storage.parent(path)} was started with other settings or data: "
            f"{differences(existing.meaning, meaning)}; use the same, or another --run-name (with --init-from "
            f"{path} it starts from these weights)"
        )
    if existing.end != end:
        was, now = existing.schedule, Schedule(0, end, config.epochs, config.max_steps)
        raise FingerprintMismatch(
            f"run {config.run_name} is of {was.end} steps, this command asks for {now.end}: "
            f"{differences(dataclasses.asdict(was), dataclasses.asdict(now))}; use the same --epochs and --max-steps, or train "
            f"further under another --run-name with --init-from {path}"
        )
    return existing
