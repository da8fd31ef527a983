"""Sentences in, vectors out, and back. Keeps "the same text gets the same vector", whatever else is encoded with it.

Sentences are sorted by length and encoded in batches; padding inside a batch changes nothing. The words of many batches are
projected into the LSTM once, which on a CPU is most of the arithmetic of a small model.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.model.batch import Sentences, distinct_words, from_lists, lay_out
from lstm_embed.model.config import AnyConfig, Embedding, check_embedding
from lstm_embed.model.decoding import Decoded, VectorDecoder
from lstm_embed.model.folder import load_model, save_model
from lstm_embed.model.inputs import Matrix, as_ids, as_texts, as_vectors, unit_rows
from lstm_embed.model.original import OriginalModel
from lstm_embed.model.precision import PRECISIONS, resolve_precision
from lstm_embed.model.recipes import Model
from lstm_embed.model.sentence_model import SentenceModel

__all__ = ["Decoded", "SentenceEncoder", "resolve_precision"]

Progress = Callable[[int, int], None]
"""Is called with the number of sentences done and their total."""

_SENTENCES_AT_ONCE = 16_384
_TABLE_BYTES = 128 << 20
_VECTORS_AT_ONCE = 64
_EIGHT = 8
"""Rows come in eights. Fewer than four are multiplied by another kernel of Intel's MKL, and what fills no whole registers has
another exponential function in torch: both round differently, and a vector would depend on who is beside it."""


class SentenceEncoder:
    """A trained model that encodes text, and decodes vectors.

    Args:
        model: The model; it is moved to `device`.
        vocabulary: Its pieces.
        tokenizer: Settings that turn text into tokens; "profile" at least.
        embedding: What the vectors consist of; None for what the model's config says.
        fingerprint: Of the model folder; empty for a model that was never saved.
        device: "cpu", "cuda" or "cuda:N", or the device itself.
        precision: Of the LSTM: "fp32", "bf16", "fp16" (GPU) or "auto"; all else is computed in fp32.
        provenance: Of the model folder.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        tokenizer: dict[str, Any],
        *,
        embedding: Embedding | None = None,
        fingerprint: str = "",
        device: str | torch.device = "cpu",
        precision: str = "fp32",
        provenance: dict[str, Any] | None = None,
    ) -> None:
        self.precision = resolve_precision(precision, device, hidden_size=model.config.hidden_size)
        self.model = model.to(device).eval()
        self.embedding: Embedding = embedding or model.config.embedding
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        self.fingerprint = fingerprint
        self.provenance = provenance or {}
        self._fast = _in_precision(self.model, PRECISIONS[self.precision])
        self._decoder: VectorDecoder | None = None

    @classmethod
    def load(
        cls, path: str, device: str | torch.device = "cpu", precision: str = "fp32", embedding: str = ""
    ) -> SentenceEncoder:
        """Read a model folder, local or in an object store.

        Args:
            path: The folder, e.g. `runs/first/model` or `s3://bucket/runs/first/model`.
            device: "cpu", "cuda" or "cuda:N", or the device itself.
            precision: "fp32", "bf16", "fp16" (GPU) or "auto" for what is fast on the device, by a rule (see
                `resolve_precision`); `embed --precision auto` measures.
            embedding: What the vectors consist of, if not what the folder says (see `ModelConfig.embedding`). The same weights
                serve all embeddings.

        Raises:
            FileNotFoundError: if there is no such folder.
            InputError: if it is unfinished, damaged or no model, there is no such embedding, or the device cannot do the
                precision.
        """
        resolve_precision(precision, device)
        found = load_model(path, embedding)
        return cls(
            found.model,
            found.vocabulary,
            found.tokenizer,
            fingerprint=found.fingerprint,
            device=device,
            precision=precision,
            provenance=found.provenance,
        )

    def save(self, path: str) -> None:
        """Write a model folder, local or to an object store; the weights are those of full precision."""
        self.fingerprint = save_model(path, self.model, self.vocabulary, self.tokenizer, self.provenance)

    @property
    def config(self) -> AnyConfig:
        """What the model is made of."""
        return self.model.config

    @property
    def embedding_dimension(self) -> int:
        """Dimension of a vector."""
        return self.model.embedding_dimension(self.embedding)

    def get_sentence_embedding_dimension(self) -> int:
        """Return the dimension of a vector, under the name sentence-transformers gives it."""
        return self.embedding_dimension

    @property
    def max_tokens(self) -> int:
        """Tokens of a sentence that are read; the rest is cut off."""
        return self.config.max_tokens

    def tokenize(self, sentences: str | Iterable[str]) -> pa.ListArray:
        """Return the token ids of each sentence as `encode_ids` takes them, not cut off."""
        texts = [sentences] if isinstance(sentences, str) else as_texts(sentences)
        return self.vocabulary.id_lists(tokenize(texts, self.tokenizer["profile"]))

    @overload
    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int = ...,
        normalize_embeddings: bool = ...,
        show_progress_bar: bool | Progress | None = ...,
        dtype: str = ...,
        convert_to_tensor: Literal[False] = ...,
    ) -> Matrix: ...

    @overload
    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int = ...,
        normalize_embeddings: bool = ...,
        show_progress_bar: bool | Progress | None = ...,
        dtype: str = ...,
        *,
        convert_to_tensor: Literal[True],
    ) -> Tensor: ...

    def encode(
        self,
        sentences: str | Iterable[str],
        batch_size: int | None = None,
        normalize_embeddings: bool = False,
        show_progress_bar: bool | Progress | None = None,
        dtype: str = "float32",
        convert_to_tensor: bool = False,
    ) -> Matrix | Tensor:
        """Return the vector of each sentence; the zero vector where there is no word.

        Args:
            sentences: n texts, as a list, an iterator, an array or a column of a table; or one text.
            batch_size: Most sentences computed together, None for what is fast; changes speed and nothing else.
            normalize_embeddings: Scale vectors to length 1.
            show_progress_bar: True for a line on standard error, or a function that is told what is done.
            dtype: "float32" or "float16".
            convert_to_tensor: Return a torch tensor on the CPU.

        Returns:
            Shape (n, E), or (E,) for one text that is not in a list.

        Raises:
            InputError: if something is no text, or an option is none of these.
        """
        texts = [sentences] if isinstance(sentences, str) else as_texts(sentences)
        progress = _progress(show_progress_bar, len(texts))
        _check_options(batch_size, dtype)
        vectors = np.zeros((len(texts), self.embedding_dimension), dtype)
        for start in range(0, len(texts), _SENTENCES_AT_ONCE):
            piece = texts[start : start + _SENTENCES_AT_ONCE]
            vectors[start : start + len(piece)] = self.encode_ids(
                self.tokenize(piece), batch_size=batch_size, normalize_embeddings=normalize_embeddings, dtype=dtype
            )
            progress(start + len(piece), len(texts))
        found = vectors[0] if isinstance(sentences, str) else vectors
        return torch.from_numpy(found) if convert_to_tensor else found

    @torch.inference_mode()
    def encode_ids(
        self,
        ids: pa.ListArray | pa.ChunkedArray | Sequence[npt.ArrayLike],
        *,
        batch_size: int | None = None,
        batch_tokens: int = 16_384,
        normalize_embeddings: bool = False,
        dtype: str = "float32",
        embedding: str = "",
    ) -> Matrix:
        """Return the vector of each list of token ids, shape (n, E); lists are cut off at `max_tokens`.

        Args:
            ids: n lists of ids of `vocabulary`.
            batch_size: Most sentences computed together; None for what is fast.
            batch_tokens: Most positions computed together.
            normalize_embeddings: Scale vectors to length 1.
            dtype: "float32" or "float16".
            embedding: What the vectors consist of; empty for the encoder's own.

        Raises:
            InputError: if there are ids the vocabulary does not have, or an option is none of these.
        """
        embedding = embedding or self.embedding
        check_embedding(embedding)
        _check_options(batch_size, dtype)
        flat, starts, lengths = as_ids(ids, len(self.vocabulary))
        lengths = np.minimum(lengths, self.max_tokens)
        order = np.argsort(-lengths, kind="stable")
        device, padded = self.model.device, self.config.padded_length
        size = self.model.embedding_dimension(embedding)
        vectors = torch.zeros(len(lengths), size, dtype=getattr(torch, dtype), device=device)
        for chunk in self._chunks(lengths[order]):
            rows = order[chunk]
            words, positions = distinct_words(from_lists(flat, starts[rows], lengths[rows]))
            words = np.pad(words, (0, -len(words) % _EIGHT))
            table = self._fast.look_up(torch.from_numpy(words).to(device), embedding, project=True)
            for batch in _batches(lengths[rows], batch_size, batch_tokens):
                width = max(1, int(lengths[rows[batch.start]]))
                sentences = _lay_out(positions[batch, :width], lengths[rows[batch]], padded)
                found = self._fast.embed_rows(table, sentences.to(device), embedding)[: len(rows[batch])]
                if normalize_embeddings:
                    found = F.normalize(found, dim=1)
                vectors[torch.from_numpy(rows[batch]).to(device)] = found.to(vectors.dtype)
        return vectors.cpu().numpy()

    def _chunks(self, lengths: npt.NDArray[np.int64]) -> Iterator[slice]:
        """Cut sentences into runs that share a word table of bounded size."""
        table_words = _TABLE_BYTES // (2 * 4 * self.config.hidden_size * 4)
        # A text of n tokens has far fewer than n distinct words; an eighth is a generous guess at these sizes.
        number = np.cumsum(lengths) // (8 * table_words)
        cuts = [0, *(np.flatnonzero(np.diff(number)) + 1), len(lengths)]
        yield from (slice(start, end) for start, end in itertools.pairwise(cuts) if end > start)

    def similarity(self, a: npt.ArrayLike | Tensor, b: npt.ArrayLike | Tensor) -> Matrix:
        """Return the cosine of each vector of `a` with each of `b`, shape (n, m), float32; 0 with a zero vector.

        Raises:
            InputError: if these are no vectors of one dimension.
        """
        left, right = as_vectors(a, "a"), as_vectors(b, "b")
        if left.shape[1] != right.shape[1]:
            raise InputError(
                f"the vectors have {left.shape[1]} and {right.shape[1]} numbers; expected vectors of one embedding"
            )
        left_nE, right_mE = (torch.from_numpy(unit_rows(vectors)) for vectors in (left, right))
        # Rounding makes cosines of up to 1.0000005.
        return (left_nE @ right_mE.T).clamp(-1.0, 1.0).numpy()

    def decode(
        self, vectors: npt.ArrayLike | Tensor, *, show_progress_bar: bool | Progress | None = None
    ) -> list[Decoded]:
        """Return the sentence that each vector stands for: its text, its words, and whether that is proven.

        Vectors of `exact` give their sentences back word for word. From `joined` the words come back as surely, their order
        as well as the LSTM has learned it. Of anything else (`meaning`, means of vectors, noise) there are the words it leans
        to most, without order. Vectors may have been scaled, and rounded to float16.

        "Proven" means that the words were encoded again and agree with the vector in all that is computed in closed form, as
        closely as the vector's type holds; of `joined`, whose order is learned, also that no other order that was looked at
        comes near. It speaks of what the model read: what was cut off behind `max_tokens` is not in the vector.

        Args:
            vectors: Shape (n, E), or (E,) for one, made with this model and embedding.
            show_progress_bar: True for a line on standard error, or a function that is told what is done.

        Raises:
            InputError: if they are no finite vectors of this dimension, or are the order alone.
        """
        matrix = as_vectors(vectors)
        if matrix.shape[1] != self.embedding_dimension:
            raise InputError(
                f"the vectors have {matrix.shape[1]} numbers; the embedding {self.embedding} of this model has "
                f"{self.embedding_dimension} numbers; load the model with the embedding they were made with"
            )
        progress = _progress(show_progress_bar, len(matrix))
        if isinstance(self.model, OriginalModel):
            codes = torch.from_numpy(matrix.astype(np.float32)).to(self.model.device)
            found = []
            for start in range(0, len(codes), _VECTORS_AT_ONCE):
                some = codes[start : start + _VECTORS_AT_ONCE]
                made = zip(some, self.model.decode(some), strict=True)
                found += [self._decoded(ids if code.any() else ()) for code, ids in made]
                progress(len(found), len(matrix))
            return found
        if self._decoder is None:
            self._decoder = VectorDecoder(self.model, self.vocabulary, self.embedding, self._encode_again)
        return self._decoder.decode(matrix, progress)

    def reconstruct(self, sentences: str | Iterable[str]) -> list[Decoded]:
        """Return what the vector of each sentence gives back; see `decode`."""
        return self.decode(self.encode(sentences))

    def _decoded(self, ids: Sequence[int]) -> Decoded:
        words = tuple(self.vocabulary.words(ids))
        return Decoded(" ".join(words), words, False)

    def _encode_again(self, ids: pa.ListArray | Sequence[npt.ArrayLike], embedding: str) -> Matrix:
        return self.encode_ids(ids, embedding=embedding)


def _in_precision(model: Model, dtype: torch.dtype) -> Model:
    """Return a model that encodes with its LSTM in `dtype` and shares all else with the given one."""
    if dtype == torch.float32:
        return model
    states = dict(model.state_dict(keep_vars=True)) | dict(model.named_buffers())
    shared = {id(tensor): tensor for name, tensor in states.items() if "ward_lstm." not in name}
    fast = copy.deepcopy(model, shared)
    encoder = fast.order if isinstance(fast, SentenceModel) else fast
    encoder.forward_lstm.to(dtype)
    encoder.backward_lstm.to(dtype)
    return fast


def _check_options(batch_size: Any, dtype: Any) -> None:
    """Refuse options that are none."""
    if batch_size is not None and not (isinstance(batch_size, (int, np.integer)) and batch_size >= 1):
        raise InputError(f"batch_size is {batch_size!r}; expected a whole number from 1, or None for what is fast")
    if not isinstance(dtype, str) or dtype not in ("float32", "float16"):
        raise InputError(f"dtype is {dtype!r}; expected 'float32' or 'float16'")


def _progress(wanted: bool | Progress | None, total: int) -> Progress:
    if callable(wanted):
        return wanted
    if not wanted:
        return lambda done, total: None

    def write(done: int, total: int) -> None:
        sys.stderr.write(f"\r{done:,} of {total:,} sentences" + ("\n" if done == total else ""))
        sys.stderr.flush()

    return write


def _lay_out(position_RT: npt.NDArray[np.int64], lengths_R: npt.NDArray[np.int64], padded_length: int) -> Sentences:
    """Lay out sentences, with empty ones after them, so that no vector depends on who is beside it."""
    missing = -len(lengths_R) % _EIGHT
    laid_out = lay_out(np.pad(position_RT, ((0, missing), (0, 0))), np.pad(lengths_R, (0, missing)), padded_length)
    return dataclasses.replace(laid_out, running=tuple(rows + -rows % _EIGHT for rows in laid_out.running))


def _batches(lengths: npt.NDArray[np.int64], batch_size: int | None, batch_tokens: int) -> Iterator[slice]:
    """Cut sentences of falling length into batches of bounded numbers of sentences and positions."""
    start = 0
    while start < len(lengths):
        count = max(1, batch_tokens // max(1, int(lengths[start])))
        end = min(len(lengths), start + min(count, batch_size or count))
        yield slice(start, end)
        start = end
