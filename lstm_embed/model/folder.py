"""A model folder: all that encoding text needs, and what made it. safetensors, JSON and parquet; no pickle.

config.json          the recipe, the tokenizer's settings, the fingerprint of the vocabulary, provenance
model.safetensors    all weights, word vectors included
vocabulary.parquet   pieces of words, their counts and scores
manifest.json        written last; a folder without it is refused
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import pydantic
import safetensors.torch
import torch
from typing_extensions import TypedDict

from lstm_embed import ledger
from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Words, read_json
from lstm_embed.base.tensors import opened, take_tensors
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger.manifest import MANIFEST
from lstm_embed.model.config import EARLIER, AnyConfig, Embedding, ModelConfig, check_embedding, config_from_dict
from lstm_embed.model.recipes import Model, class_of

KIND = "model"
FORMAT = 3
CONFIG, WEIGHTS, VOCABULARY = "config.json", "model.safetensors", "vocabulary.parquet"
_REMEDY = "copy or make the folder again"
_TYPES = {torch.float32: "F32", torch.int8: "I8"}
"""Types of weights, as safetensors names them."""


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class Tokenizer(TypedDict):
    """Settings that turn text into tokens; those of the corpus it was learned from besides."""

    profile: Literal["default", "original"]


class Description(TypedDict):
    """What `config.json` says of a model."""

    model: dict[str, Any]
    """What `config_from_dict` takes."""
    tokenizer: Tokenizer
    vocabulary: Words
    """Its fingerprint."""
    provenance: dict[str, Any]


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
    within = storage.join(directory, "model")
    if not storage.exists(storage.join(directory, MANIFEST)) and storage.exists(storage.join(within, MANIFEST)):
        raise InputError(f"{directory} is the folder of a training run; its model is in {within}")
    manifest = ledger.open_sealed(directory, kind=KIND, verify=False)
    made_by = manifest["content"].get("format", 1)
    if made_by != FORMAT:
        version = next((version for number, version in EARLIER.items() if number == made_by), "of another version")
        raise InputError(
            f"{directory} is a model of lstm_embed {version}; use it with that version, or train one anew with this version"
        )
    return manifest


def describe_model(directory: str) -> Description:
    """Return what the `config.json` of a model folder says, the model's settings with all fields.

    Raises:
        FileNotFoundError: if there is none.
        InputError: if it says something else than it should.
    """
    path = storage.join(directory, CONFIG)
    found = read_json(path, Description, advice=_REMEDY)
    try:
        found["model"] = config_from_dict(found["model"]).to_dict()
    except ValueError as error:
        raise InputError(f"{path} is damaged, or not what it should be: {error}; {_REMEDY}") from None
    return found


def load_model(directory: str, embedding: str = "") -> LoadedModel:
    """Read a model folder.

    Args:
        directory: Local path or object store.
        embedding: Another `ModelConfig.embedding` than the folder's.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, damaged, something else, or a model of another version, or there is no such
            embedding.
    """
    directory = storage.resolve(directory)
    # Sizes are compared here, hashes where the files are read: remote weights are fetched once.
    manifest = open_model(directory)
    sealed = {name: _sealed_hash(directory, name, manifest) for name in (CONFIG, WEIGHTS)}
    description = describe_model(directory)
    path = storage.join(directory, CONFIG)
    if storage.digest(path) != sealed[CONFIG]:
        raise InputError(f"{path} is damaged: its hash is not the one that was sealed; {_REMEDY}")
    path = storage.join(directory, VOCABULARY)
    vocabulary = Vocabulary.load(path)
    if vocabulary.fingerprint != description["vocabulary"]:
        raise InputError(
            f"{path} has fingerprint {vocabulary.fingerprint[:8]}; the model was made with "
            f"{description['vocabulary'][:8]}; copy the whole folder again"
        )
    config = _with_embedding(config_from_dict(description["model"]), embedding, directory)
    return LoadedModel(
        model=_read_weights(storage.join(directory, WEIGHTS), sealed[WEIGHTS], config, vocabulary),
        embedding=config.embedding,
        vocabulary=vocabulary,
        tokenizer=dict(description["tokenizer"]),
        fingerprint=manifest["fingerprint"],
        provenance=description["provenance"],
    )


def _sealed_hash(directory: str, name: str, manifest: Mapping[str, Any]) -> str:
    if name not in manifest["files"]:
        raise InputError(f"the manifest of {directory} does not list {name}; {_REMEDY}")
    return str(manifest["files"][name]["sha256"])


def _with_embedding(config: AnyConfig, embedding: str, directory: str) -> AnyConfig:
    """Return a config whose vectors consist of what was asked for, of its own if that is empty."""
    if embedding in ("", config.embedding):
        return config
    if not isinstance(config, ModelConfig):
        raise InputError(f"embedding is {embedding!r}; the model {directory} is the original system and has only order")
    check_embedding(embedding)
    return dataclasses.replace(config, embedding=cast(Embedding, embedding))


def _read_weights(path: str, sha256: str, config: AnyConfig, vocabulary: Vocabulary) -> Model:
    """Return the model of a file of weights; its sizes are compared before anything of such a size is allocated."""
    make: Any = class_of(config)
    with opened(path, sha256=sha256) as file:
        # The dimension of the word vectors is told by the file alone.
        shape = file.get_slice("word_vectors").get_shape() if "word_vectors" in file.keys() else []  # noqa: SIM118
        if len(shape) != 2 or shape[0] != len(vocabulary):
            raise InputError(f"{path} does not hold word vectors for the {len(vocabulary)} pieces; {_REMEDY}")
        with torch.device("meta"):  # sizes without numbers
            model: Model = make(config, shape[1], vocabulary.pieces)
        expected = {name: (_TYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
        arrays = take_tensors(file, path, expected)
    # Copied, for torch aligns what it allocates, which products of the same bits need.
    tensors = {name: torch.from_numpy(array).clone() for name, array in arrays.items()}
    model.load_state_dict(tensors, assign=True)
    return model.eval()
