"""Turn articles into a token set: sentences, token ids and a vocabulary.

The same command again continues where it stopped; new, changed or removed input files redo only what they hold.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstm_embed.corpus.config import REMOVED, PrepareConfig

from launch import main, run_unit_job

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


@dataclass(frozen=True, kw_only=True)
class Config(PrepareConfig):
    """Turn articles into a token set: sentences, token ids and a vocabulary."""

    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""


def run(config: Config) -> Summary:
    """Prepare, unless everything is done."""
    from lstm_embed.corpus.prepare import PrepareJob

    return run_unit_job(lambda: PrepareJob(config), dry_run=config.dry_run)


if __name__ == "__main__":
    main(Config, run, __doc__, removed=REMOVED)
