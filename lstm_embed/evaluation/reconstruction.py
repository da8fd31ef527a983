"""Reconstruction: how many words of a sentence come back out of its vector."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.evaluation.baselines import Embed, NearestSentence, Tokens
from lstm_embed.evaluation.corpora import token_set_sentences

if TYPE_CHECKING:
    from lstm_embed.model.encoder import SentenceEncoder

Reconstruct = Callable[[Sequence[str]], list[list[str]]]
"""Takes n texts, returns the words made of their vectors."""


def most_frequent_word(tokens: Tokens, max_tokens: int) -> Reconstruct:
    """Return the baseline that answers with the vocabulary's most frequent word at every position."""
    counts = tokens.vocabulary.counts.copy()
    counts[:2] = -1
    word = tokens.vocabulary.words[int(counts.argmax())]
    return lambda texts: [[word] * min(len(words), max_tokens) for words in tokens.words(texts)]


def nearest_sentence(nearest: NearestSentence, embed: Embed, tokens: Tokens) -> Reconstruct:
    """Return the baseline that answers with the training sentence nearest by the model's own vectors."""
    return lambda texts: tokens.words(nearest(embed(texts)))


def reconstruction(
    texts: Sequence[str], tokens: Tokens, methods: Mapping[str, Reconstruct], *, max_tokens: int = 64
) -> dict[str, Any]:
    """Score what methods make of sentences.

    Args:
        texts: The sentences; none of them was trained on.
        tokens: Splits them into the words to find again; unknown words count as not found.
        methods: By name; each returns words in order.
        max_tokens: Words of a sentence that count.

    Returns:
        For each method `token_accuracy`: share (in %) of positions with the right word; `words_found`: share (in %) of words
        that come back at any position; `chrf`: character n-gram F-score (Popovic 2015) by sacrebleu, None if that is not
        installed; `sentences` and `tokens` scored.
    """
    wanted = [words[:max_tokens] for words in tokens.words(texts)]
    num_tokens = sum(len(words) for words in wanted)
    results = {}
    for name, reconstruct in methods.items():
        made = reconstruct(texts)
        right = sum(
            a == b for ours, theirs in zip(wanted, made, strict=True) for a, b in zip(ours, theirs, strict=False)
        )
        found = sum(
            (Counter(ours) & Counter(theirs[: len(ours)])).total() for ours, theirs in zip(wanted, made, strict=True)
        )
        results[name] = {
            "token_accuracy": 100 * right / max(num_tokens, 1),
            "words_found": 100 * found / max(num_tokens, 1),
            "chrf": _chrf(made, wanted),
            "sentences": len(wanted),
            "tokens": num_tokens,
        }
    return {"methods": results}


def held_out_reconstruction(encoder: SentenceEncoder, token_set: TokenSet, num_sentences: int = 1000) -> dict[str, Any]:
    """Return the scores of a model on sentences of a token set's held-out articles, as `reconstruction` names them.

    Raises:
        InputError: if the model has no decoder.
    """
    tokens = Tokens(encoder.vocabulary, encoder.tokenizer["profile"])
    texts = token_set_sentences(token_set, num_sentences, held_out=True).texts
    methods = {"model": by_encoder(encoder)}
    scored: dict[str, Any] = reconstruction(texts, tokens, methods, max_tokens=encoder.max_tokens)
    return dict(scored["methods"]["model"])


def by_encoder(encoder: SentenceEncoder) -> Reconstruct:
    """Return what a model's decoder makes of sentences."""
    return lambda texts: [text.split(" ") if text else [] for text in encoder.reconstruct(texts)]


def has_chrf() -> bool:
    """Tell whether the library for chrF is installed."""
    try:
        import sacrebleu  # noqa: F401
    except ImportError:
        return False
    return True


def _chrf(made: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float | None:
    try:
        from sacrebleu.metrics import CHRF
    except ImportError:
        return None
    if not wanted:
        return None
    hypotheses, references = ([" ".join(words) for words in side] for side in (made, wanted))
    return float(CHRF().corpus_score(hypotheses, [references]).score)
