"""Write a trained model for sentence-transformers or ONNX, with its tokenizer and a model card. Runs without Ray."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstm_embed.export.config import ExportConfig

from console import Console
from launch import main

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary


def run(config: ExportConfig) -> Summary:
    """Export, unless everything is done."""
    from lstm_embed.export.export import export

    with Console() as console:
        return export(config, console)


if __name__ == "__main__":
    main(ExportConfig, run, __doc__)
