"""Training of word vectors: gensim on sentences that are streamed from the token set's parts.

gensim is fed lists of words. Its other way in, a text file, is no faster with two workers (2.3 to 2.7 s against 2.3 to 2.9 s
a million words, 300 dimensions), needs the corpus a second time on a local disk, and reports nothing before an epoch's end.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import FIRST_ID, FIRST_LEARNED
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import FolderStage, Made
from lstm_embed.words import scores
from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.folder import KIND, REPORT, STATE, VOCABULARY, State, WordVectors, aligned, write_vectors
from lstm_embed.words.formats import Imported, read_vectors
from lstm_embed.words.gensim_model import (
    arrays_of,
    new_model,
    quiet_gensim,
    set_arrays,
    start_from_earlier,
)
from lstm_embed.words.sentences import STAGE, Sentences

_LEAST_COVERAGE = 0.5
"""Share of the pieces, or of the running text, with imported vectors below which a warning is due."""


def train_word_vectors(config: WordVectorsConfig, report: Reporter = SILENT) -> Summary:
    """Train, continue or import word vectors and write their folder.

    A training that was stopped goes on after its last finished epoch; a finished folder is left as it is.

    Raises:
        FileNotFoundError: if an input is not there.
        FingerprintMismatch: if the output was made with other settings.
        InputError: if an input cannot be used.
    """
    return run_stage(WordVectorsStage(config), report)


class WordVectorsStage(FolderStage[WordVectorsConfig]):
    """From a token set to word vectors, on one machine."""

    name, kind, row_name = STAGE, KIND, "pieces"

    def open(self) -> None:
        """Look at the token set, and at what is imported or continued: hashed once, being large."""
        self.tokens = TokenSet.open(self.config.tokens)
        self._settings = self._deciding()

    def settings(self) -> dict[str, Any]:
        """Return what decides the content, with fingerprints in place of paths."""
        return self._settings

    def _deciding(self) -> dict[str, Any]:
        config = self.config
        if config.import_from:
            return {
                "vocabulary": self.tokens.vocabulary_fingerprint,
                "profile": self.tokens.tokenizer["profile"],
                "imported": _digest(storage.resolve(config.import_from)),
                "import_format": config.import_format,
            }
        earlier = WordVectors.load(config.continue_from).fingerprint if config.continue_from else None
        made = {"tokens": self.tokens.fingerprint, "continued": earlier}
        found = {**made, "algorithm": "word2vec", **deciding(config)}  # the only one, as earlier folders say too
        # A limit that leaves nothing out is none.
        return found | {"max_sentences": config.max_sentences if self._is_limited else 0}

    @property
    def _is_limited(self) -> bool:
        return 0 < self.config.max_sentences < self.tokens.num_rows

    @property
    def advice(self) -> str:
        """How to go on from what is there."""
        if self.config.import_from:
            return ""
        return f"; to go on from it, write to another folder with --continue-from {self.output}"

    def begin(self, report: Reporter) -> None:
        """Read what is imported, or what the training starts from: what cannot be used leaves nothing behind."""
        config, tokens = self.config, self.tokens
        if self._is_limited and not config.import_from:
            report.note(f"trains on {config.max_sentences:,} of {tokens.num_rows:,} sentences (--max-sentences)")
        self._work = _Import(config, tokens) if config.import_from else _Training(config, tokens, self.output, report)

    def make(self, report: Reporter) -> Made:
        """Train or take the vectors, and write them with their vocabulary and what they score."""
        vectors, facts = self._work.run()
        self.tokens.vocabulary.save(storage.join(self.output, VOCABULARY))
        digest = write_vectors(self.output, vectors)
        facts = {**facts, **scores.score(vectors, self.tokens.vocabulary)}
        storage.write_json(storage.join(self.output, REPORT), facts)
        if not self.config.keep_state:
            storage.remove(storage.join(self.output, STATE))
        content = {
            "settings": self._settings,
            "pieces": len(self.tokens.vocabulary) - FIRST_ID,
            "dimension": vectors.shape[1],
            "wordsim353": facts["wordsim353"]["spearman"],
        }
        if self.config.import_from:
            text, pieces = facts["imported"]["coverage_tokens"], facts["imported"]["coverage_pieces"]
            content |= {"coverage": text, "coverage_pieces": pieces}
            if min(text, pieces) < _LEAST_COVERAGE:
                report.note(
                    f"warning: {self.config.import_from} covers {100 * text:.1f} % of the running text and "
                    f"{100 * pieces:.1f} % of the vocabulary's pieces; the rest counts by its spelling alone. Prepare the text "
                    "with --whole-word-count (5, say), so that its words are whole."
                )
        return Made(content=content, decided_by=[self._settings, digest])

    def facts(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the number of pieces, and how good their vectors are."""
        facts = {"dimension": content["dimension"], "wordsim353": content["wordsim353"]}
        for name, key in (("running_text_with_vectors", "coverage"), ("pieces_with_vectors", "coverage_pieces")):
            if key in content:
                facts[name] = f"{100 * content[key]:.1f} %"
        return content["pieces"], facts


def _digest(path: str) -> str:
    """Return a hash of what is imported; the n-grams of a folder of ours are there or not."""
    if not storage.is_dir(path):
        storage.info(path)
        return storage.digest(path)
    state = " with state" if storage.exists(storage.join(path, STATE)) else ""
    return WordVectors.load(path).fingerprint + state


class _Import:
    """Vectors that were read from a file."""

    def __init__(self, config: WordVectorsConfig, tokens: TokenSet) -> None:
        self.vocabulary = tokens.vocabulary
        self.imported: Imported = read_vectors(
            config.import_from, config.import_format, tokens.vocabulary, tokens.tokenizer["profile"]
        )

    def run(self) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Return the aligned vectors and the report."""
        imported, counts = self.imported, self.vocabulary.counts[FIRST_ID:]
        present: Any = imported.vectors[FIRST_ID:].any(axis=1)
        facts = {
            "exact": imported.exact,
            "normalized": imported.normalized,
            "composed": imported.composed,
            "from_pieces": imported.from_pieces,
            "malformed": imported.malformed,
            "coverage_pieces": float(present[FIRST_LEARNED - FIRST_ID :].mean()),
            "coverage_tokens": float(counts[present].sum() / max(counts.sum(), 1)),
        }
        return imported.vectors, {"imported": facts}


class _Training:
    """A training as far as it has come: the model with the weights of the last finished epoch."""

    def __init__(self, config: WordVectorsConfig, tokens: TokenSet, output: str, report: Reporter) -> None:
        self.config, self.tokens, self.output, self.report = config, tokens, output, report
        state = State.load(output, len(tokens.vocabulary) - FIRST_ID, config.dimension)
        with quiet_gensim():
            self.model, self.loss = new_model(config, tokens.vocabulary)
            if state:
                set_arrays(self.model, state.arrays)
            elif config.continue_from:
                start_from_earlier(self.model, config, tokens.vocabulary)
        self.epochs: list[dict[str, Any]] = list(state.facts["epochs"]) if state else []
        self.sentences = Sentences(tokens, config.max_sentences)

    def run(self) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
        """Train the epochs that are missing, saving the state after each; return the aligned vectors and the report."""
        config = self.config
        if self.epochs:
            self.report.note(f"going on after epoch {len(self.epochs)} of {config.epochs}")
        for epoch in range(len(self.epochs), config.epochs):
            self.sentences.begin(epoch, config.epochs, self.report)
            with quiet_gensim():
                self.epochs.append(self._train_epoch(epoch))
            facts = {"epoch": epoch + 1, "epochs": self.epochs}
            State(arrays=arrays_of(self.model), facts=facts).save(self.output)
            self.report.note(_epoch_line(self.epochs[-1], config.epochs))
        report = {"architecture": config.architecture, "epochs": self.epochs}
        return aligned(self.model.wv.vectors), report

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        """Train one epoch and describe it. Everything drawn at random depends on seed and epoch alone."""
        config, model = self.config, self.model

        def rate(finished_epochs: int) -> float:
            return config.alpha - (config.alpha - config.min_alpha) * finished_epochs / config.epochs

        begin = time.monotonic()
        self.loss.reset()
        model.random = np.random.RandomState([config.seed, epoch])
        model.min_alpha_yet_reached = rate(epoch)
        trained, read = model.train(
            corpus_iterable=self.sentences,
            total_words=self.sentences.expected_words,
            epochs=1,
            start_alpha=rate(epoch),
            end_alpha=rate(epoch + 1),
            compute_loss=True,
        )
        if self.sentences.error:
            raise self.sentences.error
        if not trained:
            raise InputError(f"{config.tokens} has no sentence of two pieces or more; there is nothing to train on")
        seconds = time.monotonic() - begin
        return {
            "epoch": epoch + 1,
            "loss": self.loss.total / trained if self.loss.total else None,
            "words": read,
            "trained_words": trained,
            "seconds": round(seconds, 2),
            "words_per_second": round(read / max(seconds, 1e-9)),
        }


def _epoch_line(epoch: dict[str, Any], epochs: int) -> str:
    loss = f"loss {epoch['loss']:.4f} a word, " if epoch["loss"] is not None else ""
    return f"epoch {epoch['epoch']} of {epochs}: {loss}{epoch['words_per_second']:,} words/s"
