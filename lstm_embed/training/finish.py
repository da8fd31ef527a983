"""What a run leaves: its best model as a model folder, and the note that it has ended. On the first worker."""

from __future__ import annotations

import dataclasses

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
    model = worker.loop.learner.model
    checkpoint.load_tensors(checkpoint.kept_tensors(model), best.parameters, best.path)
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
    save_model(folder.model_dir, model, worker.tokens.vocabulary, worker.tokens.tokenizer, provenance)
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
