"""Sentence embeddings of your own: train an LSTM autoencoder on your corpus with Ray, embed corpora with it.

What it names is imported when it is first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_embed.corpus.token_set import TokenSet
    from lstm_embed.embedding.batch import EmbedBatch
    from lstm_embed.embedding.vectors import Embeddings
    from lstm_embed.model.encoder import SentenceEncoder
    from lstm_embed.model.module import SentenceModule
    from lstm_embed.model.transformer import SentenceVectorizer

__all__ = ["EmbedBatch", "Embeddings", "SentenceEncoder", "SentenceModule", "SentenceVectorizer", "TokenSet"]

_HOMES = {
    "EmbedBatch": "lstm_embed.embedding.batch",
    "Embeddings": "lstm_embed.embedding.vectors",
    "SentenceEncoder": "lstm_embed.model.encoder",
    "SentenceModule": "lstm_embed.model.module",
    "SentenceVectorizer": "lstm_embed.model.transformer",
    "TokenSet": "lstm_embed.corpus.token_set",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
