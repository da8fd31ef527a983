"""Blocks and lines of files that may be huge, damaged or hostile, with their offsets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import IO, NamedTuple

from lstm_embed.base.errors import LstmEmbedError
from lstm_embed.corpus.readers.article import rejected
from lstm_embed.ledger import Rejected, Span

_BLOCK = 1 << 20
MAX_INFLATION = 2_000
"""Decompressed bytes for one stored byte past which an archive counts as one that inflates without end. English text
reaches 10; the densest honest files (long runs of one line) a few hundred."""
_LEAST_SIZE = 1 << 16
"""Stored bytes that a smaller archive counts as: what is short and repeats itself is dense."""

Block = bytes | Rejected
"""A piece of a file's content, or as the last one why there is no more."""


class Line(NamedTuple):
    """One line without its end."""

    offset: int
    """Byte offset of its first byte in the decompressed file."""
    data: bytes


def read_blocks(span: Span, stream: IO[bytes]) -> Iterator[Block]:
    """Yield what a file still holds; where an archive is damaged or inflates without end, a `Rejected` is the last.

    A damaged archive weighs as much as what came out of it, or as it has bytes: how much was lost is not known.

    Raises:
        LstmEmbedError: if the disk or store fails.
    """
    limit = MAX_INFLATION * max(span.size, _LEAST_SIZE)
    position = 0
    while True:
        try:
            # As few as one read gives, so that damage costs no whole data in front of it.
            block = bytes(stream.read1(_BLOCK))  # type: ignore[attr-defined]
        except (LstmEmbedError, MemoryError):
            raise
        except Exception:  # every codec has errors of its own
            yield _given_up(span, position, "damaged or truncated archive")
            return
        if not block:
            return
        position += len(block)
        if position > limit:
            yield _given_up(span, position, "archive inflates without end")
            return
        yield block


def _given_up(span: Span, position: int, reason: str) -> Rejected:
    return rejected(span.path, position, reason, b"", size=max(position, span.size), rest=True)


def read_lines(span: Span, blocks: Iterator[Block], max_line_bytes: int) -> Iterator[Line | Rejected]:
    """Yield the lines that begin in a span, and what had to be given up.

    A span owns each line that begins in it, so that spans which cover a file yield every line once. Of a line longer than
    `max_line_bytes` no more than that is held, and its hash is of that much. A damaged archive yields what is whole before
    the damage. Blocks of nothing but line ends are passed over.

    Args:
        span: The span.
        blocks: The file's content from the byte before the span on, or from its beginning.
        max_line_bytes: Longest line.
    """
    begin = span.start
    if begin > 0:
        # The line that a cut falls into belongs to the span before, unless the cut falls right behind a line's end.
        begin, blocks = _behind_line(span, blocks)
    if span.end < 0 or begin < span.end:
        yield from split_lines(span, blocks, begin, max_line_bytes)


def _behind_line(span: Span, blocks: Iterator[Block]) -> tuple[int, Iterator[Block]]:
    """Return the offset behind the line end that comes next, or any one from the span's end on, and what follows it."""
    position = span.start - 1
    for block in blocks:
        if isinstance(block, Rejected):
            return position, iter([block])
        found = block.find(b"\n")
        if found >= 0:
            return position + found + 1, itertools.chain([block[found + 1 :]], blocks)
        position += len(block)
        if 0 <= span.end <= position:
            break
    return position, blocks


def split_lines(span: Span, blocks: Iterator[Block], offset: int, max_line_bytes: int) -> Iterator[Line | Rejected]:
    """Yield lines from `blocks`, whose first byte is at `offset`, until one begins at or behind the span's end."""
    pending: list[bytes] = []
    held = 0
    too_long: Rejected | None = None
    position = offset
    for block in blocks:
        if isinstance(block, Rejected):
            if too_long is not None:
                yield replace(too_long, size=held)
            yield rejected(span.path, offset, block.reason, b"".join(pending), size=block.size, rest=True)
            return
        position += len(block)
        if not held and not block.strip(b"\n"):
            offset = position
            if 0 <= span.end <= offset:
                return
            continue
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
                yield replace(too_long, size=held) if too_long else Line(offset, b"".join(pending))
                offset += held + 1
                pending, held, too_long = [], 0, None
                if 0 <= span.end <= offset:
                    return
        if too_long is not None and 0 <= span.end <= position:
            break  # its rest is of no use, and no other line begins in this span
    if too_long is not None:
        yield replace(too_long, size=held)
    elif held:
        yield Line(offset, b"".join(pending))
