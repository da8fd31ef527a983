"""Pages that are broken, endless or damaged cost only themselves."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterator

import pytest
from dump_help import dump, endless_page, page, split, titles
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_embed.base.errors import InputError
from lstm_embed.dump.articles import dump_units, read_unit
from lstm_embed.dump.pages import Page, read_pages, read_site


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        (b'{"id": 1}\n' * 1000, "XML not well formed"),
        (b"<rss><channel/></rss>", "root element that is not mediawiki"),
        (b"<mediawiki><siteinfo/>".replace(b"/", b"&x;/"), "XML not well formed"),
        (
            b'<!DOCTYPE mediawiki [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>' + dump(page(1)),
            "type declaration",
        ),
        (b"<mediawiki>" + b"<x>" * 100, "nested too deeply"),
        (b'<?xml version="1.0" encoding="x-none"?>' + dump(page(1)), "XML in an unknown encoding"),
        (b'<?xml version="1.0" encoding="shift_jis"?>' + dump(page(1)), "XML in an unknown encoding"),
        (b"<mediawiki a='" + b"x" * 3_000_000, "tag without end"),
        (b"<mediawiki>" + b" " * 6_000_000, "no page begins"),
    ],
)
def test_a_file_that_is_no_dump_is_refused(write: Callable[[str, bytes], str], xml: bytes, why: str) -> None:
    for path in (write("a.xml", xml), write("a.xml.gz", gzip.compress(xml))):
        for action in (dump_units, lambda path: list(read_unit(path))):
            with pytest.raises(InputError, match=f"is no MediaWiki dump: .*{why}"):
                action(path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (page(2).replace("</text>", ""), "XML not well formed"),
        (page(2).replace("Some", "\x0b"), "XML not well formed"),
        (page(2).replace("Some", "&nbsp;"), "XML not well formed"),
        (page(2).replace("<title>T2</title>", ""), "page without title or id"),
        (page(2).replace("Some", "<x>" * 100 + "</x>" * 100), "elements nested too deeply"),
        (page(2).replace("<text", "<text " + "a='1' " * 400_000), "tag without end"),
    ],
)
def test_a_page_that_is_not_well_formed_costs_only_itself(
    write: Callable[[str, bytes], str], bad: str, reason: str
) -> None:
    xml = dump(page(1), bad, page(3), page(4))
    articles, rejected = split(read_unit(write("d.xml", xml)))
    assert [article.title for article in articles] == ["T1", "T3", "T4"]
    [record] = rejected
    assert record.reason == reason
    assert xml[record.offset :].startswith(b"<page>\n    <title>T2" if "title>" in bad else b"<page>")
    assert len(record.digest) == 64


def test_an_unclosed_page_costs_only_itself(write: Callable[[str, bytes], str]) -> None:
    xml = dump(page(1), page(2).replace("  </page>\n", ""), page(3))
    articles, rejected = split(read_unit(write("d.xml", xml)))
    assert [article.title for article in articles] == ["T1", "T3"]
    assert rejected[0].reason == "page not closed"
    assert rejected[0].excerpt == b"Some text."
    assert rejected[0].digest == hashlib.sha256(b"Some text.").hexdigest()


def test_invalid_utf_8_costs_only_its_page(write: Callable[[str, bytes], str]) -> None:
    xml = dump(page(1), page(2, "before QQ after"), page(3)).replace(b"QQ", b"\xff\xfe\xed\xa0\x80")
    reader = read_unit(write("d.xml", xml))
    assert titles(reader) == ["T1", "T3"]


def test_a_page_larger_than_the_limit_is_rejected(write: Callable[[str, bytes], str]) -> None:
    path = write("d.xml", dump(page(1), page(2, "x" * 300_000), page(3)))
    articles, [record] = split(read_unit(path, page_limit=100_000))
    assert [article.title for article in articles] == ["T1", "T3"]
    assert record.reason == "page too large"
    assert record.excerpt.startswith(b"xxxx")


def test_a_page_without_end_is_refused_after_some_page_limits() -> None:
    given_up_after = 0

    def counted() -> Iterator[bytes]:
        nonlocal given_up_after
        for chunk in endless_page(1_000_000):
            given_up_after += len(chunk)
            yield chunk

    pages = read_pages(counted(), page_limit=100_000)
    assert isinstance(next(pages), Page)
    with pytest.raises(InputError, match="no page that ends"):
        next(pages)
    assert given_up_after < 10_000_000


MIXED = dump(
    page(1),
    page(2).replace("</text>", ""),
    page(3, "þrír"),
    page(4).replace("  </page>\n", ""),
    page(5),
    page(6).replace("Some", "&x;"),
    page(7),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(1, 80), min_size=1, max_size=60))
def test_how_the_bytes_arrive_changes_nothing(sizes: list[int]) -> None:
    chunks: list[bytes] = []
    position = 0
    while position < len(MIXED):
        size = sizes[len(chunks) % len(sizes)]
        chunks.append(MIXED[position : position + size])
        position += size
    pages = [result.title for result in read_pages(chunks) if isinstance(result, Page)]
    assert pages == ["T1", "T3", "T5", "T7"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_no_damage_raises_or_invents_pages(data: st.DataObject) -> None:
    xml = bytearray(dump(*(page(n, f"Text of {n}.") for n in range(8))))
    for _ in range(data.draw(st.integers(1, 4))):
        begin = data.draw(st.integers(0, len(xml) - 1))
        end = begin + data.draw(st.integers(0, 60))
        xml[begin:end] = data.draw(
            st.binary(max_size=20) | st.sampled_from([b"<page>", b"</page>", b"<!--", b"<", b"&"])
        )
    pages = [result for result in read_pages([bytes(xml)]) if isinstance(result, Page)]
    assert len(pages) <= 12


def test_the_site_is_known_from_the_beginning_of_a_dump() -> None:
    site = read_site([dump(page(1))])
    assert site.base_url.startswith("https://is.wikipedia.org/")
    assert site.namespaces == {0: "", 6: "Skrá"}
    assert read_site([b"<mediawiki>", b"<page>"]).url("5") == "?curid=5"
