"""Which class of model a config stands for; to make, encode with and train, both are alike."""

from __future__ import annotations

from lstm_embed.model.config import AnyConfig, OriginalConfig
from lstm_embed.model.original import OriginalModel
from lstm_embed.model.sentence_model import SentenceModel

Model = SentenceModel | OriginalModel


def class_of(config: AnyConfig) -> type[SentenceModel] | type[OriginalModel]:
    """Return the class whose config this is."""
    return OriginalModel if isinstance(config, OriginalConfig) else SentenceModel
