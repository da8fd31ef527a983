"""Write a model for other tools and check what was written against the model. A finished folder is left as it is."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, LstmEmbedError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.corpus.pieces import MARK
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.evaluation.results import read_results
from lstm_embed.export import standalone
from lstm_embed.export.card import model_card
from lstm_embed.export.config import ExportConfig
from lstm_embed.export.network import INPUTS, required, standalone_encoder, write_onnx
from lstm_embed.export.tokenizer import tokenizer_json
from lstm_embed.ledger import fingerprint, provenance
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.folder import LoadedModel, load_model, open_model
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import FolderStage, Made

STAGE, KIND = "export", "export"
MODULE, GRAPH, CARD = "lstm_embedding.py", "model.onnx", "README.md"
TOLERANCE = 1e-5
"""Largest difference of a number of an exported vector, relative to the length of the longest vector if that is above 1."""

_EXPORT_FORMAT = 3
_CHECKED_SENTENCES = 200
_SIGNS = ("", "", "", ", ", " - ", "! ", "'", " \u0416\u00b2\u4e2d ", "\ua000")

Encode = Callable[[Sequence[str]], npt.NDArray[np.float32]]


def export(config: ExportConfig, report: Reporter = SILENT) -> Summary:
    """Write a model in another format, with its tokenizer and a model card.

    Raises:
        FileNotFoundError: if there is no such model, or no such scores.
        FingerprintMismatch: if the scores are of another model or embedding, or the output was made with other settings.
        InputError: if the model cannot be exported, a package is missing, or the output holds something else.
        LstmEmbedError: if the exported model gives other vectors than the model.
    """
    return run_stage(ExportStage(config), report)


class ExportStage(FolderStage[ExportConfig]):
    """From a model to a folder that other tools load."""

    name, kind, row_name = STAGE, KIND, "pieces"

    def open(self) -> None:
        """Look at the model and its scores."""
        made = open_model(storage.resolve(self.config.model))
        self._model = made["fingerprint"]
        self._embedding = self.config.embedding or made["content"]["embedding"]
        self._scores = read_results(self.config.scores, "--scores") if self.config.scores else None
        if self._scores:
            _check_scores(self.config.scores, self._scores["model"], self.settings())

    def settings(self) -> dict[str, Any]:
        """Return what decides the exported model and its card."""
        return {
            "model": self._model,
            "embedding": self._embedding,
            "to": self.config.format,
            "version": _EXPORT_FORMAT,
            "scores": fingerprint(self._scores) if self._scores else None,
            "name": self.config.name,
        }

    # The folder may be published: neither paths nor the name of this machine belong in it.

    def recorded_config(self) -> dict[str, Any]:
        """Return the format alone."""
        return {"format": self.config.format}

    def made_by(self) -> dict[str, str]:
        """Return the versions alone."""
        return {name: value for name, value in provenance().items() if name != "host"}

    def begin(self, report: Reporter) -> None:
        """Make the exported model in a local folder, and check it against the model."""
        for package in ("tokenizers", *(("onnx", "onnxruntime") if self.config.format == "onnx" else ())):
            required(package)
        self._folder = tempfile.TemporaryDirectory()
        self._loaded = model = load_model(self.config.model, self.config.embedding)
        self._largest = write(model, self.config.format, self._folder.name, report)
        name = self.config.name or _name(model, self.config.model)
        card = model_card(model, self.config.format, name, self._scores, self._largest)
        storage.write_bytes(os.path.join(self._folder.name, CARD), card.encode())

    def make(self, report: Reporter) -> Made:
        """Copy what was made."""
        with self._folder as folder:
            for name in sorted(os.listdir(folder)):
                storage.copy_file(os.path.join(folder, name), storage.join(self.output, name))
        content = {
            "model": self._loaded.fingerprint,
            "embedding": self._loaded.embedding,
            "embedding_dimension": self._loaded.model.embedding_dimension(),
            "pieces": len(self._loaded.vocabulary),
            "largest_difference": self._largest,
        }
        return Made(content=content, decided_by=self.settings())

    def facts(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the number of pieces, and how far the vectors are off."""
        facts = {
            "format": self.config.format,
            "embedding": content["embedding"],
            "dimension": content["embedding_dimension"],
            "largest_difference": content["largest_difference"],
        }
        return content["pieces"], facts


def write(model: LoadedModel, fmt: str, folder: str, report: Reporter = SILENT) -> float:
    """Write an exported model into a local folder, without card and manifest; return how far its vectors are off.

    Raises:
        LstmEmbedError: if they are further off than `TOLERANCE`.
    """
    from tokenizers import Tokenizer

    report.progress(STAGE, 0, 3, "steps")
    network = standalone_encoder(model.model)
    rules = tokenizer_json(model.vocabulary, model.tokenizer["profile"], network.settings.max_tokens)
    tokenizer = Tokenizer.from_str(json.dumps(rules))
    standalone.LstmEmbedding(network, tokenizer).save(folder)
    report.progress(STAGE, 1, 3, "steps")
    if fmt == "onnx":
        os.remove(os.path.join(folder, standalone.WEIGHTS))
        write_onnx(network, os.path.join(folder, GRAPH), {"lstm_embed.model": model.fingerprint})
        encode = _onnx_encode(folder)
    else:
        _write_sentence_transformers(folder)
        encode = _module_encode(folder)
    report.progress(STAGE, 2, 3, "steps")
    largest = _check(model, encode)
    report.progress(STAGE, 3, 3, "steps")
    return largest


def _write_sentence_transformers(folder: str) -> None:
    """Add what makes a folder one of sentence-transformers: the module's code, its place, and settings of the whole."""
    storage.copy_file(os.path.abspath(standalone.__file__), os.path.join(folder, MODULE))
    name = f"{os.path.splitext(MODULE)[0]}.{standalone.LstmEmbedding.__name__}"
    settings: dict[str, Any] = {
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": name}],
        # Without a version: older releases warn of newer ones.
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": {"query": "", "document": ""},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }
    for file, content in settings.items():
        storage.write_json(os.path.join(folder, file), content)


def _module_encode(folder: str) -> Encode:
    import torch

    module = standalone.LstmEmbedding.load(folder).eval()

    def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            found: npt.NDArray[np.float32] = module(module.tokenize(texts))["sentence_embedding"].numpy()
        return found

    return encode


def _onnx_encode(folder: str) -> Encode:
    """Return what the usage in the model card does."""
    import onnxruntime
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(os.path.join(folder, standalone.TOKENIZER))
    session = onnxruntime.InferenceSession(os.path.join(folder, GRAPH), providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
        found = tokenizer.encode_batch(list(texts))
        ids = np.array([encoding.ids for encoding in found], np.int64)
        lengths = np.array([sum(encoding.attention_mask) for encoding in found], np.int64)
        vectors: npt.NDArray[np.float32] = session.run(None, dict(zip(INPUTS, (ids, lengths), strict=True)))[0]
        return vectors

    return encode


def _check(model: LoadedModel, encode: Encode) -> float:
    """Return the largest difference between vectors of the exported model and the model, on made-up sentences."""
    rng = np.random.default_rng(0)
    pieces = [piece.replace(MARK, " ") for piece in model.vocabulary.pieces[FIRST_LEARNED:]]
    longest = 2 * model.model.config.max_tokens
    texts = ["", " ", "?"]
    for _ in range(_CHECKED_SENTENCES):
        chosen = [pieces[number] for number in rng.integers(0, len(pieces), int(rng.integers(1, longest)))]
        signs = [_SIGNS[number] for number in rng.integers(0, len(_SIGNS), len(chosen))]
        texts.append("".join(piece + sign for piece, sign in zip(chosen, signs, strict=True)))
    wanted = SentenceEncoder(model.model, model.vocabulary, model.tokenizer).encode(texts)
    found = np.concatenate([encode(texts[start : start + 32]) for start in range(0, len(texts), 32)])
    largest = float(np.abs(found - wanted).max())
    allowed = TOLERANCE * max(1.0, float(np.linalg.norm(wanted, axis=1).max()))
    if not largest <= allowed:
        raise LstmEmbedError(
            f"the exported model gives other vectors than the model: a number is off by {largest:.2g}; expected at most "
            f"{allowed:.2g}; nothing was written. Other versions of torch, onnx or tokenizers may do better"
        )
    return largest


def _check_scores(path: str, scored: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse scores of another model or embedding."""
    if scored["fingerprint"] != settings["model"]:
        raise FingerprintMismatch(
            f"{path} are scores of the model {scored['fingerprint'][:8]}; the model to export is {settings['model'][:8]}; "
            "evaluate this model (--scores)"
        )
    if scored["embedding"] != settings["embedding"]:
        raise FingerprintMismatch(
            f"{path} are scores of the embedding {scored['embedding']}; the one to export is {settings['embedding']}; "
            "evaluate with it, or export the other (--scores, --embedding)"
        )


def _name(model: LoadedModel, path: str) -> str:
    return str(model.provenance.get("run_name") or storage.name(storage.resolve(path)))
