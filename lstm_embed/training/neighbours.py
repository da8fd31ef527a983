"""Takes neighbouring sentences from a token set and teaches a model by them, before the first step of a run."""

from __future__ import annotations

import numpy as np

from lstm_embed.corpus.token_set import TokenSet, read_part, rows_of
from lstm_embed.ledger.parts import PartInfo
from lstm_embed.model.neighbours import NeighbourStatistics, evenly, unit_halves
from lstm_embed.model.sentence_model import SentenceModel

MOST_PAIRS = 200_000
"""Pairs that are looked at: 100,000 bring 0.3 of similarity, twice as many 0.1 more."""
_MOST_PARTS = 64
_PAIRS_AT_ONCE = 4096


def teach_neighbours(model: SentenceModel, tokens: TokenSet, min_tokens: int) -> int:
    """Set `model.neighbours` by pairs taken evenly from a token set without its held-out articles; return how many.

    Args:
        model: With word vectors and spelling.
        tokens: The token set.
        min_tokens: Least tokens of a sentence.
    """
    size = len(model.neighbours)
    statistics = NeighbourStatistics(size)
    if model.config.neighbour_strength:
        chosen = evenly(len(tokens.parts), _MOST_PARTS)
        per_part = -(-MOST_PAIRS // max(1, len(chosen)))
        for number in chosen:
            _add_part(statistics, model, tokens.parts[number], min_tokens, tokens.holdout_every, per_part)
    model.neighbours.copy_(statistics.metric(model.config.neighbour_strength))
    return statistics.num_pairs


def _add_part(
    statistics: NeighbourStatistics,
    model: SentenceModel,
    part: PartInfo,
    min_tokens: int,
    holdout_every: int,
    most_pairs: int,
) -> None:
    table = read_part(part, ["article", "ids"])
    article, lists = table["article"].to_numpy(), table["ids"].combine_chunks()
    lengths = lists.value_lengths().to_numpy().astype(np.int64)
    rows = rows_of(article, lengths, min_tokens=min_tokens, holdout_every=holdout_every)
    first = np.flatnonzero(article[rows[1:]] == article[rows[:-1]])
    first = first[evenly(len(first), most_pairs)]
    starts, flat = np.cumsum(lengths) - lengths, lists.flatten().to_numpy()
    for begin in range(0, len(first), _PAIRS_AT_ONCE):
        left = first[begin : begin + _PAIRS_AT_ONCE]
        needed, place = np.unique(np.concatenate([left, left + 1]), return_inverse=True)
        taken = rows[needed]
        kept = np.minimum(lengths[taken], model.config.max_tokens)
        column = np.arange(int(kept.max(initial=1)))
        ids = flat[starts[taken][:, None] + np.minimum(column, kept[:, None] - 1)]
        halves = unit_halves(model, ids, kept)
        statistics.add(halves[place[: len(left)]], halves[place[len(left) :]])
