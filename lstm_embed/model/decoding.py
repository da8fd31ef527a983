"""From a vector back to its sentence: which words, in which order, and whether that is proven.

What neighbours taught is undone, and the halves of the meaning are brought back to length 1, so that scaled vectors decode too.
The lengths that are stored beside them make sums of words and of spelling of the halves; `pursuit` finds the words in these, or
`leanings` those it leans to.
Their order is found by `assignment` where the vector has positions, else by the LSTM decoder: of its best answers the one is
taken whose code, computed again, is nearest, and changed word by word while that brings the code nearer. What came out is
encoded again and compared with the vector.

Shape suffixes: n vectors, E embedding, M meaning, D order, P positions, R sentences, W candidates of each.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.pieces import MARK
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.model.assignment import find_orders
from lstm_embed.model.batch import from_lists
from lstm_embed.model.config import PARTS
from lstm_embed.model.dictionary import Dictionary
from lstm_embed.model.leanings import find_leanings
from lstm_embed.model.positions import frequencies
from lstm_embed.model.pursuit import find_words
from lstm_embed.model.sentence_model import LENGTH_SCALE, SentenceModel

Matrix = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Encode = Callable[[Sequence[Ids] | pa.ListArray, str], Matrix]
"""Returns the vectors of lists of ids; the second argument is the embedding."""

_AT_ONCE = 64
_BEAM = 8
_UNEQUAL = 0.02
"""Difference of the halves' lengths, as a share, from which a vector is taken to be no sentence's."""
_LONGEST_LOG = 12.0
"""Logarithm of a length that no sentence reaches."""
_SAME_CODE, _MARGIN = 2e-3, 4.0
"""Distance of two codes of length 1 up to which they are the same, rounded to float16; the next best order of `joined` must be
so many times farther for a proof."""
_FARTHEST, _MOST_CHANGES, _MOST_TOGETHER = 4, 12, 6
"""How far words are swapped or moved to bring the code nearer, in how many rounds, and how many at once."""
_LONGEST_MENDED = 40
"""Words of a sentence above which that is left: it costs much and finds little."""
_IMPOSSIBLE = -1e20
_NOISE = 1e-6


@dataclass(frozen=True)
class Decoded:
    """What a vector gives back.

    Attributes:
        text: The words, joined by spaces.
        words: The words: in order where the vector tells it, else those it leans to most, the most first; what can only be told
            of a word's inside begins with a hyphen then.
        proven: Whether these words, encoded again, make the vector; see `SentenceEncoder.decode`.
    """

    text: str
    words: tuple[str, ...]
    proven: bool


@dataclass(frozen=True)
class _Nearest:
    """The order whose code is nearest, how far it is, and how far the next one that was tried is."""

    ids: Ids
    distance: float
    next_best: float


class VectorDecoder:
    """Decodes vectors of one model and embedding.

    Args:
        model: The model.
        vocabulary: Its pieces.
        embedding: What the vectors consist of.
        encode: Encodes ids as the vectors were encoded.

    Raises:
        InputError: if the vectors are the order alone, which says nothing without its words.
    """

    def __init__(self, model: SentenceModel, vocabulary: Vocabulary, embedding: str, encode: Encode) -> None:
        if "meaning" not in PARTS[embedding]:
            raise InputError(
                f"vectors of the embedding {embedding} hold the order of the words but not the words; decode vectors of "
                "meaning, joined or exact (--embedding)"
            )
        self._model, self._vocabulary, self._embedding, self._encode = model, vocabulary, embedding, encode
        self._places = model.places(embedding)
        self._undo_MM = np.linalg.inv(model.neighbours.double().cpu().numpy())
        words_Vd = (model.word_vectors * model.word_weights[:, None]).cpu().numpy()
        spelling_VS = (model.spelling * model.spelling_weights[:, None]).cpu().numpy()
        self._dictionary = Dictionary(words_Vd, spelling_VS, vocabulary.counts)
        self._phases = model.phases.cpu().numpy()
        self._omega = frequencies(model.config.position_size)

    def decode(
        self, vectors_nE: Matrix, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Decoded]:
        """Return what each vector gives back.

        Args:
            vectors_nE: Finite numbers; what they are rounded to is seen by their type and values.
            progress: Told of the vectors done and their total.
        """
        found: list[Decoded] = []
        for start in range(0, len(vectors_nE), _AT_ONCE):
            found += self._decode(vectors_nE[start : start + _AT_ONCE])
            progress(len(found), len(vectors_nE))
        return found

    def _decode(self, vectors_nE: Matrix) -> list[Decoded]:
        found = [Decoded("", (), False)] * len(vectors_nE)
        # Of any scale that the type holds.
        largest = np.abs(vectors_nE).max(1, initial=0.0, keepdims=True).astype(np.float64)
        vectors = vectors_nE.astype(np.float64) / np.where(largest > 0, largest, 1.0)
        words, spelling, whole, scale = self._sums(vectors)
        most = self._model.config.max_tokens
        found_bags = find_words(self._dictionary, words[whole], spelling[whole], most_words=most)
        bags = dict(zip(whole, found_bags, strict=True))
        sentences = [row for row in whole if bags[row].agrees and bags[row].counts.sum() <= most]
        others = np.setdiff1d(np.flatnonzero(largest[:, 0]), sentences)
        leanings = find_leanings(self._dictionary, words[others], spelling[others])
        for row, ids in zip(others, leanings, strict=True):
            found[row] = self._leaning(ids)
        if sentences:
            given = [np.repeat(bags[row].ids, bags[row].counts) for row in sentences]
            order = self._by_positions if "positions" in self._places else self._by_code
            ordered, sure = order(vectors[sentences], given, scale[sentences])
            again = self._encode(ordered, self._embedding)
            for row, ids, is_sure, made in zip(sentences, ordered, sure, again, strict=True):
                found[row] = self._decoded(ids, is_sure and agrees(vectors_nE[row], made, self._compared))
        return found

    def _sums(self, vectors: Matrix) -> tuple[Floats, Floats, list[int], Matrix]:
        """Return sums of words and of spelling, which vectors are a sentence's by their halves and lengths, and their scale.

        Of the others, and of `meaning`, which has no lengths, the halves are as they are.
        """
        size = self._model.word_size
        halves = vectors[:, self._places["meaning"]] @ self._undo_MM
        parts = [halves[:, :size], halves[:, size:]]
        norms = np.stack([np.linalg.norm(part, axis=1) for part in parts])
        present = norms > _UNEQUAL * norms.max(0)
        # A half is missing where no word has a vector, or spelling.
        scale = np.where(present, norms, 0.0).sum(0) / np.maximum(present.sum(0), 1)
        whole: npt.NDArray[np.bool_] = (scale > 0) & (
            np.abs(np.where(present, norms, scale) - scale).max(0) <= _UNEQUAL * scale
        )
        factors = present.astype(np.float64)
        if "lengths" not in self._places:
            whole[:] = False
        else:
            logs = vectors[:, self._places["lengths"]].T / (LENGTH_SCALE * np.maximum(scale, 1e-300))
            whole &= ((logs >= 0) & (logs < _LONGEST_LOG)).all(0)
            lengths = np.expm1(np.clip(logs, 0, _LONGEST_LOG))
            factors *= np.where(whole, lengths / np.maximum(norms, 1e-300), 1.0)
        parts = [part * factor[:, None] for part, factor in zip(parts, factors, strict=True)]
        return parts[0].astype(np.float32), parts[1].astype(np.float32), np.flatnonzero(whole).tolist(), scale

    @property
    def _compared(self) -> npt.NDArray[np.bool_]:
        """Which numbers of a vector are compared: not the order's where there are positions, which tell it in closed form."""
        compared = np.ones(self._model.embedding_dimension(self._embedding), np.bool_)
        if {"order", "positions"} <= self._places.keys():
            compared[self._places["order"]] = False
        return compared

    def _by_positions(self, vectors: Matrix, given: Sequence[Ids], scale: Matrix) -> tuple[list[Ids], list[bool]]:
        """Return words in the order that their positions tell; there is no other that agrees with them as well."""
        positions = vectors[:, self._places["positions"]]
        sums, logs = positions[:, :-1], positions[:, -1]
        lengths = np.expm1(np.clip(logs / (LENGTH_SCALE * scale), 0, _LONGEST_LOG))
        sums = sums * (lengths / np.maximum(np.linalg.norm(sums, axis=1), 1e-300))[:, None]
        found = find_orders(given, sums.astype(np.float32), self._phases, self._omega)
        return [order.ids for order in found], [True] * len(found)

    @torch.inference_mode()
    def _by_code(self, vectors: Matrix, given: Sequence[Ids], scale: Matrix) -> tuple[list[Ids], list[bool]]:
        """Return words in the order whose code is nearest, and whether it is nearer than any other that was tried by far."""
        model, device = self._model, self._model.device
        codes = vectors[:, self._places["order"]]
        codes = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-300)
        lengths = np.array([len(ids) for ids in given])
        by_length = np.argsort(-lengths, kind="stable")
        starts = np.cumsum(lengths) - lengths
        ids_RT = from_lists(np.concatenate(given), starts[by_length], lengths[by_length])
        ids = torch.from_numpy(ids_RT).to(device)
        orders, totals = model.order.arrange(
            torch.from_numpy(codes[by_length] * math.sqrt(codes.shape[1])).float().to(device),
            model.word_vectors[ids],
            ids,
            torch.from_numpy(lengths[by_length]).to(device),
            width=_BEAM,
        )
        places, likely = orders.cpu().numpy(), totals.cpu().numpy() > _IMPOSSIBLE
        trials = [given[row][places[at][likely[at], : lengths[row]]] for at, row in enumerate(by_length)]
        tried = self._distances(trials, codes[by_length])
        found = dict(zip(by_length.tolist(), map(_nearest, trials, tried), strict=True))
        open_rows = [row for row in found if lengths[row] <= _LONGEST_MENDED]
        for _ in range(_MOST_CHANGES):
            open_rows = [row for row in open_rows if found[row].distance > _SAME_CODE]
            changes = [_rearranged(lengths[row]) for row in open_rows]
            trials = [found[row].ids[places] for row, (places, _) in zip(open_rows, changes, strict=True)]
            tried = self._distances(trials, codes[open_rows])
            mended = list(map(_nearest, trials, tried))
            # What helps in one place and in another helps together, mostly.
            trials = [
                found[row].ids[_together(places, spans, distances < found[row].distance, distances)]
                for row, (places, spans), distances in zip(open_rows, changes, tried, strict=True)
            ]
            both = map(_nearest, trials, self._distances(trials, codes[open_rows]))
            mended = [min(pair, key=lambda one: one.distance) for pair in zip(mended, both, strict=True)]
            better = {
                row: one for row, one in zip(open_rows, mended, strict=True) if one.distance < found[row].distance
            }
            open_rows = list(better)
            found |= better
        ordered = [found[row] for row in range(len(given))]
        return [one.ids for one in ordered], [one.distance < _SAME_CODE < one.next_best / _MARGIN for one in ordered]

    def _distances(self, trials: Sequence[Ids], codes: Matrix) -> list[Matrix]:
        """Return for each sentence how far the codes of some orders, one a row, are from its code."""
        if not trials:
            return []
        counts, lengths = [len(rows) for rows in trials], [rows.shape[1] for rows in trials]
        ends = np.concatenate([[0], np.cumsum(np.repeat(lengths, counts))]).astype(np.int32)
        flat = pa.array(np.concatenate([rows.ravel() for rows in trials]))
        made = self._encode(pa.ListArray.from_arrays(pa.array(ends), flat), "order")
        made = made / np.maximum(np.linalg.norm(made, axis=1, keepdims=True), 1e-30)
        parts = np.split(made, np.cumsum(counts)[:-1])
        return [np.linalg.norm(vectors - code, axis=1) for vectors, code in zip(parts, codes, strict=True)]

    def _decoded(self, ids: Ids, proven: bool) -> Decoded:
        words = tuple(self._vocabulary.words(ids))
        return Decoded(" ".join(words), words, proven)

    def _leaning(self, ids: Ids) -> Decoded:
        """Return pieces that stand for themselves; those that go on with a word begin with a hyphen."""
        pieces = [self._vocabulary.pieces[number] for number in ids]
        words = tuple(piece[len(MARK) :] or piece if piece.startswith(MARK) else f"-{piece}" for piece in pieces)
        return Decoded(" ".join(words), words, False)


def _nearest(orders: Ids, distances: Matrix) -> _Nearest:
    """Return the nearest of some orders, one a row."""
    best = orders[int(distances.argmin())]
    others = distances[(orders != best).any(1)]
    return _Nearest(best, float(distances.min()), float(others.min(initial=np.inf)))


@functools.lru_cache(maxsize=64)
def _rearranged(length: int) -> tuple[Ids, Ids]:
    """Return the orders of `length` words that one change makes, and the first and last place that each touches.

    A change swaps two words, or moves one, not far from each other; the first of the orders changes nothing.
    """
    places = list(range(length))
    made = {tuple(places): (0, length)}
    for i in places:
        for j in range(max(0, i - _FARTHEST), min(length, i + _FARTHEST + 1)):
            swapped = places.copy()
            swapped[i], swapped[j] = swapped[j], swapped[i]
            moved = places.copy()
            moved.insert(j, moved.pop(i))
            for order in (swapped, moved):
                made.setdefault(tuple(order), (min(i, j), max(i, j)))
    return np.array(list(made), np.int64), np.array(list(made.values()), np.int64)


def _together(orders: Ids, spans: Ids, helps: npt.NDArray[np.bool_], distances: Matrix) -> Ids:
    """Return orders that make several changes that help, none where another does, the best first: with two, three and so on."""
    whole = orders[0].copy()
    free = np.ones(len(whole), np.bool_)
    made = [whole.copy()]
    for change in np.argsort(distances, kind="stable"):
        first, last = spans[change]
        if helps[change] and change and free[first : last + 1].all():
            free[first : last + 1] = False
            whole[first : last + 1] = orders[change, first : last + 1]
            made.append(whole.copy())
            if len(made) > _MOST_TOGETHER:
                break
    return np.array(made)


def agrees(vector: Matrix, made: Matrix, compared: npt.NDArray[np.bool_]) -> bool:
    """Tell whether a vector is what was made anew, up to one scale and to the rounding of its type.

    Numbers of type float32 that are all in float16 were rounded to that.

    Args:
        vector: The vector, shape (E,).
        made: The same as encoded now.
        compared: Which numbers to compare.
    """
    given, again = vector[compared].astype(np.float64), made[compared].astype(np.float64)
    size = float(np.abs(given).max(initial=0.0))
    if not size or not again.any():
        return False
    given /= size
    with np.errstate(over="ignore"):
        halved = vector.dtype == np.float16 or bool((vector.astype(np.float16) == vector).all())
    relative, least = (2.0**-11, 2.0**-24 / size) if halved else (2.0**-20, 0.0)
    # What float32 leaves of the sums and products behind a number.
    allowed = relative * np.abs(given) + least + _NOISE * float(np.linalg.norm(given))
    # Each number leaves an interval for the scale; they must have one in common.
    empty = again == 0
    ends = (given[~empty] + np.array([[-1.0], [1.0]]) * allowed[~empty]) / again[~empty]
    return bool((np.abs(given[empty]) <= allowed[empty]).all() and ends.min(0).max() <= ends.max(0).min())
