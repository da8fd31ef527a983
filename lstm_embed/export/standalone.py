"""A sentence encoder made by lstm_embed, as a module of sentence-transformers: text in, vectors out.

This file is copied into the folders of exported models and needs nothing but torch, safetensors and tokenizers, all of which
come with sentence-transformers. A vector is put together of

    words      w = sum_t a_t x_t                      weighted word vectors
    spelling   s = sum_t b_t g_t                      what n-grams of letters the words have
    meaning    m = [w/|w| ; s/|s|] G                  G: what neighbouring sentences taught
    order      o = z/sqrt(|z|^2 + |P|^2/4)            z = P [last states of a BiLSTM] + b
    positions  p = sum_t exp(i (phase_t + t omega))   each word's phases turned by its place

The settings say which of these parts a vector holds, one after the other, and how they are scaled:

    meaning    m
    order      o
    lengths    log(1 + |w|) ; log(1 + |s|)
    positions  p/|p| ; log(1 + |p|)

What is a word here is a piece of one, as the tokenizer cuts them; t counts these.

Shape suffixes: B sentences, T places, d word vector, H units of a direction, P numbers of the positions, f half of them,
n any, E vector.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

CONFIG, TOKENIZER, WEIGHTS = "lstm_embedding.json", "tokenizer.json", "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the form of an encoder."""

    parts: Sequence[str]
    """What a vector holds, in this order: some of "meaning", "order", "lengths", "positions"."""
    max_tokens: int
    """Tokens that are read; the rest is cut off."""
    pads_left: bool
    """Whether the LSTM reads `max_tokens` places of every sentence, empty ones before its words."""
    num_words: int
    """Words, padding counted."""
    word_size: int
    """Dimension of a word vector."""
    spelling_size: int
    """Dimension of the spelling."""
    hidden_size: int
    """Units of each direction of the LSTM."""
    order_size: int
    """Dimension of the order; 0 where it is the states as they are."""
    position_size: int
    """Dimension of the positions."""
    order_scale: float
    """Length of the order."""
    position_scale: float
    """Length of the positions."""
    length_scale: float
    """Factor on the logarithms of lengths."""

    @property
    def dimension(self) -> int:
        """Dimension E of a vector."""
        sizes = {
            "meaning": self.word_size + self.spelling_size,
            "order": self.order_size or 2 * self.hidden_size,
            "lengths": 2,
            "positions": self.position_size + 1,
        }
        return sum(sizes[part] for part in self.parts)


class Encoder(nn.Module):
    """Token ids in, vectors out. What is trained further is the LSTM and its projection; all else is fixed.

    Args:
        settings: Its form.
    """

    word_vectors: Tensor
    word_weights: Tensor
    spelling: Tensor
    spelling_weights: Tensor
    neighbours: Tensor
    phases: Tensor
    turns: Tensor

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        num_words, word_size, spelling_size = settings.num_words, settings.word_size, settings.spelling_size
        half, hidden_size, order_size = settings.position_size // 2, settings.hidden_size, settings.order_size
        self.register_buffer("word_vectors", torch.zeros(num_words, word_size))
        if "meaning" in settings.parts:
            self.register_buffer("word_weights", torch.zeros(num_words))
            self.register_buffer("spelling", torch.zeros(num_words, spelling_size, dtype=torch.int8))
            self.register_buffer("spelling_weights", torch.zeros(num_words))
            self.register_buffer("neighbours", torch.eye(word_size + spelling_size))
        if "order" in settings.parts:
            self.forward_lstm = nn.LSTM(word_size, hidden_size, batch_first=True)
            self.backward_lstm = nn.LSTM(word_size, hidden_size, batch_first=True)
            self.to_code = nn.Linear(2 * hidden_size, order_size) if order_size else None
        if "positions" in settings.parts:
            self.register_buffer("phases", torch.zeros(num_words, half, dtype=torch.uint8))
            # Cosine and sine of t omega.
            self.register_buffer("turns", torch.zeros(2, settings.max_tokens, half))

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the vectors, shape (B, E); zero where there is no word.

        Args:
            ids_BT: Token ids, padded on the right with anything.
            lengths_B: Tokens of each sentence, 0 to T.
        """
        settings, parts = self.settings, self.settings.parts
        ids_BT, lengths_B = self._cut_off(ids_BT, lengths_B)
        made = {}
        if "order" in parts:
            made["order"] = settings.order_scale * self._order(ids_BT, lengths_B)
        if "meaning" in parts:
            words_Bd = self._sum(ids_BT, self.word_vectors, self.word_weights)
            spelling_Bn = self._sum(ids_BT, self.spelling, self.spelling_weights)
            halves_Bn = torch.cat([F.normalize(words_Bd, dim=1), F.normalize(spelling_Bn, dim=1)], 1)
            made["meaning"] = halves_Bn @ self.neighbours
            made["lengths"] = torch.cat([self._length(words_Bd), self._length(spelling_Bn)], 1)
        if "positions" in parts:
            sum_BP = self._positions(ids_BT)
            unit_BP = settings.position_scale * F.normalize(sum_BP, dim=1)
            made["positions"] = torch.cat([unit_BP, self._length(sum_BP)], 1)
        return torch.cat([made[part] for part in parts], 1)

    def _cut_off(self, ids_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the ids that are read, 0 where there is none, and their number."""
        max_tokens, pads_left = self.settings.max_tokens, self.settings.pads_left
        # There is one place at least, so that the LSTM has something to read.
        ids_BT = F.pad(ids_BT, (0, max_tokens if pads_left else 1))[:, :max_tokens]
        lengths_B = lengths_B.clamp(max=max_tokens)
        before_B = max_tokens - lengths_B if pads_left else torch.zeros_like(lengths_B)
        place_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) - before_B[:, None]
        inside_BT = (place_BT >= 0) & (place_BT < lengths_B[:, None])
        return torch.where(inside_BT, ids_BT.gather(1, place_BT.clamp(min=0)), 0), lengths_B

    def _sum(self, ids_BT: Tensor, vectors: Tensor, weights: Tensor) -> Tensor:
        return (F.embedding(ids_BT, vectors) * F.embedding(ids_BT, weights[:, None])).sum(1)

    def _length(self, sums_Bn: Tensor) -> Tensor:
        return self.settings.length_scale * torch.log1p(torch.linalg.vector_norm(sums_Bn, dim=1, keepdim=True))

    def _order(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        place_T, has_words_B1 = torch.arange(ids_BT.shape[1], device=ids_BT.device), lengths_B[:, None] > 0
        last_B1 = torch.full_like(lengths_B, len(place_T)) if self.settings.pads_left else lengths_B
        last_B1 = last_B1.clamp(min=1)[:, None] - 1
        # The backward direction reads each sentence from its end; what is padding stays padding.
        reversed_BT = ids_BT.gather(1, torch.where(place_T <= last_B1, last_B1 - place_T, place_T))
        states = []
        for lstm, read_BT in ((self.forward_lstm, ids_BT), (self.backward_lstm, reversed_BT)):
            states_BTH, _ = lstm(F.embedding(read_BT, self.word_vectors))
            states.append(states_BTH.gather(1, last_B1[:, :, None].expand(-1, -1, states_BTH.shape[2])).squeeze(1))
        code_Bn = torch.cat(states, 1)
        if self.to_code is not None:
            code_Bn = self.to_code(code_Bn)
            size = self.to_code.weight.square().sum() / 4
            code_Bn = code_Bn / torch.sqrt(code_Bn.square().sum(1, keepdim=True) + size)
        return torch.where(has_words_B1, code_Bn, 0.0)

    def _positions(self, ids_BT: Tensor) -> Tensor:
        """Return p, the real parts before the imaginary ones."""
        inside_BT1 = (ids_BT > 0)[:, :, None]
        angle_BTf = F.embedding(ids_BT, self.phases) * (2.0 * torch.pi / 256.0)
        cos_BTf, sin_BTf = angle_BTf.cos() * inside_BT1, angle_BTf.sin() * inside_BT1
        turn_cos_Tf, turn_sin_Tf = self.turns[0, : ids_BT.shape[1]], self.turns[1, : ids_BT.shape[1]]
        real_Bf = (cos_BTf * turn_cos_Tf - sin_BTf * turn_sin_Tf).sum(1)
        imaginary_Bf = (cos_BTf * turn_sin_Tf + sin_BTf * turn_cos_Tf).sum(1)
        return torch.cat([real_Bf, imaginary_Bf], 1)


class LstmEmbedding(nn.Module):
    """The encoder with its tokenizer, as sentence-transformers (3.4 to 6) wants its first module.

    Args:
        encoder: The encoder.
        tokenizer: Tokenizer that makes token ids of texts.
    """

    save_in_root = True

    def __init__(self, encoder: Encoder, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder = encoder
        self.tokenizer = tokenizer
        self.max_seq_length = encoder.settings.max_tokens

    def tokenize(self, texts: Sequence[str], **kwargs: Any) -> dict[str, Tensor]:
        """Return the token ids of texts, padded with 0, shape (B, T), and a mask that is 1 where there is a token."""
        encodings = self.tokenizer.encode_batch([_without_surrogates(text) for text in texts])
        lists = [encoding.ids[: self.max_seq_length] for encoding in encodings]
        masks = [encoding.attention_mask[: self.max_seq_length] for encoding in encodings]
        return {"input_ids": torch.tensor(lists).long(), "attention_mask": torch.tensor(masks).long()}

    def preprocess(self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Return the token ids of texts, each after the prompt; the name `tokenize` has from sentence-transformers 6 on."""
        return self.tokenize([prompt + text for text in inputs] if prompt else inputs)

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add `sentence_embedding`, shape (B, E), to what `tokenize` returned."""
        features["sentence_embedding"] = self.encoder(features["input_ids"], features["attention_mask"].sum(1))
        return features

    def get_embedding_dimension(self) -> int:
        """Return the dimension E of a vector."""
        return self.encoder.settings.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write settings, weights and tokenizer; sentence-transformers adds this file."""
        with open(os.path.join(output_path, CONFIG), "w", encoding="utf-8") as file:
            json.dump(asdict(self.encoder.settings), file, indent=2)
        self.tokenizer.save(os.path.join(output_path, TOKENIZER))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.encoder.state_dict().items()}
        safetensors.torch.save_file(tensors, os.path.join(output_path, WEIGHTS), metadata={"format": "pt"})

    @staticmethod
    def load(input_path: str) -> LstmEmbedding:
        """Read what `save` wrote."""
        with open(os.path.join(input_path, CONFIG), encoding="utf-8") as file:
            encoder = Encoder(Settings(**json.load(file)))
        encoder.load_state_dict(safetensors.torch.load_file(os.path.join(input_path, WEIGHTS)))
        return LstmEmbedding(encoder, Tokenizer.from_file(os.path.join(input_path, TOKENIZER)))


def _without_surrogates(text: str) -> str:
    """Return a text with the sign for unknown characters in place of lone surrogates, which are none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
