"""Train word vectors on a token set with gensim, or take them from a file. Runs on one machine, without Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstm_embed.words.config import WordVectorsConfig

from console import Console
from launch import main

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


def run(config: WordVectorsConfig) -> Summary:
    """Train or import, unless everything is done."""
    from lstm_embed.words.train import train_word_vectors

    with Console() as console:
        return train_word_vectors(config, console)


if __name__ == "__main__":
    main(WordVectorsConfig, run, __doc__)
