"""A model folder: all that encoding text needs, and what made it. safetensors, JSON and parquet; no pickle.

config.json          the recipe, the tokenizer's settings, the fingerprint of the vocabulary, provenance
model.safetensors    all weights, word vectors included
vocabulary.parquet   pieces of words, their counts and scores
manifest.json        written last; a folder without it is refused
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import safetensors.torch

from lstm_embed import ledger
from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.model.config import EARLIER, EMBEDDINGS, Embedding, ModelConfig, config_from_dict
from lstm_embed.model.recipes import Model, class_of

KIND = "model"
FORMAT = 3
CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.parquet"


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """What a model folder holds.

    Attributes:
        model: On the CPU, in evaluation mode.
        embedding: What its vectors are to consist of.
        vocabulary: Its pieces.
        tokenizer: Settings that turn text into tokens; "profile" at least.
        fingerprint: Hash of all that decides a vector but the embedding and the precision.
        provenance: Where, when and of what it was made; recorded, never compared.
    """

    model: Model
    embedding: Embedding
    vocabulary: Vocabulary
    tokenizer: dict[str, Any]
    fingerprint: str
    provenance: dict[str, Any]


def save_model(
    directory: str,
    model: Model,
    vocabulary: Vocabulary,
    tokenizer: Mapping[str, Any],
    provenance: Mapping[str, Any] | None = None,
) -> str:
    """Write a model folder, over an earlier model if there is one, and return its fingerprint.

    Args:
        directory: Local path or object store.
        model: The model.
        vocabulary: Its pieces.
        tokenizer: Settings that turn text into tokens; "profile" at least.
        provenance: Anything JSON-like that is worth knowing about the making of the model.

    Raises:
        InputError: if vocabulary and model disagree in size.
    """
    if len(vocabulary) != len(model.word_vectors):
        raise InputError(
            f"the vocabulary has {len(vocabulary)} pieces and the model {len(model.word_vectors)} word vectors; "
            "expected the vocabulary the model was trained with"
        )
    directory = storage.resolve(directory)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    weights = safetensors.torch.save(tensors)
    config = model.config.to_dict()
    deciding = {
        "format": FORMAT,
        "model": {name: value for name, value in config.items() if name != "embedding"},
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
    storage.write_json(storage.join(directory, CONFIG), {**deciding, "model": config, "provenance": made_by})
    content = {
        "format": FORMAT,
        "embedding": model.config.embedding,
        "embedding_dimension": model.embedding_dimension(),
        "pieces": len(vocabulary),
        "vocabulary": vocabulary.fingerprint,
    }
    ledger.seal(directory, kind=KIND, fingerprint=fingerprint, content=content)
    return fingerprint


def open_model(directory: str) -> dict[str, Any]:
    """Return the manifest of a model folder, sizes of files compared.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, damaged, something else, or a model of another version.
    """
    manifest = ledger.open_sealed(directory, kind=KIND, verify=False)
    made_by = manifest["content"].get("format", 1)
    if made_by != FORMAT:
        version = EARLIER.get(made_by, "of another version")
        raise InputError(
            f"{directory} is a model of lstm_embed {version}; use it with that version, or train one anew with this version"
        )
    return manifest


def load_model(directory: str, embedding: str = "") -> LoadedModel:
    """Read a model folder.

    Args:
        directory: Local path or object store.
        embedding: Another `ModelConfig.embedding` than the folder's.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, damaged, something else, or a model of another version.
        ValueError: if there is no such embedding.
    """
    directory = storage.resolve(directory)
    # Sizes are compared here, hashes where the files are read: a remote file is fetched once.
    manifest = open_model(directory)
    config = json.loads(_checked(directory, CONFIG, manifest))
    vocabulary = Vocabulary.load(storage.join(directory, VOCABULARY))
    if vocabulary.fingerprint != config["vocabulary"]:
        raise InputError(
            f"{storage.join(directory, VOCABULARY)} has fingerprint {vocabulary.fingerprint[:8]}; the model was made with "
            f"{config['vocabulary'][:8]}; copy the whole folder again"
        )
    recipe = config_from_dict(config["model"])
    if embedding and embedding != recipe.embedding:
        if not isinstance(recipe, ModelConfig):
            raise InputError(
                f"embedding is {embedding!r}; the model {directory} is the original system and has only order"
            )
        if embedding not in EMBEDDINGS:
            raise ValueError(f"embedding is {embedding!r}; expected one of {', '.join(EMBEDDINGS)} (--embedding)")
        recipe = dataclasses.replace(recipe, embedding=cast(Embedding, embedding))
    tensors = safetensors.torch.load(_checked(directory, WEIGHTS, manifest))
    make: Any = class_of(recipe).from_tensors
    return LoadedModel(
        model=make(recipe, tensors, vocabulary.pieces).eval(),
        embedding=recipe.embedding,
        vocabulary=vocabulary,
        tokenizer=config["tokenizer"],
        fingerprint=manifest["fingerprint"],
        provenance=config["provenance"],
    )


def _checked(directory: str, name: str, manifest: Mapping[str, Any]) -> bytes:
    path = storage.join(directory, name)
    data = storage.read_bytes(path)
    if hashlib.sha256(data).hexdigest() != manifest["files"][name]["sha256"]:
        raise InputError(f"{path} is damaged: its hash is not the one that was sealed; copy or make the folder again")
    return data
