"""One span of a file, opened for the reader of its format."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lstm_embed.base import codecs, storage
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers.lines import Block, Line, read_blocks, read_lines
from lstm_embed.ledger import Rejected, Span

BLANKS = b"\xef\xbb\xbf \t\r\n"
"""What may stand before the first sign of a text: a byte order mark and white space."""
_HEAD_BYTES = 512
_MOST_BLANKS = 1 << 20


@dataclass(frozen=True)
class Source:
    """A span of a file and what its reader needs to know."""

    span: Span
    config: TextConfig
    columns: Sequence[str]
    """Further columns to carry along."""
    head: bytes
    """The file's first bytes, decompressed, without blanks before them."""
    is_compressed: bool
    blocks: Iterator[Block]
    """The file's content, decompressed, from the byte before the span on, or from its beginning."""

    def lines(self, *, beyond: bool = False) -> Iterator[Line | Rejected]:
        """Yield the lines that begin in the span; `beyond` it too, where something may end there."""
        span = replace(self.span, end=-1) if beyond else self.span
        return read_lines(span, self.blocks, self.config.max_line_bytes)


@contextlib.contextmanager
def opened(span: Span, config: TextConfig, columns: Sequence[str] = ()) -> Iterator[Source]:
    """Open a span of a file. Of an archive, which cannot be cut, a span that begins at its beginning is all.

    Raises:
        FileNotFoundError: if the file is gone.
        LstmEmbedError: if the disk or store fails.
    """
    with storage.open_stream(span.path) as stream:
        blocks = read_blocks(span, stream)
        blocks, head = _peek(blocks)
        is_compressed = not (isinstance(stream, io.BufferedReader) and stream.seekable())
        if is_compressed:
            span = replace(span, end=-1)
        elif span.start > 0:
            stream.seek(span.start - 1)
            blocks = read_blocks(span, stream)
        yield Source(span, config, columns, head, is_compressed, blocks)


def _peek(blocks: Iterator[Block]) -> tuple[Iterator[Block], bytes]:
    """Return all of `blocks` and the first bytes of their content that are no blanks, if they come soon."""
    seen: list[Block] = []
    data = b""
    for block in blocks:
        seen.append(block)
        if isinstance(block, Rejected):
            break
        data += block
        if len(first_bytes(data)) == _HEAD_BYTES or len(data) > _MOST_BLANKS:
            break
    return itertools.chain(seen, blocks), first_bytes(data)


def first_bytes(data: bytes) -> bytes:
    """Return what a file's content begins with, behind its blanks."""
    return data.lstrip(BLANKS)[:_HEAD_BYTES]


def file_suffix(path: str) -> str:
    """Return the suffix of a file's name in lower case with its dot, without that of a compression; "" if there is none."""
    name = storage.name(path)
    codec = codecs.codec(name)
    name = name[: -len(codec)] if codec else name
    _, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot else ""


def byte_ranges(file: storage.FileInfo, num_pieces: int) -> list[Span]:
    """Cut a file into spans of about the same number of bytes."""
    edges = [file.size * piece // num_pieces for piece in range(num_pieces + 1)]
    return [Span(file.path, a, b, file.size, file.stamp) for a, b in itertools.pairwise(edges)]
