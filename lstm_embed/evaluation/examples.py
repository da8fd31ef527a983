"""Things to look at: a map of sentences, and their neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np

from lstm_embed.evaluation.baselines import Embed
from lstm_embed.evaluation.corpora import Sentences
from lstm_embed.words.scores import unit_rows

MAP_ARTICLES, MAP_SENTENCES = 12, 40
_TEXT_LENGTH = 200


def article_map(corpus: Sentences, embed: Embed) -> list[dict[str, Any]]:
    """Return the places of the sentences of the longest articles on the first two principal components of their unit
    vectors: `x`, `y`, `article` (its title), `text`."""
    keys, first, counts = np.unique(corpus.keys, return_index=True, return_counts=True)
    longest = np.argsort(-counts, kind="stable")[:MAP_ARTICLES]
    rows = np.concatenate([np.flatnonzero(corpus.keys == keys[i])[:MAP_SENTENCES] for i in longest])
    if len(rows) < 3:
        return []
    names = {int(keys[i]): corpus.titles[first[i]] or f"article {n + 1}" for n, i in enumerate(longest)}
    units = unit_rows(embed([corpus.texts[row] for row in rows]))
    centred = units - units.mean(axis=0)
    _, _, components = np.linalg.svd(centred, full_matrices=False)
    # The sign of a component is arbitrary; fixed, the same vectors give the same map.
    components = components[:2] * np.sign(components[:2, np.abs(components[:2]).argmax(axis=1)].diagonal())[:, None]
    places = centred @ components.T
    return [
        {
            "x": float(x),
            "y": float(y),
            "article": names[int(corpus.keys[row])],
            "text": corpus.texts[row][:_TEXT_LENGTH],
        }
        for row, (x, y) in zip(rows, places, strict=True)
    ]


def neighbours(
    corpus: Sentences, embed: Embed, num_queries: int = 10, num_nearest: int = 4, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Return for some sentences of the corpus, chosen at random, the nearest others with their cosines."""
    if len(corpus.texts) < 2:
        return []
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.permutation(len(corpus.texts))[:num_queries])
    units = unit_rows(embed(corpus.texts))
    found = []
    for query, cosine in zip(queries, units[queries] @ units.T, strict=True):
        cosine[query] = -np.inf
        nearest = np.argsort(-cosine)[: min(num_nearest, len(cosine) - 1)]
        found.append(
            {
                "text": corpus.texts[query][:_TEXT_LENGTH],
                "nearest": [(corpus.texts[i][:_TEXT_LENGTH], float(cosine[i])) for i in nearest],
            }
        )
    return found
