"""Things to look at: a map of sentences, and their neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA

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
    rows = [int(row) for i in longest for row in np.flatnonzero(corpus.keys == keys[i])[:MAP_SENTENCES]]
    if len(rows) < 3:
        return []
    names = {keys[i]: corpus.titles[first[i]] or f"article {number}" for number, i in enumerate(longest, 1)}
    texts = [corpus.texts[row] for row in rows]
    places = PCA(2, svd_solver="full").fit_transform(unit_rows(embed(texts))).tolist()
    return [
        {"x": x, "y": y, "article": names[corpus.keys[row]], "text": text[:_TEXT_LENGTH]}
        for row, text, (x, y) in zip(rows, texts, places, strict=True)
    ]


def neighbours(
    corpus: Sentences, embed: Embed, num_queries: int = 10, num_nearest: int = 4, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Return for some sentences of the corpus, chosen at random, the nearest others with their cosines."""
    queries = np.sort(np.random.default_rng(seed).permutation(len(corpus.texts))[:num_queries])
    units = unit_rows(embed(corpus.texts))
    found = []
    for query, cosine in zip(queries, units[queries] @ units.T, strict=True):
        nearest = [i for i in np.argsort(-cosine)[: num_nearest + 1] if i != query][:num_nearest]
        answers = [(corpus.texts[i][:_TEXT_LENGTH], float(cosine[i])) for i in nearest]
        found.append({"text": corpus.texts[query][:_TEXT_LENGTH], "nearest": answers})
    return found
