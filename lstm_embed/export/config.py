"""Settings of an export. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Format = Literal["sentence-transformers", "onnx"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model for other tools: the same text gives the same vector there, without this package."""

    model: str
    """Model folder; local or s3://."""
    format: Format
    """A folder for sentence-transformers, or an ONNX graph with its tokenizer."""
    output: str
    """Folder for the exported model; local or s3://."""
    embedding: Literal["", "meaning", "joined", "exact", "order"] = ""
    """What the vectors consist of: meaning, joined, exact or order; by default what the model folder says."""
    scores: str = ""
    """Evaluation of this model and embedding (its folder or results.json), whose figures the model card shows."""
    name: str = ""
    """Name of the model in its card; if not given, that of its training run or folder."""

    def __post_init__(self) -> None:
        for field in ("model", "output"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty; expected a folder (--{field})")
        if any(ord(sign) < 32 for sign in self.name):
            raise ValueError(f"name is {self.name!r}; expected one line of text (--name)")
