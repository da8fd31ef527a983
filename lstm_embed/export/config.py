"""Settings of an export. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Literal

from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Words, settings
from lstm_embed.model.config import Embedding

Format = Literal["sentence-transformers", "onnx"]


@settings()
class ExportConfig:
    """Write a trained model for other tools: the same text gives the same vector there, without this package."""

    model: Words
    """Model folder; local or s3://."""
    format: Format
    """A folder for sentence-transformers, or an ONNX graph with its tokenizer."""
    output: Words
    """Folder for the exported model; local or s3://."""
    embedding: Literal["", Embedding] = ""
    """What the vectors consist of (see embed); by default what the model folder says."""
    scores: str = ""
    """Evaluation of this model and embedding (its folder or results.json), whose figures the model card shows."""
    name: str = ""
    """Name of the model in its card; if not given, that of its training run or folder."""

    def __post_init__(self) -> None:
        if any(ord(sign) < 32 for sign in self.name):
            raise InputError(f"name is {self.name!r}; expected one line of text (--name)")
