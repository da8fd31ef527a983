"""The Keras system this project goes back to: a BiLSTM's last states, repeated into an LSTM that names word vectors.

Word vectors as trained, sentences padded on the left with zero vectors to a fixed number of positions, all of which count; the
last states of a BiLSTM are the code; the code is repeated into an LSTM and a dense tanh layer; the loss is the squared error
over all positions.

Shape suffixes: V vocabulary, d word vector, U distinct words of a batch, R or B rows (sentences), T positions, H units of a
direction, D = 2 H code.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_embed.model.batch import FIRST_WORD, Batch, IntArray, Sentences, distinct_words, lay_out, padded
from lstm_embed.model.config import OriginalConfig
from lstm_embed.model.lstm import Lstm
from lstm_embed.model.order import last_states
from lstm_embed.model.sentence_model import Losses, WordTable, checked_vectors


class OriginalModel(nn.Module):
    """The original autoencoder; the word vectors are zero until `start` fills them.

    Args:
        config: Its sizes.
        word_size: Dimension d of the word vectors.
        words: The V words.
        seed: Decides the initial weights; the global random state is not touched.
    """

    counts_by = "num_sentences"
    measures = ("loss",)
    validation_measures = ("loss",)
    kept_buffers = ()

    word_vectors: Tensor

    def __init__(self, config: OriginalConfig, word_size: int, words: Sequence[str], *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("word_vectors", torch.zeros(len(words), word_size))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.forward_lstm = Lstm(word_size, config.hidden_size)
            self.backward_lstm = Lstm(word_size, config.hidden_size)
            self.decoder = Lstm(2 * config.hidden_size, config.hidden_size)
            self.output = nn.Linear(config.hidden_size, word_size)
            nn.init.xavier_uniform_(self.output.weight)
            nn.init.zeros_(self.output.bias)

    @classmethod
    def start(
        cls,
        config: OriginalConfig,
        word_vectors_Vd: Tensor | npt.NDArray,
        counts_V: npt.ArrayLike,
        words: Sequence[str],
        *,
        seed: int = 0,
    ) -> OriginalModel:
        """Make a model that is ready to be trained; see `SentenceModel.start`."""
        vectors, _ = checked_vectors(word_vectors_Vd, counts_V, words)
        model = cls(config, vectors.shape[1], words, seed=seed)
        model.word_vectors.copy_(vectors)
        return model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.word_vectors.device

    def embedding_dimension(self, embedding: str = "") -> int:
        """Return the dimension D of the code; there is no other embedding."""
        return 2 * self.config.hidden_size

    def look_up(self, words_U: Tensor, embedding: str = "order", *, project: bool = False) -> WordTable:
        """Return the table of distinct words; the first must be padding. See `SentenceModel.look_up`."""
        vectors_Ud = F.embedding(words_U, self.word_vectors)
        projected = None
        if project and self.forward_lstm.recurs:
            projected = self.forward_lstm.project(vectors_Ud), self.backward_lstm.project(vectors_Ud)
        return WordTable(vectors_Ud=vectors_Ud, projected=projected)

    def embed_rows(self, table: WordTable, sentences: Sentences, embedding: str = "") -> Tensor:
        """Return the codes of sentences over a word table, float32, shape (R, D); zero without words."""
        states = last_states(self.forward_lstm, self.backward_lstm, table.vectors_Ud, sentences, table.projected)
        has_words_R = sentences.position_TR.any(0)
        return torch.where(has_words_R[:, None], torch.cat(states, 1).float(), 0.0)

    def embed(self, ids_BT: Tensor | IntArray, lengths_B: Tensor | IntArray, embedding: str = "") -> Tensor:
        """Return the codes of sentences, float32, shape (B, D), with gradient; see `SentenceModel.embed`."""
        ids, lengths = (torch.as_tensor(values).cpu().numpy() for values in (ids_BT, lengths_B))
        words, position_BT = distinct_words(padded(ids, lengths))
        table = self.look_up(torch.from_numpy(words).to(self.device))
        return self.embed_rows(table, lay_out(position_BT, lengths, self.config.padded_length).to(self.device))

    def forward(self, batch: Batch, measure: bool = False) -> Losses:
        """Return the mean squared error over all positions, mean over the sentences that have a word."""
        table = self.look_up(batch.words_U)
        vectors_TRd = self._output(self.embed_rows(table, batch.sentences))
        target_TRd = F.embedding(batch.sentences.position_TR, table.vectors_Ud)
        error_R = (vectors_TRd.float() - target_TRd).square().mean((0, 2))
        is_real_R = batch.sentences.position_TR.any(0)
        return Losses(total=(error_R * is_real_R).sum() / max(1, batch.num_sentences))

    def _output(self, code_RD: Tensor) -> Tensor:
        states_TRH = self.decoder((len(code_RD),) * self.config.padded_length, constant_RI=code_RD)
        return torch.tanh(self.output(states_TRH.to(self.output.weight.dtype)))

    @torch.no_grad()
    def decode(self, code_RD: Tensor) -> list[list[int]]:
        """Return for each code the ids whose vectors are nearest to what the decoder names; nearest to zero is padding."""
        # The nearest vector: |o - x|^2 = |o|^2 - 2 (o x - |x|^2 / 2).
        half_V = self.word_vectors.square().sum(1) / 2
        found = [(vectors @ self.word_vectors.t() - half_V).argmax(1) for vectors in self._output(code_RD)]
        return [[int(word) for word in words if word >= FIRST_WORD] for words in torch.stack(found, 1).cpu()]
