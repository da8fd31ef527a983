"""Embed a corpus: one vector a sentence, row or article, written to parquet.

The same command again continues where it stopped; new, changed or removed input redoes only what it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstm_embed.embedding.config import EmbedConfig

from launch import main, run_unit_job

if TYPE_CHECKING:
    from lstm_embed.progress import Summary


@dataclass(frozen=True, kw_only=True)
class Config(EmbedConfig):
    """Embed a corpus: one vector a sentence, row or article, written to parquet."""

    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""


def run(config: Config) -> Summary:
    """Embed, unless everything is done."""
    from lstm_embed.embedding.embed import EmbedJob

    return run_unit_job(lambda: EmbedJob(config), dry_run=config.dry_run)


if __name__ == "__main__":
    main(Config, run, __doc__)
