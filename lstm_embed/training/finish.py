"""What a run leaves: its best model as a model folder, and the note that it has ended. On the first worker."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from typing import Any

import numpy as np

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.ledger.sealed import read_manifest
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.folder import KIND, save_model
from lstm_embed.model.recipes import Model
from lstm_embed.training import checkpoint
from lstm_embed.training.learner import Share
from lstm_embed.training.run import Run, RunFolder
from lstm_embed.training.setup import Worker
from lstm_embed.training.wandb_log import WandbLog

_NUM_EXAMPLES, _NUM_SENTENCES = 8, 256


def finish(folder: RunFolder, run: Run, worker: Worker) -> dict[str, Any]:
    """Write the model folder from the best checkpoint, unless it is there, and note that the run has ended."""
    progress = worker.loop.progress
    facts: dict[str, Any] = {
        "step": progress.step,
        "epochs": run.phases[-1].epochs,
        "sentences": progress.sentences,
        "tokens": progress.tokens,
        "best_step": progress.best_step,
        "best_loss": progress.best_loss,
        "run": run.fingerprint,
    }
    path = _best_checkpoint(folder, progress.best_step)
    facts["model_step"] = checkpoint.step_of(path)
    before = folder.done() or {}
    same = all(before.get(name) == facts[name] for name in ("model_step", "run"))
    if not (same and has_model(folder)):
        found = checkpoint.load(path)
        model = worker.loop.learner.model
        checkpoint.load_tensors(checkpoint.kept_tensors(model), found.parameters, path)
        provenance = {
            "run_name": storage.name(folder.path),
            "run": run.fingerprint,
            "step": facts["model_step"],
            "validation_loss": progress.best_loss,
            "tokens": run.meaning["tokens"],
            "vectors": run.meaning["vectors"],
            "corpus": {name: worker.tokens.totals.get(name) for name in ("articles", "sentences", "tokens")},
            "epochs": facts["epochs"],
        }
        _publish(folder.model_dir, model, worker, provenance)
    folder.write_done(facts)
    return facts


def has_model(folder: RunFolder) -> bool:
    """Tell whether the run's model folder is finished."""
    with contextlib.suppress(FileNotFoundError, InputError):
        read_manifest(folder.model_dir, kind=KIND)
        return True
    return False


def _best_checkpoint(folder: RunFolder, best_step: int) -> str:
    best = storage.join(folder.path, checkpoint.name_of(best_step))
    with contextlib.suppress(InputError):
        if best_step >= 0:
            checkpoint.verify(best)
            return best
    newest = checkpoint.newest(folder.path, lambda message: None)
    if newest is None:
        raise InputError(f"{folder.path} holds no whole checkpoint to make a model of; run the same command again")
    return newest


def _publish(model_dir: str, model: Model, worker: Worker, provenance: dict[str, Any]) -> None:
    """Write the model folder; locally the one before stays whole until the new one takes its place."""
    vocabulary, tokenizer = worker.tokens.vocabulary, worker.tokens.tokenizer
    if storage.is_remote(model_dir):
        save_model(model_dir, model, vocabulary, tokenizer, provenance)
        return
    parent, name = os.path.split(model_dir)
    for left in os.listdir(parent):
        if left.startswith(f".{name}-"):
            shutil.rmtree(os.path.join(parent, left))
    new, old = (os.path.join(parent, f".{name}-{kind}-{secrets.token_hex(4)}") for kind in ("new", "old"))
    save_model(new, model, vocabulary, tokenizer, provenance)
    with contextlib.suppress(FileNotFoundError):
        os.rename(model_dir, old)
    os.rename(new, model_dir)
    shutil.rmtree(old, ignore_errors=True)


def send_examples(wandb: WandbLog, worker: Worker, shares: list[tuple[int, Share]], step: int) -> None:
    """Send reconstructions and nearest neighbours of some held-out sentences to Weights & Biases; they are the user's text."""
    vocabulary = worker.tokens.vocabulary
    ids = [
        row[:length]
        for _, share in shares
        for one in share.micro_batches
        for row, length in zip(one.ids_BT, one.lengths_B, strict=True)
        if length
    ][:_NUM_SENTENCES]
    if len(ids) < 2:
        return
    model = worker.loop.learner.model
    encoder = SentenceEncoder(model, vocabulary, worker.tokens.tokenizer, device=str(model.device))
    # cuDNN has no gradient outside training mode.
    model.train()
    vectors = encoder.encode_ids(ids)
    likeness = encoder.similarity(vectors, vectors)
    np.fill_diagonal(likeness, -1.0)
    chosen = range(0, len(ids), max(1, len(ids) // _NUM_EXAMPLES))[:_NUM_EXAMPLES]
    rows: list[list[Any]] = []
    for row, made in zip(chosen, encoder.decode(vectors[list(chosen)]), strict=True):
        near = int(likeness[row].argmax())
        texts = [" ".join(vocabulary.words(ids[n])) for n in (row, near)]
        rows.append([texts[0], made.text, texts[1], float(likeness[row, near])])
    wandb.log_table("val/examples", step, ["sentence", "reconstruction", "nearest", "cosine"], rows)
