"""Embed a corpus: one vector a sentence, row or article, written to parquet.

The same command again continues where it stopped; new, changed or removed input redoes only what it holds.
Vectors give their sentences back (jobs/decode.py): guard them like the text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from lstm_embed.embedding.config import EmbedConfig

from launch import main, run_unit_job

if TYPE_CHECKING:
    from lstm_embed.base.progress import Reporter, Summary
    from lstm_embed.stages.wandb_run import WandbProgress


@dataclass(frozen=True, kw_only=True)
class Config(EmbedConfig):
    """Embed a corpus: one vector a sentence, row or article, written to parquet."""

    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""
    wandb_project: str = ""
    """Weights & Biases project that gets the figures of the progress line, no text; empty for none."""
    wandb_entity: str = ""
    """Weights & Biases user or team; empty for the key's own."""
    wandb_mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """auto is online with an API key and offline without; or online, offline, disabled."""


def run(config: Config) -> Summary:
    """Embed, unless everything is done."""
    from lstm_embed.embedding.embed import EmbedJob

    def follow(output: str, report: Reporter) -> WandbProgress:
        return follow_in_wandb(config, output, report)

    job = EmbedConfig(**{name: getattr(config, name) for name in EmbedConfig.__dataclass_fields__})
    return run_unit_job(lambda: EmbedJob(job), dry_run=config.dry_run, follow=follow if config.wandb_project else None)


def follow_in_wandb(config: Config, output: str, report: Reporter) -> WandbProgress:
    """Return a reporter that also sends progress to Weights & Biases; one run for each output folder."""
    from lstm_embed.base import storage
    from lstm_embed.ledger import fingerprint
    from lstm_embed.stages.wandb_run import WandbProgress, WandbSettings

    settings = WandbSettings(
        project=config.wandb_project,
        entity=config.wandb_entity,
        mode=config.wandb_mode,
        name=storage.name(output),
        id=fingerprint(output)[:16],
        folder=output,
        config=asdict(config),
        step="embed/done_fraction",
    )
    return WandbProgress(report, settings)


if __name__ == "__main__":
    main(Config, run, __doc__)
