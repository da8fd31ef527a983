"""Plain text: a file named .txt that holds neither JSON nor documents is one article, named like the file."""

from __future__ import annotations

from collections.abc import Iterator

from lstm_embed.base import storage
from lstm_embed.corpus.readers.article import Article, make_article, rejected
from lstm_embed.corpus.readers.json_lines import is_json
from lstm_embed.corpus.readers.source import Source
from lstm_embed.ledger import Rejected, Span

SUFFIXES = (".txt",)


def matches(suffix: str, head: bytes) -> bool:
    """Tell whether a file is plain text."""
    return suffix in SUFFIXES and bool(head) and not is_json(head)


def cut(file: storage.FileInfo, head: bytes, num_pieces: int) -> list[Span]:
    """Return the file as one span."""
    return [Span.whole(file)]


def read(source: Source) -> Iterator[Article | Rejected]:
    """Yield the file's text as one article."""
    path = source.span.path
    if source.span.start > 0:
        return
    blocks: list[bytes] = []
    held = 0
    for block in source.blocks:
        if isinstance(block, Rejected):
            yield block
            return
        blocks.append(block)
        held += len(block)
        if held > source.config.max_line_bytes:
            size = max(held, source.span.size)
            yield rejected(path, 0, "text file longer than --max-line-bytes", blocks[0], size=size, rest=True)
            return
    raw = b"".join(blocks)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        yield rejected(path, 0, "invalid UTF-8", raw, rest=True)
        return
    name = storage.name(path)
    yield make_article(path, 0, raw, name, name[: name.lower().rindex(SUFFIXES[0])], text, {})
