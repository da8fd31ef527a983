"""What a model is made of, and its presets. Imports neither torch nor Ray.

A preset is a function that returns the settings of a model: `ModelConfig` for the recipe of this project, `OriginalConfig` for
the Keras system it goes back to. Every row of an ablation is one preset with one field changed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from lstm_embed.base.errors import InputError

Embedding = Literal["meaning", "joined", "exact", "order"]
EMBEDDINGS: tuple[str, ...] = get_args(Embedding)
"""What a vector may consist of; see `ModelConfig.embedding`."""
EARLIER = {1: "0.1", 2: "0.2"}
"""Versions of lstm_embed by the formats they wrote: of models, and of runs and their checkpoints."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a vector is made of: meaning, order, lengths and positions (see `sentence_model`)."""

    recipe: ClassVar[str] = "default"
    padded_length: ClassVar[int] = 0
    """Positions every sentence is padded to on the left; 0 where no padding is computed."""

    hidden_size: int = 128
    """Units of the LSTM encoder in each direction, at least 1."""

    order_size: int = 320
    """Dimension of the LSTM autoencoder's code, at least 1: in which order the words stand."""

    decoder_hidden_size: int = 160
    """Units of the LSTM decoder, at least 1."""

    position_size: int = 384
    """Dimension of the positions in `exact`, an even number of 2 to 1024."""

    spelling_size: int = 256
    """Dimension of the spelling, which makes alike what is written alike: a multiple of 8 up to 512; 0 for none."""

    word_constant: float = 5e-3
    """The a of a word's weight a/(a+p) among the words of a sentence, p its frequency; above 0."""

    spelling_constant: float = 7e-4
    """The a of a word's weight a/(a+p) in the spelling, above 0."""

    neighbour_strength: float = 0.5
    """Weight of what neighbouring sentences teach of the meaning, at least 0; 0 leaves it out."""

    order_share: float = 0.8
    """Most length of the order beside the meaning's in a `joined` vector, above 0 to 1; it takes about a third of that."""

    embedding: Embedding = "joined"
    """What vectors consist of: meaning (similarity, search, grouping; no LSTM runs), joined (meaning, order and lengths), exact
    (joined and positions: gives the sentence back word for word) or order. A trained model can be loaded with another one."""

    max_tokens: int = 96
    """Tokens (pieces of words) of a sentence that are read, the rest is cut off; 1 to 65535."""

    train_max_tokens: int = 32
    """Tokens of a sentence that are used in training, at least 1."""

    def __post_init__(self) -> None:
        _check(
            self,
            hidden_size=(1, math.inf),
            order_size=(1, math.inf),
            decoder_hidden_size=(1, math.inf),
            position_size=(2, 1024),
            spelling_size=(0, 512),
            word_constant=(1e-12, math.inf),
            spelling_constant=(1e-12, math.inf),
            neighbour_strength=(0, math.inf),
            order_share=(1e-6, 1),
            max_tokens=(1, 65535),
            train_max_tokens=(1, 65535),
        )
        if self.spelling_size % 8:
            raise _wrong(self, "spelling_size", "a multiple of 8")
        if self.position_size % 2:
            raise _wrong(self, "position_size", "an even number")
        if self.embedding not in EMBEDDINGS:
            raise _wrong(self, "embedding", "one of " + ", ".join(EMBEDDINGS))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values; `recipe` tells the class."""
        return {"recipe": self.recipe, **dataclasses.asdict(self)}


@dataclass(frozen=True, kw_only=True)
class OriginalConfig:
    """The Keras system this project goes back to (see `original`)."""

    recipe: ClassVar[str] = "original"
    embedding: ClassVar[Embedding] = "order"

    hidden_size: int = 512
    """Units of the LSTMs in each direction, at least 1."""

    max_tokens: int = 64
    """Positions of a sentence; shorter ones are padded on the left, longer ones cut off. 1 to 65535."""

    def __post_init__(self) -> None:
        _check(self, hidden_size=(1, math.inf), max_tokens=(1, 65535))

    @property
    def padded_length(self) -> int:
        """Positions every sentence is padded to on the left."""
        return self.max_tokens

    @property
    def train_max_tokens(self) -> int:
        """Tokens of a sentence that are used in training."""
        return self.max_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values; `recipe` tells the class."""
        return {"recipe": self.recipe, **dataclasses.asdict(self)}


AnyConfig = ModelConfig | OriginalConfig


def config_from_dict(values: Mapping[str, Any]) -> AnyConfig:
    """Make a config of what `to_dict` returned; a missing field has its default.

    Raises:
        InputError: for a recipe or field that does not exist here.
        ValueError: for a value out of range.
    """
    kinds: dict[Any, type[ModelConfig] | type[OriginalConfig]] = {k.recipe: k for k in (ModelConfig, OriginalConfig)}
    kind = kinds.get(values.get("recipe"))
    if kind is None:
        raise InputError(
            f"the model's recipe is {values.get('recipe')!r}; expected one of {', '.join(kinds)}; it is damaged, or made by "
            "another version of lstm_embed"
        )
    fields = {name: value for name, value in values.items() if name != "recipe"}
    unknown = sorted(set(fields) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise InputError(f"the model has settings this version does not know: {', '.join(unknown)}; upgrade lstm_embed")
    return kind(**fields)


def _check(config: Any, **ranges: tuple[float, float]) -> None:
    """Refuse a value of another type than the default's, as a file of settings may hold it, and one out of range.

    An int will do for a float.
    """
    for field in dataclasses.fields(config):
        value, kind = getattr(config, field.name), type(field.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise _wrong(config, field.name, f"a value of type {kind.__name__}")
    for name, (least, most) in ranges.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and least <= value <= most):
            bounds = f"at least {least:g}" if most == math.inf else f"{least:g} to {most:g}"
            raise _wrong(config, name, f"a number of {bounds}")


def _wrong(config: Any, name: str, expected: str) -> ValueError:
    return ValueError(f"{name} is {getattr(config, name)!r}; expected {expected} (--{name.replace('_', '-')})")


def default() -> ModelConfig:
    """Return the recipe for one or a few CPU cores: 128 units a direction, for word vectors of up to 300 dimensions."""
    return ModelConfig()


def large() -> ModelConfig:
    """Return the recipe for a GPU: 512 units a direction and a code of 1,024."""
    return ModelConfig(hidden_size=512, order_size=1024, decoder_hidden_size=1024)


def original() -> OriginalConfig:
    """Return the Keras system, for word vectors of 128 dimensions."""
    return OriginalConfig()


PRESETS: dict[str, Callable[[], AnyConfig]] = {"default": default, "original": original, "large": large}
"""Preset functions by the name `--preset` takes."""
