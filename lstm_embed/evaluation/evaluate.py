"""One evaluation: a model, the baselines of the same word vectors, every measure that the given files allow."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.evaluation import examples, similarity
from lstm_embed.evaluation.classification import classification, clustering
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.evaluation.corpora import token_set_sentences
from lstm_embed.evaluation.decoding import by_encoder, decoding, most_frequent_word, nearest_sentence
from lstm_embed.evaluation.inputs import Inputs
from lstm_embed.evaluation.report import render
from lstm_embed.evaluation.results import RESULTS, headline, plain, results_path
from lstm_embed.evaluation.retrieval import retrieve, retrieve_bm25
from lstm_embed.ledger import provenance
from lstm_embed.ledger.manifest import Manifest, read_manifest
from lstm_embed.ledger.sealed import open_sealed
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import FolderStage, Made

PAGE = "report.html"


def evaluate(config: EvaluationConfig, report: Reporter = SILENT) -> Summary:
    """Score a model and the baselines; write results.json and report.html. A finished folder is left as it is.

    Raises:
        FileNotFoundError: if an input is not there.
        FingerprintMismatch: if inputs do not belong together, or the output was made with other settings.
        InputError: if an input cannot be used.
    """
    return run_stage(EvaluationStage(config), report)


class EvaluationStage(FolderStage[EvaluationConfig]):
    """From a model, and labelled files if there are any, to its scores, on one machine."""

    name, kind, row_name = "evaluate", "evaluation", "scores"

    def open(self) -> None:
        """Look for the model."""
        self._model = open_sealed(self.config.model, kind="model", verify=False)["fingerprint"]

    def settings(self) -> dict[str, Any]:
        """Return what decides the figures, with fingerprints and hashes in place of paths."""
        config = self.config

        def of_folder(path: str, kind: str) -> str | None:
            return str(read_manifest(path, kind=kind, declared=Manifest)["fingerprint"]) if path else None

        def of_files(paths: Sequence[str]) -> dict[str, str]:
            return {storage.name(path): storage.digest(storage.resolve(path)) for path in paths}

        return {
            "model": self._model,
            "original": of_folder(config.original, "model"),
            "embeddings": of_folder(config.embeddings, "embeddings"),
            "tokens": of_folder(config.tokens, "token_set"),
            "vectors": of_folder(config.vectors, "word_vectors"),
            "sts": of_files(config.sts),
            "classification": of_files(config.classification),
            "compare": of_files([results_path(path) for path in config.compare]),
            "bm25": True,  # folders of earlier versions say whether it was measured
            **{name: getattr(config, name) for name in ("folds", "bootstrap", "num_queries", "max_rows")},
            **{name: getattr(config, name) for name in ("embedding", "num_decoded", "gpu", "seed")},
        }

    def begin(self, report: Reporter) -> None:
        """Read everything that is given: a wrong file is noticed before minutes of work."""
        self.inputs = Inputs(self.config)

    def make(self, report: Reporter) -> Made:
        """Measure, and write the figures and the page."""
        started = time.monotonic()
        notes: list[str] = []
        results: dict[str, Any] = {"format": 1, "model": self._about()}
        measures = self._measures(notes)
        for number, (name, measure) in enumerate(measures.items()):
            report.progress(self.name, number, len(measures), "steps")
            results[name] = measure()
        report.progress(self.name, len(measures), len(measures), "steps")
        results["headline"] = headline(results)
        results |= {"curves": self.inputs.curves, "comparison": self._comparison(results), "notes": notes}
        settings = self.settings()
        results |= {"settings": settings, "made_by": provenance(), "seconds": round(time.monotonic() - started, 1)}
        results = plain(results)
        storage.write_json(storage.join(self.output, RESULTS), results)
        storage.write_bytes(storage.join(self.output, PAGE), render(results).encode("utf-8"))
        return Made(content={"settings": settings, "scores": _of_model(results)}, decided_by=settings)

    def facts(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the model's scores."""
        scores = content["scores"]
        return len(scores), {**scores, "report": storage.join(self.output, PAGE)}

    def _measures(self, notes: list[str]) -> dict[str, Callable[[], Any]]:
        config, given, methods, seed = self.config, self.inputs, self.inputs.methods, self.config.seed
        return {
            "similarity": lambda: similarity.similarity(given.pairs, methods, bootstrap=config.bootstrap, seed=seed),
            "document_similarity": lambda: similarity.document_similarity(methods, given.split),
            "classification": lambda: classification(given.labelled, methods, folds=config.folds, seed=seed),
            "clustering": lambda: clustering(given.labelled, methods, seed=seed),
            "retrieval": self._retrieval,
            "decoding": lambda: self._decoding(notes),
            "map": lambda: examples.article_map(given.sentences, methods["model"]),
            "neighbours": lambda: examples.neighbours(given.sentences, methods["model"], seed=seed),
        }

    def _about(self) -> dict[str, Any]:
        encoder = self.inputs.encoder
        path = storage.resolve(self.config.model)
        name = storage.name(path)
        return {
            "name": storage.name(storage.parent(path)) if name == "model" else name,
            "path": path,
            "fingerprint": encoder.fingerprint,
            "embedding": encoder.embedding,
            "dimension": encoder.embedding_dimension,
            "config": dataclasses.asdict(encoder.config),
        }

    def _retrieval(self) -> list[dict[str, Any]]:
        config, given = self.config, self.inputs
        options = {"num_queries": config.num_queries, "bootstrap": config.bootstrap, "seed": config.seed}
        found = []
        if given.corpus:
            stored = retrieve(given.corpus, given.encoder.encode, **options)
            found.append({"name": "the embedded corpus", "tasks": _by_task({"model": stored})})
        here = {}
        for name, embed in given.methods.items():
            embedded = dataclasses.replace(given.sentences, vectors=embed(given.sentences.texts))
            here[name] = retrieve(embedded, embed, **options)
        here["bm25"] = retrieve_bm25(given.sentences, given.tokens, **options)
        return [*found, {"name": given.source, "tasks": _by_task(here)}]

    def _decoding(self, notes: list[str]) -> dict[str, Any] | None:
        number, given = self.config.num_decoded, self.inputs
        if not number:
            return None
        methods = {name: by_encoder(encoder) for name, encoder in given.decoders().items()}
        methods["most_frequent_word"] = most_frequent_word(given.tokens, given.encoder.max_tokens)
        if given.token_set:
            texts = token_set_sentences(given.token_set, 20 * number, held_out=True, min_tokens=1).texts
            methods["nearest_sentence"] = nearest_sentence(given.trained_on, given.encoder.encode, given.tokens)
        else:
            texts = given.sentences.texts
            notes.append(
                "The decoded sentences may have been trained on, and the nearest training sentence was not measured: "
                "no token set was given (--tokens)."
            )
        if not texts:
            notes.append("No sentence was decoded, since the token set holds none out of training.")
            return None
        # Evenly, so that they come from many articles.
        texts = texts[:: max(1, len(texts) // number)][:number]
        return decoding(texts, given.tokens, methods, max_tokens=given.encoder.max_tokens)

    def _comparison(self, results: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the figures of this and other evaluations by the names of their models."""
        if not self.inputs.others:
            return None
        found = {results["model"]["name"]: _of_model(results)}
        for path, other in self.inputs.others.items():
            name = other["model"]["name"]
            found[f"{name} ({path})" if name in found else name] = _of_model(other)
        return found


def _of_model(results: Mapping[str, Any]) -> dict[str, float | None]:
    return {measure: methods.get("model") for measure, methods in results["headline"].items()}


def _by_task(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Turn figures by method and task into figures by task and method."""
    return {
        task: {method: tasks[task] for method, tasks in found.items() if task in tasks}
        for task in ("sentence", "title")
    }
