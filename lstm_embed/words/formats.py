"""Word vectors made elsewhere: how the words of their files meet a vocabulary.

Only the vectors of the vocabulary's pieces are held; gensim's own files excepted, which only gensim can read.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.corpus.pieces import MARK
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, PAD, Vocabulary
from lstm_embed.words.fasttext_file import Subwords, read_fasttext
from lstm_embed.words.folder import WordVectors
from lstm_embed.words.gensim_model import quiet_gensim
from lstm_embed.words.plain_files import LARGEST, Rows, detect_format, open_plain, read_binary, read_text

FloatArray = npt.NDArray[np.float32]

MOST_DIMENSIONS = 65_536
"""No word vector is longer; a header that says so is damaged."""
_BLOCK_WORDS = 5_000
_BLOCK_NUMBERS = 1 << 24
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
        malformed: Vectors of wanted words that were left out: not so many numbers as the file's others, or no finite ones.
    """

    vectors: FloatArray
    exact: int
    normalized: int = 0
    composed: int = 0
    from_pieces: int = 0
    malformed: int = 0


def read_vectors(path: str, file_format: str, vocabulary: Vocabulary, profile: str) -> Imported:
    """Read a file of word vectors, or a folder of this package.

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
        imported = _from_folder(path, vocabulary)
    else:
        storage.info(path)
        try:
            file_format = detect_format(path) if file_format == "auto" else file_format
            imported = _from_file(path, file_format, vocabulary, profile)
        except LstmEmbedError:
            raise
        except Exception as error:  # every codec has errors of its own, and a pickle may raise anything
            kind = "" if file_format == "auto" else f"{file_format} "
            raise InputError(f"{path} is no readable {kind}file of word vectors ({error})") from None
    found = imported.exact + imported.normalized
    if imported.malformed > found / 100:
        raise InputError(
            f"{path} is damaged: of the {found + imported.malformed} words that are wanted, {imported.malformed} have another "
            f"number of values than {imported.vectors.shape[1]}, or values that are no finite numbers below {LARGEST:,.0f}"
        )
    if not found:
        raise InputError(
            f"{path} has a vector for none of the {len(vocabulary) - FIRST_LEARNED} pieces of the vocabulary"
        )
    return _from_pieces(imported, vocabulary)


def _from_file(path: str, file_format: str, vocabulary: Vocabulary, profile: str) -> Imported:
    if file_format == "gensim":
        rows, subwords = _unpickled(path)
        return _composed(_match(rows, vocabulary, profile), subwords, _texts(vocabulary))
    if file_format == "fasttext-binary":
        with storage.local_file(path) as local:
            rows, subwords = read_fasttext(local)
            return _composed(_match(rows, vocabulary, profile), subwords, _texts(vocabulary))
    with open_plain(path) as stream:
        return _match((read_text if file_format == "text" else read_binary)(stream), vocabulary, profile)


def _from_folder(path: str, vocabulary: Vocabulary) -> Imported:
    """Take the vectors of a folder of this package, made for another vocabulary."""
    earlier = WordVectors.load(path)
    present = np.flatnonzero(earlier.vectors.any(axis=1))
    rows = vocabulary.ids(earlier.vocabulary.pieces[number] for number in present)
    vectors = np.zeros((len(vocabulary), earlier.vectors.shape[1]), np.float32)
    vectors[rows[rows > PAD]] = earlier.vectors[present[rows > PAD]]
    return Imported(vectors=vectors, exact=int((rows > PAD).sum()))


def _unpickled(path: str) -> tuple[Rows, Subwords | None]:
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
        loaded: Any = KeyedVectors.load(local)
    loaded = getattr(loaded, "wv", loaded)
    if not isinstance(loaded, KeyedVectors):
        raise ValueError(f"it holds a {type(loaded).__name__}; expected gensim word vectors")
    rows = Rows(
        loaded.vector_size, zip(map(str, loaded.index_to_key), loaded.vectors, strict=True), lambda value: value
    )
    if isinstance(loaded, FastTextKeyedVectors) and loaded.bucket:
        return rows, Subwords(loaded.vectors_ngrams, loaded.min_n, loaded.max_n)
    return rows, None


def _match(rows: Rows, vocabulary: Vocabulary, profile: str) -> Imported:
    """Collect the vectors of pieces: of the word as it is, else of the first that the token rule turns into it."""
    if not 1 <= rows.dimension <= MOST_DIMENSIONS:
        raise ValueError(f"it has {rows.dimension} numbers behind a word; expected 1 to {MOST_DIMENSIONS:,}")
    wanted = _rows_of_words(vocabulary)
    exact: dict[str, FloatArray] = {}
    normalized: dict[str, FloatArray] = {}
    malformed = 0
    block_words = min(_BLOCK_WORDS, 1 + _BLOCK_NUMBERS // rows.dimension)
    while block := list(itertools.islice(rows.words, block_words)):
        tokens = tokenize([word for word, _ in block], profile).to_pylist()
        for (word, value), ruled in zip(block, tokens, strict=True):
            found = exact
            if word not in wanted and len(ruled) == 1:
                found, word = normalized, ruled[0]
            if word not in wanted or word in exact or word in found:
                continue
            vector = rows.vector(value)
            if vector is None:
                continue
            if len(vector) == rows.dimension and _is_sane(vector):
                found[word] = vector
            else:
                malformed += 1
    vectors = np.zeros((len(vocabulary), rows.dimension), np.float32)
    for word, vector in (normalized | exact).items():
        vectors[wanted[word]] = vector
    return Imported(
        vectors=vectors,
        exact=sum(len(wanted[word]) for word in exact),
        normalized=sum(len(wanted[word]) for word in normalized.keys() - exact.keys()),
        malformed=malformed,
    )


def _rows_of_words(vocabulary: Vocabulary) -> dict[str, list[int]]:
    """Return which pieces a word has the vector of.

    These are the piece that is the word from its begin to its end and, of a script without spaces, the one inside a token.
    """
    inside = pc.match_substring_regex(vocabulary.piece_array, pattern=f"^[{_UNSPACED}]+$").to_pylist()
    rows: dict[str, list[int]] = {}
    for row in range(FIRST_LEARNED, len(vocabulary)):
        piece = vocabulary.pieces[row]
        if piece != MARK and (piece.startswith(MARK) or inside[row]):
            rows.setdefault(piece.lstrip(MARK), []).append(row)
    return rows


def _is_sane(vector: FloatArray) -> bool:
    return bool((np.abs(vector) < LARGEST).all())


def _texts(vocabulary: Vocabulary) -> list[str]:
    return [piece.lstrip(MARK) for piece in vocabulary.pieces]


def _composed(found: Imported, subwords: Subwords | None, texts: Sequence[str]) -> Imported:
    """Compose the vectors that are missing from the n-grams of texts, one a row."""
    if subwords is None:
        return found
    missing = np.flatnonzero(~found.vectors.any(axis=1))
    composed = malformed = 0
    for row in missing[missing >= FIRST_LEARNED].tolist():
        vector = subwords.compose(texts[row])
        if _is_sane(vector):
            found.vectors[row] = vector
            composed += bool(vector.any())
        else:
            malformed += 1
    return dataclasses.replace(found, composed=composed, malformed=found.malformed + malformed)


def _from_pieces(found: Imported, vocabulary: Vocabulary) -> Imported:
    """Give words without a vector the mean of those pieces' vectors that they would else be cut into."""
    present = set(np.flatnonzero(found.vectors.any(axis=1)).tolist())
    missing = [row for row, piece in enumerate(vocabulary.pieces) if piece.startswith(MARK) and row not in present]
    number = 0
    for row, ids in zip(missing, vocabulary.second_cuts([vocabulary.pieces[row][1:] for row in missing]), strict=True):
        ids = [one for one in ids if one in present]
        if ids:
            found.vectors[row] = found.vectors[ids].mean(axis=0)
            number += 1
    return dataclasses.replace(found, from_pieces=number)
