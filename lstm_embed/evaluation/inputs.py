"""What is measured, and on what: the model, the methods beside it, labelled files and sentences, all read and checked before
anything is computed."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.evaluation.baselines import Embed, Tokens, averaging_baselines
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.evaluation.corpora import EmbeddedCorpus, Sentences, shipped_sentences, token_set_sentences
from lstm_embed.evaluation.labelled import read_pairs, read_sets
from lstm_embed.evaluation.results import read_results, training_curves
from lstm_embed.model.config import PARTS
from lstm_embed.words.folder import WordVectors

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

_TRAINING_SENTENCES = 10_000
_LEAST_SENTENCES = 1_000


class Inputs:
    """Everything that an evaluation is given, read.

    Args:
        config: Settings of the evaluation.

    Raises:
        FileNotFoundError: if something is not there.
        FingerprintMismatch: if something does not belong to the model.
        InputError: if something cannot be used.
    """

    def __init__(self, config: EvaluationConfig) -> None:
        self.config = config
        self.pairs = [read_pairs(path) for path in config.sts]
        self.labelled = read_sets(config.classification)
        self.others = {path: read_results(path, "--compare") for path in config.compare}
        self.curves = self._curves()
        self.corpus = EmbeddedCorpus(config.embeddings, config.max_rows) if config.embeddings else None
        self.encoder = self._encoder(config.model, config.embedding or (self.corpus.embedding if self.corpus else ""))
        self.original = self._encoder(config.original) if config.original else None
        self._check_corpus()
        self.tokens = Tokens(self.encoder.vocabulary, self.encoder.tokenizer["profile"])
        self.split = sentence_splitter("sentencex", self.encoder.tokenizer.get("language", "en"))
        self.token_set = TokenSet.open(config.tokens) if config.tokens else None
        if self.token_set:
            self._check_vocabulary(config.tokens, self.token_set.vocabulary, "--tokens")
        self.source, self.sentences = self._sentences()
        self.methods = self._methods()

    def _encoder(self, path: str, embedding: str = "") -> SentenceEncoder:
        from lstm_embed.model.encoder import SentenceEncoder

        return SentenceEncoder.load(path, device="cuda" if self.config.gpu else "cpu", embedding=embedding)

    def _curves(self) -> dict[str, Any]:
        path = self.config.metrics or storage.join(storage.parent(storage.resolve(self.config.model)), "metrics.jsonl")
        if self.config.metrics and not storage.exists(path):
            raise FileNotFoundError(f"no file at {path} (--metrics)")
        return training_curves(path) if storage.exists(path) else {}

    def _check_corpus(self) -> None:
        if not self.corpus:
            return
        made_by = self.corpus.manifest.get("model", self.encoder.fingerprint)
        if made_by != self.encoder.fingerprint:
            raise FingerprintMismatch(
                f"{self.corpus.path} was made by the model {made_by[:8]}; --model is {self.encoder.fingerprint[:8]}; "
                "embed the corpus with this model, or evaluate the other one"
            )
        if self.corpus.embedding not in ("", self.encoder.embedding):
            raise InputError(
                f"{self.corpus.path} holds embeddings {self.corpus.embedding}, --embedding is {self.encoder.embedding}; "
                "leave --embedding out, or embed the corpus with it"
            )

    def _check_vocabulary(self, path: str, vocabulary: Vocabulary, flag: str) -> None:
        if vocabulary.fingerprint != self.encoder.vocabulary.fingerprint:
            raise FingerprintMismatch(
                f"{path} has the vocabulary {vocabulary.fingerprint[:8]}, the model has "
                f"{self.encoder.vocabulary.fingerprint[:8]}; give what the model was trained on ({flag})"
            )

    def _sentences(self) -> tuple[str, Sentences]:
        """Return what the sentences are called that are encoded here, for all methods, and the sentences."""
        limit = max(self.config.max_rows // 10, _LEAST_SENTENCES)
        if self.corpus and self.corpus.has_texts:
            return "a sample of the embedded corpus", EmbeddedCorpus(self.corpus.path, limit).sentences()
        if self.token_set:
            return "held-out articles", token_set_sentences(self.token_set, limit, held_out=True)
        return "300 news texts that ship with gensim", shipped_sentences(self.split)

    @functools.cached_property
    def trained_on(self) -> list[str]:
        """Sentences of the training corpus; of what is encoded here, where no token set was given."""
        if self.token_set:
            return token_set_sentences(self.token_set, _TRAINING_SENTENCES, held_out=False).texts
        return self.sentences.texts[:_TRAINING_SENTENCES]

    def _methods(self) -> dict[str, Embed]:
        """Return the model first, then the second model and the averaging baselines."""
        model = self.encoder.model
        methods: dict[str, Embed] = {"model": self._once(self.encoder.encode)}
        if self.original:
            methods["original"] = self._once(self.original.encode)
        if {"meaning", "lengths"} <= {*PARTS[self.encoder.embedding]}:
            size = model.embedding_dimension("meaning")
            methods["meaning"] = lambda texts: methods["model"](texts)[:, :size]
        vectors = model.word_vectors.detach().cpu().numpy()
        if self.config.vectors:
            given = WordVectors.load(self.config.vectors)
            self._check_vocabulary(self.config.vectors, given.vocabulary, "--vectors")
            vectors = given.vectors
        return methods | averaging_baselines(self.tokens, vectors, self.trained_on)

    def _once(self, embed: Embed) -> Embed:
        """Return `embed` such that the sentences themselves, which many measures need, are embedded once."""
        known = functools.cache(lambda: embed(self.sentences.texts))
        return lambda texts: known() if texts is self.sentences.texts else embed(texts)

    def decoders(self) -> dict[str, SentenceEncoder]:
        """Return what is decoded, whatever else is measured: the closed form, and the LSTM alone."""
        own = self.encoder
        names = (own.embedding,) if _is_original(own) else ("exact", "joined")
        encoders = {name: own if name == own.embedding else self._encoder(self.config.model, name) for name in names}
        if self.original and (_is_original(self.original) or self.original.embedding != "order"):
            encoders["original"] = self.original
        return encoders


def _is_original(encoder: SentenceEncoder) -> bool:
    from lstm_embed.model.config import OriginalConfig

    return isinstance(encoder.config, OriginalConfig)
