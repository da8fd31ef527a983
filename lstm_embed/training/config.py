"""Settings of a training run. Imports neither torch nor Ray."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Literal

import pydantic

from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import DECIDES, Range, Words, deciding, settings, values_of
from lstm_embed.corpus.config import MAX_MIN_TOKENS
from lstm_embed.model.config import PRESETS, AnyConfig, ModelConfig
from lstm_embed.stages.config import WandbConfig


def _run_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", name):
        raise ValueError(
            f"run_name is {name[:200]!r}; expected up to 200 letters, digits, '.', '_' and '-', beginning with a letter or "
            "digit (--run-name)"
        )
    return name


@settings()
class TrainingConfig(WandbConfig):
    """Train an autoencoder on a token set.

    The same command continues an interrupted run at the step it had reached. What the model becomes is decided by the token
    set, the word vectors and the fields that `meaning` lists; workers, checkpoints and tracking may change from start to
    start.
    """

    tokens: Words
    """Folder of the token set; local or s3://."""

    vectors: Words
    """Folder of the word vectors, made for this token set's vocabulary; local or s3://."""

    storage: Words
    """Folder that holds the runs; every node must see it (a shared file system or s3://)."""

    run_name: Annotated[str, pydantic.AfterValidator(_run_name)]
    """Name of the run and of its folder in the storage. The same name continues the run."""

    preset: str = "default"
    """Recipe the settings started from: default, large or original."""

    model: AnyConfig = field(default_factory=ModelConfig)
    """What vectors are made of."""

    epochs: Annotated[int, Range(1)] = 1
    """Passes over the corpus, at least 1. A finished run is trained further under another name, with `--init-from`."""

    max_steps: Annotated[int, Range(0)] = 0
    """Steps after which training ends even inside an epoch; 0 for no limit."""

    micro_batch_sentences: Annotated[int, Range(1), DECIDES] = 128
    """Sentences of like length that are computed together, at least 1."""

    micro_batches_per_step: Annotated[int, Range(1), DECIDES] = 2
    """Micro-batches that make one step, at least 1; as many workers can share the work of a step."""

    min_tokens: Annotated[int, Range(1, MAX_MIN_TOKENS), DECIDES] = 4
    """Least tokens of a sentence that is trained on, 1 to 8."""

    buffer_sentences: Annotated[int, Range(1), DECIDES] = 262_144
    """Sentences that are shuffled and sorted by length at a time, at least 1; bounds memory and randomness."""

    learning_rate: Annotated[float, Range(1e-12), DECIDES] = 2e-3
    """Largest learning rate of Adam, above 0."""

    warmup_steps: Annotated[int, Range(0), DECIDES] = 50
    """Steps over which the learning rate rises from 0, at least 0."""

    final_rate: Annotated[float, Range(0, 1), DECIDES] = 0.05
    """Share of the learning rate that the linear decay ends at, 0 to 1; 1 for a constant rate."""

    clip: Annotated[float, Range(0), DECIDES] = 1.0
    """Largest norm of the gradient, longer ones are shortened; 0 for no limit."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the matrix products: fp32, bf16, or auto: bf16 where the hardware is fast at it and, on a CPU, the model
    has many units. A GPU trains the LSTM itself in TF32 either way."""

    seed: Annotated[int, Range(0, 2**63 - 1), DECIDES] = 0
    """Start of all chance: initial weights and the order of sentences; at least 0."""

    validation_sentences: Annotated[int, Range(0), DECIDES] = 8192
    """Held-out sentences on which the loss is measured, at least 0."""

    validate_steps: Annotated[int, Range(0), DECIDES] = 1000
    """Steps between validations, at least 0; one is always made at the end of an epoch. Each is saved as a checkpoint."""

    num_workers: str = "1"
    """Workers, each with one CPU or GPU: a number, or a range such as 1:8 that follows the cluster's size."""

    gpu: bool = False
    """Give each worker one GPU."""

    cpus_per_worker: Annotated[int, Range(1)] = 1
    """CPUs each worker reserves, at least 1."""

    torch_threads: Annotated[int, Range(1)] = 1
    """Threads of torch in each worker, at least 1; more than one is slower on busy machines."""

    checkpoint_every: str = "10m"
    """How often a checkpoint is written besides those of validations: steps (500) or time (10m, 90s)."""

    keep: Annotated[int, Range(1)] = 3
    """Latest checkpoints that are kept, at least 1; that of the best validation is kept besides."""

    max_failures: Annotated[int, Range(-1)] = 8
    """Worker failures after which the run gives up, at least 0; -1 for never."""

    init_from: str = ""
    """Start a new run from the LSTM weights of this checkpoint, run or model folder, best with word vectors that go on from
    its own (`word_vectors --continue-from`)."""

    log_steps: Annotated[int, Range(1)] = 10
    """Steps between lines of metrics.jsonl, at least 1; each line holds means over them."""

    wandb_tags: tuple[str, ...] = ()
    """Tags of the Weights & Biases run."""

    def __post_init__(self) -> None:
        _ = self.checkpoint_interval
        if self.workers[1] > self.micro_batches_per_step:
            raise _wrong(
                self,
                "num_workers",
                f"at most --micro-batches-per-step {self.micro_batches_per_step}, since a micro-batch is not shared",
            )

    @property
    def workers(self) -> tuple[int, int]:
        """Least and largest number of workers."""
        match = re.fullmatch(r"(\d+)(?::(\d+))?", str(self.num_workers))
        least, most = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= least <= most:
            raise _wrong(self, "num_workers", "a number of at least 1, or a range such as 1:8")
        return least, most

    @property
    def checkpoint_interval(self) -> tuple[int, float]:
        """Steps and seconds between checkpoints; 0 for the one that does not count."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([sm]?)", self.checkpoint_every)
        value = float(match[1]) if match else 0.0
        if not match or value <= 0 or (not match[2] and value != int(value)):
            raise _wrong(self, "checkpoint_every", "steps such as 500, or a time such as 10m or 90s")
        return (0, value * {"s": 1, "m": 60}[match[2]]) if match[2] else (int(value), 0.0)

    def meaning(self) -> dict[str, Any]:
        """Return the fields that decide what the model becomes, besides the data, the precision and the length."""
        return {**deciding(self), **{f"model.{name}": value for name, value in self.model.to_dict().items()}}

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return values_of(self)

    @classmethod
    def for_preset(cls, name: str, **fields: Any) -> TrainingConfig:
        """Return the settings a preset stands for, with some fields changed.

        Raises:
            InputError: if there is no such preset.
        """
        if name not in PRESETS:
            raise InputError(f"preset is {name!r}; expected one of {', '.join(PRESETS)} (--preset)")
        return cls(**{"preset": name, "model": PRESETS[name](), **_PRESET_FIELDS.get(name, {}), **fields})


_PRESET_FIELDS: dict[str, dict[str, Any]] = {
    # As many GPUs can share a step.
    "large": {"micro_batches_per_step": 8},
    # Keras' Adam: a constant rate, no clipping, every sentence.
    "original": {"warmup_steps": 0, "final_rate": 1.0, "clip": 0.0, "min_tokens": 1, "learning_rate": 1e-3},
}
"""What a preset changes beside the model."""


def _wrong(config: TrainingConfig, name: str, expected: str) -> InputError:
    return InputError(f"{name} is {getattr(config, name)!r}; expected {expected} (--{name.replace('_', '-')})")
