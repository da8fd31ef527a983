"""The recipe of a model, ingredient by ingredient, and its presets. Imports neither torch nor Ray.

A preset is a function that returns a `ModelConfig`; every row of an ablation is one preset with one field changed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from lstm_embed.errors import InputError

Pooling = Literal["weighted", "mean", "max", "last"]
StartWeights = Literal["log", "sif", "uniform"]
Decoder = Literal["repeat", "teacher", "bag", "none"]
Reconstruction = Literal["softmax", "mse", "cosine"]
Activation = Literal["linear", "tanh"]
Output = Literal["joined", "transfer", "code", "words"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that decides what an autoencoder computes and what it is trained to do.

    The code of a sentence is `z = R s + P m + b`: s the weighted mean of its word vectors, m its pooled LSTM states. R starts
    orthogonal, P and b start at zero, so that training starts from averaging. Without the skip path, `z = m` where the
    dimensions agree, else `z = P m + b` with P orthogonal.
    """

    hidden_size: int = 128
    """Units of the encoder LSTM in each direction; at least 1."""

    code_size: int = 320
    """Dimension of the code z; 0 for twice `hidden_size`. Best not below the dimension of the word vectors."""

    pooling: Pooling = "weighted"
    """How the LSTM states become one vector: mean by word weights, plain mean, maximum, or the last state of each
    direction."""

    skip_path: bool = True
    """Add the weighted mean of the word vectors to the code."""

    lstm_path: bool = True
    """Add the pooled states of the LSTM to the code; off only to measure what the LSTM is worth."""

    word_scale: float = 3.0
    """Length every word vector is scaled to; 0 leaves them as they were trained."""

    word_whitening: float = 0.5
    """How far word vectors are made alike in all directions before training: their mean is taken off and the standard
    deviation along each principal axis raised to the power 1 - this. 0 leaves them as they are, 1 whitens them fully."""

    start_weights: StartWeights = "sif"
    """Word weights before training: log(1/p), shifted and scaled to 0..1; a/(a+p) with a = `sif_constant`; or all 1."""

    sif_constant: float = 5e-3
    """The a of `start_weights` "sif"; above 0. Of word vectors that are not whitened, frequent words must count less: 1e-4."""

    learn_word_weights: bool = True
    """Learn a factor exp(theta) for the weight of each word; theta starts at 0."""

    freeze_word_vectors: bool = True
    """Leave the word vectors as they are; otherwise they are trained too."""

    noise: float = 0.3
    """Share of the input words dropped in training; 0 to below 1."""

    decoder: Decoder = "repeat"
    """What makes a sentence of a code: an LSTM that gets the code at each step, one that also gets the word before, a linear
    bag of words, or nothing."""

    decoder_hidden_size: int = 0
    """Units of the decoder LSTM; 0 for `hidden_size`."""

    decoder_activation: Activation = "linear"
    """Activation of the decoder's output layer."""

    decoder_weight: float = 0.1
    """Weight of the reconstruction in the loss; at least 0."""

    reconstruction: Reconstruction = "softmax"
    """Loss of a reconstructed word: softmax over the candidate words of the group, squared error of the word vector, or
    1 - cosine."""

    target_constant: float = 1e-4
    """A reconstructed word counts a/(a+p) in the loss, this being a; 0 to count all words alike."""

    num_negatives: int = 512
    """Words drawn from p^0.75 that join a group's own words as softmax candidates; at least 0."""

    contrast_weight: float = 1.0
    """Weight of telling a sentence from the others of its group by its neighbour; at least 0."""

    temperature: float = 0.05
    """Temperature of the contrast; above 0."""

    spelling_size: int = 256
    """Dimension of the spelling part of the embedding, which makes alike what is written alike: "walk" and "walked". A
    multiple of 8 up to 512; 0 for none. It is computed and not learned."""

    spelling_constant: float = 3e-4
    """A word counts a/(a+p) in the spelling part, this being a; above 0."""

    same_article_negatives: bool = False
    """Use sentences of the same article as negatives too, though they may well mean the same."""

    output: Output = "joined"
    """The embedding: unit word mean, unit code and unit spelling joined; the same and the largest LSTM states ("transfer", for
    classifiers); the code alone; or the word mean alone. A trained model can be loaded with another one."""

    mask_padding: bool = True
    """Leave padding out of the LSTMs and the loss. Off, sentences are padded on the left with zero vectors to
    `train_max_tokens` positions which all count, as in the original Keras system."""

    max_tokens: int = 64
    """Words of a sentence that are encoded, the rest is cut off; at least 1."""

    train_max_tokens: int = 32
    """Words of a sentence that are used in training; at least 1."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(self, field)
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise _wrong(self, name, "one of " + ", ".join(choices))
        for name, (low, low_allowed, high) in _RANGES.items():
            value = getattr(self, name)
            above = value >= low if low_allowed else value > low
            if not (math.isfinite(value) and above and value < high):
                bound = "at least" if low_allowed else "above"
                raise _wrong(self, name, f"a number {bound} {low}" + (f" and below {high}" if high < math.inf else ""))
        if self.spelling_size % 8:
            raise _wrong(self, "spelling_size", "a multiple of 8")
        if not self.lstm_path and not self.skip_path:
            raise _wrong(self, "lstm_path", "True without --skip-path: nothing is left to make the code from")
        if not self.lstm_path and self.output == "transfer":
            raise _wrong(self, "output", "joined, code or words without --lstm-path: there are no states to join")
        if self.decoder == "none" and not self.contrast_weight:
            raise _wrong(self, "decoder", "a decoder, or a --contrast-weight above 0: nothing is left to train on")
        if not self.mask_padding:
            if self.reconstruction != "mse" or self.decoder not in ("repeat", "none") or self.target_constant:
                raise _wrong(
                    self, "mask_padding", "True, unless --decoder repeat, --reconstruction mse and --target-constant 0"
                )
            if self.max_tokens > self.train_max_tokens:
                raise _wrong(self, "max_tokens", f"at most --train-max-tokens {self.train_max_tokens} with padding")

    @property
    def code_dimension(self) -> int:
        """Dimension D of the code."""
        return self.code_size or 2 * self.hidden_size

    @property
    def projects_states(self) -> bool:
        """Whether the pooled states go through the matrix P, rather than being the code themselves."""
        return self.lstm_path and (self.skip_path or self.code_dimension != 2 * self.hidden_size)

    @property
    def decoder_dimension(self) -> int:
        """Units of the decoder LSTM."""
        return self.decoder_hidden_size or self.hidden_size

    @property
    def padded_length(self) -> int:
        """Positions every sentence is padded to on the left; 0 if padding is masked."""
        return 0 if self.mask_padding else self.train_max_tokens

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON-like values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Make a config of what `to_dict` returned; a missing field has its default.

        Raises:
            InputError: for a field that does not exist here.
            ValueError: for a value out of range.
        """
        unknown = sorted(set(values) - {field.name for field in dataclasses.fields(cls)})
        if unknown:
            raise InputError(
                f"the model has settings this version does not know: {', '.join(unknown)}; upgrade lstm_embed"
            )
        return cls(**values)


_CHOICES: dict[str, tuple[str, ...]] = {
    "pooling": get_args(Pooling),
    "start_weights": get_args(StartWeights),
    "decoder": get_args(Decoder),
    "decoder_activation": get_args(Activation),
    "reconstruction": get_args(Reconstruction),
    "output": get_args(Output),
}
# Field: (lowest, is the lowest itself allowed, all values are below this).
_RANGES: dict[str, tuple[float, bool, float]] = {
    "hidden_size": (1, True, math.inf),
    "code_size": (0, True, math.inf),
    "word_scale": (0, True, math.inf),
    "word_whitening": (0, True, 1.000001),
    "sif_constant": (0, False, math.inf),
    "spelling_size": (0, True, 513),
    "spelling_constant": (0, False, math.inf),
    "noise": (0, True, 1),
    "decoder_hidden_size": (0, True, math.inf),
    "decoder_weight": (0, True, math.inf),
    "target_constant": (0, True, math.inf),
    "num_negatives": (0, True, math.inf),
    "contrast_weight": (0, True, math.inf),
    "temperature": (0, False, math.inf),
    "max_tokens": (1, True, math.inf),
    "train_max_tokens": (1, True, math.inf),
}


def _check_type(config: ModelConfig, field: dataclasses.Field[Any]) -> None:
    """Refuse a value of another type than the default's, as a file of settings may hold it; an int will do for a float."""
    value, kind = getattr(config, field.name), type(field.default)
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise _wrong(config, field.name, f"a value of type {kind.__name__}")


def _wrong(config: ModelConfig, name: str, expected: str) -> ValueError:
    return ValueError(f"{name} is {getattr(config, name)!r}; expected {expected} (--{name.replace('_', '-')})")


def default() -> ModelConfig:
    """Return the recipe for one or a few CPU cores: 128 units a direction, for word vectors of up to 300 dimensions."""
    return ModelConfig()


def large() -> ModelConfig:
    """Return the recipe for a GPU: 512 units a direction."""
    return ModelConfig(hidden_size=512, code_size=1024)


def original() -> ModelConfig:
    """Return the Keras system this project goes back to, for word vectors of 128 dimensions.

    Word vectors as trained, padded on the left to 64 positions; a BiLSTM of 512 units a direction, whose last states are the
    code; the code repeated into an LSTM of 512 units and a dense tanh layer; squared error over all positions.
    """
    return ModelConfig(
        hidden_size=512,
        code_size=0,
        pooling="last",
        skip_path=False,
        word_scale=0.0,
        word_whitening=0.0,
        start_weights="uniform",
        learn_word_weights=False,
        noise=0.0,
        decoder="repeat",
        decoder_activation="tanh",
        decoder_weight=1.0,
        reconstruction="mse",
        target_constant=0.0,
        num_negatives=0,
        contrast_weight=0.0,
        spelling_size=0,
        output="code",
        mask_padding=False,
        max_tokens=64,
        train_max_tokens=64,
    )


PRESETS: dict[str, Callable[[], ModelConfig]] = {"default": default, "original": original, "large": large}
"""Preset functions by the name `--preset` takes."""
