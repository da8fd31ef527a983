"""Settings that several stages have. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic

from lstm_embed.base.settings import Range, Words, settings

MEGABYTE = 1_000_000


def workers_range(value: str) -> tuple[int, int]:
    """Return the least and the most workers that "4" or "1:8" stands for ("0" for as many as fit).

    Raises:
        ValueError: for anything else.
    """
    least, _, most = value.partition(":")
    low, high = (int(text) if text.isascii() and text.isdigit() else -1 for text in (least, most or least))
    if not 0 <= low <= high or (most and low == 0):
        raise ValueError(
            f"num_workers is {value!r}; expected a number such as 4, a range such as 1:8, or 0 (--num-workers)"
        )
    return low, high


def _checked_workers(value: str) -> str:
    workers_range(value)
    return value


NumWorkers = Annotated[str, pydantic.AfterValidator(_checked_workers)]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
WandbMode = Literal["auto", "online", "offline", "disabled"]


@settings()
class StageConfig:
    """What every stage on units is told."""

    output: Words
    """Folder for the result; local or s3://."""
    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""


@settings()
class InputConfig(StageConfig):
    """What stages are told that read input from outside."""

    max_bad_fraction: Annotated[float, Range(0, 1)] = 0.01
    """Share of the input, by records and by bytes, that may be rejected before the job fails, 0 to 1."""
    quarantine_text: bool = False
    """Write the first bytes of what was rejected to the quarantine; it is your text."""
    prune: bool = False
    """Remove what came from input files that are no longer there."""


@settings()
class WandbConfig:
    """Where to watch a job."""

    wandb_project: str = ""
    """Weights & Biases project that gets the job's figures, no text; empty for none."""
    wandb_entity: str = ""
    """Weights & Biases user or team; empty for the key's own."""
    wandb_mode: WandbMode = "auto"
    """auto is online with an API key and offline without; or online, offline, disabled."""
