"""Corpora to search in: an embeddings folder read as a stream, or some thousand sentences held in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.token_set import TokenSet, is_held_out
from lstm_embed.evaluation.baselines import FloatArray
from lstm_embed.ledger.sealed import read_manifest
from lstm_embed.words.scores import shipped_file

Keys = npt.NDArray[np.uint64]
_CHUNK_ROWS = 8_192


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Sentences of a corpus, one after the other.

    Attributes:
        first: Number of the first one within the corpus.
        keys: Stands for the article of each, shape (n,).
        titles: Of the articles, "" where there is none.
        texts: None where the corpus has none.
        vectors: None where they were not asked for or there are none, else (n, E).
    """

    first: int
    keys: Keys
    titles: list[str]
    texts: list[str] | None
    vectors: FloatArray | None

    def is_title(self) -> npt.NDArray[np.bool_]:
        """Tell which rows are nothing but their article's title."""
        if self.texts is None:
            return np.zeros(len(self.keys), bool)
        pairs = zip(self.texts, self.titles, strict=True)
        return np.array([text.strip().casefold() == title.strip().casefold() for text, title in pairs], bool)


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """A corpus in memory: texts, and for each the key and title of its article."""

    texts: list[str]
    keys: Keys
    titles: list[str]

    def rows(self) -> Rows:
        """Return all of it."""
        return Rows(first=0, keys=self.keys, titles=self.titles, texts=self.texts, vectors=None)


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
        self.manifest: dict[str, Any] = read_manifest(self.path, kind="embeddings")
        self.embedding: str = self.manifest.get("settings", {}).get("embedding", "")
        """What the vectors hold; empty where the folder does not say."""
        self.parts = [storage.join(self.path, "parts", part["name"]) for part in self.manifest["parts"]]
        total = self.manifest["rows"]
        self._share = min(1.0, max_rows / total) if max_rows and total else 1.0
        self.columns = set(self._schema().names)
        for column in ("article_id", "embedding"):
            if column not in self.columns:
                raise InputError(f"{self.path} has no column {column}; expected embeddings of articles' sentences")

    def _schema(self) -> pa.Schema:
        if not self.parts:
            raise InputError(f"{self.path} holds no rows")
        with storage.open_input(self.parts[0]) as file:
            return pq.read_schema(file)

    @property
    def has_texts(self) -> bool:
        """Whether the sentences' text was kept."""
        return "text" in self.columns

    def chunks(self, *, vectors: bool = False, texts: bool = True) -> Iterator[Rows]:
        """Yield the rows in order, some thousand at a time; the same at every call.

        Args:
            vectors: Read the embeddings too.
            texts: Read the texts if there are any.
        """
        wanted = {
            "article_id",
            "article_hash",
            "title",
            *(["text"] if texts else []),
            *(["embedding"] if vectors else []),
        }
        first = 0
        for part in self.parts:
            with storage.open_input(part) as file:
                batches = pq.ParquetFile(file).iter_batches(_CHUNK_ROWS, columns=sorted(wanted & self.columns))
                for number, batch in enumerate(batches):
                    table = pa.Table.from_batches([batch])
                    keys = _article_keys(table, f"{part} {number}")
                    chosen = _chosen(keys, self._share)
                    if not chosen.any():
                        continue
                    rows = _rows(table.filter(pa.array(chosen)), keys[chosen], first)
                    yield rows
                    first += len(rows.keys)


def _rows(table: pa.Table, keys: Keys, first: int) -> Rows:
    names = table.column_names
    titles = table["title"].to_pylist() if "title" in names else [""] * len(keys)
    vectors = None
    if "embedding" in names:
        column = table["embedding"].combine_chunks()
        vectors = column.flatten().to_numpy().reshape(len(keys), -1).astype(np.float32)
    texts = [text or "" for text in table["text"].to_pylist()] if "text" in names else None
    return Rows(first=first, keys=keys, titles=[title or "" for title in titles], texts=texts, vectors=vectors)


def _keys(article_ids: Sequence[str | None], nameless: str) -> Keys:
    """Hash article ids; a row without one is an article of its own."""
    known: dict[str, int] = {}
    keys = np.empty(len(article_ids), np.uint64)
    for number, article_id in enumerate(article_ids):
        name = f"{nameless} {number}" if article_id is None else article_id
        key = known.get(name)
        if key is None:
            key = known[name] = int.from_bytes(hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=8).digest())
        keys[number] = key
    return keys


def _article_keys(table: pa.Table, nameless: str) -> Keys:
    """Key each row by its article's id, else by the hash of its article's text."""
    names = table["article_id"].to_pylist()
    if table["article_id"].null_count and "article_hash" in table.column_names:
        hashes = table["article_hash"].to_pylist()
        names = [h.hex() if name is None and h else name for name, h in zip(names, hashes, strict=True)]
    return _keys(names, nameless)


def _chosen(keys: Keys, share: float) -> npt.NDArray[np.bool_]:
    if share >= 1:
        return np.ones(len(keys), bool)
    return keys < np.uint64(int(share * 2**64))


def embedded_sentences(path: str, max_rows: int) -> Sentences:
    """Hold about `max_rows` sentences of an embeddings folder that kept the text, as whole articles."""
    corpus = EmbeddedCorpus(path, max_rows)
    chunks = list(corpus.chunks())
    return Sentences(
        texts=[text for rows in chunks for text in rows.texts or []],
        keys=np.concatenate([np.zeros(0, np.uint64), *(rows.keys for rows in chunks)]),
        titles=[title for rows in chunks for title in rows.titles],
    )


def token_set_sentences(tokens: TokenSet, max_rows: int, *, held_out: bool, min_tokens: int = 3) -> Sentences:
    """Hold up to `max_rows` sentences of a token set, spread over its parts.

    Where the token set was made without text, a sentence is its words.

    Args:
        tokens: The token set.
        max_rows: Most sentences.
        held_out: Those of the held-out articles, else the others.
        min_tokens: Least number of tokens of a sentence.
    """
    texts: list[str] = []
    titles: list[str] = []
    keys: list[Keys] = []
    for number, part in enumerate(tokens.parts):
        table = tokens.read_part(number)
        article = table["article"].combine_chunks().to_numpy()
        wanted = is_held_out(article, tokens.holdout_every) == held_out
        wanted &= table["ids"].combine_chunks().value_lengths().to_numpy() >= min_tokens
        # An equal share of what is left to take for each part that is left.
        room = -(-(max_rows - len(texts)) // (len(tokens.parts) - number))
        table = table.take(pa.array(np.flatnonzero(wanted)[:room]))
        keys.append(_article_keys(table, part.name))
        titles += [title or "" for title in table["title"].to_pylist()]
        texts += _texts(table, tokens)
    return Sentences(texts=texts, keys=np.concatenate([np.zeros(0, np.uint64), *keys]), titles=titles)


def _texts(table: pa.Table, tokens: TokenSet) -> list[str]:
    if "text" in table.column_names:
        return [text or "" for text in table["text"].to_pylist()]
    return [" ".join(tokens.vocabulary.words(ids)) for ids in table["ids"].to_pylist()]


def shipped_sentences(split: Any, min_words: int = 3) -> Sentences:
    """Return the sentences of the 300 news texts that ship with gensim; they have no titles.

    Args:
        split: Cuts a text into (start, end) spans of sentences.
        min_words: Least number of words of a sentence.
    """
    with open(shipped_file("lee_background.cor"), encoding="latin-1") as file:
        documents = [line.strip() for line in file if line.strip()]
    texts, owners = [], []
    for number, document in enumerate(documents):
        for start, end in split(document):
            if len(document[start:end].split()) >= min_words:
                texts.append(document[start:end])
                owners.append(f"lee {number}")
    return Sentences(texts=texts, keys=_keys(owners, ""), titles=[""] * len(texts))
