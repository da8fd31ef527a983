"""Compressed files: which compression one has, and its content as a stream."""

from __future__ import annotations

import bz2
import io
import lzma
from collections.abc import Callable
from typing import IO, Any, cast

SUFFIXES = (".gz", ".bz2", ".zst", ".xz")
_SIGNS = {b"\x1f\x8b\x08": ".gz", b"BZh": ".bz2", b"\x28\xb5\x2f\xfd": ".zst", b"\xfd7zXZ\0": ".xz"}
_Decoder = bz2.BZ2Decompressor | lzma.LZMADecompressor
_DECODERS: dict[str, Callable[[], _Decoder]] = {".bz2": bz2.BZ2Decompressor, ".xz": lzma.LZMADecompressor}
_DECODED_AT_ONCE = 1 << 16


def codec(path: str) -> str | None:
    """Return the compression suffix of `path` (".gz", ".bz2", ".zst", ".xz") or None."""
    return next((suffix for suffix in SUFFIXES if path.lower().endswith(suffix)), None)


def content_codec(first_bytes: bytes) -> str | None:
    """Return the suffix of the compression that a file's first bytes (6 or more) show, or None."""
    return next((suffix for sign, suffix in _SIGNS.items() if first_bytes.startswith(sign)), None)


class _Archives(io.RawIOBase):
    """The content of archives that stand one behind the other, with or without zeros between them.

    Python's own readers take whatever follows the first archive for its padding, though it be an archive that is damaged.
    """

    def __init__(self, raw: IO[bytes], new_decoder: Callable[[], _Decoder]) -> None:
        self._raw, self._new_decoder = raw, new_decoder
        self._decoder: _Decoder | None = None
        self._stored = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = b""
        while not piece:
            if not self._stored and (self._decoder is None or self._decoder.needs_input):
                self._stored = self._raw.read(_DECODED_AT_ONCE)
                if not self._stored and self._decoder is not None:
                    raise EOFError("an archive ends in the middle")
            if self._decoder is None:
                if not self._stored:
                    return 0
                self._stored = self._stored.lstrip(b"\0")
                if not self._stored:
                    continue
                self._decoder = self._new_decoder()
            piece, self._stored = self._decoder.decompress(self._stored, len(buffer)), b""
            if self._decoder.eof:
                self._stored, self._decoder = self._decoder.unused_data, None
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def decompress(raw: IO[bytes], suffix: str) -> IO[bytes]:
    """Wrap a binary stream so that it reads decompressed bytes; `suffix` is one of `SUFFIXES`."""
    if suffix in _DECODERS:
        return cast(IO[bytes], io.BufferedReader(_Archives(raw, _DECODERS[suffix])))
    from smart_open import compression  # here: it imports the clients of all clouds, half a second in every process

    stream = compression.compression_wrapper(raw, "rb", compression=suffix)
    # The buffer around a decoder asks for more than one read and drops it all when the last part is damaged.
    return cast(IO[bytes], stream.detach() if type(stream) is io.BufferedReader else stream)
