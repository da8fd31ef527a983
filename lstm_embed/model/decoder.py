"""From a code back to the words of the sentence.

Shape suffixes: R rows, T steps, D code, d word vector, K dimension the output layer reads, V vocabulary, U rows of a word
table, G groups, N words to reconstruct, Q what predicts them (N positions, or the rows of a group for a bag), C candidates.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_embed.model import losses
from lstm_embed.model.batch import Batch
from lstm_embed.model.config import ModelConfig
from lstm_embed.model.group import FIRST_WORD
from lstm_embed.model.lstm import Lstm

LOGIT_SCALE = 10.0
"""Factor on the products of output vectors and unit word vectors in the softmax. Without it the output layer must grow by as
much first: after 100 steps 1 % of the words came back instead of 6 %."""


class Decoder(nn.Module):
    """Makes a word vector for every position: an LSTM that gets the code at each step, or a bag without positions.

    Args:
        config: Says which decoder.
        word_size: Dimension d of the word vectors.
    """

    def __init__(self, config: ModelConfig, word_size: int) -> None:
        super().__init__()
        self.kind, self.activation, self.loss = config.decoder, config.decoder_activation, config.reconstruction
        self.counts_padding = not config.mask_padding
        self.lstm: Lstm | None = None
        if self.kind != "bag":
            read_size = config.code_dimension + (word_size if self.kind == "teacher" else 0)
            self.lstm = Lstm(read_size, config.decoder_dimension)
        self.output = nn.Linear(config.code_dimension if self.kind == "bag" else config.decoder_dimension, word_size)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def hidden(self, code_RD: Tensor, running: tuple[int, ...], table_Ud: Tensor, position_TR: Tensor) -> Tensor:
        """Return what the output layer reads: (T, R, K), or for a bag (1, R, K).

        Args:
            code_RD: Codes.
            running: Leading rows to compute at each step.
            table_Ud: Word vectors, row 0 zero.
            position_TR: Rows of the right words, which a teacher-forced decoder sees one step late.
        """
        if self.lstm is None:
            return code_RD[None]
        if self.kind == "repeat":
            return self.lstm(running, constant_RI=code_RD)
        before_TR = torch.cat([torch.zeros_like(position_TR[:1]), position_TR[:-1]])
        return self.lstm(running, table_UI=table_Ud, position_TR=before_TR, constant_RI=code_RD)

    def vectors(self, hidden: Tensor) -> Tensor:
        """Return the word vectors the decoder means, shape (..., d)."""
        output = self.output(hidden)
        return torch.tanh(output) if self.activation == "tanh" else output

    def forward(
        self, batch: Batch, code_RD: Tensor, table_Ud: Tensor, word_vectors_Vd: Tensor, target_weights_V: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the reconstruction loss of each group, and the share of its words that come back best of the candidates.

        The share is None where the loss does not give it and the module is in training, since it would cost extra there. The
        word vectors are targets here and get no gradient.

        Args:
            batch: The groups.
            code_RD: Their codes.
            table_Ud: Vectors of the batch's distinct words.
            word_vectors_Vd: Vectors of all words.
            target_weights_V: What each word counts in the loss.
        """
        hidden_TRK = self.hidden(code_RD, batch.inputs.running, table_Ud, batch.position_TR)
        num_groups, num_targets = batch.target_GN.shape
        if self.lstm is None:
            hidden_GQK, row_GN = hidden_TRK.view(num_groups, -1, hidden_TRK.shape[2]), batch.target_row_GN
        else:
            hidden_GQK = F.embedding(batch.target_position_GN, hidden_TRK.flatten(0, 1))
            row_GN = torch.arange(num_targets, device=code_RD.device).expand(num_groups, -1)
        vectors_GCd = F.embedding(batch.candidates_GC, word_vectors_Vd).detach()
        weight_GN = target_weights_V[batch.candidates_GC.gather(1, batch.target_GN)] * batch.target_mask_GN
        if self.loss == "softmax":
            loss_G, right_GN = self._softmax_loss(batch, hidden_GQK, row_GN, vectors_GCd, weight_GN)
            return loss_G, losses.weighted_mean(right_GN, batch.target_mask_GN)
        right_G = None
        if not self.training:
            scores_GQC = word_scores(self.vectors(hidden_GQK), vectors_GCd, self.loss)
            right_GN = _masked(scores_GQC, batch).argmax(2).gather(1, row_GN) == batch.target_GN
            right_G = losses.weighted_mean(right_GN, batch.target_mask_GN)
        if self.counts_padding:
            target_TRd = F.embedding(batch.position_TR, table_Ud).detach()
            error_R = losses.vector_loss(self.vectors(hidden_TRK), target_TRd, self.loss).mean(0)
            return losses.weighted_mean(error_R.view(num_groups, -1), batch.real_GB), right_G
        output_GNd = losses.take_rows(self.vectors(hidden_GQK), row_GN)
        target_GNd = losses.take_rows(vectors_GCd, batch.target_GN)
        return losses.weighted_mean(losses.vector_loss(output_GNd, target_GNd, self.loss), weight_GN), right_G

    def _softmax_loss(
        self, batch: Batch, hidden_GQK: Tensor, row_GN: Tensor, vectors_GCd: Tensor, weight_GN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of each group, shape (G,), and which words are likeliest where they stand, shape (G, N)."""
        query_GQK, key_GCK, bias_GC = self._compared(hidden_GQK, LOGIT_SCALE * F.normalize(vectors_GCd, dim=2))
        if self.lstm is None:
            logits_GQC = _masked(query_GQK @ key_GCK.mT + bias_GC[:, None, :], batch)
            loss_GN, right_GN = losses.word_loss(logits_GQC, row_GN, batch.target_GN)
            return losses.weighted_mean(loss_GN, weight_GN), right_GN
        mask_GC = batch.candidate_mask_GC
        found = [
            losses.CandidateSoftmax.apply(
                query_GQK[g],
                key_GCK[g],
                bias_GC[g],
                None if mask_GC is None else mask_GC[g],
                batch.target_GN[g],
                weight_GN[g],
            )
            for g in range(len(query_GQK))
        ]
        # Divided by the weights at last: a half-precision product would lose gradients as small as a word's share.
        loss_G = torch.stack([loss for loss, _ in found]) / weight_GN.sum(1).clamp_min(1e-12)
        return loss_G, torch.stack([right_N for _, right_N in found])

    def _compared(self, hidden_GQK: Tensor, key_GCd: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and biases whose products are those of output vectors and the candidates' keys.

        With a linear output layer either product may come first; the smaller inner dimension is cheaper.
        """
        weight_dK, bias_d = self.output.weight, self.output.bias
        if self.activation == "linear" and weight_dK.shape[1] < weight_dK.shape[0]:
            return hidden_GQK, key_GCd @ weight_dK, key_GCd @ bias_d
        return self.vectors(hidden_GQK), key_GCd, key_GCd.new_zeros(key_GCd.shape[:2])

    @torch.no_grad()
    def decode(self, code_RD: Tensor, num_steps: int, word_vectors_Vd: Tensor) -> Tensor:
        """Return the best word for every position, shape (R, T); of a bag its T best words, best first."""
        if self.lstm is None:
            return self._scores(self.vectors(code_RD), word_vectors_Vd).topk(num_steps, dim=1).indices
        if self.kind == "teacher":
            return self._decode_stepwise(self.lstm, code_RD, num_steps, word_vectors_Vd)
        hidden_TRK = self.lstm((len(code_RD),) * num_steps, constant_RI=code_RD)
        return torch.stack([self._scores(self.vectors(h), word_vectors_Vd).argmax(1) for h in hidden_TRK], dim=1)

    def _decode_stepwise(self, lstm: Lstm, code_RD: Tensor, num_steps: int, word_vectors_Vd: Tensor) -> Tensor:
        state = code_RD.new_zeros(2, len(code_RD), lstm.cell.hidden_size).unbind(0)
        before_Rd = code_RD.new_zeros(len(code_RD), word_vectors_Vd.shape[1])
        words = []
        for _ in range(num_steps):
            state = torch.lstm_cell(torch.cat([before_Rd, code_RD], dim=1), state, *lstm.weights)
            words.append(self._scores(self.vectors(state[0]), word_vectors_Vd).argmax(1))
            before_Rd = word_vectors_Vd[words[-1]]
        return torch.stack(words, dim=1)

    def _scores(self, output_Rd: Tensor, word_vectors_Vd: Tensor) -> Tensor:
        return word_scores(output_Rd, word_vectors_Vd, self.loss).index_fill(
            1, torch.arange(FIRST_WORD, device=output_Rd.device), -torch.inf
        )


def _masked(scores_GQC: Tensor, batch: Batch) -> Tensor:
    """Return scores of -inf where a group has no candidate."""
    mask_GC = batch.candidate_mask_GC
    return scores_GQC if mask_GC is None else scores_GQC.masked_fill(~mask_GC[:, None, :], -torch.inf)


def word_scores(output_Rd: Tensor, vectors_Cd: Tensor, loss: str) -> Tensor:
    """Return how well each output vector fits each word, shape (..., R, C), in the sense of the loss it was trained with."""
    if loss == "mse":
        # The nearest vector: |o - x|^2 = |o|^2 - 2 (o x - |x|^2 / 2).
        return output_Rd @ vectors_Cd.mT - vectors_Cd.square().sum(-1)[..., None, :] / 2
    return output_Rd @ F.normalize(vectors_Cd, dim=-1).mT
