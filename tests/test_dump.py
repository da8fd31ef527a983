"""Dumps in, articles out: the real ones of gensim's wheel, cut into units, damaged and hostile."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import itertools
import json
import re
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

import pytest
import zstandard
from gensim.test.utils import datapath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_embed.base import storage
from lstm_embed.dump.articles import (
    Article,
    Page,
    UnitReader,
    dump_units,
    read_pages,
    read_site,
    read_unit,
    stream_offsets,
)
from lstm_embed.ledger import Rejected

ENGLISH = datapath("enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2")
BULGARIAN = datapath("bgwiki-latest-pages-articles-shortened.xml.bz2")
TABLES = datapath("enwiki-table-markup.xml.bz2")

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


def split(reader: UnitReader) -> tuple[list[Article], list[Rejected]]:
    results = list(reader)
    return (
        [result for result in results if isinstance(result, Article)],
        [result for result in results if isinstance(result, Rejected)],
    )


def titles(reader: UnitReader) -> list[str]:
    return [article.title for article in split(reader)[0]]


def reasons(reader: UnitReader) -> list[str]:
    return [record.reason for record in split(reader)[1]]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], str]:
    def write_file(name: str, data: bytes) -> str:
        (tmp_path / name).write_bytes(data)
        return str(tmp_path / name)

    return write_file


@pytest.fixture(scope="module")
def english() -> list[Article]:
    articles, rejected = split(read_unit(ENGLISH))
    assert not rejected
    return articles


@pytest.fixture(scope="module")
def multistream(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The English dump as Wikimedia writes multistream ones: header, 20 pages a stream, footer, and the index beside."""
    xml = bz2.decompress(Path(ENGLISH).read_bytes())
    starts = [match.start() for match in re.finditer(rb"  <page>\n", xml)]
    end = xml.index(b"</mediawiki>")
    cuts = [0, *starts[::20], end, len(xml)]
    data = b""
    index = []
    for begin, stop in itertools.pairwise(cuts):
        for found in re.finditer(rb"  <page>\n    <title>(.*?)</title>.*?<id>(\d+)</id>", xml[begin:stop], re.DOTALL):
            index.append(b"%d:%s:%s\n" % (len(data), found[2], found[1]))
        data += bz2.compress(xml[begin:stop])
    folder = tmp_path_factory.mktemp("multistream")
    (folder / "enwiki-pages-articles-multistream.xml.bz2").write_bytes(data)
    (folder / "enwiki-pages-articles-multistream-index.txt.bz2").write_bytes(bz2.compress(b"".join(index)))
    return str(folder / "enwiki-pages-articles-multistream.xml.bz2")


def test_the_english_dump_gives_the_articles_wikiextractor_gives() -> None:
    reader = read_unit(ENGLISH)
    articles, rejected = split(reader)
    assert not rejected
    assert reader.num_pages == 206
    assert len(articles) == 106
    assert reader.skipped == {"redirect": 99, "other namespace": 1}
    first = json.loads(articles[0].to_json())
    assert list(first) == ["id", "revid", "url", "title", "text"]
    assert first["id"], first["revid"] == ("12", "716551092")
    assert first["url"] == "https://en.wikipedia.org/wiki?curid=12"
    assert first["title"] == "Anarchism"
    assert first["text"].startswith("Anarchism is a political philosophy that advocates self-governed societies")
    assert "Austin (disambiguation)" in [article.title for article in articles]


def test_the_bulgarian_dump_keeps_its_letters() -> None:
    articles, rejected = split(read_unit(BULGARIAN))
    assert not rejected
    assert [article.title for article in articles] == ["Григориански календар"]
    assert articles[0].text.startswith("Григорианският календар (понякога наричан и Грегориански календар, „нов стил“)")
    assert "Григорианският" in articles[0].to_json()
    assert "[[" not in articles[0].text
    assert "Категория" not in articles[0].text


def test_tables_leave_no_markup_behind() -> None:
    articles, rejected = split(read_unit(TABLES))
    assert not rejected
    assert len(articles) == 5
    for article in articles:
        assert not re.search(r"\{\||\|\}|\|-|wikitable|rowspan|\{\{|\[\[|<ref", article.text)


@pytest.mark.parametrize("with_index", [True, False])
def test_a_multistream_dump_in_units_gives_the_same_articles(
    multistream: str, english: list[Article], tmp_path: Path, with_index: bool
) -> None:
    path = multistream
    if not with_index:
        path = str(tmp_path / "dump-multistream.xml.bz2")
        Path(path).write_bytes(Path(multistream).read_bytes())
    assert len(stream_offsets(path)) == (12 if with_index else 13)  # the index does not tell of the footer
    units = dump_units(path, unit_bytes=200_000)
    assert len(units) > 4
    assert units[0][0] == 0
    assert units[-1][1] == Path(path).stat().st_size
    assert all(left[1] == right[0] for left, right in itertools.pairwise(units))
    readers = [read_unit(path, *unit) for unit in units]
    assert [result for reader in readers for result in reader] == english
    assert sum(reader.num_pages for reader in readers) == 206
    assert [reader.num_read for reader in readers] == [end - start for start, end in units]


def test_the_digest_of_a_unit_is_that_of_its_bytes(multistream: str) -> None:
    start, end = dump_units(multistream, unit_bytes=200_000)[1]
    reader = read_unit(multistream, start, end)
    list(reader)
    assert reader.digest() == hashlib.sha256(Path(multistream).read_bytes()[start:end]).hexdigest()


def test_a_multistream_dump_read_as_one_unit_gives_the_same_articles(multistream: str, english: list[Article]) -> None:
    assert dump_units(multistream) == [(0, Path(multistream).stat().st_size)]
    assert list(read_unit(multistream)) == english


def test_an_index_of_another_dump_is_not_believed(multistream: str, tmp_path: Path) -> None:
    path = tmp_path / "x-multistream.xml.bz2"
    path.write_bytes(Path(multistream).read_bytes())
    scanned = stream_offsets(str(path))
    for content in (b"17:1:A\n99:2:B\n", b"99999999999:1:A\n", b"no index\n", b""):
        (tmp_path / "x-multistream-index.txt").write_bytes(content)
        assert stream_offsets(str(path)) in (scanned, [0])
    (tmp_path / "x-multistream-index.txt.bz2").write_bytes(b"BZh9 broken")
    assert stream_offsets(str(path)) == scanned


def test_a_file_whose_streams_cut_through_pages_is_one_unit(write: Callable[[str, bytes], str]) -> None:
    xml = dump(*(page(n, f"Text {n} " * 50) for n in range(200)))
    step = len(xml) // 15 + 1
    path = write("parallel.xml.bz2", b"".join(bz2.compress(xml[i : i + step]) for i in range(0, len(xml), step)))
    assert len(stream_offsets(path)) == 15
    assert dump_units(path, unit_bytes=10) == [(0, Path(path).stat().st_size)]
    assert titles(read_unit(path)) == [f"T{n}" for n in range(200)]


def test_the_mark_of_a_stream_inside_other_data_is_no_stream(write: Callable[[str, bytes], str]) -> None:
    first, second = bz2.compress(b"one"), bz2.compress(b"two")
    path = write("x.bz2", first + b"BZh91AY&SY" + b"\xff" * 50_000 + second)
    assert stream_offsets(path) == [0, len(first) + 10 + 50_000]


def test_every_codec_gives_the_same_articles(write: Callable[[str, bytes], str]) -> None:
    xml = dump(
        page(1), page(2, "[[Skrá:x.jpg|thumb|y]]Tvö."), page(3, namespace=4), page(4, extra='<redirect title="T1" />')
    )
    paths = [
        write("d.xml", xml),
        write("d.xml.gz", gzip.compress(xml)),
        write("d.xml.bz2", bz2.compress(xml)),
        write("d.xml.zst", zstandard.compress(xml)),
    ]
    expected = [
        Article("1", "1001", "https://is.wikipedia.org/wiki?curid=1", "T1", "Some text."),
        Article("2", "1002", "https://is.wikipedia.org/wiki?curid=2", "T2", "Tvö."),
    ]
    for path in paths:
        size = Path(path).stat().st_size
        assert dump_units(path) == [(0, size)]
        reader = read_unit(path)
        assert list(reader) == expected
        assert reader.skipped == {"other namespace": 1, "redirect": 1}
        assert (reader.num_read, reader.num_pages) == (size, 4)


def test_a_dump_in_an_object_store_is_read_where_it_lies(multistream: str, english: list[Article], s3: str) -> None:
    path = f"{s3}/d-multistream.xml.bz2"
    store, inner = storage.filesystem(path)
    with store.open_output_stream(inner, compression=None) as stream:
        stream.write(Path(multistream).read_bytes())
    units = dump_units(path, unit_bytes=500_000)
    assert len(units) > 2
    assert [result for unit in units for result in read_unit(path, *unit)] == english


def test_reading_can_be_taken_up_behind_the_pages_already_done(english: list[Article]) -> None:
    reader = read_unit(ENGLISH)
    results = iter(reader)
    done = [next(results) for _ in range(40)]
    assert done + list(read_unit(ENGLISH, skip_pages=reader.num_pages)) == english


def test_of_several_revisions_the_last_counts(write: Callable[[str, bytes], str]) -> None:
    text = page(1, "Old text.").replace(
        "</revision>", "</revision><revision><id>2000</id><text>New text.</text></revision>"
    )
    [article] = split(read_unit(write("d.xml", dump(text))))[0]
    assert (article.revid, article.text) == ("2000", "New text.")


def test_a_truncated_archive_gives_the_whole_pages_before_its_end(write: Callable[[str, bytes], str]) -> None:
    noise = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(30_000)]
    xml = dump(*(page(n, " ".join(noise[n * 300 : n * 300 + 300])) for n in range(100)))
    for name, data in [("d.xml.bz2", bz2.compress(xml, 1)), ("d.xml.gz", gzip.compress(xml)), ("d.xml", xml)]:
        articles, rejected = split(read_unit(write(name, data[: len(data) // 2])))
        assert 20 < len(articles) < 60
        assert [article.title for article in articles] == [f"T{n}" for n in range(len(articles))]
        assert [record.reason for record in rejected][:1] == ["page not closed"]
        assert [record.reason for record in rejected][1:] == ([] if name == "d.xml" else ["truncated archive"])
        if name != "d.xml.bz2":
            assert xml[rejected[0].offset :].startswith(b"<page>\n    <title>T%d<" % len(articles))


def test_a_dump_that_ends_between_two_pages_is_noticed(write: Callable[[str, bytes], str]) -> None:
    xml = dump(page(1), page(2))
    cut = xml.rindex(b"  <page>")
    assert reasons(read_unit(write("d.xml", xml[:cut]))) == ["dump without end"]
    assert reasons(read_unit(write("d.xml.bz2", bz2.compress(xml[:cut])))) == ["dump without end"]


def test_a_damaged_stream_costs_its_own_pages_only(multistream: str, english: list[Article], tmp_path: Path) -> None:
    offsets = stream_offsets(multistream)
    data = bytearray(Path(multistream).read_bytes())
    middle = (offsets[5] + offsets[6]) // 2
    data[middle : middle + 100] = bytes(100)
    path = tmp_path / "damaged.xml.bz2"
    path.write_bytes(data)
    undamaged = [a for unit in ((0, offsets[5]), (offsets[6], -1)) for a in read_unit(multistream, *unit)]
    undamaged = [article for article in undamaged if isinstance(article, Article)]
    for units in ([(0, len(data))], dump_units(str(path), unit_bytes=100_000)):
        results = [result for unit in units for result in read_unit(str(path), *unit)]
        articles = [result for result in results if isinstance(result, Article)]
        records = [result for result in results if isinstance(result, Rejected)]
        assert "damaged archive" in {record.reason for record in records}
        assert set(undamaged) <= set(articles) <= set(english)
        if len(units) > 1:
            assert {record.offset for record in records} == {offsets[5]}


def test_an_entity_bomb_is_refused(write: Callable[[str, bytes], str]) -> None:
    bomb = '<!DOCTYPE mediawiki [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefghi", "bcdefghij", strict=True)
    )
    xml = (bomb + "]>").encode() + dump(page(1, "one"), page(2).replace("Some", "&j;"), page(3, "three"))
    articles, rejected = split(read_unit(write("d.xml", xml)))
    assert [article.title for article in articles] == ["T1", "T3"]
    assert [record.reason for record in rejected] == ["document type declaration", "XML not well formed"]


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


def test_a_file_that_is_no_dump_gives_a_record_and_no_article(write: Callable[[str, bytes], str]) -> None:
    for name, data in [
        ("a.xml", b'{"id": 1}\n' * 1000),
        ("b.xml", b""),
        ("c.xml.bz2", b"not bz2 " * 50),
        ("d.xml.gz", b"x"),
    ]:
        articles, rejected = split(read_unit(write(name, data)))
        assert not articles
        assert rejected


def endless_page(num_megabytes: int) -> Iterator[bytes]:
    yield dump(page(1)).replace(b"</mediawiki>\n", b"") + b"<page><title>E</title><id>2</id><revision><text>"
    for _ in range(num_megabytes * 16):
        yield b"e" * (1 << 16)


def test_a_page_without_end_is_left_after_some_page_limits() -> None:
    given_up_after = 0

    def counted() -> Iterator[bytes]:
        nonlocal given_up_after
        for chunk in endless_page(1_000_000):
            given_up_after += len(chunk)
            yield chunk

    results = list(read_pages(counted(), page_limit=1_000_000))
    assert [r.title if isinstance(r, Page) else r.reason for r in results] == ["T1", "no end of a page"]
    assert given_up_after < 10_000_000


def test_an_archive_that_inflates_without_end_is_read_in_little_memory(write: Callable[[str, bytes], str]) -> None:
    compressor = bz2.BZ2Compressor()
    path = write("bomb.xml.bz2", b"".join(map(compressor.compress, endless_page(20))) + compressor.flush())
    assert Path(path).stat().st_size < 10_000
    tracemalloc.start()
    try:
        found = reasons(read_unit(path, page_limit=200_000))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert found == ["no end of a page"]


def test_a_missing_dump_is_an_error_at_once(tmp_path: Path) -> None:
    for action in (dump_units, read_unit, stream_offsets):
        with pytest.raises(FileNotFoundError):
            action(str(tmp_path / "none.xml.bz2"))


def test_a_piece_of_a_file_that_cannot_be_cut_is_refused(write: Callable[[str, bytes], str]) -> None:
    with pytest.raises(ValueError, match=r"only a \.bz2 file"):
        read_unit(write("d.xml", dump(page(1))), 10, 20)


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


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_damage_to_an_archive_raises(write: Callable[[str, bytes], str], data: st.DataObject) -> None:
    streams = [dump(page(0)).replace(b"</mediawiki>\n", b""), page(1).encode(), page(2).encode(), b"</mediawiki>\n"]
    archive = bytearray(b"".join(map(bz2.compress, streams)))
    begin = data.draw(st.integers(0, len(archive) - 1))
    archive[begin : begin + data.draw(st.integers(0, 100))] = data.draw(st.binary(max_size=100))
    path = write("x.xml.bz2", bytes(archive))
    articles, rejected = split(read_unit(path))
    assert len(articles) == 3 or rejected
    for unit in dump_units(path, unit_bytes=1):
        list(read_unit(path, *unit))


def test_the_site_is_known_from_the_beginning_of_a_dump() -> None:
    site = read_site([dump(page(1))])
    assert site.base_url.startswith("https://is.wikipedia.org/")
    assert site.namespaces == {0: "", 6: "Skrá"}
    assert read_site([b"<mediawiki><page>"]).url("5") == "?curid=5"
