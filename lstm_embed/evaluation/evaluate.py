"""One evaluation: a model, the baselines of the same word vectors, every measure that the given files allow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.evaluation import classification as classify
from lstm_embed.evaluation import examples, similarity
from lstm_embed.evaluation.baselines import (
    INSTALL,
    Embed,
    FloatArray,
    NearestSentence,
    Tokens,
    averaging_baselines,
    has_bm25,
)
from lstm_embed.evaluation.clustering import clustering
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.evaluation.corpora import (
    EmbeddedCorpus,
    Sentences,
    embedded_sentences,
    shipped_sentences,
    token_set_sentences,
)
from lstm_embed.evaluation.decoding import Decode, by_encoder, decoding, most_frequent_word, nearest_sentence
from lstm_embed.evaluation.results import PAGE, compared, headline, plain, results_path, training_curves, write_results
from lstm_embed.evaluation.retrieval import retrieve_embedded, retrieve_in_memory
from lstm_embed.ledger import fingerprint, provenance, seal
from lstm_embed.ledger.sealed import open_sealed, read_manifest
from lstm_embed.ledger.whole import finished, making
from lstm_embed.words import WordVectors

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

STAGE, KIND = "evaluate", "evaluation"
_TRAINING_SENTENCES = 10_000
_MAX_POINTS = 1_500


def evaluate(config: EvaluationConfig, report: Reporter = SILENT) -> Summary:
    """Score a model and the baselines; write results.json and report.html. A finished folder is left as it is.

    Raises:
        FileNotFoundError: if an input is not there.
        FingerprintMismatch: if inputs do not belong together, or the output was made with other settings.
        InputError: if an input cannot be used.
    """
    begin = time.monotonic()
    output = storage.resolve(config.output)
    settings = _settings(config)
    manifest = finished(output, kind=KIND, settings=settings)
    if manifest:
        report.note(f"{output} is finished; nothing to do")
        return _summary(output, manifest, begin, already_done=True)
    with making(output, kind=KIND, settings=settings, config=dataclasses.asdict(config)):
        results = Evaluation(config, report).run()
        results |= {"settings": settings, "made_by": provenance(), "seconds": round(time.monotonic() - begin, 1)}
        write_results(output, results)
    model_scores = {name: scores.get("model") for name, scores in results["headline"].items()}
    content = {"settings": settings, "scores": plain(model_scores)}
    manifest = seal(output, kind=KIND, fingerprint=fingerprint(settings), content=content)
    return _summary(output, manifest, begin, already_done=False)


def _settings(config: EvaluationConfig) -> dict[str, Any]:
    """Return what decides the figures, with fingerprints and hashes in place of paths."""

    def of_folder(path: str, kind: str) -> str | None:
        return str(read_manifest(path, kind=kind)["fingerprint"]) if path else None

    def of_files(paths: Sequence[str]) -> dict[str, str]:
        return {storage.name(path): storage.digest(storage.resolve(path)) for path in paths}

    return {
        "model": open_sealed(config.model, kind="model", verify=False)["fingerprint"],
        "original": of_folder(config.original, "model"),
        "embeddings": of_folder(config.embeddings, "embeddings"),
        "tokens": of_folder(config.tokens, "token_set"),
        "vectors": of_folder(config.vectors, "word_vectors"),
        "sts": of_files(config.sts),
        "classification": of_files(config.classification),
        "compare": of_files([results_path(path) for path in config.compare]),
        # What is not installed is not measured; installing it is a reason to measure again.
        "bm25": has_bm25(),
        **{name: getattr(config, name) for name in ("folds", "bootstrap", "num_queries", "max_rows")},
        **{name: getattr(config, name) for name in ("embedding", "num_decoded", "gpu", "seed")},
    }


def _summary(output: str, manifest: Mapping[str, Any], begin: float, already_done: bool) -> Summary:
    scores = manifest["content"]["scores"]
    return Summary(
        stage=STAGE,
        output=output,
        rows=len(scores),
        row_name="scores",
        seconds=time.monotonic() - begin,
        already_done=already_done,
        facts={**scores, "report": storage.join(output, PAGE)},
    )


class Evaluation:
    """One call of `evaluate`: the loaded model, the methods it is measured beside, and the sentences to measure on.

    Raises:
        InputError: if the inputs do not belong together; before anything is computed.
    """

    def __init__(self, config: EvaluationConfig, report: Reporter = SILENT) -> None:
        self.config, self.report = config, report
        # Read first, so that a wrong file is noticed before minutes of work.
        self.pairs = [similarity.read_pairs(path) for path in config.sts]
        self.labelled = classify.read_sets(config.classification)
        self.corpus = EmbeddedCorpus(config.embeddings, config.max_rows) if config.embeddings else None
        self.encoder = self._encoder(config.model, config.embedding or (self.corpus.embedding if self.corpus else ""))
        self.original = self._encoder(config.original) if config.original else None
        self._check_corpus()
        self.tokens = Tokens(self.encoder.vocabulary, self.encoder.tokenizer["profile"])
        self.split = sentence_splitter("sentencex", self.encoder.tokenizer.get("language", "en"))
        self.token_set = self._token_set()
        self.notes: list[str] = []
        self.sentences = self._sentences()
        self.methods = self._methods()

    def _encoder(self, path: str, embedding: str = "") -> SentenceEncoder:
        from lstm_embed.model.encoder import SentenceEncoder

        return SentenceEncoder.load(path, device="cuda" if self.config.gpu else "cpu", embedding=embedding)

    def _token_set(self) -> TokenSet | None:
        if not self.config.tokens:
            return None
        tokens = TokenSet.open(self.config.tokens)
        if tokens.vocabulary_fingerprint != self.encoder.vocabulary.fingerprint:
            raise FingerprintMismatch(
                f"the token set {tokens.path} has the vocabulary {tokens.vocabulary_fingerprint[:8]}, the model has "
                f"{self.encoder.vocabulary.fingerprint[:8]}; give the token set the model was trained on (--tokens)"
            )
        return tokens

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

    def _sentences(self) -> tuple[str, Sentences]:
        """Return the sentences that are encoded here, for all methods, and what they are called."""
        limit = max(self.config.max_rows // 10, 1_000)
        if self.corpus and self.corpus.has_texts:
            return "a sample of the embedded corpus", embedded_sentences(self.corpus.path, limit)
        if self.token_set:
            return "held-out articles", token_set_sentences(self.token_set, limit, held_out=True)
        return "300 news texts that ship with gensim", shipped_sentences(self.split)

    def _methods(self) -> dict[str, Embed]:
        """Return the model first, then the second model and the averaging baselines."""
        texts = self.sentences[1].texts
        methods: dict[str, Embed] = {"model": _remembering(self.encoder.encode, texts)}
        if self.original:
            methods["original"] = _remembering(self.original.encode, texts)
        model, whole = self.encoder.model, methods["model"]
        if self.encoder.embedding in ("joined", "exact"):
            size = model.embedding_dimension("meaning")
            methods["meaning"] = lambda wanted: whole(wanted)[:, :size]
        vectors = model.word_vectors.detach().cpu().numpy()
        if self.config.vectors:
            given = WordVectors.load(self.config.vectors)
            if given.vocabulary.fingerprint != self.encoder.vocabulary.fingerprint:
                raise FingerprintMismatch(
                    f"{self.config.vectors} has the vocabulary {given.vocabulary.fingerprint[:8]}, the model has "
                    f"{self.encoder.vocabulary.fingerprint[:8]}; give the word vectors the model was trained with (--vectors)"
                )
            vectors = given.vectors
        return methods | averaging_baselines(self.tokens, vectors, self._reference())

    def _reference(self) -> list[str]:
        """Return sentences of the training corpus, for the baseline that needs some."""
        if self.token_set:
            return token_set_sentences(self.token_set, _TRAINING_SENTENCES, held_out=False).texts
        return self.sentences[1].texts[:_TRAINING_SENTENCES]

    def run(self) -> dict[str, Any]:
        """Return all figures."""
        steps: dict[str, Callable[[], Any]] = {
            "similarity": self._similarity,
            "document_similarity": lambda: similarity.document_similarity(self.methods, self.split),
            "classification": self._classification,
            "clustering": self._clustering,
            "retrieval": self._retrieval,
            "decoding": self._decoding,
            "map": lambda: examples.article_map(self.sentences[1], self.methods["model"]),
            "neighbours": lambda: examples.neighbours(self.sentences[1], self.methods["model"], seed=self.config.seed),
        }
        results: dict[str, Any] = {"format": 1, "model": self._about()}
        for number, (name, step) in enumerate(steps.items()):
            self.report.progress(STAGE, number, len(steps), "steps")
            results[name] = step()
        self.report.progress(STAGE, len(steps), len(steps), "steps")
        results["headline"] = headline(results)
        results["curves"] = self._curves()
        results["comparison"] = self._comparison(results)
        results["notes"] = self.notes
        return results

    def _about(self) -> dict[str, Any]:
        path = storage.resolve(self.config.model)
        name = storage.name(path)
        return {
            "name": storage.name(storage.parent(path)) if name == "model" else name,
            "path": path,
            "fingerprint": self.encoder.fingerprint,
            "embedding": self.encoder.embedding,
            "dimension": self.encoder.embedding_dimension,
            "config": dataclasses.asdict(self.encoder.config),
        }

    def _similarity(self) -> dict[str, Any] | None:
        if not self.pairs:
            return None
        found = similarity.similarity(self.pairs, self.methods, bootstrap=self.config.bootstrap, seed=self.config.seed)
        for points in found["points"].values():
            step = -(-len(points["gold"]) // _MAX_POINTS)
            points.update({side: values[::step] for side, values in points.items()})
        return found

    def _classification(self) -> dict[str, Any] | None:
        if not self.labelled:
            return None
        return classify.classification(self.labelled, self.methods, folds=self.config.folds, seed=self.config.seed)

    def _clustering(self) -> dict[str, Any] | None:
        return clustering(self.labelled, self.methods, seed=self.config.seed) if self.labelled else None

    def _retrieval(self) -> list[dict[str, Any]]:
        config = self.config
        options = {"num_queries": config.num_queries, "bootstrap": config.bootstrap, "seed": config.seed}
        found = []
        if self.corpus:
            tasks = retrieve_embedded(self.corpus, embed_titles=self.encoder.encode, **options)
            found.append({"name": "the embedded corpus", "tasks": {task: {"model": f} for task, f in tasks.items()}})
        if not has_bm25():
            self.notes.append(f"BM25 was not measured, since bm25s is not installed ({INSTALL}).")
        name, sentences = self.sentences
        bm25 = self.tokens if has_bm25() else None
        found.append({"name": name, "tasks": retrieve_in_memory(sentences, self.methods, bm25=bm25, **options)})
        return found

    def _decoding(self) -> dict[str, Any] | None:
        number = self.config.num_decoded
        if not number:
            return None
        methods = self._decoders()
        methods["most_frequent_word"] = most_frequent_word(self.tokens, self.encoder.max_tokens)
        if self.token_set:
            texts = token_set_sentences(self.token_set, 20 * number, held_out=True, min_tokens=1).texts
            known = token_set_sentences(self.token_set, _TRAINING_SENTENCES, held_out=False).texts
            nearest = NearestSentence(known, self.encoder.encode(known))
            methods["nearest_sentence"] = nearest_sentence(nearest, self.encoder.encode, self.tokens)
        else:
            texts = self.sentences[1].texts
            self.notes.append(
                "The decoded sentences may have been trained on, and the nearest training sentence was not measured: "
                "no token set was given (--tokens)."
            )
        # Evenly, so that they come from many articles.
        texts = texts[:: max(1, len(texts) // number)][:number]
        return decoding(texts, self.tokens, methods, max_tokens=self.encoder.max_tokens)

    def _decoders(self) -> dict[str, Decode]:
        """Return what is decoded, whatever else is measured: the closed form, and the LSTM alone."""
        own = self.encoder
        names = (own.embedding,) if _is_original(own) else ("exact", "joined")
        encoders = {name: own if name == own.embedding else self._encoder(self.config.model, name) for name in names}
        if self.original and (_is_original(self.original) or self.original.embedding != "order"):
            encoders["original"] = self.original
        return {name: by_encoder(encoder) for name, encoder in encoders.items()}

    def _curves(self) -> dict[str, Any]:
        path = self.config.metrics or storage.join(storage.parent(storage.resolve(self.config.model)), "metrics.jsonl")
        if not storage.exists(path):
            if self.config.metrics:
                raise FileNotFoundError(f"no file at {path} (--metrics)")
            return {}
        return training_curves(storage.read_bytes(path))

    def _comparison(self, results: Mapping[str, Any]) -> dict[str, Any] | None:
        return compared(results, self.config.compare) if self.config.compare else None


def _is_original(encoder: SentenceEncoder) -> bool:
    from lstm_embed.model.config import OriginalConfig

    return isinstance(encoder.config, OriginalConfig)


def _remembering(embed: Embed, texts: list[str]) -> Embed:
    """Return `embed`, which works on one list, met again and again, only once."""
    known: list[FloatArray] = []

    def embed_once(wanted: Sequence[str]) -> FloatArray:
        if wanted is not texts:
            return embed(wanted)
        if not known:
            known.append(embed(texts))
        return known[0]

    return embed_once
