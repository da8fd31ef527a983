"""Files that hold no articles as they are: told by name, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

from lstm_embed.base import storage
from lstm_embed.corpus.readers.article import Article, rejected
from lstm_embed.corpus.readers.source import Source
from lstm_embed.ledger import Rejected, Span

SUFFIXES: tuple[str, ...] = ()
_UTF_16 = "UTF-16 text (convert it to UTF-8, as iconv -f UTF-16 -t UTF-8 does)"
_SIGNS = {
    b"<mediawiki": "MediaWiki dump (run extract on it first)",
    b"<?xml": "MediaWiki dump (run extract on it first)",
    b"PK\3\4": "zip archive (unpack it first)",
    b"ARROW1": "Arrow file (write it as parquet)",
    b"Obj\1": "Avro file (write it as parquet)",
    b"ORC": "ORC file (write it as parquet)",
    b"\xff\xfe": _UTF_16,
    b"\xfe\xff": _UTF_16,
}
_TAR_SIGN, _TAR_SIGN_AT = b"ustar", 257


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
    # Every format of text begins with two ASCII characters.
    if len(head) > 1 and (head[0] == 0) != (head[1] == 0):
        return _UTF_16
    return next((name for sign, name in _SIGNS.items() if head.startswith(sign)), "")
