"""The LSTM autoencoder: a code for the order of a sentence's words, and a decoder that puts the words back into it.

    code          z = P [last states of a BiLSTM] + b
    in vectors    z / sqrt(|z|^2 + |P|^2 / 4): below 1 in length whatever the size of P, and longer for some sentences than for
                  others, which classifiers make use of
    decoder       an LSTM reads the direction of the code and the word before; its state is compared with a key of each of the
                  sentence's words that are left, and the best one is next

Which words a sentence has is known without it (see `pursuit`), so the decoder chooses among these alone: a pointer network
(Vinyals et al. 2015) whose loss is the cross-entropy over the words that are left. Nothing is shared between sentences.

Shape suffixes: R rows (sentences), T positions, U distinct words of the batch, d word vector, H units of a direction, D code,
K units of the decoder, W hypotheses of a sentence, G = 4 K gates.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_embed.model.batch import Sentences
from lstm_embed.model.lstm import Lstm

_NEVER = -1e30


class OrderAutoencoder(nn.Module):
    """Encoder and decoder of the order of words.

    Args:
        word_size: Dimension d of the word vectors.
        hidden_size: Units H of the encoder in each direction.
        code_size: Dimension D of the code.
        decoder_hidden_size: Units K of the decoder.
    """

    def __init__(self, word_size: int, hidden_size: int, code_size: int, decoder_hidden_size: int) -> None:
        super().__init__()
        self.forward_lstm = Lstm(word_size, hidden_size)
        self.backward_lstm = Lstm(word_size, hidden_size)
        self.to_code = nn.Linear(2 * hidden_size, code_size)
        self.decoder = Lstm(word_size + code_size, decoder_hidden_size)
        # A bias would add the same to all choices.
        self.key = nn.Linear(word_size, decoder_hidden_size, bias=False)

    def project(self, vectors_Ud: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return what words add to the gates of each direction, to be shared by several batches; None on a GPU."""
        if not self.forward_lstm.recurs:
            return None
        return self.forward_lstm.project(vectors_Ud), self.backward_lstm.project(vectors_Ud)

    def encode(
        self, vectors_Ud: Tensor, sentences: Sentences, projected: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Return the codes of sentences as vectors hold them, float32, shape (R, D), below 1 in length; zero without words.

        Args:
            vectors_Ud: Vectors of the distinct words; row 0 is zero.
            sentences: Positions into them.
            projected: `project(vectors_Ud)` if it is known already.
        """
        code_RD = self._code(vectors_Ud, sentences, projected)
        size = self.to_code.weight.float().square().sum() / 4
        return code_RD * torch.rsqrt(code_RD.square().sum(1, keepdim=True) + size)

    def code(self, vectors_Ud: Tensor, sentences: Sentences) -> Tensor:
        """Return the codes of sentences as the decoder reads them, each of length sqrt(D); see `encode`."""
        code_RD = F.normalize(self._code(vectors_Ud, sentences, None), dim=1)
        return code_RD * math.sqrt(code_RD.shape[1])

    def _code(self, vectors_Ud: Tensor, sentences: Sentences, projected: tuple[Tensor, Tensor] | None) -> Tensor:
        states_R2H = torch.cat(last_states(self.forward_lstm, self.backward_lstm, vectors_Ud, sentences, projected), 1)
        code_RD = self.to_code(states_R2H.to(self.to_code.weight.dtype)).float()
        return torch.where(sentences.lengths_R[:, None] > 0, code_RD, 0.0)

    def forward(self, vectors_Ud: Tensor, sentences: Sentences) -> tuple[Tensor, Tensor]:
        """Return the loss summed over the words, and how many words the decoder points at rightly, those before given.

        Args:
            vectors_Ud: Vectors of the distinct words; row 0 is zero.
            sentences: Positions into them.
        """
        position_TR, lengths_R = sentences.position_TR, sentences.lengths_R
        before_TR = torch.cat([torch.zeros_like(position_TR[:1]), position_TR[:-1]])
        code_RD = self.code(vectors_Ud, sentences)
        states_TRK = self.decoder(
            sentences.running, table_UI=vectors_Ud, position_TR=before_TR, constant_RI=code_RD.to(vectors_Ud.dtype)
        )
        key_UK = self.key(vectors_Ud)
        with torch.autocast(states_TRK.device.type, enabled=False):
            # Single precision: what masks a word would overflow in half of it.
            key_RTK = F.embedding(position_TR.t(), key_UK.float())
            score_RTT = states_TRK.float().transpose(0, 1) @ key_RTK.transpose(1, 2)
            inside_RT = torch.arange(len(position_TR), device=lengths_R.device) < lengths_R[:, None]
            score_RTT, own_RT = _as_choices(score_RTT, position_TR.t(), inside_RT)
            loss_RT = torch.logsumexp(score_RTT, 2) - own_RT
            # Words are compared: the scores of a repeated one's places are equal up to rounding only.
            right_RT = position_TR.t().gather(1, score_RTT.detach().argmax(2)) == position_TR.t()
        return (loss_RT * inside_RT).sum(), (right_RT & inside_RT).sum()

    @torch.no_grad()
    def arrange(
        self, code_RD: Tensor, vectors_RTd: Tensor, ids_RT: Tensor, lengths_R: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        """Put the words of sentences into the order that their codes tell, by beam search.

        Args:
            code_RD: Codes as `code` makes them.
            vectors_RTd: Vectors of each sentence's words.
            ids_RT: Their ids, ascending in each sentence, padded on the right.
            lengths_R: Words of each sentence, falling.
            width: Hypotheses W that are kept.

        Returns:
            For each sentence W orders, the likeliest first, as places in its words, 0 past its end: shape (R, W, T); and their
            log-probabilities, shape (R, W): -1e30 where a sentence has fewer orders.
        """
        num_rows, num_steps = ids_RT.shape
        weight_GI, weight_GK, bias_G, _ = (weight.float() for weight in self.decoder.weights)
        word_size = vectors_RTd.shape[2]
        constant_RG = F.linear(code_RD, weight_GI[:, word_size:], bias_G)
        word_RTG = F.linear(vectors_RTd, weight_GI[:, :word_size])
        key_RTK = self.key(vectors_RTd)
        inside_RT = torch.arange(num_steps, device=ids_RT.device) < lengths_R[:, None]
        follows_RT = F.pad(ids_RT[:, 1:] == ids_RT[:, :-1], (1, 0)) & inside_RT
        same_RTT = ((ids_RT[:, :, None] == ids_RT[:, None]) & inside_RT[:, None]).float()
        left_RWT = inside_RT[:, None].repeat(1, width, 1)
        order_RWT = torch.zeros(num_rows, width, num_steps, dtype=torch.long, device=ids_RT.device)
        total_RW = torch.full((num_rows, width), _NEVER, device=ids_RT.device)
        total_RW[:, 0] = 0.0
        state_RWK = code_RD.new_zeros(num_rows, width, weight_GK.shape[1])
        cell_RWK = torch.zeros_like(state_RWK)
        gates_RWG = constant_RG[:, None].expand(-1, width, -1)
        for step, count in enumerate((lengths_R[None] > torch.arange(num_steps, device=ids_RT.device)[:, None]).sum(1)):
            rows = slice(0, int(count))
            gates = gates_RWG[rows] + state_RWK[rows] @ weight_GK.t()
            input_, forget, new, output = gates.chunk(4, dim=2)
            cell = forget.sigmoid() * cell_RWK[rows] + input_.sigmoid() * new.tanh()
            state = output.sigmoid() * cell.tanh()
            left = left_RWT[rows]
            # Of a word's occurrences that are left the first stands for all, with their number as its weight.
            first = left & ~(follows_RT[rows, None] & F.pad(left[:, :, :-1], (1, 0)))
            score = state @ key_RTK[rows].transpose(1, 2) + (left.float() @ same_RTT[rows]).clamp_min(1).log()
            score = F.log_softmax(score.masked_fill(~first, _NEVER), dim=2) + total_RW[rows, :, None]
            best, place = score.masked_fill(~first, 2 * _NEVER).flatten(1).topk(width, dim=1)
            parent, word = place // num_steps, place % num_steps
            row = torch.arange(len(place), device=place.device)[:, None]
            total_RW[rows] = best.clamp_min(_NEVER)
            left_RWT[rows] = left[row, parent].scatter(2, word[:, :, None], False)
            order = order_RWT[rows][row, parent]
            order[:, :, step] = word
            order_RWT[rows] = order
            state_RWK[rows], cell_RWK[rows] = state[row, parent], cell[row, parent]
            gates_RWG = constant_RG[rows, None] + word_RTG[rows][row, word]
        return order_RWT, total_RW


def last_states(
    forward_lstm: Lstm,
    backward_lstm: Lstm,
    vectors_Ud: Tensor,
    sentences: Sentences,
    projected: tuple[Tensor, Tensor] | None = None,
) -> list[Tensor]:
    """Return the last state of each direction of a BiLSTM, shapes (R, H)."""
    position_TR, lengths_R = sentences.position_TR, sentences.lengths_R
    last_R = (lengths_R - 1).clamp_min(0)
    row_R = torch.arange(len(last_R), device=last_R.device)
    step_T1 = torch.arange(len(position_TR), device=last_R.device)[:, None]
    # The backward direction reads each sentence from its end; what is padding stays padding.
    backward_TR = torch.where(step_T1 < lengths_R, lengths_R - 1 - step_T1, step_T1)
    found = []
    for number, lstm in enumerate((forward_lstm, backward_lstm)):
        read_TR = position_TR.gather(0, backward_TR) if number else position_TR
        states_TRH = lstm(
            sentences.running,
            table_UI=vectors_Ud,
            position_TR=read_TR,
            projected_UG=None if projected is None else projected[number],
        )
        found.append(states_TRH[last_R, row_R])
    return found


def _as_choices(score_RTT: Tensor, position_RT: Tensor, inside_RT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of the words left at each step, a repeated word's occurrences as one choice, and the right one's.

    At step i the places i and later are left. A word that is left n times keeps the place of its last occurrence, with log n
    added, so that the log of the sum of all is as if each occurrence counted.
    """
    num_steps = score_RTT.shape[1]
    step_T = torch.arange(num_steps, device=score_RTT.device)
    left_RTT = (step_T >= step_T[:, None]) & inside_RT[:, None]
    same_RTT = position_RT[:, :, None] == position_RT[:, None]
    # [i, j]: how often the word at place j stands at place i or later.
    count_RTT = (same_RTT & inside_RT[:, :, None]).long().flip(1).cumsum(1).flip(1)
    is_last_RT = ~(same_RTT & (step_T > step_T[:, None]) & inside_RT[:, None]).any(2)
    log_count_RTT = count_RTT.clamp_min(1).float().log()
    weighted_RTT = score_RTT + log_count_RTT
    own_RT = weighted_RTT.diagonal(dim1=1, dim2=2)
    # Padding keeps one place, lest a step be without a choice.
    open_RTT = (left_RTT & is_last_RT[:, None]) | (~inside_RT[:, :, None] & (step_T == step_T[:, None]))
    return weighted_RTT.masked_fill(~open_RTT, _NEVER), own_RT
