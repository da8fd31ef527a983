"""The encoder as a step of a scikit-learn pipeline: texts in, a feature matrix out."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.ledger.manifest import SealedManifest, read_manifest
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.folder import KIND
from lstm_embed.model.inputs import Matrix, as_texts


class SentenceVectorizer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn texts into sentence vectors, as scikit-learn's own vectorizers turn them into word counts.

    Nothing is learned by `fit`. Clones and pickles hold the path of the model and not its weights, which each process reads
    once: they are small, and the model must be found at the same path wherever they are used. What was fitted with one model
    refuses another one at its path.

    Args:
        model: Model folder, local or in an object store.
        embedding: What the vectors consist of, if not what the folder says (see `ModelConfig.embedding`).
        normalize: Scale vectors to length 1.
        batch_size: Sentences computed together; changes speed and nothing else.
        device: "cpu", "cuda" or "cuda:N".
        precision: "fp32", "bf16", "fp16" (GPU) or "auto".

    Attributes:
        fingerprint_: Of the model it was fitted with.
    """

    def __init__(
        self,
        model: str = "",
        *,
        embedding: str = "",
        normalize: bool = False,
        batch_size: int = 64,
        device: str = "cpu",
        precision: str = "fp32",
    ) -> None:
        self.model = model
        self.embedding = embedding
        self.normalize = normalize
        self.batch_size = batch_size
        self.device = device
        self.precision = precision

    def fit(self, X: Iterable[str], y: Any = None) -> SentenceVectorizer:
        """Read the model and check that the input is texts; `y` is ignored."""
        _texts(X)
        self.fingerprint_ = self._encoder().fingerprint
        return self

    def fit_transform(self, X: Iterable[str], y: Any = None, **fit_params: Any) -> Matrix:
        """Read the model and return the vectors of texts; an iterator is gone through once."""
        texts = X if hasattr(X, "__len__") else list(X)
        vectors: Matrix = super().fit_transform(texts, y, **fit_params)
        return vectors

    def transform(self, X: Iterable[str]) -> Matrix:
        """Return the vectors of texts, shape (n, E), float32; zero where there is no word.

        Args:
            X: Texts: a list, an array, a column of a data frame, or a data frame of one column.

        Raises:
            InputError: if something is not a text.
            FingerprintMismatch: if the model is not the one that was fitted with.
        """
        texts = _texts(X)
        encoder = self._encoder()
        fitted = getattr(self, "fingerprint_", encoder.fingerprint)
        if fitted != encoder.fingerprint:
            raise FingerprintMismatch(
                f"{self.model} is the model {encoder.fingerprint[:8]}; this vectorizer was fitted with {fitted[:8]}; put that "
                "model back, or fit again"
            )
        vectors: Matrix = encoder.encode(
            texts, batch_size=self.batch_size, normalize_embeddings=self.normalize, convert_to_tensor=False
        )
        return vectors

    def _encoder(self) -> SentenceEncoder:
        if isinstance(self.model, str) and not self.model:
            raise InputError("model is empty; expected a model folder: SentenceVectorizer(model='runs/first/model')")
        path = storage.resolve(self.model)
        # The fingerprint is part of the key: a model that was trained anew is read anew.
        manifest = read_manifest(path, kind=KIND, declared=SealedManifest)
        return _load(
            path,
            manifest["fingerprint"],
            self.device,
            self.precision,
            self.embedding,
        )

    @property
    def _n_features_out(self) -> int:
        return self._encoder().embedding_dimension

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


@functools.lru_cache(maxsize=2)
def _load(path: str, fingerprint: str, device: str, precision: str, embedding: str) -> SentenceEncoder:
    return SentenceEncoder.load(path, device=device, precision=precision, embedding=embedding)


def _texts(X: Any) -> list[str]:
    is_narrow = tuple(getattr(X, "shape", ())[1:]) == (1,)
    return as_texts(np.asarray(X).ravel() if is_narrow else X, "X")
