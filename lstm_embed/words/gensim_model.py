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
    from gensim.models import FastText, Word2Vec

    loss = Loss()

    class LossCountingWord2Vec(Word2Vec):
        """gensim reads the counter before each batch and writes it back behind it."""

        @property
        def running_training_loss(self) -> float:
            return 0.0

        @running_training_loss.setter
        def running_training_loss(self, value: float) -> None:
            loss.add(value)

    kind: type = LossCountingWord2Vec
    options: dict[str, Any] = {}
    if config.algorithm == "fasttext":
        kind = FastText
        options = {"min_n": config.subword_min, "max_n": config.subword_max, "bucket": config.subword_buckets}
    model = kind(
        vector_size=config.dimension,
        sg=int(config.architecture == "skip-gram"),
        window=config.window,
        negative=config.negative,
        sample=config.sample,
        min_count=1,
        sorted_vocab=0,
        workers=config.workers or num_cpus(),
        seed=config.seed,
        **options,
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
    if hasattr(model.wv, "vectors_ngrams"):
        arrays = {"words": model.wv.vectors_vocab, "subwords": model.wv.vectors_ngrams, "hidden": model.syn1neg}
    else:
        arrays = {"vectors": model.wv.vectors, "hidden": model.syn1neg}
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def set_arrays(model: Any, arrays: dict[str, npt.NDArray[np.float32]]) -> None:
    """Give a model saved weights.

    Raises:
        InputError: if they are of another model.
    """
    own, given = ({name: one.shape for name, one in these.items()} for these in (arrays_of(model), arrays))
    if own != given:
        raise InputError(f"the saved weights are {given}, and these settings make {own}; train in another folder")
    model.syn1neg = arrays["hidden"]
    if "subwords" in arrays:
        model.wv.vectors_vocab, model.wv.vectors_ngrams = arrays["words"], arrays["subwords"]
        model.wv.adjust_vectors()
    else:
        model.wv.vectors = arrays["vectors"]


def start_from_earlier(model: Any, config: WordVectorsConfig, vocabulary: Vocabulary) -> None:
    """Give a new model the earlier weights of the pieces that both have.

    Raises:
        InputError: if the earlier training was of another kind or size.
    """
    path = storage.resolve(config.continue_from)
    earlier = WordVectors.load(path)
    num_pieces, dimension = len(earlier.vocabulary) - FIRST_ID, earlier.vectors.shape[1]
    state = State.load(path, num_pieces, dimension)
    made: dict[str, Any] = {"algorithm": state.facts["algorithm"] if state else "word2vec", "dimension": dimension}
    if made["algorithm"] == "fasttext":
        made |= {name: earlier.settings.get(name) for name in ("subword_min", "subword_max", "subword_buckets")}
    for name, before in made.items():
        if before != (now := getattr(config, name)):
            raise InputError(
                f"{path} was made with {name} {before}, and now it is {now}; to go on from it, use the same "
                f"(--{name.replace('_', '-')} {before})"
            )
    # Imported vectors have no state: they are where the pieces start, and the output weights start at zero.
    arrays = state.arrays if state else {"vectors": earlier.vectors[FIRST_ID:]}
    rows = earlier.vocabulary.ids(vocabulary.pieces[FIRST_ID:]) - FIRST_ID
    known = rows >= 0
    own = arrays_of(model)
    for name, array in arrays.items():
        if name == "subwords":
            own[name] = array
        else:
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
