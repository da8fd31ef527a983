"""What a model is made of, and its presets. Imports neither torch nor Ray.

A preset is a function that returns the settings of a model: `ModelConfig` for the recipe of this project, `OriginalConfig` for
the Keras system it goes back to. Every row of an ablation is one preset with one field changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

import annotated_types

from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Range, settings, values_of

Embedding = Literal["meaning", "joined", "exact", "order"]
EMBEDDINGS: tuple[str, ...] = get_args(Embedding)
"""What a vector may consist of; see `ModelConfig.embedding`."""
Part = Literal["meaning", "order", "lengths", "positions"]
PARTS: Mapping[str, tuple[Part, ...]] = {
    "meaning": ("meaning",),
    "joined": ("meaning", "order", "lengths"),
    "exact": ("meaning", "order", "lengths", "positions"),
    "order": ("order",),
}
"""The parts of each embedding, in the order in which a vector holds them (see `sentence_model`)."""
EARLIER = {1: "0.1", 2: "0.2"}
"""Versions of lstm_embed by the formats they wrote: of models, and of runs and their checkpoints."""


@settings(prefix="model.")
class ModelConfig:
    """What a vector is made of: meaning, order, lengths and positions (see `sentence_model`)."""

    recipe: ClassVar[str] = "default"
    padded_length: ClassVar[int] = 0
    """Positions every sentence is padded to on the left; 0 where no padding is computed."""

    hidden_size: Annotated[int, Range(1, 65_536)] = 128
    """Units of the LSTM encoder in each direction, at least 1."""

    order_size: Annotated[int, Range(1, 65_536)] = 320
    """Dimension of the LSTM autoencoder's code, at least 1: in which order the words stand."""

    decoder_hidden_size: Annotated[int, Range(1, 65_536)] = 160
    """Units of the LSTM decoder, at least 1."""

    position_size: Annotated[int, Range(2, 1024), annotated_types.MultipleOf(2)] = 384
    """Dimension of the positions in `exact`, an even number of 2 to 1024."""

    spelling_size: Annotated[int, Range(0, 512), annotated_types.MultipleOf(8)] = 256
    """Dimension of the spelling, which makes alike what is written alike: a multiple of 8 up to 512; 0 for none."""

    word_constant: Annotated[float, Range(1e-12)] = 5e-3
    """The a of a word's weight a/(a+p) among the words of a sentence, p its frequency; above 0."""

    spelling_constant: Annotated[float, Range(1e-12)] = 7e-4
    """The a of a word's weight a/(a+p) in the spelling, above 0."""

    neighbour_strength: Annotated[float, Range(0)] = 0.5
    """Weight of what neighbouring sentences teach of the meaning, at least 0; 0 leaves it out."""

    order_share: Annotated[float, Range(1e-6, 1)] = 0.8
    """Most length of the order beside the meaning's in a `joined` vector, above 0 to 1; it takes about a third of that."""

    embedding: Embedding = "joined"
    """What vectors consist of: meaning (similarity, search, grouping; no LSTM runs), joined (meaning, order and lengths), exact
    (joined and positions: gives the sentence back word for word) or order. A trained model can be loaded with another one."""

    max_tokens: Annotated[int, Range(1, 65_535)] = 96
    """Tokens (pieces of words) of a sentence that are read, the rest is cut off; 1 to 65535."""

    train_max_tokens: Annotated[int, Range(1)] = 32
    """Tokens of a sentence that are used in training, at least 1."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values; `recipe` tells the class."""
        return {"recipe": self.recipe, **values_of(self)}


@settings(prefix="model.")
class OriginalConfig:
    """The Keras system this project goes back to (see `original`)."""

    recipe: ClassVar[str] = "original"
    embedding: ClassVar[Embedding] = "order"

    hidden_size: Annotated[int, Range(1, 65_536)] = 512
    """Units of the LSTMs in each direction, at least 1."""

    max_tokens: Annotated[int, Range(1, 65_535)] = 64
    """Positions of a sentence; shorter ones are padded on the left, longer ones cut off. 1 to 65535."""

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
        return {"recipe": self.recipe, **values_of(self)}


AnyConfig = ModelConfig | OriginalConfig


def check_embedding(name: str) -> None:
    """Refuse what is no embedding.

    Raises:
        InputError: with those that there are.
    """
    if name not in EMBEDDINGS:
        raise InputError(f"embedding is {name!r}; expected one of {', '.join(EMBEDDINGS)} (--embedding)")


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
    return kind(**{name: value for name, value in values.items() if name != "recipe"})


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
