"""A model folder: all that encoding text needs, and what made it. safetensors, JSON and parquet; no pickle.

config.json          the recipe, the tokenizer's settings, the fingerprint of the vocabulary, provenance
model.safetensors    all weights, word vectors included
vocabulary.parquet   words and counts
manifest.json        written last; a folder without it is refused
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch

from lstm_embed import ledger, storage
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.errors import InputError
from lstm_embed.model.autoencoder import Autoencoder
from lstm_embed.model.config import ModelConfig

KIND = "model"
CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.parquet"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What a model folder holds.

    Attributes:
        autoencoder: On the CPU, in evaluation mode.
        vocabulary: Its words.
        tokenizer: Settings that turn text into tokens; "profile" at least.
        fingerprint: Hash of all that decides a vector but the precision.
        provenance: Where, when and of what it was made; recorded, never compared.
    """

    autoencoder: Autoencoder
    vocabulary: Vocabulary
    tokenizer: dict[str, Any]
    fingerprint: str
    provenance: dict[str, Any]


def save_model(
    directory: str,
    autoencoder: Autoencoder,
    vocabulary: Vocabulary,
    tokenizer: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Write a model folder, over an earlier model if there is one, and return its fingerprint.

    Args:
        directory: Local path or object store.
        autoencoder: The model.
        vocabulary: Its words.
        tokenizer: Settings that turn text into tokens; "profile" at least.
        provenance: Anything JSON-like that is worth knowing about the making of the model.

    Raises:
        InputError: if vocabulary and model disagree in size.
    """
    if len(vocabulary) != len(autoencoder.word_vectors):
        raise InputError(
            f"the vocabulary has {len(vocabulary)} words and the model {len(autoencoder.word_vectors)} word vectors; "
            "expected the vocabulary the model was trained with"
        )
    directory = storage.resolve(directory)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in autoencoder.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    deciding = {
        "model": autoencoder.config.to_dict(),
        "tokenizer": dict(tokenizer),
        "vocabulary": vocabulary.fingerprint,
        "weights": hashlib.sha256(weights).hexdigest(),
    }
    fingerprint = ledger.fingerprint(deciding)
    manifest = storage.join(directory, "manifest.json")
    if storage.exists(manifest):
        # From here to the end the folder is unfinished, and says so.
        storage.remove(manifest)
    vocabulary.save(storage.join(directory, VOCABULARY))
    storage.write_bytes(storage.join(directory, WEIGHTS), weights)
    made_by = {**ledger.provenance(), **(provenance or {})}
    storage.write_json(storage.join(directory, CONFIG), {**deciding, "provenance": made_by})
    content = {
        "embedding_dimension": autoencoder.embedding_dimension,
        "words": len(vocabulary),
        "vocabulary": vocabulary.fingerprint,
    }
    ledger.seal(directory, kind=KIND, fingerprint=fingerprint, content=content)
    return fingerprint


def load_model(directory: str, output: str = "") -> Model:
    """Read a model folder.

    Args:
        directory: Local path or object store.
        output: Another `ModelConfig.output` than the folder's; it changes the fingerprint, as it does the vectors.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, damaged, or something else.
        ValueError: if there is no such output.
    """
    directory = storage.resolve(directory)
    # Sizes are compared here, hashes where the files are read: a remote file is fetched once.
    manifest = ledger.open_sealed(directory, kind=KIND, verify=False)
    config = json.loads(_checked(directory, CONFIG, manifest))
    vocabulary = Vocabulary.load(storage.join(directory, VOCABULARY))
    if vocabulary.fingerprint != config["vocabulary"]:
        raise InputError(
            f"{storage.join(directory, VOCABULARY)} has fingerprint {vocabulary.fingerprint[:8]}; the model was made with "
            f"{config['vocabulary'][:8]}; copy the whole folder again"
        )
    fingerprint: str = manifest["fingerprint"]
    if output and output != config["model"].get("output", ModelConfig.output):
        config["model"]["output"] = output
        fingerprint = ledger.fingerprint({name: value for name, value in config.items() if name != "provenance"})
    recipe = ModelConfig.from_dict(config["model"])
    tensors = safetensors.torch.load(_checked(directory, WEIGHTS, manifest))
    autoencoder = Autoencoder.from_tensors(recipe, tensors)
    return Model(
        autoencoder=autoencoder.eval(),
        vocabulary=vocabulary,
        tokenizer=config["tokenizer"],
        fingerprint=fingerprint,
        provenance=config["provenance"],
    )


def _checked(directory: str, name: str, manifest: Mapping[str, Any]) -> bytes:
    path = storage.join(directory, name)
    data = storage.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != manifest["files"][name]["sha256"]:
        raise InputError(f"{path} is damaged: its hash is not the one that was sealed; copy or make the folder again")
    return data
