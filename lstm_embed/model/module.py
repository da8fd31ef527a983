"""A trained encoder as a layer: token ids in, sentence vectors out, gradients into its LSTM."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import PAD, Vocabulary
from lstm_embed.model.batch import from_lists
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.folder import load_model
from lstm_embed.model.inputs import as_ids, as_texts
from lstm_embed.model.recipes import Model
from lstm_embed.model.sentence_model import SentenceModel


class SentenceModule(nn.Module):
    """A trained encoder to put a head on and fine-tune.

    The BiLSTM and its projection to the code are trained. All else is fixed, the decoder too: it takes no part, and keeps the
    module a whole model that can be saved. The embedding `meaning` has nothing to train.

    Args:
        model: The model.
        vocabulary: Its pieces.
        tokenizer: Settings that turn text into tokens; "profile" at least.
        provenance: What is worth knowing about the making of the model.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        tokenizer: dict[str, Any],
        *,
        provenance: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        self.provenance = provenance or {}
        unused = (
            [model.order.decoder, model.order.key]
            if isinstance(model, SentenceModel)
            else [model.decoder, model.output]
        )
        for part in unused:
            part.requires_grad_(False)
        self.train()

    @classmethod
    def load(cls, path: str, *, embedding: str = "") -> SentenceModule:
        """Read a model folder, local or in an object store; the module is on the CPU.

        Args:
            path: The folder.
            embedding: What the vectors consist of, if not what the folder says; see `SentenceEncoder.load`.

        Raises:
            FileNotFoundError: if there is no such folder.
            InputError: if it is unfinished, damaged or no model, or there is no such embedding.
        """
        found = load_model(path, embedding)
        about = {**found.provenance, "fine_tuned_from": found.fingerprint}
        return cls(found.model, found.vocabulary, found.tokenizer, provenance=about)

    @property
    def embedding_dimension(self) -> int:
        """Dimension E of a vector."""
        return self.model.embedding_dimension()

    def ids(self, sentences: Iterable[str]) -> Tensor:
        """Return the token ids of sentences, padded with 0 and cut off at the model's `max_tokens`, shape (B, T), T > 0.

        Raises:
            InputError: if they are not several texts.
        """
        lists = self.vocabulary.id_lists(tokenize(as_texts(sentences), self.tokenizer["profile"]))
        flat, starts, lengths = as_ids(lists, len(self.vocabulary))
        return torch.from_numpy(from_lists(flat, starts, np.minimum(lengths, self.model.config.max_tokens)))

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Return the vectors of sentences where the weights are, shape (B, E), float32; zero where there is no word.

        Args:
            ids_BT: Token ids, padded with 0 on the right and cut off at the model's `max_tokens`; a 0 before the last id is a
                word without a vector. Best left on the CPU, where sentences are laid out.

        Raises:
            InputError: if they are no matrix of ids, or ids the vocabulary does not have.
        """
        if not isinstance(ids_BT, Tensor) or ids_BT.ndim != 2 or ids_BT.is_floating_point():
            raise InputError("the token ids are no matrix of whole numbers; expected a tensor as `ids` returns it")
        if not ((ids_BT >= 0) & (ids_BT < len(self.vocabulary))).all():
            raise InputError(
                f"there are token ids below 0, or of {len(self.vocabulary)} and more, which the model has not"
            )
        ids_BT = F.pad(ids_BT.cpu()[:, : self.model.config.max_tokens], (0, max(0, 1 - ids_BT.shape[1])))
        place_T = torch.arange(1, ids_BT.shape[1] + 1)
        lengths_B = ((ids_BT != PAD) * place_T).amax(1)
        return self.model.embed(ids_BT, lengths_B)

    def encoder(self) -> SentenceEncoder:
        """Return an encoder that shares the weights, to encode texts with or to save as a model folder."""
        was_training = self.training
        encoder = SentenceEncoder(
            self.model,
            self.vocabulary,
            self.tokenizer,
            device=str(self.model.device),
            provenance=self.provenance,
        )
        # cuDNN has no gradient outside training mode.
        self.train(was_training)
        return encoder
