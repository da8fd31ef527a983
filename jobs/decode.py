"""Give vectors their text back: parquet with what each row of a folder of embeddings says, and whether that is proven.

Vectors give their sentences back, so guard them, and what this writes, like the text. Proven means: what came out, encoded
again, is the vector it came from; it speaks of the words the model read and knows, not of those that it cut off or does not
know. The same command again continues where it stopped; only parts of vectors that are new or changed are decoded again.
--limit 20 prints the first rows, beside their texts where these were stored, and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lstm_embed.embedding.config import DecodeConfig

from launch import main, run_unit_job

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lstm_embed.base.progress import Summary
    from lstm_embed.embedding.decode import DecodedRow


@dataclass(frozen=True, kw_only=True)
class Config(DecodeConfig):
    """Give vectors their text back."""

    dry_run: bool = False
    """Print what would be done, with a time estimated from a small sample, and write nothing."""


def run(config: Config) -> Summary | None:
    """Decode, unless everything is done; or print the first rows."""
    from lstm_embed.embedding.decode import DecodeJob, decode_first

    job = DecodeConfig(**{name: getattr(config, name) for name in DecodeConfig.__dataclass_fields__})
    if job.limit:
        print_rows(decode_first(job))
        return None
    return run_unit_job(lambda: DecodeJob(job), dry_run=config.dry_run)


def print_rows(rows: Iterable[DecodedRow]) -> None:
    """Print rows: the stored text, or else where it stands, beside what the vector gives."""
    counts: Counter[bool] = Counter()
    for found in rows:
        row = found.row
        place = f"({row.get('title') or row['article_id']}" + (
            f", sentence {row['sentence']})" if "sentence" in row else ")"
        )
        print(f"text     {' '.join((row.get('text') or place).split())}")
        print(f"{'proven' if found.proven else 'perhaps':<8} {found.text}")
        counts[found.proven] += 1
    print(f"{counts[True]} of {counts.total()} rows are proven")


if __name__ == "__main__":
    main(Config, run, __doc__)
