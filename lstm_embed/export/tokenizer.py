"""The tokenizer in the file format of the `tokenizers` library, which most tools for models can read.

The rules are those of `corpus.text`, taken from it: its replacements become normalizers, its classes of characters one
regular expression whose matches are the tokens. What is left to trust is that both libraries know the same Unicode.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.corpus.characters import APOSTROPHE, ATTACHED, DIGIT, LETTER, SINGLE, unicode_table
from lstm_embed.corpus.text import DEFAULT_CLASSES, MARKS, ORIGINAL_CLASSES
from lstm_embed.corpus.vocabulary import PAD, SPECIAL_WORDS, UNKNOWN, Vocabulary

_GROUP_KEPT = re.compile(r"\((.*)\)(.*)")


def tokenizer_json(vocabulary: Vocabulary, profile: str, max_tokens: int) -> dict[str, Any]:
    """Return the content of a tokenizer.json that gives the ids of `SentenceEncoder.tokenize`, cut off and padded.

    Args:
        vocabulary: The words.
        profile: "default" or "original"; see `corpus.text`.
        max_tokens: Where longer texts are cut off.
    """
    if profile == "default":
        steps = [_step("NFKC"), _step("Lowercase"), _step("NFD"), *(_replace(*rule) for rule in MARKS), _step("NFC")]
        pattern = _pattern(np.concatenate([_table(DEFAULT_CLASSES)[:0x80], unicode_table()[0x80:]]))
    else:
        steps = [_step("Lowercase"), _step("NFD"), _replace(r"\p{Mn}+", "")]
        pattern = _pattern(_table(ORIGINAL_CLASSES))
    unknown = SPECIAL_WORDS[UNKNOWN]
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": PAD,
            "pad_type_id": 0,
            "pad_token": SPECIAL_WORDS[PAD],
        },
        # None: no text has a padding or unknown token in it, whatever signs it is made of.
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: number for number, word in enumerate(vocabulary.words)},
            "unk_token": unknown,
        },
    }


def _step(name: str) -> dict[str, Any]:
    return {"type": name}


def _replace(pattern: str, replacement: str) -> dict[str, Any]:
    """Return a replacement; there are no references to groups, so a group that is kept is looked behind at."""
    if replacement == r"\1":
        kept, dropped = _GROUP_KEPT.fullmatch(pattern).groups()  # type: ignore[union-attr]
        pattern, replacement = f"(?<={kept}){dropped}", ""
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": replacement}


def _table(classes: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(classes, np.uint8)


def _pattern(classes: npt.NDArray[np.uint8]) -> str:
    """Return the regular expression of a token, given the class of each code point; see `corpus.characters`."""
    letter, digit, single, attached = (_members(classes == kind) for kind in (LETTER, DIGIT, SINGLE, ATTACHED))
    apostrophe = _members(classes == APOSTROPHE)
    kinds = [f"[{letter}]+" + (f"(?:[{apostrophe}][{letter}]+)?" if apostrophe else "")]
    if digit:
        kinds.append(f"[{digit}]+")
    if single:
        kinds.append(f"[{single}{attached}][{attached}]*" if attached else f"[{single}]")
    return "|".join(kinds)


def _members(chosen: npt.NDArray[np.bool_]) -> str:
    """Return code points as the inside of a class of a regular expression."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    ranges = [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]
    return "".join(_sign(a) if a == b else f"{_sign(a)}-{_sign(b)}" for a, b in ranges)


def _sign(point: int) -> str:
    return re.escape(chr(point)) if point < 0x80 else f"\\x{{{point:x}}}"
