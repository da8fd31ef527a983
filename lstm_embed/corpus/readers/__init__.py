"""Formats of articles: one module each, and the list of them.

A format is a module with what `Format` lists. What a file holds is told from its first bytes, and where they leave it open
from its name; the first format that takes a file reads it. What cannot be used is yielded as `Rejected`, never raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from lstm_embed.base import codecs, storage
from lstm_embed.corpus.readers import foreign, json_lines, parquet, plain_text, wikiextractor
from lstm_embed.corpus.readers.article import Article
from lstm_embed.corpus.readers.source import Source, file_suffix, first_bytes
from lstm_embed.ledger import Rejected, Span


class Format(Protocol):
    """What a module of a format has."""

    @property
    def SUFFIXES(self) -> tuple[str, ...]:
        """Suffixes of its files, "" for none; in a folder, files that no format names so are passed over."""

    def matches(self, suffix: str, head: bytes) -> bool:
        """Tell whether a file is of this format.

        Args:
            suffix: The name's, in lower case with its dot, without that of a compression.
            head: The file's first bytes, decompressed, without blanks before them.
        """

    def cut(self, file: storage.FileInfo, head: bytes, num_pieces: int) -> list[Span]:
        """Cut a file that is not compressed into about so many spans that can be read alone."""

    def read(self, source: Source) -> Iterator[Article | Rejected]:
        """Yield the articles of a span in order, and what had to be rejected."""


FORMATS: tuple[Format, ...] = (parquet, foreign, wikiextractor, plain_text, json_lines)


def find_format(path: str, head: bytes) -> Format:
    """Return the format of a file; JSON lines are what nothing else is."""
    suffix = file_suffix(path)
    return next(form for form in FORMATS if form.matches(suffix, head))


def cut_file(file: storage.FileInfo, num_pieces: int) -> list[Span]:
    """Cut a file into about so many spans, or fewer where its format or its compression does not allow it."""
    if codecs.codec(file.path):
        return [Span.whole(file)]
    with storage.open_input(file.path) as stored:
        head = stored.read(1 << 16)
    if codecs.content_codec(head):
        return [Span.whole(file)]
    head = first_bytes(head)
    return find_format(file.path, head).cut(file, head, num_pieces)
