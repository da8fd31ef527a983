"""Word vectors made elsewhere: their file formats, and how their words meet a vocabulary.

Text and word2vec binary files are read as a stream; of them only the vectors of the vocabulary's words are held.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lstm_embed import storage
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import UNKNOWN, Vocabulary
from lstm_embed.errors import InputError
from lstm_embed.word_vectors.gensim_model import quiet_gensim

FloatArray = npt.NDArray[np.float32]
Block = tuple[list[str], Sequence[Any]]
"""Words, and for each something its vector can be made of."""

_FASTTEXT_MAGIC = (793_712_314).to_bytes(4, "little")
_BLOCK_WORDS = 5_000
_LONGEST_WORD = 10_000


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Vectors from a file, aligned to a vocabulary.

    Attributes:
        vectors: float32, shape (V, d); zero rows where the file had nothing.
        exact: Words found as they are.
        normalized: Words found only after the token rule was applied to the file's words ("Paris" for "paris").
        composed: Words composed from character n-grams.
    """

    vectors: FloatArray
    exact: int
    normalized: int
    composed: int


def read_vectors(path: str, file_format: str, vocabulary: Vocabulary, profile: str) -> Imported:
    """Read a file of word vectors.

    Args:
        path: The file, compressed or not.
        file_format: "auto", "text", "word2vec-binary", "fasttext-binary" or "gensim" (a pickle).
        vocabulary: The words that are wanted.
        profile: Token rule the vocabulary was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is not in that format, or has none of the words.
    """
    path = storage.resolve(path)
    storage.info(path)
    if file_format == "auto":
        file_format = detect_format(path)
    try:
        if file_format in ("fasttext-binary", "gensim"):
            imported = _from_gensim(path, file_format, vocabulary, profile)
        else:
            imported = _from_stream(path, file_format, vocabulary, profile)
    except (ValueError, EOFError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no readable {file_format} file of word vectors ({error})") from None
    if not imported.exact + imported.normalized:
        raise InputError(f"{path} has a vector for none of the {len(vocabulary) - 2} words of the vocabulary")
    return imported


def detect_format(path: str) -> str:
    """Tell the format of a file from its first bytes.

    Raises:
        InputError: if it is none that is read without being named.
    """
    with io.BufferedReader(cast(Any, storage.open_stream(path))) as stream:
        first = stream.read(4096)
    if first.startswith(_FASTTEXT_MAGIC):
        return "fasttext-binary"
    if first.startswith(b"\x80"):
        raise InputError(
            f"{path} is a pickle, such as gensim writes; loading one runs the code in it; "
            "if you trust the file, say --import-format gensim"
        )
    line, _, rest = first.partition(b"\n")
    if _is_header(line):
        values = rest.partition(b"\n")[0].split(b" ")[1:4]
        return "text" if values and all(_is_number(value) for value in values) else "word2vec-binary"
    fields = line.split()
    if len(fields) > 2 and _is_number(fields[-1]):
        return "text"
    raise InputError(
        f"{path} is in no known format of word vectors: it begins with {line[:40]!r}; expected word2vec text or binary, GloVe "
        "text, fastText .vec or .bin"
    )


def _is_header(line: bytes) -> bool:
    fields = line.split()
    return len(fields) == 2 and all(field.isdigit() for field in fields)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _from_stream(path: str, file_format: str, vocabulary: Vocabulary, profile: str) -> Imported:
    with io.BufferedReader(cast(Any, storage.open_stream(path)), 1 << 20) as stream:
        line = stream.readline()
        if file_format == "word2vec-binary":
            if not _is_header(line):
                raise ValueError(f"it begins with {line[:40]!r} instead of two numbers")
            count, dimension = (int(field) for field in line.split())
            blocks = _binary_blocks(stream, count, dimension)
            return _match(blocks, lambda value: np.frombuffer(value, "<f4"), dimension, vocabulary, profile)
        headed = _is_header(line)
        dimension = int(line.split()[1]) if headed else len(line.split()) - 1
        lines: Iterable[bytes] = stream if headed else _with_first(line, stream)

        return _match(_text_blocks(lines), _numbers, dimension, vocabulary, profile)


def _numbers(text: bytes) -> FloatArray:
    """Return the numbers of a line; none if something else is among them, such as the rest of a word with a space in it."""
    try:
        return np.array(text.split(), np.float32)
    except ValueError:
        return np.zeros(0, np.float32)


def _with_first(line: bytes, stream: Iterable[bytes]) -> Iterator[bytes]:
    yield line
    yield from stream


def _text_blocks(lines: Iterable[bytes]) -> Iterator[Block]:
    words: list[str] = []
    values: list[bytes] = []
    for line in lines:
        word, _, rest = line.partition(b" ")
        words.append(word.decode("utf-8", "replace"))
        values.append(rest)
        if len(words) == _BLOCK_WORDS:
            yield words, values
            words, values = [], []
    yield words, values


def _binary_blocks(stream: io.BufferedReader, count: int, dimension: int) -> Iterator[Block]:
    words: list[str] = []
    values: list[bytes] = []
    for _ in range(count):
        word = bytearray()
        while (byte := stream.read(1)) != b" ":
            if not byte or len(word) > _LONGEST_WORD:
                raise EOFError(f"it ends or makes no sense after {len(words)} words of a block; expected {count} words")
            if byte != b"\n" or word:
                word += byte
        vector = stream.read(4 * dimension)
        if len(vector) < 4 * dimension:
            raise EOFError(f"it ends inside a vector; expected {count} words")
        words.append(word.decode("utf-8", "replace"))
        values.append(vector)
        if len(words) == _BLOCK_WORDS:
            yield words, values
            words, values = [], []
    yield words, values


def _from_gensim(path: str, file_format: str, vocabulary: Vocabulary, profile: str) -> Imported:
    """Read what only gensim can read; words without a vector are composed if the file has n-grams."""
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import FastTextKeyedVectors, load_facebook_vectors

    with quiet_gensim(), tempfile.TemporaryDirectory() as cache:
        local = storage.local_copy(path, cache)
        loaded = load_facebook_vectors(local) if file_format == "fasttext-binary" else _unpickled(local, KeyedVectors)
    words, vectors = list(loaded.index_to_key), loaded.vectors
    blocks = (
        (words[start : start + _BLOCK_WORDS], vectors[start : start + _BLOCK_WORDS])
        for start in range(0, len(words), _BLOCK_WORDS)
    )
    found = _match(blocks, lambda value: value, vectors.shape[1], vocabulary, profile)
    if not (isinstance(loaded, FastTextKeyedVectors) and loaded.bucket):
        return found
    missing = np.flatnonzero(~found.vectors.any(axis=1))
    missing = missing[missing > UNKNOWN]
    for word in missing:
        found.vectors[word] = loaded.get_vector(vocabulary.words[word])
    return Imported(
        vectors=found.vectors,
        exact=found.exact,
        normalized=found.normalized,
        composed=int(found.vectors[missing].any(1).sum()),
    )


def _unpickled(path: str, loader: Any) -> Any:
    try:
        loaded = loader.load(path)
    except Exception as error:
        # A damaged or foreign pickle may raise anything at all.
        raise InputError(f"{path} is no file that this version of gensim can load ({error})") from None
    loaded = getattr(loaded, "wv", loaded)
    if not hasattr(loaded, "index_to_key"):
        raise InputError(f"{path} holds a {type(loaded).__name__}; expected gensim word vectors")
    return loaded


def _match(
    blocks: Iterable[Block], parse: Callable[[Any], FloatArray], dimension: int, vocabulary: Vocabulary, profile: str
) -> Imported:
    """Collect the vocabulary's words: as they are, else the first that the token rule turns into them."""
    if dimension < 1:
        raise ValueError("it has no numbers behind its words")
    vectors = np.zeros((len(vocabulary), dimension), np.float32)
    exact = np.zeros(len(vocabulary), bool)
    normalized = np.zeros(len(vocabulary), bool)
    for words, values in blocks:
        if not words:
            continue
        plain, ruled = vocabulary.ids(words), _ids_by_rule(words, vocabulary, profile)
        for number in np.flatnonzero((plain > UNKNOWN) | (ruled > UNKNOWN)).tolist():
            as_is = plain[number] > UNKNOWN
            row = plain[number] if as_is else ruled[number]
            if exact[row] or (normalized[row] and not as_is):
                continue
            vector = parse(values[number])
            if len(vector) == dimension and np.isfinite(vector).all():
                vectors[row] = vector
                exact[row], normalized[row] = as_is, not as_is
    return Imported(vectors=vectors, exact=int(exact.sum()), normalized=int(normalized.sum()), composed=0)


def _ids_by_rule(words: list[str], vocabulary: Vocabulary, profile: str) -> npt.NDArray[np.int32]:
    tokens = tokenize(words, profile)
    single = pc.equal(pc.list_value_length(tokens), 1).to_numpy(zero_copy_only=False)
    ids = np.full(len(words), UNKNOWN, np.int32)
    if single.any():
        ids[single] = vocabulary.ids(tokens.filter(single).flatten())
    return ids
