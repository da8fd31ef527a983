"""Writes a small folder of each kind as this version does: `python tests/folders/build.py`, once for each released version.

They are kept under the version's name and never written again; `test_folders.py` reads all of them in every later version.
"""

from __future__ import annotations

import json
import platform
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.prepare import prepare
from lstm_embed.embedding.config import DecodeConfig, EmbedConfig, GroupConfig
from lstm_embed.embedding.decode import decode
from lstm_embed.embedding.embed import embed
from lstm_embed.embedding.group import group
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.evaluation.evaluate import evaluate
from lstm_embed.export.config import ExportConfig
from lstm_embed.export.export import export
from lstm_embed.model.config import ModelConfig
from lstm_embed.stages.session import ray_session
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.trainer import train
from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.train import train_word_vectors

HERE = Path(__file__).parent
PLACES = ("harbour", "mountain", "village", "station", "library", "garden")
ACTS = ("opened", "closed", "painted", "described", "visited", "measured")
MODEL = {"hidden_size": 8, "order_size": 8, "decoder_hidden_size": 8, "position_size": 32, "spelling_size": 16}


def articles() -> str:
    """Return made-up articles as JSON lines."""
    lines = []
    for number in range(24):
        place, act = PLACES[number % 6], ACTS[number * 5 % 6]
        text = (
            f"The old {place} number {number} was {act} in spring. Nobody {act} the new {place} that year. It is large."
        )
        lines.append(json.dumps({"id": str(number), "title": f"{place} {number}", "text": text}))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the folders of the installed version, which name neither this machine nor its folders."""
    platform.node = lambda: "host"
    target = HERE / version("lstm_embed")
    assert not target.exists(), f"{target} is there already; folders of a version are written once"
    with tempfile.TemporaryDirectory() as folder, ray_session():
        root = Path(folder)
        (root / "articles.jsonl").write_text(articles())
        tokens, vectors, model = str(root / "tokens"), str(root / "vectors"), str(root / "runs/small/model")
        embeddings = str(root / "embeddings")
        prepare(PrepareConfig(input=(str(root / "articles.jsonl"),), output=tokens, num_pieces=512, holdout_every=4))
        train_word_vectors(WordVectorsConfig(tokens=tokens, output=vectors, dimension=8, epochs=1, workers=1))
        train(
            TrainingConfig(
                tokens=tokens,
                vectors=vectors,
                storage=str(root / "runs"),
                run_name="small",
                model=ModelConfig(**MODEL),  # type: ignore[arg-type]
                max_steps=2,
                micro_batch_sentences=8,
                precision="fp32",
            )
        )
        embed(EmbedConfig(model=model, input=(tokens,), output=embeddings, embedding="exact"))
        group(GroupConfig(embeddings=embeddings, output=str(root / "groups"), clusters=2))
        decode(DecodeConfig(embeddings=embeddings, output=str(root / "decoded")))
        evaluate(EvaluationConfig(model=model, output=str(root / "scores"), tokens=tokens, num_decoded=4, bootstrap=0))
        export(ExportConfig(model=model, output=str(root / "exported"), format="onnx"))
        shutil.copytree(root, target, ignore=shutil.ignore_patterns("owner", "log", ".*", "report.html"))


if __name__ == "__main__":
    main()
