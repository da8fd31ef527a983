"""Articles to tables of sentences and tokens, in memory and without Ray."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed.corpus.articles import read_articles
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers.article import Article
from lstm_embed.corpus.text import Splitter, sentence_splitter, tokenize
from lstm_embed.ledger import Rejected, Span
from lstm_embed.ledger.parts import MAX_LISTED_REJECTIONS

CHUNK_ROWS = 8192
_CHUNK_CHARS = 4_000_000
"""Characters of sentences that end a chunk before it has its rows: rows may be long where nothing is split."""
_PART_BYTES = 64_000_000
"""Bytes of sentences that end a part before it has its rows."""


@dataclass
class SentenceChunk:
    """The sentences of some whole articles, before words are cut into pieces."""

    table: pa.Table
    """As `token_set.SCHEMA`, with the text, but `tokens` (lists of strings) instead of `ids`; `article` counts from 0."""
    num_articles: int
    stats: dict[str, Any]
    """Counts of what went in and what was left out; see `_new_stats`."""
    input_digest: str
    """SHA-256 of all input read up to here."""
    columns: dict[str, list[Any]] = field(default_factory=dict)
    """Values of the carried columns, one for each article."""


@dataclass
class UnitReader:
    """Reads the spans of one unit and collects what is rejected on the way."""

    spans: Sequence[Span]
    config: TextConfig
    columns: Sequence[str] = ()
    chunk_rows: int = CHUNK_ROWS
    """Sentences after which a chunk ends; an article is never cut."""
    splitter: Splitter | None = None
    """Cuts articles into sentences; None for what the config says."""
    rejected: list[Rejected] = field(default_factory=list)
    unlisted: int = 0

    def chunks(self) -> Iterator[SentenceChunk]:
        """Yield the unit's sentences; always at least one chunk, which may be empty."""
        splitter = self.splitter or sentence_splitter(self.config.split, self.config.language)
        chunk = _ChunkBuilder(self.config, splitter, self.columns)
        sha = hashlib.sha256()
        empty = True
        for item in self._items():
            if isinstance(item, Rejected):
                chunk.reject(item)
                sha.update(item.digest.encode())
                self._list(item)
                continue
            sha.update(item.raw)
            chunk.add(item)
            if chunk.num_sentences >= self.chunk_rows or chunk.num_chars >= _CHUNK_CHARS:
                yield chunk.build(sha.hexdigest())
                chunk = _ChunkBuilder(self.config, splitter, self.columns)
                empty = False
        if empty or not chunk.is_empty:
            yield chunk.build(sha.hexdigest())

    def _items(self) -> Iterator[Article | Rejected]:
        for span in self.spans:
            yield from read_articles(span, self.config, self.columns)

    def _list(self, item: Rejected) -> None:
        if len(self.rejected) < MAX_LISTED_REJECTIONS:
            self.rejected.append(item)
        else:
            self.unlisted += item.count


class _ChunkBuilder:
    def __init__(self, config: TextConfig, splitter: Splitter, columns: Sequence[str]) -> None:
        self._config = config
        self._splitter = splitter
        self._spans: list[tuple[int, int]] = []
        self._text: list[str] = []
        # One entry for each article:
        self._lengths: list[int] = []
        self._ids: list[str | None] = []
        self._titles: list[str | None] = []
        self._hashes: list[bytes] = []
        self._columns: dict[str, list[Any]] = {name: [] for name in columns}
        self._rejected: Counter[str] = Counter()
        self._counts: Counter[str] = Counter()
        self._bytes = 0
        self._repeated = 0
        self.num_chars = 0

    @property
    def num_sentences(self) -> int:
        return len(self._text)

    @property
    def is_empty(self) -> bool:
        return not self._ids and not self._rejected

    def reject(self, item: Rejected) -> None:
        self._rejected[item.reason] += item.count
        self._counts["rejected_bytes"] += item.size
        self._counts["files_rejected"] += item.rest_of_file

    def add(self, article: Article) -> None:
        text = article.text
        spans = self._splitter(text)
        pieces = [text[start:end] for start, end in spans]
        if self._config.drop_repeated and len(set(pieces)) < len(pieces):
            first = dict(zip(reversed(pieces), range(len(pieces) - 1, -1, -1), strict=True))
            kept = sorted(first.values())
            self._repeated += len(pieces) - len(kept)
            spans = [spans[number] for number in kept]
            pieces = [pieces[number] for number in kept]
        self._spans += spans
        self._text += pieces
        self._lengths.append(len(pieces))
        self._ids.append(article.id)
        self._titles.append(article.title)
        self._hashes.append(article.text_hash)
        for name, values in self._columns.items():
            values.append(article.columns.get(name))
        self._counts["characters_replaced"] += article.num_replaced
        self._bytes += len(article.raw)
        self.num_chars += len(text)

    def build(self, input_digest: str) -> SentenceChunk:
        text = pa.array(self._text, pa.string())
        tokens = tokenize(text, self._config.profile)
        lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
        # Every word is a piece at least; one word more than is kept shows that there is something to cut off.
        most = self._config.max_tokens + 1
        if (lengths > most).any():
            tokens = pc.list_slice(tokens, 0, most)
        num_sentences = np.array(self._lengths, np.int32)
        article = np.repeat(np.arange(len(num_sentences), dtype=np.int32), num_sentences)
        first = np.cumsum(num_sentences, dtype=np.int32) - num_sentences
        spans = np.fromiter(itertools.chain.from_iterable(self._spans), np.int32, 2 * len(article)).reshape(-1, 2)
        table = pa.table(
            {
                "article": article,
                "article_id": pa.array(self._ids, pa.string()).take(pa.array(article)),
                "title": pa.array(self._titles, pa.string()).take(pa.array(article)),
                "article_hash": pa.array(self._hashes, pa.binary(16)).take(pa.array(article)),
                "sentence": np.arange(len(article), dtype=np.int32) - first[article],
                "start": np.ascontiguousarray(spans[:, 0]),
                "end": np.ascontiguousarray(spans[:, 1]),
                "tokens": tokens,
                "text": text,
            }
        )
        stats = {
            "records": len(self._ids),
            "bytes": self._bytes,
            "articles": len(self._ids),
            "articles_without_sentences": int((num_sentences == 0).sum()),
            "sentences": len(self._text),
            "sentences_without_tokens": int((lengths == 0).sum()),
            "sentences_repeated": self._repeated,
            "tokens": int(np.minimum(lengths, most).sum()),
            "rejected": dict(sorted(self._rejected.items())),
            # What is rare is counted where it occurs.
            **{name: count for name, count in sorted(self._counts.items()) if count},
        }
        return SentenceChunk(table, len(self._ids), stats, input_digest, self._columns)


def merge_chunks(chunks: Sequence[SentenceChunk]) -> SentenceChunk:
    """Join chunks of one unit, in order; articles are numbered through."""
    tables = []
    articles = 0
    for chunk in chunks:
        shifted = pc.add(chunk.table["article"], pa.scalar(articles, pa.int32()))
        tables.append(chunk.table.set_column(0, "article", shifted))
        articles += chunk.num_articles
    stats: dict[str, Any] = {}
    for chunk in chunks:
        for key, value in chunk.stats.items():
            stats[key] = (
                Counter(stats.get(key, {})) + Counter(value) if key == "rejected" else stats.get(key, 0) + value
            )
    stats["rejected"] = dict(sorted(stats["rejected"].items()))
    columns = {name: [v for chunk in chunks for v in chunk.columns[name]] for name in chunks[0].columns}
    return SentenceChunk(pa.concat_tables(tables), articles, stats, chunks[-1].input_digest, columns)


def part_chunks(chunks: Iterable[SentenceChunk], part_rows: int) -> Iterator[tuple[SentenceChunk, bool]]:
    """Gather chunks into parts of about `part_rows` sentences; yield each part and whether it is the last."""
    gathered: list[SentenceChunk] = []
    rows = size = 0
    for chunk in chunks:
        num_bytes = chunk.table["text"].nbytes
        if gathered and (rows + chunk.table.num_rows > part_rows or size + num_bytes > _PART_BYTES):
            yield merge_chunks(gathered), False
            gathered, rows, size = [], 0, 0
        gathered.append(chunk)
        rows += chunk.table.num_rows
        size += num_bytes
    yield merge_chunks(gathered), True
