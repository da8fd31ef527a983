"""The model: a vector is put together of what a sentence says, in which order, and how much of it there is.

    words      w = sum_t a_t x_t              word vectors of length 3, weighted by frequency (Arora et al. 2017)
    spelling   s = sum_t b_t g_t              their character n-grams (see `spelling`)
    meaning    m = [w/|w| ; s/|s|] G          G: what neighbouring sentences teach (see `neighbours`)
    order      o = code of the LSTM autoencoder (see `order`), the only part that is trained by gradients
    positions  p = sum_t exp(i (phase_t + t omega))   (see `positions`)

A vector holds some of these parts, one after the other; `config.PARTS` tells which, for each embedding:

    meaning    m
    order      o, shortened beside others
    lengths    log(1 + |w|) ; log(1 + |s|)
    positions  p/|p| ; log(1 + |p|)

What is a word here is a piece of the vocabulary (see `corpus.pieces`): all sums are over these, and t counts them. Nothing here
draws a random number after construction: the same batch gives the same bits.

Shape suffixes: V vocabulary, d word vector, S spelling, U distinct words of a batch, R or B rows (sentences), T positions,
M = d + S meaning, D order, P positions, E embedding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_embed.base.errors import InputError
from lstm_embed.model.batch import FIRST_WORD, Batch, IntArray, Sentences, distinct_words, lay_out, padded
from lstm_embed.model.config import PARTS, ModelConfig, Part
from lstm_embed.model.order import OrderAutoencoder
from lstm_embed.model.positions import frequencies, phases_of, rotated_sum
from lstm_embed.model.spelling import spelling_sums

WORD_LENGTH = 3.0
"""Length every word vector is scaled to."""
LENGTH_SCALE = 0.005
"""Factor on the logarithms of lengths: large enough for half precision, small enough to cost similarity nothing."""
POSITION_SCALE = 0.04
"""Length of the positions: no cosine of `exact` differs by more than 0.005 from that of `joined`, whose length is above 1.4."""


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """What a model knows of the distinct words of a batch; row 0 of all is padding and zero.

    Attributes:
        vectors_Ud: Word vectors.
        sums_UM: What a word adds to words and spelling; None where no embedding asks for them.
        phases_UP: Its phases, P/2 bytes; likewise.
        projected: For each direction of the LSTM what the words add to its gates, if that was asked for.
    """

    vectors_Ud: Tensor
    sums_UM: Tensor | None = None
    phases_UP: Tensor | None = None
    projected: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Loss of a batch and what goes with it, as means over what the model counts by (`counts_by`).

    Attributes:
        total: The objective, with gradient.
        accuracy: Share of words that the decoder chooses rightly, those before given; None where it was not computed.
        words_in_place: Share of words that come back in place; None where it was not computed.
    """

    total: Tensor
    accuracy: Tensor | None = None
    words_in_place: Tensor | None = None


class SentenceModel(nn.Module):
    """The recipe of this project over given word vectors; all buffers are zero until `start` fills them.

    Args:
        config: What vectors are made of.
        word_size: Dimension d of the word vectors.
        words: The V words, for their phases.
        seed: Decides the initial weights; the global random state is not touched.
    """

    counts_by = "num_tokens"
    """What a micro-batch is weighted by in the loss of a step."""
    measures = ("loss", "accuracy")
    """What a training step measures (see `Losses`)."""
    validation_measures = ("loss", "accuracy", "words_in_place")
    """What a validation measures."""
    kept_buffers = ("neighbours",)
    """Buffers that a checkpoint keeps beside the trained parameters."""

    word_vectors: Tensor
    word_weights: Tensor
    spelling: Tensor
    spelling_weights: Tensor
    neighbours: Tensor
    phases: Tensor

    def __init__(self, config: ModelConfig, word_size: int, words: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        size = len(words)
        self.register_buffer("word_vectors", torch.zeros(size, word_size))
        self.register_buffer("word_weights", torch.zeros(size))
        # Small whole numbers, and the weights that bring them to length a/(a+p).
        self.register_buffer("spelling", torch.zeros(size, config.spelling_size, dtype=torch.int8))
        self.register_buffer("spelling_weights", torch.zeros(size))
        self.register_buffer("neighbours", torch.zeros(*[word_size + config.spelling_size] * 2))
        self.register_buffer("phases", torch.from_numpy(phases_of(words, config.position_size)), persistent=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.order = OrderAutoencoder(word_size, config.hidden_size, config.order_size, config.decoder_hidden_size)

    @classmethod
    def start(
        cls,
        config: ModelConfig,
        word_vectors_Vd: Tensor | npt.NDArray,
        counts_V: npt.ArrayLike,
        words: Sequence[str],
        *,
        seed: int = 0,
    ) -> SentenceModel:
        """Make a model that is ready to be trained; what neighbours teach is not in it yet.

        Args:
            config: What vectors are made of.
            word_vectors_Vd: Word vectors as trained, aligned to the vocabulary.
            counts_V: Their counts in the training corpus.
            words: The V words, as the vocabulary has them.
            seed: Decides the initial weights.

        Raises:
            InputError: if vectors, counts and words are not one for each of at least two ids.
        """
        vectors, counts = checked_vectors(word_vectors_Vd, counts_V, words)
        model = cls(config, vectors.shape[1], words, seed=seed)
        model.word_vectors.copy_(F.normalize(vectors, dim=1) * WORD_LENGTH)
        model.neighbours.fill_diagonal_(1.0)
        model.word_weights.copy_(torch.from_numpy(_sif_weights(config.word_constant, counts)))
        if config.spelling_size:
            sums = spelling_sums(words[FIRST_WORD:], config.spelling_size)
            lengths = np.linalg.norm(sums.astype(np.float32), axis=1)
            weights = _sif_weights(config.spelling_constant, counts)[FIRST_WORD:] / np.maximum(lengths, 1.0)
            model.spelling[FIRST_WORD:] = torch.from_numpy(sums)
            model.spelling_weights[FIRST_WORD:] = torch.from_numpy(weights).float()
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.word_vectors.device

    @property
    def word_size(self) -> int:
        """Dimension d of the word vectors."""
        return self.word_vectors.shape[1]

    def embedding_dimension(self, embedding: str = "") -> int:
        """Return the dimension E of an embedding; of the config's if none is named."""
        return max(place.stop for place in self.places(embedding).values())

    def places(self, embedding: str = "") -> dict[Part, slice]:
        """Return where the parts of an embedding stand in its vectors; of the config's if none is named."""
        config = self.config
        sizes: dict[Part, int] = {
            "meaning": self.word_size + config.spelling_size,
            "order": config.order_size,
            "lengths": 2,
            "positions": config.position_size + 1,
        }
        found: dict[Part, slice] = {}
        start = 0
        for part in PARTS[embedding or config.embedding]:
            found[part] = slice(start, start + sizes[part])
            start += sizes[part]
        return found

    def order_scale(self, embedding: str = "") -> float:
        """Return the factor on the order in an embedding; of the config's if none is named."""
        alone = PARTS[embedding or self.config.embedding] == ("order",)
        return 1.0 if alone else self.config.order_share * math.sqrt(2.0)

    # Encoding

    def look_up(self, words_U: Tensor, embedding: str = "order", *, project: bool = False) -> WordTable:
        """Return the table of distinct words; the first must be padding.

        Args:
            words_U: Word ids on the model's device.
            embedding: What is to be made of them.
            project: Also compute what each word adds to the gates, so that several batches can share it.
        """
        vectors_Ud = F.embedding(words_U, self.word_vectors)
        sums_UM = phases_UP = projected = None
        parts = PARTS[embedding]
        if "meaning" in parts:
            words_Ud = vectors_Ud * self.word_weights[words_U][:, None]
            spelling_US = F.embedding(words_U, self.spelling) * self.spelling_weights[words_U][:, None]
            sums_UM = torch.cat([words_Ud, spelling_US], 1)
        if "positions" in parts:
            phases_UP = self.phases[words_U]
        if project and "order" in parts:
            projected = self.order.project(vectors_Ud)
        return WordTable(vectors_Ud=vectors_Ud, sums_UM=sums_UM, phases_UP=phases_UP, projected=projected)

    def sums(self, sums_UM: Tensor, sentences: Sentences) -> tuple[Tensor, Tensor]:
        """Return the sums of words and of spelling, shapes (R, d) and (R, S), in the precision of `sums_UM`."""
        found_RM = F.embedding_bag(sentences.position_TR.t().contiguous(), sums_UM, mode="sum")
        return found_RM[:, : self.word_size], found_RM[:, self.word_size :]

    def embed_rows(self, table: WordTable, sentences: Sentences, embedding: str = "") -> Tensor:
        """Return the embeddings of sentences over a word table, float32, shape (R, E); zero without words.

        Args:
            table: Made by `look_up` for the same embedding.
            sentences: Positions into it.
            embedding: What the vectors consist of; the config's if none is named.
        """
        embedding = embedding or self.config.embedding
        parts = PARTS[embedding]
        made: dict[Part, Tensor] = {}
        if "order" in parts:
            code_RD = self.order.encode(table.vectors_Ud, sentences, table.projected)
            made["order"] = self.order_scale(embedding) * code_RD
        if "meaning" in parts:
            assert table.sums_UM is not None
            words_Rd, spelling_RS = self.sums(table.sums_UM, sentences)
            halves_RM = torch.cat([F.normalize(words_Rd, dim=1), F.normalize(spelling_RS, dim=1)], 1)
            made["meaning"] = halves_RM @ self.neighbours
            if "lengths" in parts:
                made["lengths"] = torch.cat([_length(words_Rd), _length(spelling_RS)], 1)
        if "positions" in parts:
            assert table.phases_UP is not None
            sum_RP = rotated_sum(table.phases_UP, sentences.position_TR, frequencies(self.config.position_size))
            made["positions"] = torch.cat([POSITION_SCALE * F.normalize(sum_RP, dim=1), _length(sum_RP)], 1)
        return torch.cat([made[part] for part in parts], 1)

    def embed(self, ids_BT: Tensor | IntArray, lengths_B: Tensor | IntArray, embedding: str = "") -> Tensor:
        """Return the embeddings of sentences, float32, shape (B, E), with gradient.

        Args:
            ids_BT: Token ids padded on the right, on any device; they are laid out on the CPU.
            lengths_B: Tokens of each sentence.
            embedding: What the vectors consist of; the config's if none is named.
        """
        embedding = embedding or self.config.embedding
        ids, lengths = (torch.as_tensor(values).cpu().numpy() for values in (ids_BT, lengths_B))
        words, position_BT = distinct_words(padded(ids, lengths))
        table = self.look_up(torch.from_numpy(words).to(self.device), embedding)
        return self.embed_rows(table, lay_out(position_BT, lengths).to(self.device), embedding)

    # Training

    def forward(self, batch: Batch, measure: bool = False) -> Losses:
        """Return the losses of a batch, means over its words.

        Args:
            batch: Laid out sentences.
            measure: Also decode the codes, each word after those already chosen, and count the words in place.
        """
        table = self.look_up(batch.words_U)
        loss, right = self.order(table.vectors_Ud, batch.sentences)
        num_words = max(1, batch.num_tokens)
        in_place = self._words_in_place(table, batch) / num_words if measure else None
        return Losses(total=loss / num_words, accuracy=right / num_words, words_in_place=in_place)

    @torch.no_grad()
    def _words_in_place(self, table: WordTable, batch: Batch) -> Tensor:
        """Return how many words of a batch come back in place from the codes, the words being known."""
        position_RT, lengths_R = batch.sentences.position_TR.t(), batch.sentences.lengths_R
        inside_RT = torch.arange(position_RT.shape[1], device=self.device) < lengths_R[:, None]
        # Ascending, so that nothing of the order is in it; padding last.
        given_RT = torch.where(inside_RT, position_RT, len(batch.words_U)).sort(1).values
        given_RT = torch.where(inside_RT, given_RT, 0)
        with torch.autocast(self.device.type, enabled=False):
            code_RD = self.order.code(table.vectors_Ud, batch.sentences)
            vectors_RTd = F.embedding(given_RT, table.vectors_Ud)
            order_RWT, _ = self.order.arrange(code_RD, vectors_RTd, given_RT, lengths_R, width=1)
        return ((given_RT.gather(1, order_RWT[:, 0]) == position_RT) & inside_RT).sum()


def checked_vectors(
    word_vectors_Vd: Tensor | npt.NDArray, counts_V: npt.ArrayLike, words: Sequence[str]
) -> tuple[Tensor, npt.NDArray[np.float64]]:
    """Return word vectors in float32, that of padding zero, and counts.

    Raises:
        InputError: if vectors, counts and words are not one for each of at least two ids.
    """
    vectors = torch.as_tensor(word_vectors_Vd, dtype=torch.float32).clone()
    counts = np.asarray(counts_V, np.float64)
    if vectors.ndim != 2 or not len(vectors) == len(counts) == len(words) or len(counts) <= FIRST_WORD:
        raise InputError(
            f"word vectors of shape {tuple(vectors.shape)}, {len(counts)} counts and {len(words)} words; expected one of each "
            f"for at least {FIRST_WORD + 1} ids"
        )
    vectors[:FIRST_WORD] = 0.0
    return vectors, counts


def _length(sums_Rn: Tensor) -> Tensor:
    return LENGTH_SCALE * torch.log1p(torch.linalg.vector_norm(sums_Rn, dim=1, keepdim=True))


def _sif_weights(constant: float, counts_V: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a/(a+p) of the frequency p of each word, 0 for padding."""
    words = np.maximum(counts_V[FIRST_WORD:], 1.0)
    p = words / words.sum()
    return np.concatenate([np.zeros(FIRST_WORD), constant / (constant + p)])
