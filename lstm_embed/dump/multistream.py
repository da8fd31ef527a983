"""The bytes of a dump: where the streams of a multistream `.bz2` begin, and a span of a file decompressed piece by piece.

A multistream dump is many bz2 streams one after the other, each of which can be read alone; so one file is work for many.
What cannot be decompressed is yielded as `Rejected` in its place among the bytes, and reading goes on at the next stream.
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

from lstm_embed.base import storage
from lstm_embed.base.errors import LstmEmbedError
from lstm_embed.ledger import Rejected

CHUNK = 1 << 17
"""Bytes handed on at a time, at most; whatever an archive inflates to, no more of it is held here."""
EXCERPT = 200
"""First bytes of a rejected piece that are kept."""
_READ = 1 << 16
_SCAN_BLOCK = 1 << 23
_PROBE = 1 << 14
_BLOCK_LIMIT = 1 << 20
"""A bz2 block holds 900 kB of text, and takes little more where that does not compress."""
_MAGIC = re.compile(rb"BZh[1-9]1AY&SY")
_MAGIC_LENGTH = 10
_MISALIGNED_BEFORE_GIVING_UP = 4


def rejected(path: str, offset: int, reason: str, piece: bytes) -> Rejected:
    """Return the record of a piece of input that could not be used."""
    return Rejected(path, offset, reason, hashlib.sha256(piece).hexdigest(), piece[:EXCERPT])


def stream_offsets(path: str) -> list[int]:
    """Return where the bz2 streams of a file begin; the first is 0.

    The offsets come from the index file if one lies beside the dump and fits it, else from a scan of the whole file for
    the mark of a bz2 stream; what looks like a mark counts if decompression starts there.

    Raises:
        FileNotFoundError: if there is no file at `path`.
    """
    size = storage.info(path).size
    return _indexed_offsets(path, size) or _scanned_offsets(path)


def page_units(path: str, unit_bytes: int) -> list[tuple[int, int]]:
    """Cut a `.bz2` file at streams that begin with a page into spans of about `unit_bytes` bytes as stored.

    A file of one stream, or of streams that pages run across (as parallel compressors write them), is one span.
    """
    size = storage.info(path).size
    if size <= unit_bytes:
        return [(0, size)]
    starts = [0]
    misaligned = 0
    with storage.open_input(path) as file:
        for offset in stream_offsets(path):
            if offset - starts[-1] < unit_bytes:
                continue
            if _begins_with_page(file, offset):
                starts.append(offset)
                continue
            misaligned += 1
            if len(starts) == 1 and misaligned == _MISALIGNED_BEFORE_GIVING_UP:
                break
    return list(zip(starts, [*starts[1:], size], strict=True))


def _indexed_offsets(path: str, size: int) -> list[int]:
    """Read the index beside a dump (lines of offset:page id:title); [] if there is none or it belongs to another file."""
    last = storage.name(path)
    index_name = re.sub(r"-multistream(\d*)\.xml", r"-multistream-index\1.txt", last)
    index = storage.join(storage.parent(path), index_name)
    candidates = [index, index.removesuffix(".bz2")] if index_name != last else []
    found = next((candidate for candidate in candidates if storage.exists(candidate)), None)
    if found is None:
        return []
    offsets = [0]
    try:
        with storage.open_stream(found) as lines:
            for line in lines:
                offset = int(line.partition(b":")[0])
                if offset != offsets[-1]:
                    offsets.append(offset)
    except (EOFError, OSError, ValueError):
        return []
    if offsets[-1] >= size or any(a >= b for a, b in itertools.pairwise(offsets)):
        return []
    with storage.open_input(path) as file:
        for offset in (offsets[1:2] or offsets)[0], offsets[len(offsets) // 2], offsets[-1]:
            file.seek(offset)
            if not _MAGIC.match(file.read(_MAGIC_LENGTH)):
                return []
    return offsets


def _scanned_offsets(path: str) -> list[int]:
    """Find the streams of a bz2 file by their marks."""
    offsets = [0]
    position = 0
    buffer = b""
    with storage.open_input(path) as file:
        while True:
            block = file.read(_SCAN_BLOCK)
            buffer += block
            # A mark near the end of the buffer waits until what follows it is there to be tried.
            settled = len(buffer) - _PROBE if block else len(buffer)
            for mark in _MAGIC.finditer(buffer):
                start = mark.start()
                if start < settled and position + start > 0 and _inflates(buffer[start : start + _PROBE]):
                    offsets.append(position + start)
            if not block:
                return offsets
            settled = max(settled, 0)
            buffer = buffer[settled:]
            position += settled


def _inflates(data: bytes) -> bool:
    try:
        bz2.BZ2Decompressor().decompress(data, max_length=1)
    except OSError:
        return False
    return True


def _begins_with_page(file: pa.NativeFile, offset: int) -> bool:
    decompressor = bz2.BZ2Decompressor()
    file.seek(offset)
    text = b""
    try:
        for _ in range(_BLOCK_LIMIT // _READ + 2):
            text += decompressor.decompress(file.read(_READ), max_length=64)
            if decompressor.eof or len(text.lstrip()) >= len(b"<page>"):
                break
    except (OSError, EOFError):
        return False
    return text.lstrip().startswith(b"<page>")


class _Measured(io.RawIOBase):
    """A file that counts and hashes what is read of it."""

    def __init__(self, path: str, start: int) -> None:
        self._path = path
        self._file = storage.open_input(path)
        self._file.seek(start)
        self.num_read = 0
        self.sha256 = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._file.read(len(buffer))
        except OSError as error:  # of the store; decompressors raise OSError too, for damaged data
            raise LstmEmbedError(f"reading {self._path} failed: {error}") from error
        buffer[: len(data)] = data
        self.num_read += len(data)
        self.sha256.update(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


class SpanReader:
    """The decompressed bytes of a span of a file, in chunks of at most `CHUNK` bytes.

    Args:
        path: The file; its suffix tells the codec.
        start: First byte as stored; not 0 only at the beginning of a bz2 stream.
        end: Where the span ends; -1 for the end of the file.
    """

    def __init__(self, path: str, start: int = 0, end: int = -1) -> None:
        self.path = path
        size = storage.info(path).size
        self.start, self.end = start, size if end < 0 else min(end, size)
        self.is_bz2 = path.endswith(".bz2")
        if (start > 0 or self.end < size) and not self.is_bz2:
            raise ValueError(f"bytes {start} to {end} of {path} were asked for; only a .bz2 file can be read in pieces")
        self.is_whole = start == 0 and self.end == size
        self.is_last = self.end == size
        self._file = _Measured(path, start)
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
        if self.is_whole or not self._stream_starts:
            return position
        return self._stream_starts[max(bisect.bisect_right(self._stream_starts, (position, 1 << 62)) - 1, 0)][1]

    def __iter__(self) -> Iterator[bytes | Rejected]:
        """Yield the bytes, and a `Rejected` wherever some are lost."""
        with self._file:
            yield from self._bz2_streams() if self.is_bz2 else self._decoded()

    def _decoded(self) -> Iterator[bytes | Rejected]:
        suffix = storage.codec(self.path)
        raw = cast(IO[bytes], io.BufferedReader(self._file, _READ))
        stream: Any = storage.decompress(raw, suffix) if suffix else raw
        # read1 hands out what is there; read would lose it when the archive breaks off before it has enough.
        read = getattr(stream, "read1", stream.read)
        while True:
            try:
                data = read(CHUNK)
            except LstmEmbedError:
                raise
            except Exception as error:  # every codec has its own
                reason = "truncated archive" if isinstance(error, EOFError) else "damaged archive"
                yield rejected(self.path, self._num_inflated, reason, b"")
                return
            if not data:
                return
            self._num_inflated += len(data)
            yield data

    def _bz2_streams(self) -> Iterator[bytes | Rejected]:
        """Decompress stream after stream; a damaged one costs what is left of it."""
        position = self.start
        pending = b""

        def more() -> bytes:
            nonlocal position
            data = self._file.read(min(_READ, self.end - position)) or b""
            position += len(data)
            return data

        while True:
            while len(pending) < _MAGIC_LENGTH and (data := more()):
                pending += data
            if not pending.strip(b"\0"):
                return
            decompressor = bz2.BZ2Decompressor()
            start = position - len(pending)
            self._stream_starts.append((self._num_inflated, start))
            fed = b""
            try:
                while not decompressor.eof:
                    if decompressor.needs_input:
                        fed, pending = pending or more(), b""
                        if not fed:
                            yield rejected(self.path, self._num_inflated, "truncated archive", b"")
                            return
                        data = decompressor.decompress(fed, CHUNK)
                    else:
                        data = decompressor.decompress(b"", CHUNK)
                    if data:
                        self._num_inflated += len(data)
                        yield data
                pending = decompressor.unused_data
            except OSError:
                yield rejected(self.path, self._num_inflated, "damaged archive", fed)
                skip = max(start + 1 - (position - len(fed)), 0)
                pending = self._next_stream(fed[skip:], more)

    @staticmethod
    def _next_stream(data: bytes, more: Any) -> bytes:
        """Return the bytes from the next mark of a stream on; b"" if there is none."""
        while True:
            if mark := _MAGIC.search(data):
                return data[mark.start() :]
            if not (block := more()):
                return b""
            data = data[-(_MAGIC_LENGTH - 1) :] + block
