"""Files that hold no articles as they are: told by name, with what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator

from lstm_embed.base import storage
from lstm_embed.corpus.readers.article import Article, rejected
from lstm_embed.corpus.readers.source import Source
from lstm_embed.ledger import Rejected, Span

SUFFIXES: tuple[str, ...] = ()
_UTF_16 = "UTF-16 text (convert it to UTF-8, as iconv -f UTF-16 -t UTF-8 does)"
_UTF_32 = "UTF-32 text (convert it to UTF-8, as iconv -f UTF-32 -t UTF-8 does)"
_ARCHIVE = "archive inside an archive (unpack it once)"
_SIGNS = {
    b"<mediawiki": "MediaWiki dump (run extract on it first)",
    b"<?xml": "MediaWiki dump (run extract on it first)",
    b"PK\3\4": "zip archive (unpack it first)",
    b"ARROW1": "Arrow file (write it as parquet)",
    b"\xff\xff\xff\xff": "Arrow stream (write it as parquet)",
    b"Obj\1": "Avro file (write it as parquet)",
    b"%PDF-": "PDF document (extract its text first)",
    b"version https://git-lfs": "Git LFS pointer in place of a file (run git lfs pull first)",
    b"\x1f\x8b": _ARCHIVE,
    b"\xfd7zXZ\0": _ARCHIVE,
    b"\x28\xb5\x2f\xfd": _ARCHIVE,
    b"\xff\xfe\0\0": _UTF_32,
    b"\0\0\xfe\xff": _UTF_32,
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
}
_TAR_SIGN, _TAR_SIGN_AT = b"ustar", 257
_ORC = re.compile(rb"ORC.*[\0-\x08]", re.S)
"""Words begin with these three letters too, but no text holds control characters."""


def matches(suffix: str, head: bytes) -> bool:
    """Tell whether a file is one of these."""
    return bool(_name(head))


def cut(file: storage.FileInfo, head: bytes, num_pieces: int) -> list[Span]:
    """Return the file as one span."""
    return [Span.whole(file)]


def read(source: Source) -> Iterator[Article | Rejected]:
    """Yield what the file is."""
    if source.span.start <= 0:
        yield rejected(source.span.path, 0, _name(source.head), source.head, size=source.span.size, rest=True)


def _name(head: bytes) -> str:
    """Return what a file is that begins like this; "" for what may hold articles."""
    if head[_TAR_SIGN_AT:].startswith(_TAR_SIGN):
        return "tar archive (unpack it first)"
    if _ORC.match(head):
        return "ORC file (write it as parquet)"
    # Every format of text begins with two ASCII characters.
    if head[1:4] == bytes(3) != head[:3] or head[:3] == bytes(3) != head[1:4]:
        return _UTF_32
    if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        return _UTF_16
    return next((name for sign, name in _SIGNS.items() if head.startswith(sign)), "")
