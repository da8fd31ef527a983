"""The autoencoder: word vectors and weights, encoder, decoder, and the loss of a batch of groups.

    s = sum_t w_t x_t / n          weighted mean of the word vectors
    m = sum_t w_t h_t / n          the LSTM's states, pooled likewise
    z = R s + P m + b              the code; R orthogonal, P = 0 and b = 0 at the start
    g = sum_t v_t g_t / n          spelling: what n-grams of characters the words have, weighted by v
    embedding = [s0/|s0| ; z/|z| ; g/|g|]  s0 = s with the weights of before training

Nothing here draws a random number after construction: the same batch gives the same bits.

Shape suffixes: V vocabulary, d word vector, U distinct words of a batch, R or B rows (sentences), T positions, H units of
a direction, M = 2 H, D code, E embedding, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_embed.errors import InputError
from lstm_embed.model import losses
from lstm_embed.model.batch import Batch, Sentences, collate, distinct_words, lay_out
from lstm_embed.model.config import ModelConfig
from lstm_embed.model.decoder import Decoder
from lstm_embed.model.group import FIRST_WORD, BoolArray, Group, IntArray
from lstm_embed.model.lstm import Lstm
from lstm_embed.model.spelling import spelling_sums


@dataclass(frozen=True, kw_only=True)
class WordTable:
    """What the model knows of the distinct words of a batch.

    Attributes:
        vectors_Ud: Word vectors; row 0 is zero.
        weights_U: Weights as learned.
        start_weights_U: Weights before training.
        known_U: False for padding and the unknown word.
        spelling_Us: Weighted spelling, if the model has it.
        projected: For each direction of the LSTM what the words add to its gates, if that was asked for.
    """

    vectors_Ud: Tensor
    weights_U: Tensor
    start_weights_U: Tensor
    known_U: Tensor
    spelling_Us: Tensor | None = None
    projected: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """Word means with start weights (R, d), and codes (R, D); rows without known words are zero."""

    words_Rd: Tensor
    code_RD: Tensor


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Losses of one or more groups: means over groups weighted by their sentences, so passes combine the same way.

    Attributes:
        total: The objective, with gradient.
        reconstruction: Reconstruction loss before its weight, detached.
        contrast: Contrast loss before its weight, detached.
        accuracy: Share of words that are reconstructed best among the candidates; None where that was not computed.
        contrast_accuracy: Share of anchors that find their partner; None without contrast.
        num_sentences: Real sentences.
        num_tokens: Their tokens.
    """

    total: Tensor
    reconstruction: Tensor
    contrast: Tensor
    accuracy: Tensor | None
    contrast_accuracy: Tensor | None
    num_sentences: int
    num_tokens: int


class Autoencoder(nn.Module):
    """An LSTM autoencoder over given word vectors.

    Args:
        config: The recipe.
        word_vectors_Vd: Word vectors as trained, aligned to the vocabulary.
        counts_V: Word counts of the training corpus; of id 1, tokens without an id.
        words: The V words, for their spelling; without them that part of the embedding is zero.
        seed: Decides the initial weights; the global random state is not touched.
    """

    def __init__(
        self,
        config: ModelConfig,
        word_vectors_Vd: Tensor | npt.NDArray,
        counts_V: npt.ArrayLike,
        *,
        words: Sequence[str] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        vectors = torch.as_tensor(word_vectors_Vd, dtype=torch.float32).clone()
        counts = np.asarray(counts_V, np.float64)
        if vectors.ndim != 2 or len(vectors) != len(counts) or len(counts) <= FIRST_WORD:
            raise InputError(
                f"word vectors of shape {tuple(vectors.shape)} and {len(counts)} counts; expected one vector and one count "
                f"for each of at least {FIRST_WORD + 1} words"
            )
        vectors[:FIRST_WORD] = 0.0
        self.config = config
        word_size, code_size = vectors.shape[1], config.code_dimension
        if config.word_whitening:
            vectors = _whitened(vectors, config.word_whitening)
        if config.word_scale:
            vectors = F.normalize(vectors, dim=1) * config.word_scale
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.word_vectors = nn.Parameter(vectors, requires_grad=not config.freeze_word_vectors)
            self.register_buffer("start_weights", _start_weights(config, counts))
            self.register_buffer("target_weights", _target_weights(config, counts))
            if config.spelling_size:
                self._add_spelling(words, counts)
            self.word_theta = nn.Parameter(torch.zeros(len(vectors))) if config.learn_word_weights else None
            self.forward_lstm = Lstm(word_size, config.hidden_size) if config.lstm_path else None
            self.backward_lstm = Lstm(word_size, config.hidden_size) if config.lstm_path else None
            self.from_words = nn.Linear(word_size, code_size, bias=False) if config.skip_path else None
            self.from_states = nn.Linear(2 * config.hidden_size, code_size) if config.projects_states else None
            self.decoder = Decoder(config, word_size) if config.decoder != "none" else None
            if self.from_words is not None:
                nn.init.orthogonal_(self.from_words.weight)
            if self.from_states is not None:
                nn.init.zeros_(self.from_states.bias)
                init = nn.init.zeros_ if config.skip_path else nn.init.orthogonal_
                init(self.from_states.weight)

    start_weights: Tensor
    target_weights: Tensor
    spelling: Tensor
    spelling_weights: Tensor

    def _add_spelling(self, words: Sequence[str], counts_V: npt.NDArray[np.float64]) -> None:
        """Make the buffers `spelling`, small whole numbers, and `spelling_weights`, which bring them to length a/(a+p)."""
        sums = np.zeros((len(counts_V), self.config.spelling_size), np.int8)
        weights = np.zeros(len(counts_V))
        if len(words):
            sums[FIRST_WORD:] = spelling_sums(words[FIRST_WORD:], self.config.spelling_size)
            lengths = np.linalg.norm(sums.astype(np.float32), axis=1)
            weights = _sif_weights(self.config.spelling_constant, counts_V) / np.maximum(lengths, 1.0)
        self.register_buffer("spelling", torch.from_numpy(sums))
        self.register_buffer("spelling_weights", torch.from_numpy(weights).float())

    @classmethod
    def from_tensors(cls, config: ModelConfig, tensors: Mapping[str, Tensor]) -> Autoencoder:
        """Make an autoencoder of what `state_dict` returned.

        Raises:
            InputError: if the tensors do not belong to the config.
        """
        try:
            shape = tensors["word_vectors"].shape
            model = cls(config, torch.zeros(shape), np.ones(shape[0]))
            model.load_state_dict(dict(tensors), strict=True)
        except (KeyError, RuntimeError) as error:
            raise InputError(f"the tensors do not fit the model's settings: {error}") from None
        return model

    @property
    def embedding_dimension(self) -> int:
        """Dimension E of what `embed` returns."""
        word_size, code_size = self.word_vectors.shape[1], self.config.code_dimension
        sizes = {"code": code_size, "words": word_size, "joined": word_size + code_size + self.config.spelling_size}
        sizes["transfer"] = sizes["joined"] + 2 * self.config.hidden_size
        return sizes[self.config.output]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.word_vectors.device

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the trained parameters by what learning rate suits them: "network", "word_weights", "word_vectors"."""
        special = {"word_theta": "word_weights", "word_vectors": "word_vectors"}
        groups: dict[str, list[nn.Parameter]] = {"network": [], "word_weights": [], "word_vectors": []}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                groups[special.get(name, "network")].append(parameter)
        return groups

    # Encoding

    def look_up(self, words_U: Tensor, *, project: bool = False) -> WordTable:
        """Return the table of distinct words; the first must be padding.

        Args:
            words_U: Word ids on the model's device.
            project: Also compute what each word adds to the gates, so that several batches can share it.
        """
        vectors_Ud = F.embedding(words_U, self.word_vectors)
        start_weights_U = self.start_weights[words_U]
        weights_U = start_weights_U
        if self.word_theta is not None:
            weights_U = weights_U * F.embedding(words_U, self.word_theta[:, None]).squeeze(1).exp()
        spelling_Us = None
        if self.config.spelling_size:
            spelling_Us = F.embedding(words_U, self.spelling) * self.spelling_weights[words_U][:, None]
        projected = None
        if project and self.forward_lstm and self.backward_lstm and self.forward_lstm.recurs:
            projected = self.forward_lstm.project(vectors_Ud), self.backward_lstm.project(vectors_Ud)
        return WordTable(
            vectors_Ud=vectors_Ud,
            weights_U=weights_U,
            start_weights_U=start_weights_U,
            known_U=words_U >= FIRST_WORD,
            spelling_Us=spelling_Us,
            projected=projected,
        )

    def _word_mean(self, vectors_Ud: Tensor, weights_U: Tensor, sentences: Sentences) -> Tensor:
        position_RT = sentences.position_TR.t().contiguous()
        weights_RT = F.embedding(position_RT, weights_U[:, None]).squeeze(2)
        sum_Rd = F.embedding_bag(position_RT, vectors_Ud, mode="sum", per_sample_weights=weights_RT)
        return sum_Rd / sentences.lengths_R.clamp_min(1)[:, None]

    def _states(self, table: WordTable, sentences: Sentences) -> list[tuple[Tensor, Tensor]]:
        """Return for each direction its states, shape (T, R, H), and the row of the word table behind each, (T, R)."""
        if self.forward_lstm is None or self.backward_lstm is None:
            return []
        position_TR, lengths_R = sentences.position_TR, sentences.lengths_R
        step_T1 = torch.arange(len(position_TR), device=lengths_R.device)[:, None]
        # The backward direction reads each sentence from its end; what is padding stays padding.
        backward_TR = torch.where(step_T1 < lengths_R, lengths_R - 1 - step_T1, step_T1)
        found = []
        for number, lstm in enumerate((self.forward_lstm, self.backward_lstm)):
            read_TR = position_TR.gather(0, backward_TR) if number else position_TR
            states_TRH = lstm(
                sentences.running,
                table_UI=table.vectors_Ud,
                position_TR=read_TR,
                projected_UG=table.projected[number] if table.projected else None,
            )
            found.append((states_TRH, read_TR))
        return found

    def _pooled(
        self, pooling: str, states: list[tuple[Tensor, Tensor]], table: WordTable, sentences: Sentences
    ) -> Tensor:
        """Return m, shape (R, M): the states of both directions pooled."""
        lengths_R = sentences.lengths_R
        inside_TR = torch.arange(len(sentences.position_TR), device=lengths_R.device)[:, None] < lengths_R
        pooled = []
        for states_TRH, read_TR in states:
            if pooling == "last":
                last_R = (lengths_R - 1).clamp_min(0)
                pooled.append(states_TRH[last_R, torch.arange(len(last_R), device=last_R.device)])
            elif pooling == "max":
                # States are above -1, so this is never the maximum of a sentence, and finite for an empty one.
                pooled.append(states_TRH.masked_fill(~inside_TR[:, :, None], -1.0).amax(0))
            else:
                weights_TR = inside_TR.to(states_TRH.dtype)
                if pooling == "weighted":
                    weights_TR = F.embedding(read_TR, table.weights_U[:, None]).squeeze(2).to(states_TRH.dtype)
                sum_RH = torch.einsum("tr,trh->rh", weights_TR, states_TRH)
                pooled.append(sum_RH.float() / lengths_R.clamp_min(1)[:, None])
        return torch.cat(pooled, dim=1).float()

    def _code(self, states: list[tuple[Tensor, Tensor]], table: WordTable, sentences: Sentences) -> Tensor:
        code_RD: Tensor | None = None
        if states:
            code_RD = self._pooled(self.config.pooling, states, table, sentences)
            if self.from_states is not None:
                code_RD = self.from_states(code_RD)
        if self.from_words is not None:
            words_RD = self.from_words(self._word_mean(table.vectors_Ud, table.weights_U, sentences))
            code_RD = words_RD if code_RD is None else code_RD + words_RD
        assert code_RD is not None
        return torch.where(_known(table, sentences), code_RD.float(), 0.0)

    def code(self, table: WordTable, sentences: Sentences) -> Tensor:
        """Return the codes z, shape (R, D); zero, and without gradient, for a sentence without known words."""
        return self._code(self._states(table, sentences), table, sentences)

    def encode_rows(self, table: WordTable, sentences: Sentences) -> Encoded:
        """Return word means and codes of sentences over a word table."""
        words_Rd = self._word_mean(table.vectors_Ud, table.start_weights_U, sentences)
        return Encoded(words_Rd=words_Rd, code_RD=self.code(table, sentences))

    def embed_rows(self, table: WordTable, sentences: Sentences) -> Tensor:
        """Return the embeddings of sentences over a word table, shape (R, E)."""
        output = self.config.output
        if output == "code":
            return self.code(table, sentences)
        words_Rd = self._word_mean(table.vectors_Ud, table.start_weights_U, sentences)
        if output == "words":
            return words_Rd
        states = self._states(table, sentences)
        parts = [words_Rd, self._code(states, table, sentences)]
        if table.spelling_Us is not None:
            parts.append(self._word_mean(table.spelling_Us, table.known_U.float(), sentences))
        if output == "transfer":
            most_RM = self._pooled("max", states, table, sentences)
            parts.append(torch.where(_known(table, sentences), most_RM, 0.0))
        return torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)

    def encode(
        self,
        ids_BT: Tensor | IntArray,
        lengths_B: Tensor | IntArray,
        keep_BT: Tensor | BoolArray | None = None,
    ) -> Encoded:
        """Return word means and codes, with gradient.

        Args:
            ids_BT: Token ids padded on the right, on any device; they are laid out on the CPU.
            lengths_B: Tokens of each sentence.
            keep_BT: False where a word is to be dropped; None to keep all.
        """
        return self.encode_rows(*self._laid_out(ids_BT, lengths_B, keep_BT))

    def embed(self, ids_BT: Tensor | IntArray, lengths_B: Tensor | IntArray) -> Tensor:
        """Return the embeddings the config's `output` asks for, shape (B, E), float32, with gradient; see `encode`."""
        return self.embed_rows(*self._laid_out(ids_BT, lengths_B, None))

    def _laid_out(
        self, ids_BT: Tensor | IntArray, lengths_B: Tensor | IntArray, keep_BT: Tensor | BoolArray | None
    ) -> tuple[WordTable, Sentences]:
        ids, lengths = (torch.as_tensor(values).cpu().numpy() for values in (ids_BT, lengths_B))
        inside = np.arange(ids.shape[1]) < lengths[:, None]
        if keep_BT is not None:
            inside &= torch.as_tensor(keep_BT).cpu().numpy()
        words, position_BT = distinct_words(np.where(inside, ids, 0))
        sentences = lay_out(position_BT, lengths, self.config.padded_length).to(self.device)
        return self.look_up(torch.from_numpy(words).to(self.device)), sentences

    # Training

    def loss(self, groups: Sequence[Group] | Group) -> Losses:
        """Return the losses of one or more groups; see `forward`."""
        groups = [groups] if isinstance(groups, Group) else groups
        return self(collate(groups, self.config.padded_length).to(self.device))

    def forward(self, batch: Batch) -> Losses:
        """Return the losses of a batch of groups, encoded together, each with its own negatives and candidates."""
        config = self.config
        table = self.look_up(batch.words_U)
        code_RD = self.code(table, batch.inputs)
        share_G = batch.real_GB.sum(1) / max(1, batch.num_sentences)
        zero = code_RD.new_zeros(())
        total, reconstruction, contrast, accuracy, contrast_accuracy = zero, zero, zero, None, None
        if config.contrast_weight:
            loss_G, found_G = losses.contrast(
                code_RD.view(*batch.partner_GB.shape, -1),
                batch.partner_GB,
                batch.article_GB,
                temperature=config.temperature,
                same_article_negatives=config.same_article_negatives,
            )
            contrast, contrast_accuracy = share_G @ loss_G, share_G @ found_G
            total = total + config.contrast_weight * contrast
        if self.decoder is not None and config.decoder_weight and batch.target_GN.numel():
            loss_G, right_G = self.decoder(batch, code_RD, table.vectors_Ud, self.word_vectors, self.target_weights)
            reconstruction = share_G @ loss_G
            accuracy = None if right_G is None else share_G @ right_G
            total = total + config.decoder_weight * reconstruction
        return Losses(
            total=total,
            reconstruction=reconstruction.detach(),
            contrast=contrast.detach(),
            accuracy=accuracy,
            contrast_accuracy=contrast_accuracy,
            num_sentences=batch.num_sentences,
            num_tokens=batch.num_tokens,
        )

    @torch.no_grad()
    def decode(self, code_RD: Tensor, num_steps: int) -> Tensor:
        """Return the best word ids for each of `num_steps` positions, shape (R, T); of a bag, its best words.

        Without masked padding the words of a sentence are the last positions of `config.padded_length`.

        Raises:
            InputError: if the model has no decoder.
        """
        if self.decoder is None:
            raise InputError(
                "this model was made without a decoder (--decoder none); it cannot turn codes back into words"
            )
        return self.decoder.decode(code_RD, num_steps, self.word_vectors)


def _known(table: WordTable, sentences: Sentences) -> Tensor:
    """Return which sentences have a known word, shape (R, 1)."""
    return table.known_U[sentences.position_TR].any(0)[:, None]


def _whitened(vectors_Vd: Tensor, power: float) -> Tensor:
    """Return word vectors without their mean, the variance along each principal axis to the power 1 - `power`.

    Directions that all words share tell little of any of them (Mu and Viswanath 2018, "All-but-the-Top"); whitening by halves
    keeps what the large ones do tell. Words without a vector stay without one.
    """
    known_V = vectors_Vd.any(1)
    words = vectors_Vd[known_V].double()
    if len(words) < 2:
        return vectors_Vd
    words = words - words.mean(0)
    variances, axes = torch.linalg.eigh(words.T @ words / len(words))
    # An axis without variance, as there are with fewer words than dimensions, must not be blown up.
    floor = variances.max() * 1e-6
    scales = torch.where(variances > floor, variances.clamp_min(floor) ** (-power / 2), 0.0)
    whitened = torch.zeros_like(vectors_Vd)
    whitened[known_V] = (words @ (axes * scales) @ axes.T).float()
    return whitened


def _start_weights(config: ModelConfig, counts_V: npt.NDArray[np.float64]) -> Tensor:
    """Return the word weights of before training, 0 for special ids.

    "log" is log(1/p) of the frequency p, minus its minimum, over its maximum; "sif" is Arora et al. 2017.
    """
    words = np.maximum(counts_V[FIRST_WORD:], 1.0)
    p = words / (words.sum() + counts_V[1])
    if config.start_weights == "log":
        rarity = np.log(1.0 / p)
        weights = (rarity - rarity.min()) / max(rarity.max(), 1e-12)
    elif config.start_weights == "sif":
        weights = _sif_weights(config.sif_constant, counts_V)[FIRST_WORD:]
    else:
        weights = np.ones_like(p)
    if not weights.any():
        weights = np.ones_like(p)
    return torch.from_numpy(np.concatenate([np.zeros(FIRST_WORD), weights])).float()


def _target_weights(config: ModelConfig, counts_V: npt.NDArray[np.float64]) -> Tensor:
    """Return what each word counts in the reconstruction, 0 for special ids."""
    if config.target_constant:
        return torch.from_numpy(_sif_weights(config.target_constant, counts_V)).float()
    return (torch.arange(len(counts_V)) >= FIRST_WORD).float()


def _sif_weights(constant: float, counts_V: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return a/(a+p) of the frequency p of each word, 0 for special ids."""
    words = np.maximum(counts_V[FIRST_WORD:], 1.0)
    p = words / (words.sum() + counts_V[1])
    return np.concatenate([np.zeros(FIRST_WORD), constant / (constant + p)])
