"""Score a model and simple baselines; write all figures as JSON and one page to look at. Runs without Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstm_embed.evaluation.config import REMOVED, EvaluationConfig

from console import Console
from launch import main

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


def run(config: EvaluationConfig) -> Summary:
    """Evaluate, unless everything is done."""
    from lstm_embed.evaluation.evaluate import evaluate

    with Console() as console:
        return evaluate(config, console)


if __name__ == "__main__":
    main(EvaluationConfig, run, __doc__, removed=REMOVED)
