"""Sentence embeddings of your own: train an LSTM autoencoder on your corpus with Ray, embed corpora with it.

`SentenceEncoder` and `TokenSet` are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lstm_embed.corpus.token_set import TokenSet
    from lstm_embed.embedding.vectors import Embeddings
    from lstm_embed.model.encoder import SentenceEncoder

__all__ = ["Embeddings", "SentenceEncoder", "TokenSet"]

_HOMES = {
    "Embeddings": "lstm_embed.embedding.vectors",
    "SentenceEncoder": "lstm_embed.model.encoder",
    "TokenSet": "lstm_embed.corpus.token_set",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
