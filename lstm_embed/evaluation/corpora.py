"""Corpora to search in: an embeddings folder read as a stream, or some thousand sentences held in memory."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NotRequired

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.token_set import TokenSet, is_held_out
from lstm_embed.evaluation.baselines import FloatArray
from lstm_embed.ledger.manifest import UnitManifest, listed_parts, read_manifest
from lstm_embed.ledger.parts import PartInfo, open_part
from lstm_embed.words.scores import shipped_file

_CHUNK_ROWS = 4_096
Split = Callable[[str], Sequence[tuple[int, int]]]
"""Cuts a text into (start, end) spans of sentences."""


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """Sentences of articles, one after the other.

    Attributes:
        texts: Text of each; "" where the corpus has none.
        titles: Title of each one's article; "" where it has none.
        keys: Number that stands for each one's article, shape (n,).
        vectors: Vector of each, shape (n, E); None where they were not read.
    """

    texts: list[str]
    titles: list[str]
    keys: npt.NDArray[np.uint64]
    vectors: FloatArray | None = None

    def chunks(self) -> Iterator[Sentences]:
        """Yield the sentences in order, some thousand at a time."""
        for first in range(0, len(self.texts), _CHUNK_ROWS):
            some = slice(first, first + _CHUNK_ROWS)
            vectors = None if self.vectors is None else self.vectors[some]
            yield Sentences(texts=self.texts[some], titles=self.titles[some], keys=self.keys[some], vectors=vectors)

    def are_titles(self) -> npt.NDArray[np.bool_]:
        """Tell which sentences are nothing but their article's title."""
        pairs = zip(self.texts, self.titles, strict=True)
        return np.array(
            [bool(text) and text.strip().casefold() == title.strip().casefold() for text, title in pairs], bool
        )


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class _Settings(TypedDict):
    embedding: NotRequired[str]


class _Manifest(UnitManifest):
    settings: NotRequired[_Settings]
    model: NotRequired[str]


class EmbeddedCorpus:
    """A finished embeddings folder, or whole articles of it.

    Args:
        path: The folder.
        max_rows: About how many rows to keep, as whole articles chosen by their ids; 0 for all.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is no finished embeddings folder.
    """

    def __init__(self, path: str, max_rows: int = 0) -> None:
        self.path = storage.resolve(path)
        self.manifest = read_manifest(self.path, kind="embeddings", declared=_Manifest)
        self.embedding = self.manifest.get("settings", {}).get("embedding", "")
        """What the vectors hold; empty where the folder does not say."""
        self._parts = listed_parts(self.path, self.manifest)
        total = self.manifest["rows"]
        self._share = min(1.0, max_rows / total) if max_rows and total else 1.0
        if not self._parts:
            raise InputError(f"{self.path} holds no rows (--embeddings)")
        with open_part(self._parts[0], "embed") as file:
            self._columns = set(file.schema_arrow.names)
        if missing := {"article_id", "embedding"} - self._columns:
            raise InputError(
                f"{self.path} has no column {' and no column '.join(sorted(missing))}; expected embeddings of articles' "
                "sentences (--embeddings)"
            )

    @property
    def has_texts(self) -> bool:
        """Whether the sentences' text was kept."""
        return "text" in self._columns

    def chunks(self, *, vectors: bool = True) -> Iterator[Sentences]:
        """Yield the sentences in order, some thousand at a time; the same at every call."""
        wanted = {"article_id", "article_hash", "title", "text", *(["embedding"] if vectors else [])}
        for part in self._parts:
            for number, table in enumerate(_tables(part, sorted(wanted & self._columns))):
                keys = _keys(table, f"{part.path} {number}")
                if self._share < 1:
                    kept = keys < np.uint64(int(self._share * 2**64))
                    table, keys = table.filter(pa.array(kept)), keys[kept]
                if len(keys):
                    yield _sentences(table, keys)

    def sentences(self) -> Sentences:
        """Return all of it without its vectors."""
        return _joined(list(self.chunks(vectors=False)))


def _tables(part: PartInfo, columns: list[str]) -> Iterator[pa.Table]:
    with open_part(part, "embed") as file:
        for batch in file.iter_batches(_CHUNK_ROWS, columns=columns):
            yield pa.Table.from_batches([batch])


def _sentences(table: pa.Table, keys: npt.NDArray[np.uint64]) -> Sentences:
    def strings(name: str) -> list[str]:
        return [text or "" for text in table[name].to_pylist()] if name in table.column_names else [""] * len(keys)

    vectors = None
    if "embedding" in table.column_names:
        flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.reshape(len(keys), -1).astype(np.float32)
    return Sentences(texts=strings("text"), titles=strings("title"), keys=keys, vectors=vectors)


def _keys(table: pa.Table, place: str) -> npt.NDArray[np.uint64]:
    """Hash the articles' ids, or else the hashes of their texts; a row without either is an article of its own."""
    ids = table["article_id"].to_pylist()
    hashes = table["article_hash"].to_pylist() if "article_hash" in table.column_names else [None] * len(ids)
    names = [
        article_id if article_id is not None else text_hash.hex() if text_hash else f"{place} {number}"
        for number, (article_id, text_hash) in enumerate(zip(ids, hashes, strict=True))
    ]
    return np.array([_key(name) for name in names], np.uint64)


@functools.lru_cache(maxsize=1024)
def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest())


def _joined(parts: Sequence[Sentences]) -> Sentences:
    return Sentences(
        texts=[text for part in parts for text in part.texts],
        titles=[title for part in parts for title in part.titles],
        keys=np.concatenate([np.zeros(0, np.uint64), *(part.keys for part in parts)]),
    )


def token_set_sentences(tokens: TokenSet, max_rows: int, *, held_out: bool, min_tokens: int = 3) -> Sentences:
    """Hold up to `max_rows` sentences of a token set, spread over its parts.

    Where the token set was made without text, a sentence is its words.

    Args:
        tokens: Token set to read.
        max_rows: Most sentences.
        held_out: Whether to take those of the held-out articles, else the others.
        min_tokens: Least number of tokens of a sentence.
    """
    found: list[Sentences] = []
    left = max_rows
    for number, part in enumerate(tokens.parts):
        table = tokens.read_part(number)
        wanted = is_held_out(table["article"].combine_chunks().to_numpy(), tokens.holdout_every) == held_out
        wanted &= table["ids"].combine_chunks().value_lengths().to_numpy() >= min_tokens
        # An equal share of what is left to take for each part that is left.
        room = -(-left // (len(tokens.parts) - number))
        table = table.take(pa.array(np.flatnonzero(wanted)[:room]))
        if "text" not in table.column_names:
            texts = [" ".join(tokens.vocabulary.words(ids)) for ids in table["ids"].to_pylist()]
            table = table.append_column("text", pa.array(texts, pa.string()))
        found.append(_sentences(table, _keys(table, part.name)))
        left -= len(table)
    return _joined(found)


def shipped_sentences(split: Split, min_words: int = 3) -> Sentences:
    """Return the sentences, of `min_words` words or more, of the 300 news texts that ship with gensim, without titles."""
    documents = [
        [text[start:end] for start, end in split(text) if len(text[start:end].split()) >= min_words]
        for text in shipped_documents("lee_background.cor")
    ]
    return Sentences(
        texts=[sentence for sentences in documents for sentence in sentences],
        titles=[""] * sum(map(len, documents)),
        keys=np.repeat(np.arange(len(documents), dtype=np.uint64), [len(sentences) for sentences in documents]),
    )


def shipped_documents(name: str) -> list[str]:
    """Return the lines of a file of news texts that ships with gensim."""
    with open(shipped_file(name), encoding="latin-1") as file:
        return [line.strip() for line in file if line.strip()]
