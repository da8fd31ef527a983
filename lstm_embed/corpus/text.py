"""From text to sentences and from sentences to tokens: the one rule everything uses.

Both work without Ray and torch. Tokens are made by Arrow kernels on whole columns of sentences; the Arrow, RE2 and Unicode
rules are the same for one sentence and for a million.

Profile `default`: words and numbers of all scripts, lower-cased; punctuation dropped; one inner apostrophe kept ("don't").
What happens to marks and to scripts without spaces:

- Latin and Greek: accents are stripped ("Müller" -> "muller").
- Cyrillic: letters stay as they are (short i and yo are letters of their own, not accented ones).
- Arabic and Hebrew: vowel points and the Arabic tatweel are dropped, since most text is written without them.
- Indic scripts: vowel signs belong to the word and stay.
- Hangul: words between spaces, as composed syllables.
- Han, Hiragana, Katakana: one token a character. Thai, Lao, Khmer, Burmese: one token a letter with its marks. These scripts
  put no spaces between words, and a token of a character serves better than one of a whole clause.

Profile `original` gives the tokens of the Keras system this project goes back to: lower-cased, accents stripped (NFD without
nonspacing marks), of what is left only `a-z`, `0-9` and `? . ! , ( )`, each of these signs a token of its own.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

PROFILES = ("default", "original")

Splitter = Callable[[str], list[tuple[int, int]]]
"""Takes a text, returns the (start, end) character offsets of its sentences in order."""

# Stands for an apostrophe inside a word while all other punctuation is dropped; a letter to RE2 (modifier letter apostrophe).
_INNER_APOSTROPHE = "ʼ"

# (pattern, replacement) in order. Scripts that need no rule for an ASCII text are in the second list.
_DEFAULT_MARKS = (
    (r"([\p{Latin}\p{Greek}])\p{Mn}+", r"\1"),
    ("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670\u0640]+", ""),
)
_DEFAULT_SCRIPTS = (
    ("[\u2018\u2019\u02bc\uff07]", "'"),
    (r"([\p{Han}\p{Hiragana}\p{Katakana}])", r" \1 "),
    (r"((?:\p{Thai}|\p{Lao}|\p{Khmer}|\p{Myanmar})\p{M}*)", r" \1 "),
)
_DEFAULT_WORDS = (
    (r"([\p{L}\p{M}]+)'([\p{L}\p{M}]+)", rf"\1{_INNER_APOSTROPHE}\2"),
    (r"[^\p{L}\p{M}\p{N} ]+", " "),
    (r"(\p{N}+)", r" \1 "),
)


def tokenize(texts: Sequence[str] | pa.Array | pa.ChunkedArray, profile: str = "default") -> pa.ListArray:
    """Return the tokens of each text.

    Args:
        texts: n strings.
        profile: "default" or "original".

    Returns:
        n lists of strings; a text without words gives an empty list.

    Raises:
        ValueError: for an unknown profile.
    """
    column = _string_array(texts)
    if profile == "original":
        return _split(_original(column))
    if profile != "default":
        raise ValueError(f"--profile is {profile!r}; expected one of {', '.join(PROFILES)}")
    is_ascii = pc.string_is_ascii(column)
    if pc.all(is_ascii, min_count=0).as_py():
        return _split(_default(column, ascii_only=True))
    # Most sentences of most corpora are plain ASCII, on which half of the rules change nothing.
    plain = _split(_default(column.filter(is_ascii), ascii_only=True))
    other = _split(_default(column.filter(pc.invert(is_ascii)), ascii_only=False))
    order = pc.if_else(is_ascii, _count(is_ascii), pc.add(_count(pc.invert(is_ascii)), len(plain)))
    return pa.concat_arrays([plain, other]).take(order)


def _count(where: pa.BooleanArray) -> pa.Array:
    """Return for each true position how many came before it (false positions hold anything)."""
    return pc.subtract(pc.cumulative_sum(where.cast(pa.int32())), 1)


def _string_array(texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.Array):
        return texts.cast(pa.string()).fill_null("")
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        # A lone surrogate is no character; a space is what every rule makes of it.
        return pa.array([text.encode("utf-8", "replace").decode("utf-8") for text in texts], pa.string())


def _replace(column: pa.Array, rules: Sequence[tuple[str, str]]) -> pa.Array:
    for pattern, replacement in rules:
        column = pc.replace_substring_regex(column, pattern=pattern, replacement=replacement)
    return column


def _default(column: pa.Array, ascii_only: bool) -> pa.Array:
    if ascii_only:
        column = _replace(pc.ascii_lower(column), _DEFAULT_WORDS)
    else:
        column = pc.utf8_lower(pc.utf8_normalize(column, "NFKC"))
        column = _replace(pc.utf8_normalize(column, "NFD"), _DEFAULT_MARKS)
        column = _replace(pc.utf8_normalize(column, "NFC"), (*_DEFAULT_SCRIPTS, *_DEFAULT_WORDS))
    return pc.replace_substring(column, pattern=_INNER_APOSTROPHE, replacement="'")


def _original(column: pa.Array) -> pa.Array:
    column = pc.utf8_normalize(pc.utf8_lower(column), "NFD")
    return _replace(column, ((r"\p{Mn}+", ""), (r"([?.!,()])", r" \1 "), (r"[^a-z0-9?.!,() ]+", " ")))


def _split(column: pa.Array) -> pa.ListArray:
    # Nothing but words and plain spaces is left here.
    column = pc.ascii_trim(column, characters=" ")
    lists = pc.ascii_split_whitespace(column)
    empty = pa.ListArray.from_arrays(pa.array([0, 0], pa.int32()), pa.array([], pa.string()))
    blank = pc.equal(column, "")
    return pc.if_else(blank, empty[0], lists) if pc.any(blank).as_py() else lists


def sentence_splitter(name: str = "sentencex", language: str = "en") -> Splitter:
    """Return the function that cuts a text into sentences.

    Args:
        name: "sentencex"; "none" for one sentence that is the whole text; or the dotted name of a function that takes a
            text and returns a list of (start, end) character offsets.
        language: ISO 639 code, for sentencex.

    Raises:
        ValueError: if there is no such function.
    """
    if name == "sentencex":
        return lambda text: split_sentences(text, language)
    if name == "none":
        return lambda text: _stripped(text, 0, len(text))
    module_name, _, function_name = name.rpartition(".")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--split is {name!r}; expected 'sentencex', 'none' or the dotted name of an importable function ({error})"
        ) from None
    return function


def split_sentences(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Return the (start, end) character offsets of the sentences of `text`, without white space around them.

    sentencex is asked line by line: a line break ends a sentence, and a stray quotation mark can then glue together no more
    than one line.
    """
    # sentencex is a compiled module of a few megabytes; a model that only gets sentences never needs it.
    from sentencex import get_sentence_boundaries

    spans: list[tuple[int, int]] = []
    start = 0
    for line in text.split("\n"):
        if line and not line.isspace():
            for boundary in get_sentence_boundaries(language, line):
                spans += _stripped(text, start + boundary["start_index"], start + boundary["end_index"])
        start += len(line) + 1
    return spans


def _stripped(text: str, start: int, end: int) -> list[tuple[int, int]]:
    piece = text[start:end]
    lead = len(piece) - len(piece.lstrip())
    length = len(piece.strip())
    return [(start + lead, start + lead + length)] if length else []
