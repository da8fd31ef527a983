"""Training of word vectors: gensim on sentences that are streamed from the token set's parts.

gensim is fed lists of words. Its other way in, a text file, is no faster with two workers (2.3 to 2.7 s against 2.3 to 2.9 s
a million words, 300 dimensions), needs the corpus a second time on a local disk, and reports nothing before an epoch's end.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed import storage
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import UNKNOWN
from lstm_embed.errors import InputError
from lstm_embed.ledger import fingerprint, seal
from lstm_embed.ledger.whole import finished, making
from lstm_embed.progress import SILENT, Reporter, Summary
from lstm_embed.word_vectors import scores
from lstm_embed.word_vectors.config import WordVectorsConfig
from lstm_embed.word_vectors.folder import KIND, REPORT, STATE, VOCABULARY, State, WordVectors, aligned, write_vectors
from lstm_embed.word_vectors.formats import Imported, read_vectors
from lstm_embed.word_vectors.gensim_model import (
    Loss,
    arrays_of,
    new_model,
    quiet_gensim,
    set_arrays,
    start_from_earlier,
)
from lstm_embed.word_vectors.sampled_loss import NUM_SENTENCES, sampled_loss
from lstm_embed.word_vectors.sentences import STAGE, Sentences


def train_word_vectors(config: WordVectorsConfig, report: Reporter = SILENT) -> Summary:
    """Train, continue or import word vectors and write their folder.

    A training that was stopped goes on after its last finished epoch; a finished folder is left as it is.

    Raises:
        FileNotFoundError: if an input is not there.
        FingerprintMismatch: if the output was made with other settings.
        InputError: if an input cannot be used.
    """
    begin = time.monotonic()
    tokens = TokenSet.open(config.tokens)
    output = storage.resolve(config.output)
    settings = _settings(config, tokens)
    advice = "" if config.import_from else f"; to go on from it, write to another folder with --continue-from {output}"
    manifest = finished(output, kind=KIND, settings=settings, advice=advice)
    if manifest:
        report.note(f"{output} is finished; nothing to do")
        return _summary(output, manifest, begin, already_done=True)
    with making(output, kind=KIND, settings=settings, config=dataclasses.asdict(config)):
        made = _import(config, tokens) if config.import_from else _train(config, tokens, output, report)
        vectors, facts = made
        tokens.vocabulary.save(storage.join(output, VOCABULARY))
        digest = write_vectors(output, vectors)
        facts = {**facts, **scores.score(vectors, tokens.vocabulary)}
        storage.write_json(storage.join(output, REPORT), facts)
        if not config.keep_state:
            storage.remove(storage.join(output, STATE))
    content = {
        "settings": settings,
        "words": len(tokens.vocabulary) - 2,
        "dimension": vectors.shape[1],
        "wordsim353": facts["wordsim353"]["spearman"],
    }
    manifest = seal(output, kind=KIND, fingerprint=fingerprint([settings, digest]), content=content)
    return _summary(output, manifest, begin, already_done=False)


def _settings(config: WordVectorsConfig, tokens: TokenSet) -> dict[str, Any]:
    """Return what decides the content, with fingerprints in place of paths."""
    if config.import_from:
        return {
            "vocabulary": tokens.vocabulary_fingerprint,
            "profile": tokens.tokenizer["profile"],
            "imported": _digest(storage.resolve(config.import_from)),
            "import_format": config.import_format,
        }
    earlier = WordVectors.load(config.continue_from).fingerprint if config.continue_from else None
    return {"tokens": tokens.fingerprint, "continued": earlier, **config.training_settings()}


def _digest(path: str) -> str:
    """Return a hash of what is imported; the n-grams of a folder of ours are there or not."""
    if not storage.is_dir(path):
        return storage.digest(path)
    state = " with state" if storage.exists(storage.join(path, STATE)) else ""
    return WordVectors.load(path).fingerprint + state


def _summary(output: str, manifest: dict[str, Any], begin: float, already_done: bool) -> Summary:
    content = manifest["content"]
    return Summary(
        stage=STAGE,
        output=output,
        rows=content["words"],
        row_name="words",
        seconds=time.monotonic() - begin,
        already_done=already_done,
        facts={"dimension": content["dimension"], "wordsim353": content["wordsim353"]},
    )


def _import(config: WordVectorsConfig, tokens: TokenSet) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    imported: Imported = read_vectors(
        config.import_from, config.import_format, tokens.vocabulary, tokens.tokenizer["profile"]
    )
    counts = tokens.vocabulary.counts[UNKNOWN + 1 :]
    present = imported.vectors[UNKNOWN + 1 :].any(axis=1)
    facts = {
        "exact": imported.exact,
        "normalized": imported.normalized,
        "composed": imported.composed,
        "malformed": imported.malformed,
        "coverage_words": float(present.mean()),
        "coverage_tokens": float(counts[present].sum() / max(counts.sum(), 1)),
    }
    return imported.vectors, {"imported": facts}


def _train(
    config: WordVectorsConfig, tokens: TokenSet, output: str, report: Reporter
) -> tuple[npt.NDArray[np.float32], dict[str, Any]]:
    """Train the epochs that are missing, saving the state after each; return the aligned vectors and the report."""
    vocabulary = tokens.vocabulary
    state = State.load(output)
    with quiet_gensim():
        model, loss = new_model(config, vocabulary)
        if state:
            set_arrays(model, state.arrays)
            report.note(f"going on after epoch {state.facts['epoch']} of {config.epochs}")
        elif config.continue_from:
            start_from_earlier(model, config, vocabulary)
        epochs: list[dict[str, Any]] = list(state.facts["epochs"]) if state else []
        sentences = Sentences(tokens, config.max_sentences)
        # Read before any epoch: later on, the sentences report to the console.
        sample = sentences.first(NUM_SENTENCES) if config.algorithm == "fasttext" else []
        for epoch in range(len(epochs), config.epochs):
            sentences.begin(epoch, config.epochs, report)
            epochs.append(_train_epoch(model, loss, sentences, config, epoch))
            if sample:
                epochs[-1]["loss"] = sampled_loss(model, sample, config)
            facts = {"algorithm": config.algorithm, "epoch": epoch + 1, "epochs": epochs}
            State(arrays=arrays_of(model), facts=facts).save(output)
            report.note(_epoch_line(epochs[-1], config.epochs))
    return aligned(model.wv.vectors), {
        "algorithm": config.algorithm,
        "architecture": config.architecture,
        "epochs": epochs,
    }


def _train_epoch(model: Any, loss: Loss, sentences: Sentences, config: WordVectorsConfig, epoch: int) -> dict[str, Any]:
    """Train one epoch and describe it. Everything drawn at random depends on seed and epoch alone."""

    def rate(finished_epochs: int) -> float:
        return config.alpha - (config.alpha - config.min_alpha) * finished_epochs / config.epochs

    begin = time.monotonic()
    loss.reset()
    model.random = np.random.RandomState([config.seed, epoch])
    model.min_alpha_yet_reached = rate(epoch)
    trained, read = model.train(
        corpus_iterable=sentences,
        total_words=sentences.expected_words,
        epochs=1,
        start_alpha=rate(epoch),
        end_alpha=rate(epoch + 1),
        compute_loss=True,
    )
    if sentences.error:
        raise sentences.error
    if not trained:
        raise InputError(f"{config.tokens} has no sentence with two known words in it; there is nothing to train on")
    seconds = time.monotonic() - begin
    return {
        "epoch": epoch + 1,
        "loss": loss.total / trained if loss.total else None,
        "words": read,
        "trained_words": trained,
        "seconds": round(seconds, 2),
        "words_per_second": round(read / max(seconds, 1e-9)),
    }


def _epoch_line(epoch: dict[str, Any], epochs: int) -> str:
    loss = f"loss {epoch['loss']:.4f} a word, " if epoch["loss"] is not None else ""
    return f"epoch {epoch['epoch']} of {epochs}: {loss}{epoch['words_per_second']:,} words/s"
