"""The bytes of a dump: where it can be cut into units, and a span of it decompressed piece by piece.

A multistream `.bz2` is many bz2 streams one after the other, each of which can be read alone; so one file is work for many.
Plain XML can be cut at any page.
A dump that is cut off or damaged is an error, whatever its share: what is missing would be missed in silence.
"""

from __future__ import annotations

import bisect
import bz2
import hashlib
import io
import itertools
import re
from collections.abc import Iterator
from typing import IO, Any, cast

import pyarrow as pa

from lstm_embed.base import codecs, storage
from lstm_embed.base.errors import InputError, LstmEmbedError

CHUNK = 1 << 17
"""Bytes handed on at a time, at most; whatever an archive inflates to, no more of it is held here."""
_READ = 1 << 16
_BLOCK = 1 << 20
_SEARCH_LIMIT = 64 << 20
"""Bytes as stored within which the next stream of a multistream dump, or the next page, begins."""
_BZ2_BLOCK = 1 << 20
"""A bz2 block holds 900 kB of text, and takes little more where that does not compress."""
_MARKS = {".bz2": re.compile(rb"BZh[1-9]1AY&SY"), None: re.compile(rb"<page>")}
"""What a piece that can be read alone begins with, by codec."""
_MARK_LENGTH = 10
_MISALIGNED_BEFORE_GIVING_UP = 4
_END = re.compile(rb"</mediawiki\s*>(\s|<!--((?!-->).)*-->|<\?((?!\?>).)*\?>)*\Z", re.S)
"""What a dump ends with: XML allows white space, comments and processing instructions behind the last tag."""
_END_BYTES = 1 << 12
"""Last bytes, without white space behind them, among which that is looked for."""


def unusable(path: str, what: str) -> InputError:
    """Return the error for a dump that was not copied whole."""
    return InputError(
        f"{path} {what}; get the file again, compare its checksum with the one published beside it, "
        "and run the command again"
    )


def page_units(path: str, unit_bytes: int) -> list[tuple[int, int]]:
    """Cut a dump into spans of about `unit_bytes` bytes as stored that `SpanReader` can read alone.

    A multistream `.bz2` is cut at streams that begin with a page, plain XML at pages. Anything else is one span: another
    codec, a file of one stream, or of streams that pages run across (as parallel compressors write them).

    Raises:
        FileNotFoundError: if there is no file at `path`.
    """
    size = storage.info(path).size
    starts = [0]
    with storage.open_input(path) as file:
        while starts[-1] + unit_bytes < size and (start := _next_page(file, starts[-1] + unit_bytes, path)):
            starts.append(start)
    return list(itertools.pairwise([*starts, size]))


def check_end(path: str) -> None:
    """Refuse a dump that is cut off, where that can be told without reading all of it.

    Raises:
        InputError: if it does not end as a dump does.
    """
    with storage.open_input(path) as file:
        last = list(_marks(file, max(storage.info(path).size - _BLOCK, 1), path))[-1:]
    for start in last:
        for _ in SpanReader(path, start):
            pass


def _marks(file: pa.NativeFile, start: int, path: str) -> Iterator[int]:
    """Yield where pieces seem to begin that can be read alone, from `start` on and not too far."""
    mark = _MARKS.get(codecs.codec(path))
    if not mark:
        return
    for base in range(start, start + _SEARCH_LIMIT, _BLOCK):
        file.seek(base)
        block = file.read(_BLOCK + _MARK_LENGTH - 1)
        yield from (base + found.start() for found in mark.finditer(block) if found.start() < _BLOCK)
        if len(block) < _BLOCK:
            return


def _next_page(file: pa.NativeFile, start: int, path: str) -> int | None:
    """Return the first place from `start` on where a page begins that can be read alone; None if there is none near."""
    for place in itertools.islice(_marks(file, start, path), _MISALIGNED_BEFORE_GIVING_UP):
        if codecs.codec(path) is None or _begins_with_page(file, place):
            return place
    return None


def _begins_with_page(file: pa.NativeFile, stream: int) -> bool:
    decompressor = bz2.BZ2Decompressor()
    file.seek(stream)
    text = b""
    try:
        while file.tell() - stream < _BZ2_BLOCK and not decompressor.eof and len(text) < len(b"<page>"):
            text = (text + decompressor.decompress(file.read(_READ), max_length=64)).lstrip()
    except (OSError, EOFError):
        return False
    return text.startswith(b"<page>")


class _Stored(io.RawIOBase):
    """The bytes of a span as stored, counted and hashed as they are read."""

    def __init__(self, path: str, start: int, end: int) -> None:
        self._path = path
        self._size = end - start
        self._file = storage.open_input(path)
        self._file.seek(start)
        self.num_read = 0
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(min(len(buffer), self._size - self.num_read))
        except OSError as error:  # of the store; decompressors raise OSError too, for damaged data
            raise LstmEmbedError(f"reading {self._path} failed: {error}; run the command again to continue") from error
        buffer[: len(data)] = data
        self.num_read += len(data)
        self.sha256.update(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class SpanReader:
    """The decompressed bytes of a span of a dump, in chunks of at most `CHUNK` bytes; iterate once.

    Args:
        path: The dump; its suffix tells the codec.
        start: First byte as stored; not 0 only where `page_units` cuts.
        end: Where the span ends; -1 for the end of the file.
    """

    def __init__(self, path: str, start: int = 0, end: int = -1) -> None:
        self.path = path
        size = storage.info(path).size
        self.start, self.end = start, size if end < 0 else min(end, size)
        self._codec = codecs.codec(path)
        self._is_last = self.end == size
        if self._codec not in _MARKS and not (start == 0 and self._is_last):
            raise ValueError(
                f"bytes {start} to {end} of {path} were asked for; only .xml and .bz2 can be read in pieces"
            )
        self._file = _Stored(path, self.start, self.end)
        self._stream_starts: list[tuple[int, int]] = []
        self._num_inflated = 0

    @property
    def num_read(self) -> int:
        """Bytes read so far, as stored."""
        return self._file.num_read

    def digest(self) -> str:
        """Return the SHA-256 of the bytes read so far, as stored."""
        return self._file.sha256.hexdigest()

    def offset(self, position: int) -> int:
        """Return what to report as the place of a decompressed byte.

        That is its offset in the decompressed file; in a piece of a multistream file, where that is not known, the
        offset (as stored) of the bz2 stream it lies in.
        """
        if not self._stream_starts or (self.start == 0 and self._is_last):
            return self.start + position
        return self._stream_starts[max(bisect.bisect_right(self._stream_starts, (position, 1 << 62)) - 1, 0)][1]

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes.

        Raises:
            InputError: if the dump is cut off or damaged.
            LstmEmbedError: if the disk or store fails.
        """
        tail = b""
        with self._file:
            try:
                for piece in self._bz2_streams() if self._codec == ".bz2" else self._decoded():
                    self._num_inflated += len(piece)
                    tail = (tail + piece).rstrip(b"\0 \t\r\n")[-_END_BYTES:]
                    yield piece
            except LstmEmbedError:
                raise
            except EOFError:
                where = "is cut off" if self._is_last else f"is damaged before byte {self.end}"
                raise unusable(self.path, f"{where}: its compressed data ends in the middle") from None
            except Exception as error:  # every codec has its own
                raise unusable(self.path, f"is damaged before byte {self.start + self.num_read}: {error}") from None
        if self._is_last and not _END.search(tail.replace(b"\0", b"")):  # UTF-16 has zeros between the letters
            raise unusable(self.path, "is cut off: it ends without </mediawiki>")

    def _decoded(self) -> Iterator[bytes]:
        raw = cast(IO[bytes], io.BufferedReader(self._file, _READ))
        stream: Any = codecs.decompress(raw, self._codec) if self._codec else raw
        # read1 hands out what is there; read would lose it when the archive breaks off before it has enough.
        read = getattr(stream, "read1", stream.read)
        while data := read(CHUNK):
            yield data

    def _bz2_streams(self) -> Iterator[bytes]:
        """Decompress stream after stream. `bz2.open` would take damage between two of them for the end."""
        data = self._file.read(_READ)
        while data:
            decompressor = bz2.BZ2Decompressor()
            self._stream_starts.append((self._num_inflated, self.start + self.num_read - len(data)))
            while not decompressor.eof:
                if decompressor.needs_input and not data:
                    data = self._file.read(_READ)
                    if not data:
                        raise EOFError
                piece, data = decompressor.decompress(data, CHUNK), b""
                if piece:
                    yield piece
            data = decompressor.unused_data or self._file.read(_READ)
