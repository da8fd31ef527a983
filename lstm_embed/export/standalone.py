"""A sentence encoder made by lstm_embed, as a module of sentence-transformers: text in, vectors out.

This file is copied into the folders of exported models and needs nothing but torch, safetensors and tokenizers, all of which
come with sentence-transformers. The vector of a sentence of n words is made of

    s = sum_t w_t x_t / n          weighted mean of the word vectors
    m = sum_t w_t h_t / n          states of an LSTM in both directions, pooled likewise (or their mean, maximum, last ones)
    z = R s + P m + b              the code
    g = sum_t v_t g_t / n          spelling: what n-grams of characters the words have
    [s0/|s0| ; z/|z| ; g/|g|]      all joined, s0 = s with other weights; or s0 or z alone, or the largest states too

Shape suffixes: B sentences, T positions, d word vector, H units of a direction, D code, E vector.
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
FIRST_WORD = 2
"""Ids below are padding and the unknown word; their vectors and weights are zero."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides the form of an encoder."""

    num_words: int
    """Words, with padding and the unknown one."""
    word_size: int
    """Dimension of a word vector."""
    hidden_size: int
    """Units of each direction of the LSTM; 0 for no LSTM."""
    code_size: int
    """Dimension of the code; 0 for no code."""
    spelling_size: int
    """Dimension of the spelling; 0 for none."""
    skip_path: bool
    """Whether the word mean is part of the code."""
    projects_states: bool
    """Whether a matrix turns the states into the code; otherwise they are the code."""
    pooling: str
    """What states become a vector by: "weighted", "mean", "max" or "last"."""
    output: str
    """What the vectors consist of: "joined", "transfer", "code" or "words"."""
    max_tokens: int
    """Words that count; the rest is cut off."""
    padded_length: int
    """Positions sentences are padded to on the left, all of which count; 0 for none."""

    @property
    def dimension(self) -> int:
        """Dimension E of a vector."""
        if self.output in ("words", "code"):
            return self.word_size if self.output == "words" else self.code_size
        joined = self.word_size + self.code_size + self.spelling_size
        return joined + 2 * self.hidden_size * (self.output == "transfer")


class Encoder(nn.Module):
    """Token ids in, vectors out.

    Args:
        settings: Its form.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        num_words, word_size = settings.num_words, settings.word_size
        hidden_size, code_size = settings.hidden_size, settings.code_size
        self.word_vectors = nn.Parameter(torch.zeros(num_words, word_size), requires_grad=False)
        self.register_buffer("start_weights", torch.zeros(num_words))
        self.register_buffer("weights", torch.zeros(num_words))
        if settings.spelling_size:
            self.register_buffer("spelling", torch.zeros(num_words, settings.spelling_size, dtype=torch.int8))
            self.register_buffer("spelling_weights", torch.zeros(num_words))
        self.forward_lstm = nn.LSTM(word_size, hidden_size, batch_first=True) if hidden_size else None
        self.backward_lstm = nn.LSTM(word_size, hidden_size, batch_first=True) if hidden_size else None
        self.from_words = nn.Linear(word_size, code_size, bias=False) if settings.skip_path else None
        self.from_states = nn.Linear(2 * hidden_size, code_size) if settings.projects_states else None

    start_weights: Tensor
    weights: Tensor
    spelling: Tensor
    spelling_weights: Tensor

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Return the vectors, shape (B, E); zero where no word is known.

        Args:
            ids_BT: Token ids, padded on the right with anything.
            lengths_B: Tokens of each sentence, 0 to T.
        """
        ids_BT, lengths_B = self._laid_out(ids_BT, lengths_B)
        known_B1 = (ids_BT >= FIRST_WORD).any(1, keepdim=True)
        if self.settings.output == "words":
            return self._word_mean(ids_BT, lengths_B, self.start_weights, self.word_vectors)
        states = self._states(ids_BT, lengths_B)
        code_BD = torch.where(known_B1, self._code(ids_BT, lengths_B, states), 0.0)
        if self.settings.output == "code":
            return code_BD
        parts = [self._word_mean(ids_BT, lengths_B, self.start_weights, self.word_vectors), code_BD]
        if self.settings.spelling_size:
            parts.append(self._word_mean(ids_BT, lengths_B, self.spelling_weights, self.spelling))
        if self.settings.output == "transfer":
            parts.append(torch.where(known_B1, self._pooled("max", lengths_B, states), 0.0))
        return torch.cat([F.normalize(part, dim=1) for part in parts], dim=1)

    def _laid_out(self, ids_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return ids, 0 where there is no word, and the number of positions that count."""
        # There is one position at least, so that the LSTM has something to read.
        ids_BT = F.pad(ids_BT[:, : self.settings.max_tokens], (0, 1))
        lengths_B = lengths_B.clamp(0, self.settings.max_tokens)
        inside_BT = torch.arange(ids_BT.shape[1], device=ids_BT.device) < lengths_B[:, None]
        padded_length = self.settings.padded_length
        if not padded_length:
            return torch.where(inside_BT, ids_BT, 0), lengths_B
        step_T = torch.arange(padded_length, device=ids_BT.device)
        source_BT = step_T - padded_length + lengths_B[:, None]
        padded_BT = torch.where(source_BT >= 0, ids_BT.gather(1, source_BT.clamp(min=0)), 0)
        return padded_BT, torch.full_like(lengths_B, padded_length)

    def _word_mean(self, ids_BT: Tensor, lengths_B: Tensor, weights: Tensor, vectors: Tensor) -> Tensor:
        weights_BT1 = F.embedding(ids_BT, weights[:, None])
        sum_Bd = (weights_BT1 * F.embedding(ids_BT, vectors)).sum(1)
        return sum_Bd / lengths_B.clamp(min=1)[:, None]

    def _states(self, ids_BT: Tensor, lengths_B: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return for each direction its states, shape (B, T, H), and the ids in the order they were read."""
        if self.forward_lstm is None or self.backward_lstm is None:
            return []
        step_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
        last_B1 = lengths_B[:, None] - 1
        # The backward direction reads each sentence from its end; what is padding stays padding.
        reversed_BT = ids_BT.gather(1, torch.where(step_T <= last_B1, last_B1 - step_T, step_T))
        reads = ((self.forward_lstm, ids_BT), (self.backward_lstm, reversed_BT))
        return [(lstm(F.embedding(read_BT, self.word_vectors))[0], read_BT) for lstm, read_BT in reads]

    def _pooled(self, pooling: str, lengths_B: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Return the states of both directions pooled, shape (B, 2 H)."""
        pooled = []
        for states_BTH, read_BT in states:
            inside_BT1 = (torch.arange(read_BT.shape[1], device=read_BT.device) < lengths_B[:, None])[:, :, None]
            if pooling == "last":
                last_B11 = (lengths_B - 1).clamp(min=0)[:, None, None]
                pooled.append(states_BTH.gather(1, last_B11.expand(-1, -1, states_BTH.shape[2])).squeeze(1))
            elif pooling == "max":
                # States are above -1.
                pooled.append(states_BTH.masked_fill(~inside_BT1, -1.0).amax(1))
            else:
                weights_BT1 = F.embedding(read_BT, self.weights[:, None]) if pooling == "weighted" else inside_BT1
                pooled.append((weights_BT1 * states_BTH).sum(1) / lengths_B.clamp(min=1)[:, None])
        return torch.cat(pooled, dim=1)

    def _code(self, ids_BT: Tensor, lengths_B: Tensor, states: list[tuple[Tensor, Tensor]]) -> Tensor:
        parts = []
        if states:
            pooled_BM = self._pooled(self.settings.pooling, lengths_B, states)
            parts.append(pooled_BM if self.from_states is None else self.from_states(pooled_BM))
        if self.from_words is not None:
            parts.append(self.from_words(self._word_mean(ids_BT, lengths_B, self.weights, self.word_vectors)))
        return parts[0] if len(parts) == 1 else parts[0] + parts[1]


class LstmEmbedding(nn.Module):
    """The encoder with its tokenizer, as sentence-transformers (3.4 to 6) wants its first module.

    Args:
        encoder: The encoder.
        tokenizer: Makes token ids of texts.
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
