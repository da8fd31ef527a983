"""Train an autoencoder on a token set with Ray Train.

The same command continues the run `--run-name` at the step it had reached. The model of the best validation loss is left in
STORAGE/RUN_NAME/model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tyro

from lstm_embed.training.config import REMOVED, TrainingConfig

from console import Console
from launch import main, ray_session

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


def defaults(arguments: list[str]) -> TrainingConfig:
    """Return the preset that the flags name, with the required fields open.

    Raises:
        ValueError: if there is no such preset.
    """
    name = "default"
    for position, argument in enumerate(arguments):
        if argument == "--preset" and position + 1 < len(arguments):
            name = arguments[position + 1]
        elif argument.startswith("--preset="):
            name = argument.partition("=")[2]
    open_fields: dict[str, Any] = dict.fromkeys(("tokens", "vectors", "storage", "run_name"), tyro.MISSING)
    return TrainingConfig.for_preset(name, **open_fields)


def run(config: TrainingConfig) -> Summary:
    """Train, unless the run has finished."""
    from lstm_embed.stages.observe import Metrics
    from lstm_embed.training.trainer import finished_run, needs, train

    if summary := finished_run(config):
        return summary
    console = Console()
    with ray_session(needs(config), console), console:
        return train(config, Metrics(console, config.run_name))


if __name__ == "__main__":
    main(TrainingConfig, run, __doc__, defaults=defaults, removed=REMOVED)
