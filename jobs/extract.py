"""Turn a MediaWiki dump into articles: JSON lines as wikiextractor writes them.

A multistream dump is read by many tasks at once. The same command again continues where it stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstm_embed.dump.config import ExtractConfig

from launch import main, run_unit_job

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


@dataclass(frozen=True, kw_only=True)
class Config(ExtractConfig):
    """Turn a MediaWiki dump into articles: JSON lines as wikiextractor writes them."""

    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""


def run(config: Config) -> Summary:
    """Extract, unless everything is done."""
    from lstm_embed.dump.extract import ExtractJob

    return run_unit_job(lambda: ExtractJob(config), dry_run=config.dry_run)


if __name__ == "__main__":
    main(Config, run, __doc__)
