"""Brings a worker to the step its run has reached: data, model, weights, optimizer, metrics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.ledger.sealed import read_manifest
from lstm_embed.model.folder import load_model
from lstm_embed.model.recipes import Model, class_of
from lstm_embed.model.sentence_model import SentenceModel
from lstm_embed.training import checkpoint
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.learner import Layout, Learner, Share
from lstm_embed.training.loader import Loader, PartCache
from lstm_embed.training.loop import Loop, Progress
from lstm_embed.training.neighbours import teach_neighbours
from lstm_embed.training.run import Run
from lstm_embed.training.session import Session, restore_path
from lstm_embed.training.tracking import Tracker
from lstm_embed.training.wandb_log import WandbLog
from lstm_embed.words.folder import WordVectors

_GPU_THREADS, _GPU_AHEAD = 4, 16


@dataclass
class Worker:
    """A worker at the step its run has reached.

    Attributes:
        loop: Ready to train.
        tokens: The token set.
        wandb: Of the first worker; None for the others.
    """

    loop: Loop
    tokens: TokenSet
    wandb: WandbLog | None


def plan_of(config: TrainingConfig, tokens: TokenSet) -> BatchPlan:
    """Return the batch plan a config stands for."""
    return BatchPlan.of(
        tokens,
        min_tokens=config.min_tokens,
        seed=config.seed,
        micro_batch_sentences=config.micro_batch_sentences,
        micro_batches_per_step=config.micro_batches_per_step,
        buffer_sentences=config.buffer_sentences,
    )


def steps_of(config: TrainingConfig, plan: BatchPlan) -> int:
    """Return how many steps a config asks for."""
    steps = plan.first_step(config.epochs)
    return min(steps, config.max_steps) if config.max_steps else steps


def set_up(config: TrainingConfig, run: Run, session: Session) -> Worker:
    """Build everything a worker needs, and take up the newest whole checkpoint of the run.

    Raises:
        InputError: if data, weights and settings do not go together.
    """
    torch.set_num_threads(config.torch_threads)
    tokens = TokenSet.open(config.tokens)
    cache = PartCache(config.cache_dir, config.cache_bytes)
    plan = plan_of(config, tokens)
    model = make_model(config, tokens).to(session.device)
    learner = Learner(model, config, session, run.meaning["precision"])
    state = _restore(config, run, session, learner, tokens, cache)
    progress = Progress(**state["progress"])
    tracker = wandb = None
    if session.rank == 0:
        tracker = Tracker(run.path, model.measures, end=run.end, step=progress.step, window=state["window"])
        wandb = WandbLog(config, run, rows=tracker.rows, sure_step=state["wandb_step"], note=session.note)
        tracker.sinks.append(wandb)
    on_gpu = session.device.type == "cuda"
    loader: Loader[Share] = Loader(
        tokens,
        plan,
        cache,
        min_tokens=config.min_tokens,
        max_tokens=config.model.train_max_tokens,
        rank=session.rank,
        world_size=session.world_size,
        transform=Layout(config.model.padded_length, together=on_gpu, pin=on_gpu),
        threads=_GPU_THREADS if on_gpu else 1,
        ahead=_GPU_AHEAD if on_gpu else 4,
    )

    def write(directory: str) -> None:
        at = plan.locate(progress.step)
        values = {
            "step": progress.step,
            "position": {"seed": config.seed, "epoch": at.epoch, "step_in_epoch": at.step_in_epoch},
            "run": run.fingerprint,
            "meaning": run.meaning,
            "phases": [dataclasses.asdict(phase) for phase in run.phases],
            "config": config.to_dict(),
            "progress": dataclasses.asdict(progress),
            "window": tracker.window if tracker else {},
            "scaler": learner.state(),
            # All chance is drawn from (seed, step), so this is the whole state of the random numbers.
            "random": {"seed": config.seed, "step": progress.step},
            "wandb_id": run.wandb_id,
            "wandb_step": wandb.sure_step if wandb else -1,
        }
        checkpoint.save(
            directory,
            values,
            parameters=checkpoint.kept_tensors(model),
            moments=checkpoint.optimizer_tensors(model, learner.optimizer),
        )
        if wandb:
            wandb.upload()

    loop = Loop(config, run, session, learner, loader, progress, tracker, write)
    return Worker(loop, tokens, wandb)


def make_model(config: TrainingConfig, tokens: TokenSet) -> Model:
    """Return the model before training.

    Raises:
        FingerprintMismatch: if the word vectors were made for another vocabulary.
    """
    vectors = WordVectors.load(config.vectors)
    check_vectors(config, tokens, vectors.vocabulary.fingerprint)
    vocabulary = tokens.vocabulary
    start: Any = class_of(config.model).start
    model: Model = start(config.model, vectors.vectors, vocabulary.counts, vocabulary.pieces, seed=config.seed)
    return model


def check_vectors(config: TrainingConfig, tokens: TokenSet, vocabulary_fingerprint: str) -> None:
    """Refuse word vectors that do not belong to the token set."""
    if vocabulary_fingerprint != tokens.vocabulary_fingerprint:
        raise FingerprintMismatch(
            f"the word vectors in {config.vectors} are for the vocabulary {vocabulary_fingerprint[:8]}, the token set "
            f"{config.tokens} has the vocabulary {tokens.vocabulary_fingerprint[:8]}; make word vectors of this token set"
        )


def _restore(
    config: TrainingConfig, run: Run, session: Session, learner: Learner, tokens: TokenSet, cache: PartCache
) -> dict[str, Any]:
    """Take up the newest whole checkpoint, or make the start of the run; return what is not a tensor."""
    path = restore_path(run.path, session)
    if path is not None:
        found = checkpoint.load(path)
        if found.state["run"] != run.fingerprint:
            raise FingerprintMismatch(
                f"checkpoint {path} is of a run with other settings or data (fingerprint {found.state['run'][:8]}, this run "
                f"has {run.fingerprint[:8]}); take it out of the folder, or start from it under another name with --init-from"
            )
        learner.load(found)
        return found.state
    model = learner.model
    if config.init_from:
        take_weights(model, config.init_from)
    if session.rank == 0 and isinstance(model, SentenceModel):
        num_pairs = teach_neighbours(model, tokens, cache, config.min_tokens)
        session.note(f"learned the meaning from {num_pairs:,} pairs of neighbouring sentences")
    _same_tensors(model, session)
    return {"progress": {}, "window": {}, "wandb_step": -1}


def _same_tensors(model: Model, session: Session) -> None:
    """Give all workers the first one's tensors; other processors may have rounded theirs differently."""
    tensors = list(checkpoint.kept_tensors(model).values())
    flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
    session.all_reduce(flat if session.rank == 0 else flat.zero_())
    for tensor, values in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.detach().copy_(values.view_as(tensor))


def take_weights(model: Model, source: str) -> None:
    """Set a model's trained parameters to those of an earlier one.

    Args:
        model: The new model.
        source: A checkpoint, the folder of a run (its newest whole checkpoint counts) or a model folder.

    Raises:
        FileNotFoundError: if there is nothing.
        InputError: if it is none of these, or a model of other shape.
    """
    tensors = _read_weights(storage.resolve(source))
    taken = {name: tensors[name] for name in checkpoint.trained_parameters(model) if name in tensors}
    checkpoint.load_tensors(checkpoint.trained_parameters(model), taken, source)


def _read_weights(source: str) -> dict[str, Tensor]:
    if storage.exists(storage.join(source, "run.json")):
        newest = checkpoint.newest(source, lambda message: None)
        if newest is None:
            raise InputError(f"run {source} holds no whole checkpoint to start from (--init-from)")
        source = newest
    if not storage.exists(source):
        raise FileNotFoundError(f"nothing at {source}; expected a checkpoint, run or model folder (--init-from)")
    manifest_path = storage.join(source, "manifest.json")
    kind = storage.read_json(manifest_path).get("kind") if storage.exists(manifest_path) else None
    if kind == "model":
        return dict(load_model(source).model.state_dict())
    read_manifest(source, kind=checkpoint.KIND)
    return checkpoint.load(source).parameters
