"""Files in, articles and rejects out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lstm_embed.base import storage
from lstm_embed.corpus.articles import read_articles
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers.article import Article
from lstm_embed.ledger import Rejected, Span

CONFIG = TextConfig()


def span_of(path: Path, data: bytes) -> Span:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return Span.whole(storage.info(str(path)))


def read(span: Span, config: TextConfig = CONFIG, columns: tuple[str, ...] = ()) -> list[Article | Rejected]:
    return list(read_articles(span, config, columns))


def good(found: list[Article | Rejected]) -> list[tuple[str | None, str | None, str]]:
    return [(item.id, item.title, item.text) for item in found if isinstance(item, Article)]


def reasons(found: list[Article | Rejected]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Rejected)]


def row(number: int, **more: Any) -> bytes:
    return (
        json.dumps({"id": str(number), "url": "u", "title": f"T{number}", "text": f"Text {number}.", **more}).encode()
        + b"\n"
    )
