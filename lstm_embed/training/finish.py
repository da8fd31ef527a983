"""What a run leaves: its best model as a model folder, and the note that it has ended. On the first worker."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import secrets
import shutil
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.model.folder import save_model
from lstm_embed.training import checkpoint
from lstm_embed.training.checkpoint import Checkpoint
from lstm_embed.training.run import Done, Progress, RunFolder
from lstm_embed.training.setup import Worker


def finish(worker: Worker) -> Done:
    """Write the model folder from the best checkpoint, and note that the run has ended."""
    run, progress = worker.loop.run, worker.loop.progress
    folder = RunFolder(run.path)
    best = _best_checkpoint(worker, progress)
    step = best.state.progress.step
    done = Done(**dataclasses.asdict(progress), epochs=run.schedule.epochs, run=run.fingerprint, model_step=step)
    checkpoint.load_tensors(checkpoint.kept_tensors(worker.loop.learner.model), best.parameters, best.path)
    provenance = {
        "run_name": storage.name(run.path),
        "run": run.fingerprint,
        "step": step,
        "validation_loss": progress.best_loss,
        "tokens": run.meaning["tokens"],
        "vectors": run.meaning["vectors"],
        "corpus": {name: worker.tokens.totals.get(name) for name in ("articles", "sentences", "tokens")},
        "epochs": done.epochs,
    }
    _publish(folder.model_dir, worker, provenance)
    folder.write_done(done)
    return done


def _best_checkpoint(worker: Worker, progress: Progress) -> Checkpoint:
    run, note = worker.loop.run, worker.loop.session.note
    if progress.best_step >= 0:
        name = checkpoint.name_of(progress.best_step)
        try:
            return checkpoint.load(storage.join(run.path, name))
        except (FileNotFoundError, InputError) as error:
            note(f"the best checkpoint, {name}, is gone or damaged; the model is that of the newest ({error})")
    newest = checkpoint.newest(run.path, note, run)
    if newest is None:
        raise InputError(f"{run.path} holds no whole checkpoint to make a model of; run the same command again")
    return newest


def _publish(model_dir: str, worker: Worker, provenance: dict[str, Any]) -> None:
    """Write the model folder; locally the one before stays whole until the new one takes its place."""
    model, vocabulary, tokenizer = worker.loop.learner.model, worker.tokens.vocabulary, worker.tokens.tokenizer
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
