"""Erase articles from a token set, vectors or decoded text: from its parts, quarantine excerpts and caches.

Only the parts that hold them are rewritten; later runs into the folder leave these articles out. Run again after an
interruption, with or without the ids. Vectors give their sentences back, so erase them too where a text has to go, and what
was decoded from them. What it does not undo: a model trained on the text, and copies made elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from console import Console
from launch import main

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


@dataclass(frozen=True, kw_only=True)
class Config:
    """Erase articles from a token set, vectors or decoded text."""

    output: Annotated[str, tyro.conf.Positional]
    """Folder that prepare, embed or decode wrote; local or s3://."""
    article_id: tuple[str, ...] = ()
    """Ids of the articles, as in the column article_id."""
    ids: str = ""
    """File with one article id a line; local or s3://, plain or compressed."""


def run(config: Config) -> Summary:
    """Erase, and say what was found."""
    from lstm_embed.embedding.erase import erase
    from lstm_embed.embedding.lists import read_list

    article_ids = [*config.article_id, *(read_list(config.ids, "article id", "--ids") if config.ids else ())]
    console = Console()
    summary = erase(config.output, article_ids, console)
    found, asked = summary.facts["articles erased"], len(set(article_ids))
    if found < asked:
        console.note(
            f"{asked - found} of {asked} ids are in no part (any more); later runs leave them out all the same"
        )
    return summary


if __name__ == "__main__":
    main(Config, run, __doc__)
