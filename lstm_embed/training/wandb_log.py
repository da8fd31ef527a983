"""The Weights & Biases run of a training run, which gets every line whatever is killed.

Offline, a line is sent when a checkpoint holds it, so that no step is ever there with two values. W&B keeps lines in memory for
some seconds before it writes them to disk, and a killed process loses them. So a resumed run sends the lines of the last minute
again as they were.
"""

from __future__ import annotations

from collections.abc import Callable

from lstm_embed.stages.wandb_run import WandbRun, WandbSettings
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import STEP, TIME, Row, Run

_SURE_SECONDS = 60.0
"""Lines that are so much older than the last one are on disk."""


def start_wandb(config: TrainingConfig, run: Run, rows: list[Row], note: Callable[[str], None]) -> WandbRun:
    """Start or resume the Weights & Biases run of a training run.

    Args:
        config: Project and mode.
        run: Whose id it uses.
        rows: Lines of the metrics file so far.
        note: Told what the user should know.
    """
    made = WandbRun(
        WandbSettings(
            project=config.wandb_project,
            entity=config.wandb_entity,
            tags=config.wandb_tags,
            mode=config.wandb_mode,
            name=config.run_name,
            id=run.wandb_id,
            folder=run.path,
            config={**config.to_dict(), "meaning": run.meaning, "run": run.fingerprint},
            step=STEP,
        ),
        note,
    )
    for row in rows:
        if row.get(TIME, 0) > rows[-1].get(TIME, 0) - _SURE_SECONDS:
            made.log(row)
    return made
