"""Brings a worker to the step its run has reached: data, model, weights, optimizer, metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.settings import read_json
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.ledger.manifest import MANIFEST
from lstm_embed.model.folder import load_model
from lstm_embed.model.recipes import Model, class_of
from lstm_embed.model.sentence_model import SentenceModel
from lstm_embed.stages.wandb_run import WandbRun
from lstm_embed.training import checkpoint
from lstm_embed.training.batches import BatchPlan
from lstm_embed.training.checkpoint import State
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.learner import Layout, Learner, Share
from lstm_embed.training.loader import Loader
from lstm_embed.training.loop import Loop
from lstm_embed.training.neighbours import teach_neighbours
from lstm_embed.training.run import RUN, Run
from lstm_embed.training.session import Session
from lstm_embed.training.tracking import Tracker
from lstm_embed.training.wandb_log import start_wandb
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
    wandb: WandbRun | None


def set_up(config: TrainingConfig, run: Run, session: Session) -> Worker:
    """Build everything a worker needs, and take up the newest whole checkpoint of the run.

    Raises:
        InputError: if data, weights and settings do not go together.
    """
    torch.set_num_threads(config.torch_threads)
    tokens = TokenSet.open(config.tokens)
    model = make_model(config, tokens).to(session.device)
    learner = Learner(model, config, session, run.meaning["precision"])
    state = _restore(config, run, session, learner, tokens)
    progress = state.progress
    tracker = wandb = None
    if session.rank == 0:
        tracker = Tracker(run.path, model.measures, end=run.end, step=progress.step, window=state.window)
        wandb = start_wandb(config, run, tracker.file.kept, session.note)
        tracker.watch, tracker.saved = wandb.log_later, wandb.commit
    on_gpu = session.device.type == "cuda"
    loader: Loader[Share] = Loader(
        tokens,
        BatchPlan.of(tokens, config),
        min_tokens=config.min_tokens,
        max_tokens=config.model.train_max_tokens,
        rank=session.rank,
        world_size=session.world_size,
        transform=Layout(config.model.padded_length, together=on_gpu, pin=on_gpu),
        threads=_GPU_THREADS if on_gpu else 1,
        ahead=_GPU_AHEAD if on_gpu else 4,
    )

    def write(directory: str) -> None:
        assert tracker
        now = State(
            run=run.fingerprint,
            progress=progress,
            window=tracker.window,
            meaning=run.meaning,
            config=config.to_dict(),
        )
        moments = checkpoint.optimizer_tensors(model, learner.optimizer)
        checkpoint.save(directory, now, parameters=checkpoint.kept_tensors(model), moments=moments)

    return Worker(Loop(config, run, session, learner, loader, progress, tracker, write), tokens, wandb)


def make_model(config: TrainingConfig, tokens: TokenSet) -> Model:
    """Return the model before training.

    Raises:
        FingerprintMismatch: if the word vectors were made for another vocabulary.
    """
    words, vocabulary = WordVectors.load(config.vectors), tokens.vocabulary
    if words.vocabulary.fingerprint != vocabulary.fingerprint:
        raise FingerprintMismatch(
            f"the word vectors in {config.vectors} are not for the vocabulary of the token set {config.tokens}"
        )
    start: Any = class_of(config.model).start
    model: Model = start(config.model, words.vectors, vocabulary.counts, vocabulary.pieces, seed=config.seed)
    return model


def _restore(config: TrainingConfig, run: Run, session: Session, learner: Learner, tokens: TokenSet) -> State:
    """Take up the newest whole checkpoint as the first worker sees it, or make the start of the run; return its state."""
    found = checkpoint.newest(run.path, session.note, run) if session.rank == 0 else None
    path = session.share(found.path if found else None)
    if path is not None:
        found = found or checkpoint.load(path)
        learner.load(found)
        return found.state
    model = learner.model
    if config.init_from:
        take_weights(model, config.init_from)
    if session.rank == 0 and isinstance(model, SentenceModel):
        num_pairs = teach_neighbours(model, tokens, config.min_tokens)
        session.note(f"learned the meaning from {num_pairs:,} pairs of neighbouring sentences")
    _same_tensors(model, session)
    return State(run=run.fingerprint)


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
    tensors, own = _read_weights(storage.resolve(source)), checkpoint.trained_parameters(model)
    checkpoint.load_tensors(own, {name: tensors[name] for name in own if name in tensors}, source)


class _Kind(TypedDict):
    kind: str


def _read_weights(source: str) -> dict[str, Tensor]:
    if storage.exists(storage.join(source, RUN)):
        newest = checkpoint.newest(source, lambda message: None)
        if newest is None:
            raise InputError(f"run {source} holds no whole checkpoint to start from (--init-from)")
        return newest.parameters
    manifest = storage.join(source, MANIFEST)
    if not storage.exists(manifest):
        raise FileNotFoundError(
            f"no checkpoint, run or model at {source}; expected the folder of one, with its {MANIFEST} or {RUN} (--init-from)"
        )
    if read_json(manifest, _Kind)["kind"] == "model":
        return dict(load_model(source).model.state_dict())
    return checkpoint.load(source).parameters
