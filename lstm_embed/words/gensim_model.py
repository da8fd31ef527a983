"""gensim's models: made for a vocabulary, filled with saved weights, and with a loss that is counted right."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.vocabulary import FIRST_ID, Vocabulary
from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.folder import State, WordVectors


class Loss:
    """Sums the losses of all batches and threads; gensim's own float32 counter stops growing at 2^27 and loses what
    threads add at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.total = 0.0

    def add(self, value: float) -> None:
        with self._lock:
            self.total += float(value)

    def reset(self) -> None:
        self.total = 0.0


def new_model(config: WordVectorsConfig, vocabulary: Vocabulary) -> tuple[Any, Loss]:
    """Return a gensim model whose rows are the vocabulary's pieces in order, and where its losses go."""
    from gensim.models import Word2Vec

    loss = Loss()

    class LossCountingWord2Vec(Word2Vec):
        """gensim reads the counter before each batch and writes it back behind it."""

        @property
        def running_training_loss(self) -> float:
            return 0.0

        @running_training_loss.setter
        def running_training_loss(self, value: float) -> None:
            loss.add(value)

    model = LossCountingWord2Vec(
        vector_size=config.dimension,
        sg=int(config.architecture == "skip-gram"),
        window=config.window,
        negative=config.negative,
        sample=config.sample,
        min_count=1,
        sorted_vocab=0,
        workers=config.workers or num_cpus(),
        seed=config.seed,
    )
    # A given vocabulary may count 0 for a word; gensim would drop it and shift the rows.
    counts = np.maximum(vocabulary.counts, 1).tolist()
    model.build_vocab_from_freq(dict(zip(vocabulary.pieces[FIRST_ID:], counts[FIRST_ID:], strict=True)))
    return model, loss


def num_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def arrays_of(model: Any) -> dict[str, npt.NDArray[np.float32]]:
    """Return the weights of a model by the names `State` uses."""
    arrays = {"vectors": model.wv.vectors, "hidden": model.syn1neg}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def set_arrays(model: Any, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    """Give a model saved weights of its own sizes."""
    model.wv.vectors, model.syn1neg = arrays["vectors"], arrays["hidden"]


def start_from_earlier(model: Any, config: WordVectorsConfig, vocabulary: Vocabulary) -> None:
    """Give a new model the earlier weights of the pieces that both have.

    Raises:
        InputError: if the earlier vectors have another dimension.
    """
    path = storage.resolve(config.continue_from)
    earlier = WordVectors.load(path)
    num_pieces, dimension = len(earlier.vocabulary) - FIRST_ID, earlier.vectors.shape[1]
    if dimension != config.dimension:
        raise InputError(
            f"{path} was made with dimension {dimension}, and now it is {config.dimension}; to go on from it, use the same "
            f"(--dimension {dimension})"
        )
    # Imported vectors have no state: they are where the pieces start, and the output weights start at zero.
    state = State.load(path, num_pieces, dimension)
    arrays = state.arrays if state else {"vectors": earlier.vectors[FIRST_ID:]}
    rows = earlier.vocabulary.ids(vocabulary.pieces[FIRST_ID:]) - FIRST_ID
    known = rows >= 0
    own = arrays_of(model)
    for name, array in arrays.items():
        own[name][known] = array[rows[known]]
    set_arrays(model, own)


@contextlib.contextmanager
def quiet_gensim() -> Iterator[None]:
    """Keep gensim from warning about what is meant here: learning rates that start anew, counts that are estimates."""
    logger = logging.getLogger("gensim")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
