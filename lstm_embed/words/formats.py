"""Word vectors made elsewhere: their file formats, and how their words meet a vocabulary.

Only the vectors of the vocabulary's pieces are held; gensim's own files excepted, which only gensim can read.
"""

from __future__ import annotations

import dataclasses
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.pieces import MARK
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, PAD, Vocabulary
from lstm_embed.ledger.sealed import read_manifest
from lstm_embed.words.fasttext_file import MAGIC, MOST_DIMENSIONS, FastTextFile, Subwords, local_file
from lstm_embed.words.folder import KIND, State, WordVectors
from lstm_embed.words.gensim_model import quiet_gensim

FloatArray = npt.NDArray[np.float32]
Block = tuple[list[str], Sequence[Any]]
"""Words, and for each something its vector can be made of."""

_BLOCK_WORDS = 5_000
_LONGEST_WORD = 10_000
_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"


@dataclass(frozen=True, kw_only=True)
class Imported:
    """Vectors from a file, aligned to a vocabulary.

    Attributes:
        vectors: float32, shape (V, d); zero rows where the file had nothing.
        exact: Pieces whose word was found as it is.
        normalized: Pieces whose word was found only after the token rule was applied to the file's words ("Paris" for "paris").
        composed: Pieces composed from character n-grams.
        from_pieces: Words without a vector that have the mean of their pieces' vectors.
        malformed: Lines of wanted words that were left out, as they are not so many numbers as the file's first vector.
    """

    vectors: FloatArray
    exact: int
    normalized: int
    composed: int = 0
    from_pieces: int = 0
    malformed: int = 0


def read_vectors(path: str, file_format: str, vocabulary: Vocabulary, profile: str) -> Imported:
    """Read a file of word vectors.

    Args:
        path: The file, compressed or not.
        file_format: "auto", "text", "word2vec-binary", "fasttext-binary" or "gensim" (a pickle).
        vocabulary: The pieces that are wanted.
        profile: Token rule the vocabulary was made with.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is not in that format, or has none of the words.
    """
    path = storage.resolve(path)
    if storage.is_dir(path):
        return _checked(_from_folder(path, vocabulary), path, vocabulary)
    storage.info(path)
    if file_format == "auto":
        file_format = detect_format(path)
    try:
        if file_format == "gensim":
            imported = _from_gensim(path, vocabulary, profile)
        elif file_format == "fasttext-binary":
            imported = _from_fasttext(path, vocabulary, profile)
        else:
            imported = _from_stream(path, file_format, vocabulary, profile)
    except (ValueError, EOFError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no readable {file_format} file of word vectors ({error})") from None
    return _checked(imported, path, vocabulary)


def _checked(imported: Imported, path: str, vocabulary: Vocabulary) -> Imported:
    found = imported.exact + imported.normalized
    if imported.malformed > found / 100:
        raise InputError(
            f"{path} is damaged: of the {found + imported.malformed} words that are wanted, {imported.malformed} have another "
            f"number of values than {imported.vectors.shape[1]}, or values that are not finite numbers"
        )
    if not found:
        raise InputError(
            f"{path} has a vector for none of the {len(vocabulary) - FIRST_LEARNED} pieces of the vocabulary"
        )
    return _from_pieces(imported, vocabulary)


def detect_format(path: str) -> str:
    """Tell the format of a file from its first bytes.

    Raises:
        InputError: if it is none that is read without being named.
    """
    with io.BufferedReader(cast(Any, storage.open_stream(path))) as stream:
        first = stream.read(4096)
    if first.startswith(MAGIC):
        return "fasttext-binary"
    if first.startswith(b"\x80"):
        raise InputError(
            f"{path} is a pickle, such as gensim writes; loading one runs the code in it; "
            "if you trust the file, say --import-format gensim"
        )
    line, _, rest = first.partition(b"\n")
    if _is_header(line):
        values = rest.partition(b"\n")[0].split()[1:4]
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
            return _match(blocks, lambda value: np.frombuffer(value, "<f4"), dimension, _Wanted(vocabulary, profile))
        count, dimension = (int(field) for field in line.split()) if _is_header(line) else (0, len(line.split()) - 1)
        lines: Iterable[bytes] = stream if count else _with_first(line, stream)

        def numbers(text: bytes) -> FloatArray | None:
            return _numbers(text, dimension)

        return _match(_text_blocks(lines, count, dimension), numbers, dimension, _Wanted(vocabulary, profile))


def _numbers(text: bytes, dimension: int) -> FloatArray | None:
    """Return the numbers of a line, empty if they cannot be read; None if its word goes on, having a space in it."""
    fields = text.split()
    try:
        return np.array(fields, np.float32)
    except ValueError:
        return None if len(fields) > dimension else np.zeros(0, np.float32)


def _with_first(line: bytes, stream: Iterable[bytes]) -> Iterator[bytes]:
    yield line
    yield from stream


def _text_blocks(lines: Iterable[bytes], count: int, dimension: int) -> Iterator[Block]:
    """Yield words and the text behind them.

    Raises:
        EOFError: at the end, if there were fewer than `count` lines, or the last one breaks off.
    """
    words: list[str] = []
    values: list[bytes] = []
    number, line = 0, b""
    for line in lines:
        number += 1
        word, _, rest = line.replace(b"\t", b" ").partition(b" ")
        words.append(word.decode("utf-8", "replace"))
        values.append(rest)
        if len(words) == _BLOCK_WORDS:
            yield words, values
            words, values = [], []
    yield words, values
    if number < count:
        raise EOFError(f"it ends after {number} of {count} words")
    if not line.endswith(b"\n") and len(line.split()) <= dimension:
        raise EOFError(f"it ends inside a vector, after {number - 1} words")


def _binary_blocks(stream: io.BufferedReader, count: int, dimension: int) -> Iterator[Block]:
    words: list[str] = []
    values: list[bytes] = []
    for number in range(count):
        word = bytearray()
        while (byte := stream.read(1)) != b" ":
            if not byte or len(word) > _LONGEST_WORD:
                raise EOFError(f"it ends or makes no sense after {number} of {count} words")
            if byte != b"\n" or word:
                word += byte
        vector = stream.read(4 * dimension)
        if len(vector) < 4 * dimension:
            raise EOFError(f"it ends inside a vector, after {number} of {count} words")
        words.append(word.decode("utf-8", "replace"))
        values.append(vector)
        if len(words) == _BLOCK_WORDS:
            yield words, values
            words, values = [], []
    yield words, values
    if stream.read(64).strip():
        raise ValueError(f"it goes on after its {count} words")


def _in_blocks(words: list[str], values: Any) -> Iterator[Block]:
    for start in range(0, len(words), _BLOCK_WORDS):
        yield words[start : start + _BLOCK_WORDS], values[start : start + _BLOCK_WORDS]


def _composed(found: Imported, subwords: Subwords, texts: Sequence[str]) -> Imported:
    """Compose the vectors that are missing from the n-grams of texts, one a row."""
    missing = np.flatnonzero(~found.vectors.any(axis=1))
    missing = missing[missing >= FIRST_LEARNED]
    for row in missing.tolist():
        found.vectors[row] = subwords.compose(texts[row])
    return dataclasses.replace(found, composed=int(found.vectors[missing].any(axis=1).sum()))


def _from_pieces(found: Imported, vocabulary: Vocabulary) -> Imported:
    """Give words without a vector the mean of those pieces' vectors that they would else be cut into."""
    has_vector = [bool(vector.any()) for vector in found.vectors]
    missing = [row for row, piece in enumerate(vocabulary.pieces) if piece.startswith(MARK) and not has_vector[row]]
    number = 0
    for row, ids in zip(missing, vocabulary.second_cuts([vocabulary.pieces[row][1:] for row in missing]), strict=True):
        ids = [one for one in ids if has_vector[one]]
        if ids:
            found.vectors[row] = found.vectors[ids].mean(axis=0)
            number += 1
    return dataclasses.replace(found, from_pieces=number)


def _from_fasttext(path: str, vocabulary: Vocabulary, profile: str) -> Imported:
    with tempfile.TemporaryDirectory() as folder:
        file = FastTextFile(local_file(path, folder))
        blocks = _in_blocks(file.words, range(len(file.words)))
        found = _match(blocks, file.vector, file.vectors.shape[1], _Wanted(vocabulary, profile))
        return _composed(found, file.subwords, [piece.lstrip(MARK) for piece in vocabulary.pieces])


def _from_folder(path: str, vocabulary: Vocabulary) -> Imported:
    """Take the vectors of a folder of this package, made for another vocabulary."""
    earlier = WordVectors.load(path)
    present = np.flatnonzero(earlier.vectors.any(axis=1))
    rows = vocabulary.ids(earlier.vocabulary.pieces[number] for number in present)
    found = Imported(
        vectors=np.zeros((len(vocabulary), earlier.vectors.shape[1]), np.float32),
        exact=int((rows > PAD).sum()),
        normalized=0,
    )
    found.vectors[rows[rows > PAD]] = earlier.vectors[present[rows > PAD]]
    state = State.load(path)
    if not state or "subwords" not in state.arrays:
        return found
    settings = read_manifest(path, kind=KIND)["content"]["settings"]
    subwords = Subwords(state.arrays["subwords"], settings["subword_min"], settings["subword_max"])
    return _composed(found, subwords, vocabulary.pieces)


def _from_gensim(path: str, vocabulary: Vocabulary, profile: str) -> Imported:
    """Read what only gensim can read: a pickle, and the arrays that gensim may have put beside it."""
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import FastTextKeyedVectors

    with quiet_gensim(), tempfile.TemporaryDirectory() as folder:
        local = path
        if storage.is_remote(path):
            for file in storage.list_files(storage.parent(path), recursive=False):
                if file.path.startswith(path):
                    storage.copy_file(file.path, storage.join(folder, storage.name(file.path)))
            local = storage.join(folder, storage.name(path))
        loaded = _unpickled(local, KeyedVectors)
    words = list(map(str, loaded.index_to_key))
    wanted = _Wanted(vocabulary, profile)
    found = _match(_in_blocks(words, loaded.vectors), lambda value: value, loaded.vectors.shape[1], wanted)
    if not (isinstance(loaded, FastTextKeyedVectors) and loaded.bucket):
        return found
    subwords = Subwords(loaded.vectors_ngrams, loaded.min_n, loaded.max_n)
    return _composed(found, subwords, [piece.lstrip(MARK) for piece in vocabulary.pieces])


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


class _Wanted:
    """Which pieces a word of a file has the vector of.

    These are the piece that is the word from its begin to its end and, of a script without spaces, the one inside a token.

    Args:
        vocabulary: The pieces.
        profile: Token rule they were made with.
    """

    def __init__(self, vocabulary: Vocabulary, profile: str) -> None:
        self.num_pieces, self._profile = len(vocabulary), profile
        inside = pc.match_substring_regex(vocabulary.piece_array, pattern=f"^[{_UNSPACED}]+$").to_pylist()
        self._rows: dict[str, list[int]] = {}
        for row in range(FIRST_LEARNED, len(vocabulary)):
            piece = vocabulary.pieces[row]
            if piece[:1] == MARK or inside[row]:
                self._rows.setdefault(piece.lstrip(MARK), []).append(row)
        self._rows.pop("", None)

    def rows(self, words: list[str]) -> Iterator[tuple[int, list[int], bool]]:
        """Yield the number of each word that is wanted, the rows it is for, and whether it is written as they are."""
        tokens = tokenize(words, self._profile)
        for number, (word, ruled) in enumerate(zip(words, tokens.to_pylist(), strict=True)):
            if rows := self._rows.get(word):
                yield number, rows, True
            elif len(ruled) == 1 and (rows := self._rows.get(ruled[0])):
                yield number, rows, False


def _match(
    blocks: Iterable[Block], parse: Callable[[Any], FloatArray | None], dimension: int, wanted: _Wanted
) -> Imported:
    """Collect the vectors of pieces: of the word as it is, else of the first that the token rule turns into it."""
    if not 1 <= dimension <= MOST_DIMENSIONS:
        raise ValueError(f"it has {dimension} numbers behind a word; expected 1 to {MOST_DIMENSIONS}")
    vectors = np.zeros((wanted.num_pieces, dimension), np.float32)
    exact = np.zeros(wanted.num_pieces, bool)
    normalized = np.zeros(wanted.num_pieces, bool)
    malformed = 0
    for words, values in blocks:
        for number, rows, as_is in wanted.rows(words) if words else ():
            if exact[rows[0]] or (normalized[rows[0]] and not as_is):
                continue
            vector = parse(values[number])
            if vector is None:
                continue
            if len(vector) == dimension and np.isfinite(vector).all():
                vectors[rows] = vector
                exact[rows], normalized[rows] = as_is, not as_is
            else:
                malformed += 1
    return Imported(vectors=vectors, exact=int(exact.sum()), normalized=int(normalized.sum()), malformed=malformed)
