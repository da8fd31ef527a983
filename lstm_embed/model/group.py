"""The contrast group: sentences that are each other's negatives and share their softmax candidates. numpy only.

Negatives and candidates make a loss depend on who shares a batch, so the group, and not the batch, is the unit of training.
All chance of a training step is in its groups (dropped words, drawn negatives); the model itself draws nothing.

Shape suffixes: B sentences of the group, T positions, C candidates, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.integer]
BoolArray = npt.NDArray[np.bool_]

FIRST_WORD = 2
"""Least id of a real word; below are padding and the unknown word, which have no vector and are never predicted."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of sentences, as arrays.

    Attributes:
        ids_BT: Token ids, padded on the right with 0.
        lengths_B: Tokens of each sentence; a row of length 0 is no sentence.
        keep_BT: False where an input word is dropped (noise); padding may be either.
        partner_B: Row of the sentence's neighbour in its article, -1 if it has none here.
        article_B: Number of the sentence's article; equal numbers, same article.
        candidates_C: Ids of the words a reconstructed word is told from: ascending, distinct, no special ids, and with all
            words of the group among them.
    """

    ids_BT: IntArray
    lengths_B: IntArray
    keep_BT: BoolArray
    partner_B: IntArray
    article_B: IntArray
    candidates_C: IntArray

    @property
    def num_sentences(self) -> int:
        """Real sentences, by which a group's loss is weighted."""
        return int(np.count_nonzero(self.lengths_B))

    @property
    def num_tokens(self) -> int:
        """Tokens of these sentences."""
        return int(self.lengths_B.sum())


class NegativeSampler:
    """Draws word ids with probability proportional to count^0.75, as word2vec does.

    Args:
        counts: V counts; special ids are never drawn.
    """

    def __init__(self, counts: npt.ArrayLike) -> None:
        weights = np.asarray(counts, np.float64) ** 0.75
        weights[:FIRST_WORD] = 0.0
        if not weights.sum() > 0:
            raise ValueError("no word of the vocabulary has a count above 0; expected the counts of a token set")
        self._cumulative = np.cumsum(weights)

    def draw(self, num: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return `num` word ids, with repetition."""
        points = rng.random(num) * self._cumulative[-1]
        return np.searchsorted(self._cumulative, points, side="right").astype(np.int64)


def make_group(
    sentences: Sequence[IntArray],
    partners: npt.ArrayLike,
    articles: npt.ArrayLike,
    *,
    noise: float = 0.0,
    num_negatives: int = 0,
    sampler: NegativeSampler | None = None,
    rng: np.random.Generator | None = None,
) -> Group:
    """Make a group of sentences.

    Args:
        sentences: B arrays of token ids, already cut to length.
        partners: B rows of neighbours, -1 for none.
        articles: B article numbers.
        noise: Share of words to drop; needs `rng`.
        num_negatives: Words to draw as further candidates; needs `sampler` and `rng`.
        sampler: Draws the negatives.
        rng: Source of all chance.
    """
    lengths = np.array([len(sentence) for sentence in sentences], np.int64)
    ids = np.zeros((len(sentences), max(1, int(lengths.max(initial=0)))), np.int32)
    ids[np.arange(ids.shape[1]) < lengths[:, None]] = np.concatenate([np.zeros(0, np.int32), *sentences])
    keep = drop_words(ids, noise, rng) if noise and rng is not None else np.ones(ids.shape, np.bool_)
    negatives = np.zeros(0, np.int64)
    if num_negatives and sampler is not None and rng is not None:
        negatives = sampler.draw(num_negatives, rng)
    candidates = np.unique(np.concatenate([ids[ids >= FIRST_WORD].astype(np.int64), negatives]))
    return Group(
        ids_BT=ids,
        lengths_B=lengths,
        keep_BT=keep,
        partner_B=np.asarray(partners, np.int64),
        article_B=np.asarray(articles, np.int64),
        candidates_C=candidates,
    )


def drop_words(ids_BT: IntArray, noise: float, rng: np.random.Generator) -> BoolArray:
    """Return which input words stay: each is dropped with probability `noise`, but no sentence loses all it knows."""
    keep = rng.random(ids_BT.shape) >= noise
    known = ids_BT >= FIRST_WORD
    emptied = known.any(axis=1) & ~(known & keep).any(axis=1)
    keep[emptied] = True
    return keep
