"""Lines of files that may be huge, damaged or hostile, with their offsets."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from lstm_embed.base import storage
from lstm_embed.base.errors import LstmEmbedError
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

    A span owns each line that begins in it, so that spans which cover a file yield every line once. Of a line longer than
    `max_line_bytes` no more than that is held, and its hash is of that much. A damaged archive yields what is whole before
    the damage.

    Raises:
        LstmEmbedError: if the disk or store fails.
    """
    with storage.open_stream(span.path) as stream:
        begin = span.start
        if begin > 0:
            # The line that a cut falls into belongs to the span before, unless the cut falls right behind a line's end.
            stream.seek(begin - 1)
            begin = _behind_line(stream, begin - 1, span.end)
            stream.seek(begin)
        if span.end < 0 or begin < span.end:
            yield from _lines(span, stream, begin, max_line_bytes)


def _behind_line(stream: IO[bytes], position: int, end: int) -> int:
    """Return the offset behind the line end that comes next from `position`, or any one from `end` on."""
    while (end < 0 or position < end) and (block := _read_some(stream)):
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1
        position += len(block)
    return position


def _lines(span: Span, stream: IO[bytes], offset: int, max_line_bytes: int) -> Iterator[Line | Rejected]:
    """Yield lines from `stream`, whose next byte is at `offset`, until one begins at or behind the span's end."""
    limit = MAX_INFLATION * max(span.size, _BLOCK) if storage.codec(span.path) else -1
    pending: list[bytes] = []
    held = 0
    too_long: Rejected | None = None
    position = offset
    while True:
        try:
            block = _read_some(stream)
        except (LstmEmbedError, MemoryError):
            raise
        except Exception:  # every codec has errors of its own
            if too_long is not None:
                yield too_long
            yield rejected(span.path, offset, "damaged or truncated archive", b"".join(pending))
            return
        if not block:
            break
        position += len(block)
        if 0 <= limit < position:
            yield rejected(span.path, position, "archive inflates without end", b"")
            return
        pieces = block.split(b"\n")
        last = len(pieces) - 1
        for number, piece in enumerate(pieces):
            if too_long is None:
                pending.append(piece)
            held += len(piece)
            if held > max_line_bytes and too_long is None:
                start = b"".join(pending)[:max_line_bytes]
                too_long, pending = rejected(span.path, offset, "line too long", start), []
            if number < last:
                yield too_long or Line(offset, b"".join(pending))
                offset += held + 1
                pending, held, too_long = [], 0, None
                if 0 <= span.end <= offset:
                    return
        if too_long is not None and 0 <= span.end <= position:
            break  # its rest is of no use, and no other line begins in this span
    if too_long is not None:
        yield too_long
    elif held:
        yield Line(offset, b"".join(pending))


def rejected(path: str, offset: int, reason: str, piece: bytes) -> Rejected:
    """Return the note on a piece of input that cannot be used."""
    return Rejected(path, offset, reason, hashlib.sha256(piece).hexdigest(), piece[:EXCERPT_BYTES])


def _read_some(stream: IO[bytes]) -> bytes:
    """Return the next bytes; as few as one read gives, so that damage costs no whole data in front of it."""
    return bytes(stream.read1(_BLOCK))  # type: ignore[attr-defined]
