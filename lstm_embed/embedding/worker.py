"""What an actor does: hold the model, embed chunks, commit them as parts.

Two chunks are in an actor's hands at a time: while one is being written, the model works on the other. Vectors never leave
the actor but as a part.
"""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.base.errors import FingerprintMismatch
from lstm_embed.embedding.reuse import EarlierVectors, Reuse
from lstm_embed.embedding.vectors import Matrix, VectorFormat, made_with, unit_rows, write_vectors
from lstm_embed.ledger import PartRecord, PartStore
from lstm_embed.ledger.parts import read_record

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

_WORTH = 1.5
"""Times as fast as fp32 that bf16 must be to be worth its rounding."""
_MEASURED = 1 << 21
"""Sentences of the measurement, times the LSTM's units and the steps of a sentence: about a second of work."""
_MOST_ROWS, _STEPS, _WORDS, _ROUNDS = 1024, 16, 512, 3

REUSED = "_reused"
"""In the stats of a record on its way to the driver: rows whose vectors were copied. Not part of what is committed."""


class EmbedChunk:
    """An actor that holds the model, embeds chunks and commits them as parts.

    Args:
        model: Model folder.
        model_fingerprint: Fingerprint of the model that the driver saw there.
        embedding: What the vectors consist of.
        store: Where the parts go.
        format: How they are written.
        precision: Arithmetic of the model, as the driver resolved it.
        gpu: Compute on the GPU.
        batch_tokens: Tokens of one batch through the model.
        reuse: Earlier vectors, if there are any.
    """

    def __init__(
        self,
        *,
        model: str,
        model_fingerprint: str,
        embedding: str,
        store: PartStore,
        format: VectorFormat,
        precision: str,
        gpu: bool,
        batch_tokens: int,
        reuse: Reuse | None,
    ) -> None:
        self._gpu = gpu
        self._encoder = open_model(model, model_fingerprint, embedding, gpu=gpu, precision=precision)
        self._store = store
        self._format = format
        self._batch_tokens = batch_tokens * (16 if gpu else 1)
        self._earlier = EarlierVectors(reuse, self._encoder.embedding_dimension) if reuse else None
        self._about = {
            "model": model_fingerprint,
            "embedding": embedding,
            "precision": precision,
            "made_with": made_with(),
        }
        self._encoding, self._copying = threading.Lock(), threading.Lock()

    def __call__(self, record: PartRecord, table: pa.Table) -> PartRecord:
        """Embed a chunk, commit it and return the record of the part as written.

        A part that is there already is left as it is: it was committed out of turn, or by this actor before it was killed.
        """
        if found := committed(self._store, record):
            return found
        rows, vectors, num_copied = self._vectors(table)
        known: npt.NDArray[np.bool_] = np.any(vectors, axis=1)
        stats = {**record.stats, "without_words": int((~known).sum())}
        if self._format.empty == "drop" and not known.all():
            rows, vectors = rows.filter(pa.array(known)), vectors[known]
        written = replace(record, rows=rows.num_rows, stats=stats)
        write_vectors(self._store, written, rows.drop_columns(["article"]), vectors, self._format, self._about)
        return replace(written, stats={**stats, REUSED: num_copied})

    def _vectors(self, table: pa.Table) -> tuple[pa.Table, Matrix, int]:
        """Return the rows of a part with their vectors, and how many of these were copied."""
        ids = table["ids"].combine_chunks()
        rows = table.drop_columns(["ids"])
        of_article: npt.NDArray[np.int64] | None = None
        if self._format.level == "article":
            rows, of_article = article_rows(rows)
        vectors, copied = self._copied(rows)
        if not copied.all():
            wanted = ~copied if of_article is None else ~copied[of_article]
            new = self._encoded(ids if wanted.all() else ids.filter(pa.array(wanted)))
            if of_article is not None:
                number = np.cumsum(~copied) - 1
                new = means(new, number[of_article[wanted]], int((~copied).sum()))
            new = unit_rows(new) if self._format.normalize else new
            if not copied.any():
                return rows, new, 0
            vectors[~copied] = new
        return rows, vectors, int(copied.sum())

    def _copied(self, rows: pa.Table) -> tuple[Matrix, npt.NDArray[np.bool_]]:
        """Return earlier vectors where there are some, and for which rows."""
        vectors = np.zeros((rows.num_rows, self._encoder.embedding_dimension), np.float32)
        if not self._earlier:
            return vectors, np.zeros(rows.num_rows, np.bool_)
        with self._copying:
            return vectors, self._earlier.copy(rows, vectors)

    def _encoded(self, ids: pa.ListArray) -> Matrix:
        """Return the vectors the model gives to lists of ids."""
        with self._encoding:
            if not self._gpu:
                compute_alone()
            return self._encoder.encode_ids(ids, batch_tokens=self._batch_tokens)


def open_model(
    path: str, fingerprint: str, embedding: str, *, gpu: bool = False, precision: str = "fp32"
) -> SentenceEncoder:
    """Load the model that the driver saw.

    Raises:
        FingerprintMismatch: if another one is there now.
    """
    from lstm_embed.model.encoder import SentenceEncoder

    if not gpu:
        compute_alone()
    encoder = SentenceEncoder.load(path, "cuda" if gpu else "cpu", precision, embedding)
    if encoder.fingerprint != fingerprint:
        raise FingerprintMismatch(
            f"{path} is the model {encoder.fingerprint[:8]} now and was {fingerprint[:8]} when the job began; run the job "
            "again when the model is at rest"
        )
    return encoder


def choose_precision(model: str, embedding: str) -> tuple[str, float]:
    """Return "bf16" if an actor on a CPU like this one would be much faster in it, else "fp32", and how much faster it was.

    Both embed the same made-up sentences with the model, in turns, in CPU seconds, which others on the machine disturb less.

    Args:
        model: Model folder.
        embedding: What the vectors consist of.

    Returns:
        The precision, and the times as fast as fp32 that bf16 was; 0 where the CPU does not have it.
    """
    import torch

    from lstm_embed.model.batch import FIRST_WORD
    from lstm_embed.model.encoder import SentenceEncoder, resolve_precision

    if resolve_precision("auto") != "bf16":
        return "fp32", 0.0
    full = SentenceEncoder.load(model, embedding=embedding)
    half = SentenceEncoder(full.model, full.vocabulary, full.tokenizer, embedding=full.embedding, precision="bf16")
    steps = max(_STEPS, full.config.padded_length)
    number = min(_MOST_ROWS, max(1, _MEASURED // (full.config.hidden_size * steps)))
    most = min(_WORDS, len(full.vocabulary))
    sentences = np.random.default_rng(0).integers(FIRST_WORD, most, (number, _STEPS))
    seconds = {full: np.inf, half: np.inf}
    threads = torch.get_num_threads()
    compute_alone()
    try:
        for _, encoder in itertools.product(range(_ROUNDS), seconds):
            started = time.thread_time()
            encoder.encode_ids(list(sentences))
            seconds[encoder] = min(seconds[encoder], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    gain = float(seconds[full] / max(seconds[half], 1e-9))
    return "bf16" if gain >= _WORTH else "fp32", gain


def compute_alone() -> None:
    """Let this thread of an actor compute alone: two that wait for each other at every step are slower than one."""
    import torch

    torch.set_num_threads(1)


def committed(store: PartStore, record: PartRecord) -> PartRecord | None:
    """Return the record of a part as it was committed before, None if it was not, or of something else."""
    try:
        found = read_record(store.path(record.unit, record.part))
    except FileNotFoundError:
        return None
    same = found and (found.fingerprint, found.input_digest) == (record.fingerprint, record.input_digest)
    return found if same else None


def article_rows(table: pa.Table) -> tuple[pa.Table, npt.NDArray[np.int64]]:
    """Return one row an article instead of one a sentence, and for each sentence the number of its row."""
    article = table["article"].to_numpy()
    is_start = np.ones(len(article), np.bool_)
    is_start[1:] = article[1:] != article[:-1]
    starts = np.flatnonzero(is_start)
    counts = np.diff(np.append(starts, len(article))).astype(np.int32)
    rows = table.take(pa.array(starts)).drop_columns(["sentence", "start", "end"])
    dropped = [name for name in ("text",) if name in rows.column_names]
    return rows.drop_columns(dropped).append_column("num_sentences", pa.array(counts)), np.cumsum(is_start) - 1


def means(vectors: Matrix, group: npt.NDArray[np.int64], num_groups: int) -> Matrix:
    """Return the mean vector of each group; rows of zeros do not count. Groups are numbered and lie one after the other."""
    known: npt.NDArray[Any] = np.any(vectors, axis=1)
    sums = np.zeros((num_groups, vectors.shape[1]), np.float32)
    if len(group):
        starts = np.flatnonzero(np.append(True, group[1:] != group[:-1]))
        sums[group[starts]] = np.add.reduceat(vectors, starts, axis=0)
    counts = np.bincount(group[known], minlength=num_groups)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
