"""Dumps made of a few pages, and what is read of them."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape

from gensim.test.utils import datapath

from lstm_embed.dump.articles import ArticleRow, UnitReader
from lstm_embed.ledger import Rejected

ENGLISH = datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")


SITE = """<siteinfo><base>https://is.wikipedia.org/wiki/Fors%C3%AD%C3%B0a</base>
<namespaces><namespace key="0" /><namespace key="6">Skrá</namespace></namespaces></siteinfo>"""


def page(number: int, text: str = "Some text.", *, namespace: int = 0, extra: str = "") -> str:
    return (
        f"  <page>\n    <title>T{number}</title>\n    <ns>{namespace}</ns>\n    <id>{number}</id>{extra}\n"
        f"    <revision><id>{1000 + number}</id><contributor><id>7</id></contributor>"
        f'<text xml:space="preserve">{escape(text)}</text></revision>\n  </page>\n'
    )


def dump(*pages: str) -> bytes:
    return ("<mediawiki>\n" + SITE + "".join(pages) + "</mediawiki>\n").encode()


def split(reader: UnitReader) -> tuple[list[ArticleRow], list[Rejected]]:
    results = list(reader)
    return (
        [result for result in results if isinstance(result, ArticleRow)],
        [result for result in results if isinstance(result, Rejected)],
    )


def titles(reader: UnitReader) -> list[str]:
    return [article.title for article in split(reader)[0]]


def reasons(reader: UnitReader) -> list[str]:
    return [record.reason for record in split(reader)[1]]


def endless_page(num_megabytes: int) -> Iterator[bytes]:
    yield dump(page(1)).replace(b"</mediawiki>\n", b"") + b"<page><title>E</title><id>2</id><revision><text>"
    for _ in range(num_megabytes * 16):
        yield b"e" * (1 << 16)
