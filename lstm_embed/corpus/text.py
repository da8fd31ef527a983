"""From text to sentences and from sentences to tokens: the one rule everything uses.

Both work without Ray and torch. Tokens are made from whole columns of sentences, by Arrow's Unicode kernels and the classes
of `characters`; the rule is the same for one sentence and for a million.

Profile `default`: words and numbers of all scripts, lower-cased; punctuation, emoji and other signs dropped; one inner
apostrophe kept ("don't"); letters and digits never in one token. Compatibility forms are replaced (NFKC). In scripts without
spaces between words a token is what stands between other signs, a clause mostly; its pieces are its words. What happens to
marks:

- Latin and Greek: accents are stripped ("Müller" -> "muller"); the final sigma is a sigma.
- Cyrillic: letters stay as they are (short i and yo are letters of their own, not accented ones); the acute that shows
  where a word is stressed is dropped.
- Arabic and Hebrew: vowel points and the Arabic tatweel are dropped, since most text is written without them; hamza and
  madda stay.
- Indic scripts: vowel signs belong to the word and stay.
- Hangul: words between spaces, as composed syllables.
- Invisible signs (soft hyphen, joiners, variation selectors) are dropped without parting the word around them.

Profile `original` gives the tokens of the Keras system this project goes back to: lower-cased, accents stripped (NFD without
nonspacing marks), of what is left only `a-z`, `0-9` and `? . ! , ( )`, each of these signs a token of its own.
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.characters import ascii_table, cut

PROFILES = ("default", "original")

Splitter = Callable[[str], list[tuple[int, int]]]
"""Takes a text, returns the (start, end) character offsets of its sentences in order."""

DEFAULT_CLASSES = ascii_table(string.ascii_lowercase, string.digits, "'")
ORIGINAL_CLASSES = ascii_table(string.ascii_lowercase + string.digits, singles="?.!,()")

# Applied to decomposed (NFD) lower-case text, in order: pattern, replacement.
MARKS = (
    (r"([\p{Latin}\p{Greek}])\p{Mn}+", r"\1"),
    (r"([аеиоуыэюяіє]\x{308}?)\x{301}", r"\1"),
    # Points of Hebrew and Arabic, tatweel; enclosing marks; soft hyphen, joiners, variation selectors.
    (
        (
            r"[\x{591}-\x{5bd}\x{5bf}\x{5c1}\x{5c2}\x{5c4}\x{5c5}\x{5c7}"
            r"\x{610}-\x{61a}\x{640}\x{64b}-\x{652}\x{656}-\x{65f}\x{670}\x{6d6}-\x{6dc}\x{6df}-\x{6e4}\x{6e7}\x{6e8}\x{6ea}-\x{6ed}"
            r"\p{Me}\x{ad}\x{200b}-\x{200f}\x{2060}\x{feff}\x{fe00}-\x{fe0f}\x{e0100}-\x{e01ef}]+"
        ),
        "",
    ),
    ("ς", "σ"),
    ("[‘’ʼ]", "'"),
)

_LONGEST_RUN = 2000
_LONG_RUN = re.compile(rf"\S{{{_LONGEST_RUN}}}")
_LAST_END = re.compile(r""".*[.!?。！？．｡؟।][\"'”’」』）)\]】»]*""")
_MOST_QUOTES = 500
_QUOTE = "[\"'`´“”„‟‘’‚‛«»‹›《》〈〉「」『』]"
_MANY_QUOTES = re.compile(rf"(?:[^{_QUOTE[1:-1]}]*+{_QUOTE}){{{_MOST_QUOTES}}}")
_LAST_END_OR_SPACE = re.compile(rf"(?:{_LAST_END.pattern}(?=\s)|.*\s)")
_LONG_SENTENCE = 1000
_MOST_MARKS = 64


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
    if profile not in PROFILES:
        raise ValueError(f"--profile is {profile!r}; expected one of {', '.join(PROFILES)}")
    column = _string_array(texts)
    # Most sentences of most corpora are plain ASCII, for which lower case is all there is to do.
    other = pc.invert(pc.string_is_ascii(column))
    if pc.any(other).as_py():
        normalise = _normalise if profile == "default" else _without_accents
        column = pc.replace_with_mask(column, other, normalise(_with_few_marks(column.filter(other))))
    column = pc.ascii_lower(column)
    if profile == "original":
        return cut(column, ORIGINAL_CLASSES, unicode=False)
    return cut(column, DEFAULT_CLASSES, unicode=True)


def _string_array(texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(texts, pa.ChunkedArray):
        texts = texts.combine_chunks()
    if isinstance(texts, pa.Array):
        return texts.cast(pa.string()).fill_null("")
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        # A lone surrogate is no character; the sign for one that is unknown separates words in every rule.
        return pa.array([text.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for text in texts])


def _with_few_marks(column: pa.Array) -> pa.Array:
    """Drop all but the first marks of a character that has absurdly many: putting them in order takes quadratic time."""
    is_long = pc.greater(pc.binary_length(column), _LONG_SENTENCE)
    if not pc.any(is_long).as_py():
        return column
    shortened = [_many_marks().sub(r"\1", text) for text in column.filter(is_long).to_pylist()]
    return pc.replace_with_mask(column, is_long, pa.array(shortened, pa.string()))


@functools.cache
def _many_marks() -> re.Pattern[str]:
    """Return the pattern of too many marks: characters that normalisation puts in order, or turns into such."""
    points = map(chr, [*range(0x300, 0xD800), *range(0xE000, 0x1F000)])
    marks = "".join(c for c in points if all(map(unicodedata.combining, unicodedata.normalize("NFKD", c))))
    return re.compile(f"([{marks}]{{{_MOST_MARKS}}})[{marks}]+")


def _normalise(column: pa.Array) -> pa.Array:
    column = pc.utf8_lower(pc.utf8_normalize(column, "NFKC"))
    column = pc.utf8_normalize(column, "NFD")
    for pattern, replacement in MARKS:
        column = pc.replace_substring_regex(column, pattern=pattern, replacement=replacement)
    return pc.utf8_normalize(column, "NFC")


def _without_accents(column: pa.Array) -> pa.Array:
    column = pc.utf8_normalize(pc.utf8_lower(column), "NFD")
    return pc.replace_substring_regex(column, pattern=r"\p{Mn}+", replacement="")


def sentence_splitter(name: str = "sentencex", language: str = "en") -> Splitter:
    """Return the function that cuts a text into sentences.

    Args:
        name: "sentencex", or "none" for one sentence that is the whole text.
        language: ISO 639 code, for sentencex.

    Raises:
        InputError: for another name.
    """
    if name == "sentencex":
        return lambda text: split_sentences(text, language)
    if name == "none":
        return lambda text: _stripped(text, 0, len(text))
    raise InputError(
        f"--split is {name!r}; expected sentencex or none: functions of one's own are not called; "
        "cut the text beforehand, and give one sentence a row with --split none"
    )


def split_sentences(text: str, language: str = "en") -> list[tuple[int, int]]:
    """Return the (start, end) character offsets of the sentences of `text`, without white space around them.

    sentencex is asked line by line: a line break ends a sentence, and a stray quotation mark can then glue together no more
    than one line.
    """
    # sentencex is a compiled module of a few megabytes; a model that only gets sentences never needs it.
    from sentencex import segment

    spans: list[tuple[int, int]] = []
    line_start = 0
    for line in text.split("\n"):
        start = line_start
        line_start += len(line) + 1
        if not line or line.isspace():
            continue
        for piece in (line,) if len(line) <= _LONGEST_RUN else _bounded(line):
            for sentence in segment(language, piece):
                inner = sentence.rstrip()
                if inner:
                    lead = len(inner) - len(inner.lstrip()) if inner[0].isspace() else 0
                    spans.append((start + lead, start + len(inner)))
                start += len(sentence)
    return spans


def _bounded(line: str) -> Iterator[str]:
    """Cut a long line into pieces for which sentencex does not take quadratic time.

    It does for many characters without white space between them, which long lines of Chinese or Japanese (or of noise) are,
    and for many quotation marks, each of which may open what is closed at the line's end.
    """
    start = 0
    while many := _MANY_QUOTES.match(line, start):
        ended = _LAST_END_OR_SPACE.match(line, start, many.end())
        cut_at = ended.end() if ended else many.end()
        yield from _without_long_runs(line[start:cut_at])
        start = cut_at
    yield from _without_long_runs(line[start:])


def _without_long_runs(line: str) -> Iterator[str]:
    """Cut a line where too many characters stand without white space; behind the end of a sentence if there is one."""
    start = 0
    while run := _LONG_RUN.search(line, start):
        ended = _LAST_END.match(line, run.start(), run.end())
        cut_at = ended.end() if ended else run.end()
        yield line[start:cut_at]
        start = cut_at
    yield line[start:]


def _stripped(text: str, start: int, end: int) -> list[tuple[int, int]]:
    piece = text[start:end]
    inner = piece.strip()
    lead = len(piece) - len(piece.lstrip())
    return [(start + lead, start + lead + len(inner))] if inner else []
