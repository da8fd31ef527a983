"""Brings a worker to the step its run has reached: data, model, weights, optimizer, metrics."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lstm_embed import storage
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.errors import FingerprintMismatch, InputError
from lstm_embed.ledger.sealed import read_manifest
from lstm_embed.model.autoencoder import Autoencoder
from lstm_embed.model.folder import load_model
from lstm_embed.training import checkpoint
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.learner import Layout, Learner, Share
from lstm_embed.training.loader import GroupRules, Loader, PartCache
from lstm_embed.training.loop import Loop, Progress
from lstm_embed.training.run import Run
from lstm_embed.training.session import Session, restore_path
from lstm_embed.training.tracking import Tracker
from lstm_embed.training.wandb_log import WandbLog
from lstm_embed.word_vectors.folder import WordVectors

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
        group_size=config.group_size,
        groups_per_step=config.groups_per_step,
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
    vocabulary = tokens.vocabulary
    plan = plan_of(config, tokens)
    model = make_model(config, tokens).to(session.device)
    learner = Learner(model, config, session, run.meaning["precision"])
    state = _restore(config, run, session, learner, vocabulary)
    progress = Progress(**state["progress"])
    tracker = wandb = None
    if session.rank == 0:
        tracker = Tracker(run.path, learner.measured, end=run.end, step=progress.step, window=state["window"])
        wandb = WandbLog(config, run, rows=tracker.rows, sure_step=state["wandb_step"], note=session.note)
        tracker.sinks.append(wandb)
    on_gpu = session.device.type == "cuda"
    loader: Loader[Share] = Loader(
        tokens,
        plan,
        GroupRules(
            min_tokens=config.min_tokens,
            max_tokens=config.model.train_max_tokens,
            noise=config.model.noise,
            num_negatives=config.model.num_negatives,
        ),
        PartCache(config.cache_dir, config.cache_bytes),
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
            # All chance is drawn from (seed, step, group), so this is the whole state of the random numbers.
            "random": {"seed": config.seed, "step": progress.step},
            "wandb_id": run.wandb_id,
            "wandb_step": wandb.sure_step if wandb else -1,
        }
        checkpoint.save(
            directory,
            values,
            parameters=checkpoint.trained_parameters(model),
            moments=checkpoint.optimizer_tensors(model, learner.optimizer),
            vocabulary=vocabulary,
        )
        if wandb:
            wandb.upload()

    loop = Loop(config, run, session, learner, loader, progress, tracker, write)
    return Worker(loop, tokens, wandb)


def make_model(config: TrainingConfig, tokens: TokenSet) -> Autoencoder:
    """Return the model before training.

    Raises:
        FingerprintMismatch: if the word vectors were made for another vocabulary.
    """
    vectors = WordVectors.load(config.vectors)
    check_vectors(config, tokens, vectors.vocabulary.fingerprint)
    vocabulary = tokens.vocabulary
    return Autoencoder(config.model, vectors.vectors, vocabulary.counts, words=vocabulary.words, seed=config.seed)


def check_vectors(config: TrainingConfig, tokens: TokenSet, vocabulary_fingerprint: str) -> None:
    """Refuse word vectors that do not belong to the token set."""
    if vocabulary_fingerprint != tokens.vocabulary_fingerprint:
        raise FingerprintMismatch(
            f"the word vectors in {config.vectors} are for the vocabulary {vocabulary_fingerprint[:8]}, the token set "
            f"{config.tokens} has the vocabulary {tokens.vocabulary_fingerprint[:8]}; make word vectors of this token set"
        )


def _restore(
    config: TrainingConfig, run: Run, session: Session, learner: Learner, vocabulary: Vocabulary
) -> dict[str, Any]:
    """Take up the newest whole checkpoint, or the weights the run starts from; return what is not a tensor."""
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
    if config.init_from:
        take_weights(learner.model, vocabulary, config.init_from)
    _same_weights(learner.model, session)
    return {"progress": {}, "window": {}, "wandb_step": -1}


def _same_weights(model: Autoencoder, session: Session) -> None:
    """Give all workers the first one's weights; other processors may have rounded the initial ones differently."""
    parameters = list(checkpoint.trained_parameters(model).values())
    flat = torch.cat([parameter.detach().flatten() for parameter in parameters])
    session.all_reduce(flat if session.rank == 0 else flat.zero_())
    for parameter, values in zip(parameters, flat.split([parameter.numel() for parameter in parameters]), strict=True):
        parameter.detach().copy_(values.view_as(parameter))


def take_weights(model: Autoencoder, vocabulary: Vocabulary, source: str) -> int:
    """Set a model's trained parameters to those of an earlier one, word by word where a row stands for a word.

    Args:
        model: The new model; words that the earlier one did not know keep their start values.
        vocabulary: Its words.
        source: A checkpoint, the folder of a run (its newest whole checkpoint counts) or a model folder.

    Returns:
        How many words both know.

    Raises:
        FileNotFoundError: if there is nothing.
        InputError: if it is none of these, or a model of other shape.
    """
    tensors, words = _read_weights(storage.resolve(source))
    index = {word: row for row, word in enumerate(words.words)}
    old_row = np.array([index.get(word, -1) for word in vocabulary.words])
    known = torch.from_numpy(np.flatnonzero(old_row >= 0))
    rows = torch.from_numpy(old_row[old_row >= 0])
    taken: dict[str, Tensor] = {}
    for name, parameter in checkpoint.trained_parameters(model).items():
        if name not in tensors:
            continue
        taken[name] = tensors[name]
        if name in ("word_theta", "word_vectors"):
            taken[name] = parameter.detach().cpu().clone()
            if taken[name].shape[1:] == tensors[name].shape[1:]:
                taken[name][known] = tensors[name][rows]
    checkpoint.load_parameters(model, taken, source)
    return len(known)


def _read_weights(source: str) -> tuple[dict[str, Tensor], Vocabulary]:
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
        model = load_model(source)
        return dict(model.autoencoder.state_dict()), model.vocabulary
    read_manifest(source, kind=checkpoint.KIND)
    found = checkpoint.load(source)
    return found.parameters, Vocabulary.load(storage.join(source, checkpoint.VOCABULARY))
