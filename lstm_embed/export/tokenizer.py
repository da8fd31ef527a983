"""The tokenizer in the file format of the `tokenizers` library, which most tools for models can read.

The rules are those of `corpus.text`, taken from it: its replacements become normalizers, its classes of characters one
regular expression whose matches are the words. Classes are written out, character by character, in a form that the regular
expressions of Rust's and JavaScript's libraries have in common. What is left to trust is that all know the same Unicode.

Words are cut as `corpus.pieces` cuts them. Not every library cuts a character that no piece covers into bytes, so here all
pieces are written as bytes, each byte as one character (Radford et al. 2019, "Language models are unsupervised multitask
learners"; `encoder.py` of its code). Then a byte is a piece like others. An unknown character costs what it costs there: its
first byte all of that, the others nothing. So each way to cut a word has the score it has there, and the best one is the same;
a character that is a piece itself is never cut into bytes.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed.corpus.characters import APOSTROPHE, DIGIT, LETTER, SINGLE, unicode_table
from lstm_embed.corpus.pieces import BYTE_PIECES, MARK, PAD_PIECE
from lstm_embed.corpus.text import DEFAULT_CLASSES, MARKS, ORIGINAL_CLASSES
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, PAD, Vocabulary

_UNKNOWN_PENALTY = 10.0
"""What sentencepiece takes off the worst piece's score for a character without a piece (`kUnkPenalty` of its sources)."""
_MARKED = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": False}
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_SPACED = {"type": "Replace", "pattern": {"String": MARK}, "content": " "}
_GROUP_KEPT = re.compile(r"\((.*)\)(.*)")
_CLASS_PARTS = re.compile(r"\\([xp])\{(\w+)\}|[\[\]]")


def tokenizer_json(vocabulary: Vocabulary, profile: str, max_tokens: int) -> dict[str, Any]:
    """Return the content of a tokenizer.json that gives the ids of `SentenceEncoder.tokenize`, cut off and padded.

    Args:
        vocabulary: The pieces.
        profile: "default" or "original"; see `corpus.text`.
        max_tokens: Where longer texts are cut off.
    """
    if profile == "default":
        steps = [_step("NFKC"), _step("Lowercase"), _step("NFD"), *(_replace(*rule) for rule in MARKS), _step("NFC")]
        pattern = _pattern(np.concatenate([_table(DEFAULT_CLASSES)[:0x80], unicode_table()[0x80:]]))
    else:
        steps = [_step("Lowercase"), _step("NFD"), _replace(r"\p{Mn}+", "")]
        pattern = _pattern(_table(ORIGINAL_CLASSES))
    words = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": max_tokens, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": PAD,
            "pad_type_id": 0,
            "pad_token": PAD_PIECE,
        },
        # None: no text has padding in it, whatever signs it is made of.
        "added_tokens": [],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [words, _MARKED, _BYTE_LEVEL]},
        "post_processor": None,
        # Words with spaces between them; that before the first one goes.
        "decoder": {
            "type": "Sequence",
            "decoders": [_BYTE_LEVEL, _SPACED, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
        },
        "model": {"type": "Unigram", "unk_id": PAD, "vocab": _scored_pieces(vocabulary), "byte_fallback": False},
    }


def _scored_pieces(vocabulary: Vocabulary) -> list[tuple[str, float]]:
    """Return all pieces, written as bytes, and their scores, by id."""
    learned = [_as_bytes(piece) for piece in vocabulary.pieces[FIRST_LEARNED:]]
    taken = set(learned)
    # A byte that is a learned piece too is never needed; it keeps a name that no text has, as there are no brackets in words.
    bytes_ = [name if sign in taken else sign for sign, name in zip(_byte_signs(), BYTE_PIECES, strict=True)]
    scores = [float(score) for score in vocabulary.scores[FIRST_LEARNED:]]
    unknown = min(scores, default=0.0) - _UNKNOWN_PENALTY
    costs = [0.0 if _goes_on(byte) else unknown for byte in range(len(BYTE_PIECES))]
    return list(zip([PAD_PIECE, *bytes_, *learned], [unknown, *costs, *scores], strict=True))


def _goes_on(byte: int) -> bool:
    """Tell whether a byte of UTF-8 is one inside a character."""
    return 0x80 <= byte < 0xC0


def _as_bytes(text: str) -> str:
    signs = _byte_signs()
    return "".join([signs[byte] for byte in text.encode()])


@functools.cache
def _byte_signs() -> tuple[str, ...]:
    """Return the character that stands for each byte: itself where it can be seen, else one from 256 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in visible else next(others)) for byte in range(256))


def _step(name: str) -> dict[str, Any]:
    return {"type": name}


def _replace(pattern: str, replacement: str) -> dict[str, Any]:
    """Return a replacement; there are no references to groups, so a group that is kept is looked behind at."""
    if replacement == r"\1":
        kept, dropped = _GROUP_KEPT.fullmatch(pattern).groups()  # type: ignore[union-attr]
        pattern, replacement = f"(?<={kept}){dropped}", ""
    return {"type": "Replace", "pattern": {"Regex": _written_out(pattern)}, "content": replacement}


def _written_out(pattern: str) -> str:
    r"""Return a regular expression of `corpus.text` without `\p{...}` and `\x{...}`, which not all libraries read alike."""
    inside = False

    def write(found: re.Match[str]) -> str:
        nonlocal inside
        kind, name = found.groups()
        if kind is None:
            inside = found[0] == "["
            return found[0]
        if kind == "x":
            return _sign(int(name, 16))
        members = _members(_with_property(name))
        return members if inside else f"[{members}]"

    return _CLASS_PARTS.sub(write, pattern)


@functools.cache
def _with_property(name: str) -> npt.NDArray[np.bool_]:
    """Return which code points have a property, as Arrow knows it, which applies the rules of `corpus.text`."""
    # Between and behind these there are no characters, but for private use.
    points = np.r_[0:0xD800, 0xE000:0x40000, 0xE0000:0xE1000]
    characters = pa.array(map(chr, points), pa.string())
    found = np.zeros(points[-1] + 1, bool)
    found[points] = pc.match_substring_regex(characters, pattern=rf"\p{{{name}}}").to_numpy(zero_copy_only=False)
    return found


def _table(classes: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(classes, np.uint8)


def _pattern(classes: npt.NDArray[np.uint8]) -> str:
    """Return the regular expression of a word, given the class of each code point; see `corpus.characters`."""
    letter, digit, single, apostrophe = (_members(classes == kind) for kind in (LETTER, DIGIT, SINGLE, APOSTROPHE))
    kinds = [f"[{letter}]+" + (f"(?:[{apostrophe}][{letter}]+)?" if apostrophe else "")]
    if digit:
        kinds.append(f"[{digit}]+")
    if single:
        kinds.append(f"[{single}]")
    return "|".join(kinds)


def _members(chosen: npt.NDArray[np.bool_]) -> str:
    """Return code points as the inside of a class of a regular expression."""
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    ranges = [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]
    return "".join(_sign(a) if a == b else f"{_sign(a)}-{_sign(b)}" for a, b in ranges)


def _sign(point: int) -> str:
    """Return a character as all regular expressions read it; above U+FFFF they agree on nothing but itself."""
    if point < 0x80:
        return re.escape(chr(point))
    return f"\\u{point:04x}" if point < 0x10000 else chr(point)
