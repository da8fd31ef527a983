"""Word vectors as text, and in word2vec's binary format: a word and its numbers, one after the other.

gensim's reader allocates what a header says and keeps all vectors; it takes what follows the first space of a line or record
for numbers, also where the word goes on behind it.
"""

from __future__ import annotations

import io
import itertools
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError

FloatArray = npt.NDArray[np.float32]

FASTTEXT_MAGIC = (793_712_314).to_bytes(4, "little")
LARGEST = 1e6
"""No number of a word vector is larger."""
_LIKELY = 1e-12, 1e4
"""Sizes of nearly all numbers of vectors that are not zero; letters and halves of numbers, read as numbers, have others."""
_ZIP_SIGN, _TAR_SIGN, _TAR_SIGN_AT = b"PK\3\4", b"ustar", 257
_BOM = b"\xef\xbb\xbf"
_WINDOW = 1 << 20
_LONGEST_LINE = 4 << 20
_LONGEST_WORD = 1_000
_NO_WORD = re.compile(rb"[\0\n]")
_NEXT_WORD = re.compile(rb"\n?([^\x00-\x20]{0,1000})(?: |\Z)")
_FIRST_LINES = 100


@dataclass(frozen=True)
class Rows:
    """What a file holds.

    Attributes:
        dimension: Numbers of a vector.
        words: Words, each with what its vector is made of.
        vector: Maker of the vector; None if the word was only the beginning of one.
    """

    dimension: int
    words: Iterator[tuple[str, Any]]
    vector: Callable[[Any], FloatArray | None]


def open_plain(path: str) -> io.BufferedReader:
    """Open a file, compressed or not, for `read_text`, `read_binary` or `detect_format`.

    Raises:
        InputError: if it is an archive of files.
    """
    stream = io.BufferedReader(cast(Any, storage.open_stream(path)), _WINDOW)
    head = stream.peek(_TAR_SIGN_AT + len(_TAR_SIGN))
    if head.startswith(_ZIP_SIGN) or head[_TAR_SIGN_AT:].startswith(_TAR_SIGN):
        stream.close()
        raise InputError(f"{path} is a zip or tar archive; unpack it and give the file of vectors that is in it")
    return stream


def detect_format(path: str) -> str:
    """Tell the format of a file from its beginning.

    Raises:
        InputError: if it is none that is read without being named.
    """
    with open_plain(path) as stream:
        first = stream.read(_WINDOW)
    if first.startswith(FASTTEXT_MAGIC):
        return "fasttext-binary"
    if first.startswith(b"\x80"):
        raise InputError(
            f"{path} is a pickle, such as gensim writes; loading one runs the code in it; "
            "if you trust the file, say --import-format gensim"
        )
    line, _, rest = first.removeprefix(_BOM).lstrip().partition(b"\n")
    if header := _header(line):
        is_text = _num_numbers(rest.lstrip().partition(b"\n")[0]) >= min(header[1], 3)
        return "text" if is_text else "word2vec-binary"
    if _num_numbers(line) and len(line.split()) > 2:
        return "text"
    raise InputError(
        f"{path} is in no known format of word vectors: it begins with {line[:40]!r}; expected word2vec text or binary, GloVe "
        "text, fastText .vec or .bin"
    )


def _header(line: bytes) -> tuple[int, int] | None:
    """Return the numbers of words and of values a word, if a line says that."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() and len(field) < 20 for field in fields):
        return None
    return int(fields[0]), int(fields[1])


def _num_numbers(line: bytes) -> int:
    """Return how many numbers end a line. Its first field is no number but a word, whatever it is."""
    return sum(1 for _ in itertools.takewhile(_is_number, reversed(line.split()[1:])))


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def read_text(stream: io.BufferedReader) -> Rows:
    """Read lines of a word and its numbers, with a header before them (word2vec, fastText .vec) or without (GloVe).

    Raises:
        ValueError: if it is empty, or a line has no end.
        EOFError: from the words, if there are fewer than the header says, or the last one breaks off.
    """
    if stream.peek(len(_BOM)).startswith(_BOM):
        stream.read(len(_BOM))
    lines = (line for line in iter(lambda: stream.readline(_LONGEST_LINE), b"") if line.strip())
    first = list(itertools.islice(lines, _FIRST_LINES))
    if not first:
        raise ValueError("it is empty")
    if header := _header(first[0]):
        (count, dimension), first = header, first[1:]
    else:
        count, dimension = 0, statistics.mode(map(_num_numbers, first))
    words = _text_words(itertools.chain(first, lines), count, dimension)
    return Rows(dimension, words, lambda text: _numbers(text, dimension))


def _text_words(lines: Iterator[bytes], count: int, dimension: int) -> Iterator[tuple[str, bytes]]:
    number, line = 0, b""
    for number, line in enumerate(lines, 1):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"word {number} has a line of more than {_LONGEST_LINE:,} bytes")
        word, _, numbers = line.replace(b"\t", b" ").partition(b" ")
        yield word.decode("utf-8", "replace"), numbers
    if number < count:
        raise EOFError(f"it ends after {number} of {count} words")
    if not line.endswith(b"\n") and len(line.split()) <= dimension:
        raise EOFError(f"it ends inside a vector, after {number - 1} words")


def _numbers(text: bytes, dimension: int) -> FloatArray | None:
    """Return the numbers of a line, empty if they cannot be read; None if its word goes on, having a space in it."""
    fields = text.split()
    try:
        with np.errstate(over="ignore"):  # what becomes infinite is counted where it is wanted
            return np.array(fields, np.float32)
    except ValueError:
        return None if len(fields) > dimension else np.zeros(0, np.float32)


def read_binary(stream: io.BufferedReader) -> Rows:
    """Read a header and records of a word, a space, and its numbers as float32.

    Raises:
        ValueError: if there is no header; from the words, if the file goes on behind the last.
        EOFError: from the words, if there are fewer than the header says, or a record makes no sense.
    """
    line = stream.readline(_LONGEST_WORD)
    header = _header(line)
    if not header:
        raise ValueError(f"it begins with {line[:40]!r} instead of two numbers")
    count, dimension = header
    return Rows(dimension, _binary_words(stream, count, dimension), lambda data: np.frombuffer(data, "<f4"))


def _binary_words(stream: io.BufferedReader, count: int, dimension: int) -> Iterator[tuple[str, bytes]]:
    num_bytes = 4 * dimension
    enough = num_bytes + 2 * _LONGEST_WORD
    data, start = b"", 0
    line_ends: set[bool] = set()
    for number in range(count):
        if len(data) - start < enough:
            data, start = data[start:] + stream.read(_WINDOW + enough), 0
        space = _end_of_word(data, start, dimension)
        word, end = data[start:space].removeprefix(b"\n"), space + 1 + num_bytes
        if number:
            # All records behind the first begin with a line end or none does, unless a byte was lost or added.
            line_ends.add(data[start : start + 1] == b"\n")
        if space < 0 or end > len(data) or len(line_ends) > 1:
            raise EOFError(f"it ends or makes no sense after {number} of {count} words")
        yield word.decode("utf-8", "replace"), data[space + 1 : end]
        start = end
    if (data[start:] + stream.read(_LONGEST_WORD)).strip():
        raise ValueError(f"it goes on after its {count} words")


def _end_of_word(data: bytes, start: int, dimension: int) -> int:
    """Return where the space lies that ends the word of a record; -1 if there is none.

    A word may have spaces in it: its end is the one behind which likely numbers follow, and then another word. Where none
    is, as with numbers that are not finite, it is the first.
    """
    no_word = _NO_WORD.search(data, start + 1, start + _LONGEST_WORD)
    stop = no_word.start() if no_word else start + _LONGEST_WORD
    first = space = data.find(b" ", start, stop)
    while space >= 0:
        if _fits(data, space + 1, dimension):
            return space
        space = data.find(b" ", space + 1, stop)
    return first


def _fits(data: bytes, start: int, dimension: int) -> bool:
    end = start + 4 * dimension
    if end > len(data):
        return False
    sizes = np.abs(np.frombuffer(data, "<f4", dimension, start))
    least, most = _LIKELY
    if not ((sizes < most) & ((sizes > least) | (sizes == 0))).all():
        return False
    following = _NEXT_WORD.match(data, end)
    return following is not None and "\ufffd" not in following[1].decode("utf-8", "replace")
