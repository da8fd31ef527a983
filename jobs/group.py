"""Group the sentences of embedding parts by meaning; say of each group its size, words and nearest sentences.

The same command again continues where it stopped. Parts with a group for each row lie under parts/, what is typical of each
group in clusters.jsonl, where its words are those its centre decodes to, and pairs of near duplicates
(--near-duplicates 0.95) under pairs/.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstm_embed.embedding.config import GroupConfig

from launch import main, run_unit_job

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


@dataclass(frozen=True, kw_only=True)
class Config(GroupConfig):
    """Group the sentences of embedding parts by meaning."""

    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""
    show: int = 20
    """Groups printed, the largest first; 0 for none."""


def run(config: Config) -> Summary:
    """Group, unless everything is done; print the largest groups."""
    from lstm_embed.embedding.group import GroupJob

    fields = {name: getattr(config, name) for name in GroupConfig.__dataclass_fields__}
    summary = run_unit_job(lambda: GroupJob(GroupConfig(**fields)), dry_run=config.dry_run)
    print_groups(summary.output, config.show)
    return summary


def print_groups(output: str, number: int) -> None:
    """Print the largest groups: size, words and the sentence nearest to the centre."""
    from lstm_embed.base import storage

    groups = [json.loads(line) for line in storage.read_bytes(storage.join(output, "clusters.jsonl")).splitlines()]
    groups.sort(key=lambda group: -group["size"])
    for group in groups[:number]:
        nearest = group["nearest"][0] if group["nearest"] else {}
        text = nearest.get("text") or nearest.get("title") or nearest.get("article_id") or ""
        print(f"{group['cluster']:>6} {group['size']:>9,}  {' '.join(group['words'][:8]):<60}  {text[:80]}")


if __name__ == "__main__":
    main(Config, run, __doc__)
