"""Lines of files that may be huge, damaged or hostile, with their offsets."""

from __future__ import annotations

import hashlib
import lzma
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from lstm_embed import storage
from lstm_embed.ledger import Rejected, Span

_BLOCK = 1 << 20
EXCERPT_BYTES = 500
MAX_INFLATION = 2_000
"""Decompressed bytes for one stored byte past which an archive counts as one that inflates without end. English text
reaches 10; the densest honest files (long runs of one line) a few hundred."""


class Line(NamedTuple):
    """One line without its end."""

    offset: int
    """Byte offset of its first byte in the decompressed file."""
    data: bytes


def read_lines(span: Span, max_line_bytes: int) -> Iterator[Line | Rejected]:
    """Yield the lines that begin in a span, and what had to be given up.

    A span owns each line that begins in it, so that spans which cover a file yield every line once. Lines longer than
    `max_line_bytes` are skipped without being held. A damaged archive yields what is whole before the damage.
    """
    if storage.codec(span.path):
        with storage.open_stream(span.path) as stream:
            yield from _lines(span, stream, 0, -1, max_line_bytes)
        return
    with storage.open_input(span.path) as file:
        begin = span.start
        if begin > 0:
            # The line that a cut falls into belongs to the span before, unless the cut falls right behind a line's end.
            file.seek(begin - 1)
            begin = _skip_line(file, begin - 1)
            file.seek(begin)
        if span.end < 0 or begin < span.end:
            yield from _lines(span, file, begin, span.end, max_line_bytes)


def _skip_line(file: IO[bytes], position: int) -> int:
    """Return the offset behind the line end that comes next from `position`."""
    while block := file.read(_BLOCK):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position


def _lines(span: Span, stream: IO[bytes], offset: int, end: int, max_line_bytes: int) -> Iterator[Line | Rejected]:
    """Yield lines from `stream`, whose next byte is at `offset`, until one begins at or behind `end`."""
    path = span.path
    limit = MAX_INFLATION * max(span.size, _BLOCK) if storage.codec(path) else -1
    pending: list[bytes] = []
    held = 0
    too_long: _Digest | None = None
    position = offset
    while True:
        try:
            block = _read_some(stream)
        except (EOFError, OSError, zlib.error, lzma.LZMAError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            yield Rejected(path, position, "damaged or truncated archive", _sha(b"".join(pending)))
            return
        if not block:
            break
        position += len(block)
        if 0 <= limit < position:
            yield Rejected(path, position, "archive inflates without end", _sha(b""))
            return
        pieces = block.split(b"\n")
        for number, piece in enumerate(pieces):
            complete = number < len(pieces) - 1
            if held + len(piece) > max_line_bytes and too_long is None:
                too_long = _Digest(pending)
                pending = []
            if too_long is not None:
                too_long.add(piece)
            else:
                pending.append(piece)
            held += len(piece)
            if not complete:
                continue
            if too_long is not None:
                yield Rejected(path, offset, "line too long", too_long.hex(), too_long.excerpt)
            else:
                yield Line(offset, b"".join(pending))
            offset += held + 1
            pending, held, too_long = [], 0, None
            if 0 <= end <= offset:
                return
    if too_long is not None:
        yield Rejected(path, offset, "line too long", too_long.hex(), too_long.excerpt)
    elif held:
        yield Line(offset, b"".join(pending))


def _read_some(stream: IO[bytes]) -> bytes:
    """Return the next bytes; as few as one read gives, so that damage costs no whole data in front of it."""
    read = getattr(stream, "read1", None) or stream.read
    return bytes(read(_BLOCK))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class _Digest:
    """The hash and first bytes of a line too long to hold."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._sha = hashlib.sha256()
        self.excerpt = b""
        for piece in pieces:
            self.add(piece)

    def add(self, piece: bytes) -> None:
        self._sha.update(piece)
        if len(self.excerpt) < EXCERPT_BYTES:
            self.excerpt += piece[: EXCERPT_BYTES - len(self.excerpt)]

    def hex(self) -> str:
        return self._sha.hexdigest()
