"""Decoding: which sentences come back out of their vectors word for word, and which of their words stand in place.

Only what a model reads of a sentence can come back: its words, as the tokenizer gives them, up to the piece `max_tokens`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import pairwise_distances_argmin

from lstm_embed.corpus.pieces import MARK
from lstm_embed.evaluation.baselines import Embed, Tokens
from lstm_embed.words.scores import unit_rows

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

Answer = tuple[Sequence[str], bool | None]
"""Words in order, and whether they are proven; None from a method that proves nothing."""
Decode = Callable[[Sequence[str]], list[Answer]]
"""Takes n texts, returns what is made of their vectors."""

ALL, PARTLY_READ = "all", "cut off"
"""Rows: sentences that are read whole (then by length), and those whose end the model does not read."""
LENGTHS = (8, 16, 24, 32, 64)
"""Last number of words of each row; longer sentences count in `ALL` alone."""


def by_encoder(encoder: SentenceEncoder) -> Decode:
    """Return what a model makes of its own vectors."""
    return lambda texts: [(found.words, found.proven) for found in encoder.decode(encoder.encode(texts))]


def most_frequent_word(tokens: Tokens, max_tokens: int) -> Decode:
    """Return the baseline that knows a sentence's length and answers with the most frequent whole word throughout."""
    pieces = tokens.vocabulary.pieces
    by_count = (pieces[number] for number in np.argsort(-tokens.vocabulary.counts))
    word = next((piece[len(MARK) :] for piece in by_count if piece.startswith(MARK) and piece != MARK), "")
    return lambda texts: [([word] * len(words), None) for words in tokens.read(texts, max_tokens)]


def nearest_sentence(known: Sequence[str], embed: Embed, tokens: Tokens) -> Decode:
    """Return the baseline that answers with the training sentence (of `known`) nearest by the model's own vectors."""
    words, units = tokens.words(known), unit_rows(embed(known))
    return lambda texts: [(words[i], None) for i in pairwise_distances_argmin(unit_rows(embed(texts)), units)]


def decoding(
    texts: Sequence[str], tokens: Tokens, methods: Mapping[str, Decode], *, max_tokens: int = 64, num_examples: int = 12
) -> dict[str, Any]:
    """Score what methods make of sentences.

    Args:
        texts: Sentences that were not trained on.
        tokens: The model's token rule and vocabulary.
        methods: Methods by name.
        max_tokens: Pieces of a sentence that a model reads.
        num_examples: Sentences to show.

    Returns:
        `rows`: by row its number of `sentences` and `words`, and `read`, the share (in %) of the sentences' words that these
        are; `methods`: by method and row the shares (in %) of sentences that come back `exact`, of words `in_place`, of
        sentences that are `proven`, and of these the `proven_right` (None without proofs); `examples`: sentences of all
        lengths that are read whole, shortest first, with what each method made of them.
    """
    written, read = tokens.words(texts), tokens.read(texts, max_tokens)
    answers = {name: decode(texts) for name, decode in methods.items()}
    rows = rows_by_length(written, read)
    sizes = {}
    for row, some in rows.items():
        num_words = sum(len(read[i]) for i in some)
        share = 100 * num_words / sum(len(written[i]) for i in some)
        sizes[row] = {"sentences": len(some), "words": num_words, "read": share}
    return {
        "rows": sizes,
        "methods": {
            name: {row: figures([read[i] for i in some], [made[i] for i in some]) for row, some in rows.items()}
            for name, made in answers.items()
        },
        "examples": [
            {
                "words": read[i],
                "made": {name: {"words": made[i][0], "proven": made[i][1]} for name, made in answers.items()},
            }
            for i in _shown(rows.get(ALL, []), read, num_examples)
        ],
    }


def figures(wanted: Sequence[Sequence[str]], made: Sequence[Answer]) -> dict[str, float | None]:
    """Return the shares, as `decoding` names them, of the sentences of a row."""
    pairs = list(zip(wanted, made, strict=True))
    right = [list(ours) == list(theirs) for ours, (theirs, _) in pairs]
    in_place = sum(a == b for ours, (theirs, _) in pairs for a, b in zip(ours, theirs, strict=False))
    proven = [was_right for was_right, (_, proof) in zip(right, made, strict=True) if proof]
    proves = any(proof is not None for _, proof in made)
    return {
        "exact": 100 * sum(right) / len(right),
        "in_place": 100 * in_place / sum(map(len, wanted)),
        "proven": 100 * len(proven) / len(right) if proves else None,
        "proven_right": 100 * sum(proven) / len(proven) if proven else None,
    }


def rows_by_length(written: Sequence[Sequence[str]], read: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Return the numbers of the sentences of each row; rows without one, and sentences without a word, are left out."""
    limits = {f"{after + 1}-{last}": last for after, last in itertools.pairwise((0, *LENGTHS))}
    rows: dict[str, list[int]] = {row: [] for row in (ALL, *limits, PARTLY_READ)}
    for number, (words, kept) in enumerate(zip(written, read, strict=True)):
        if kept and words != kept:
            rows[PARTLY_READ].append(number)
        elif kept:
            rows[ALL].append(number)
            if row := next((row for row, last in limits.items() if len(kept) <= last), None):
                rows[row].append(number)
    return {row: numbers for row, numbers in rows.items() if numbers}


def _shown(numbers: Sequence[int], read: Sequence[Sequence[str]], num_examples: int) -> list[int]:
    """Choose sentences evenly by words: one sentence after the other would give short ones."""
    if not numbers:
        return []
    by_length = sorted(numbers, key=lambda i: len(read[i]))
    ends = np.cumsum([len(read[i]) for i in by_length])
    places = np.unique(np.searchsorted(ends, np.linspace(1, ends[-1], num_examples)))
    return [by_length[place] for place in places]
