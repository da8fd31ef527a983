"""Dumps in, articles out: the real ones of gensim's wheel, cut into units, damaged and hostile."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import itertools
import json
import lzma
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from dump_help import ENGLISH, dump, endless_page, page, split, titles
from gensim.test.utils import datapath
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.dump.articles import ArticleRow, dump_units, read_unit, refuse_empty
from lstm_embed.dump.multistream import page_units

BULGARIAN = datapath("bgwiki-latest-pages-articles-shortened.xml.bz2")
TABLES = datapath("enwiki-table-markup.xml.bz2")


@pytest.fixture(scope="module")
def english() -> list[ArticleRow]:
    articles, rejected = split(read_unit(ENGLISH))
    assert not rejected
    return articles


@pytest.fixture(scope="module")
def multistream(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[int]]:
    """The English dump as Wikimedia writes multistream ones: header, 20 pages a stream, footer; and where streams begin."""
    xml = bz2.decompress(Path(ENGLISH).read_bytes())
    starts = [match.start() for match in re.finditer(rb"  <page>\n", xml)]
    cuts = [0, *starts[::20], xml.index(b"</mediawiki>"), len(xml)]
    streams = [bz2.compress(xml[begin:stop]) for begin, stop in itertools.pairwise(cuts)]
    path = tmp_path_factory.mktemp("multistream") / "enwiki-pages-articles-multistream.xml.bz2"
    path.write_bytes(b"".join(streams))
    return str(path), list(itertools.accumulate(map(len, streams[:-1]), initial=0))


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


def test_a_multistream_dump_in_units_gives_the_same_articles(
    multistream: tuple[str, list[int]], english: list[ArticleRow]
) -> None:
    path, streams = multistream
    units = dump_units(path, unit_bytes=200_000)
    assert len(units) > 4
    assert units[0][0] == 0
    assert units[-1][1] == Path(path).stat().st_size
    assert {start for start, _ in units} <= set(streams)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(units))
    readers = [read_unit(path, *unit) for unit in units]
    assert [result for reader in readers for result in reader] == english
    assert sum(reader.num_pages for reader in readers) == 206
    assert [reader.num_read for reader in readers] == [end - start for start, end in units]


def test_plain_xml_in_units_gives_the_same_articles(
    write: Callable[[str, bytes], str], english: list[ArticleRow]
) -> None:
    path = write("d.xml", bz2.decompress(Path(ENGLISH).read_bytes()))
    units = dump_units(path, unit_bytes=1_000_000)
    assert len(units) > 4
    assert [result for unit in units for result in read_unit(path, *unit)] == english


def test_the_digest_of_a_unit_is_that_of_its_bytes(multistream: tuple[str, list[int]]) -> None:
    path, _ = multistream
    start, end = dump_units(path, unit_bytes=200_000)[1]
    reader = read_unit(path, start, end)
    list(reader)
    assert reader.digest() == hashlib.sha256(Path(path).read_bytes()[start:end]).hexdigest()


def test_a_multistream_dump_read_as_one_unit_gives_the_same_articles(
    multistream: tuple[str, list[int]], english: list[ArticleRow]
) -> None:
    path, _ = multistream
    assert dump_units(path) == [(0, Path(path).stat().st_size)]
    assert list(read_unit(path)) == english


def test_a_file_whose_streams_cut_through_pages_is_one_unit(write: Callable[[str, bytes], str]) -> None:
    xml = dump(*(page(n, f"Text {n} " * 50) for n in range(200)))
    step = len(xml) // 15 + 1
    path = write("parallel.xml.bz2", b"".join(bz2.compress(xml[i : i + step]) for i in range(0, len(xml), step)))
    assert dump_units(path, unit_bytes=10) == [(0, Path(path).stat().st_size)]
    assert titles(read_unit(path)) == [f"T{n}" for n in range(200)]


def test_what_only_looks_like_a_stream_is_no_place_to_cut(write: Callable[[str, bytes], str]) -> None:
    head, tail = dump(page(1)).split(b"  <page>")
    first, second = bz2.compress(head), bz2.compress(b"  <page>" + tail)
    fake = b"BZh91AY&SY" + b"\xff" * 5_000
    path = write("x.xml.bz2", first + fake + second)
    assert page_units(path, unit_bytes=1) == [(0, len(first + fake)), (len(first + fake), len(first + fake + second))]
    with pytest.raises(InputError, match="damaged"):
        list(read_unit(path, 0, len(first + fake)))


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
        ArticleRow("1", "1001", "https://is.wikipedia.org/wiki?curid=1", "T1", "Some text."),
        ArticleRow("2", "1002", "https://is.wikipedia.org/wiki?curid=2", "T2", "Tvö."),
    ]
    for path in paths:
        size = Path(path).stat().st_size
        assert dump_units(path) == [(0, size)]
        reader = read_unit(path)
        assert list(reader) == expected
        assert reader.skipped == {"other namespace": 1, "redirect": 1}
        assert (reader.num_read, reader.num_pages) == (size, 4)


def test_a_dump_in_an_object_store_is_read_where_it_lies(
    multistream: tuple[str, list[int]], english: list[ArticleRow], s3: str
) -> None:
    path = f"{s3}/d-multistream.xml.bz2"
    store, inner = storage.filesystem(path)
    with store.open_output_stream(inner, compression=None) as stream:
        stream.write(Path(multistream[0]).read_bytes())
    units = dump_units(path, unit_bytes=500_000)
    assert len(units) > 2
    assert [result for unit in units for result in read_unit(path, *unit)] == english


def test_reading_can_be_taken_up_behind_the_pages_already_done(english: list[ArticleRow]) -> None:
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


@pytest.mark.parametrize("name", ["d.xml", "d.xml.bz2", "d.xml.gz", "d.xml.xz", "d.xml.zst"])
def test_a_dump_that_is_cut_off_is_refused_wherever_the_cut_is(write: Callable[[str, bytes], str], name: str) -> None:
    noise = [hashlib.sha256(b"%d" % n).hexdigest() for n in range(9_000)]
    xml = dump(*(page(n, " ".join(noise[n * 90 : n * 90 + 90])) for n in range(100)))
    compress = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress, "xml": bytes}
    data = {"bz2": lambda xml: bz2.compress(xml, 1), **compress}[name.rpartition(".")[2]](xml)
    assert len(split(read_unit(write(name, data)))[0]) == 100
    for length in (len(data) // 2, len(data) - 20, len(data) - 2):
        with pytest.raises(InputError, match=rf"/{name} is cut off: .*get the file again"):
            list(read_unit(write(name, data[:length])))


def test_a_multistream_dump_that_is_cut_off_is_refused_before_it_is_read(
    multistream: tuple[str, list[int]], write: Callable[[str, bytes], str]
) -> None:
    data = Path(multistream[0]).read_bytes()
    for length in (len(data) // 2, multistream[1][7], multistream[1][7] + 3, multistream[1][-1]):
        path = write("x-multistream.xml.bz2", data[:length])
        for read in (dump_units, lambda path: list(read_unit(path))):
            with pytest.raises(InputError, match="cut off"):
                read(path)


@pytest.mark.parametrize(
    "behind", [b"<!-- made by hand -->", b"\n<?note </mediawiki> ?>\n", b" " * 9_000, b"<!--a--><?b?>\n<!-- > - -->\n"]
)
def test_comments_instructions_and_blanks_may_follow_a_dumps_end(
    write: Callable[[str, bytes], str], behind: bytes
) -> None:
    xml = dump(page(1), page(2)).rstrip() + behind
    for name, data in [
        ("d.xml", xml),
        ("d.xml.bz2", bz2.compress(xml)),
        ("d-multistream.xml.bz2", bz2.compress(xml[:500]) + bz2.compress(xml[500:])),
    ]:
        path = write(name, data)
        dump_units(path)
        articles, rejected = split(read_unit(path))
        assert (len(articles), rejected) == (2, [])


@pytest.mark.parametrize("behind", [b"<!-- not closed", b"<page>", b"x", b"<!-- a --> b"])
def test_anything_else_behind_a_dumps_end_says_that_it_is_not_whole(
    write: Callable[[str, bytes], str], behind: bytes
) -> None:
    with pytest.raises(InputError, match="cut off: it ends without </mediawiki>"):
        list(read_unit(write("d.xml", dump(page(1)).rstrip() + behind)))


def test_a_dump_that_ends_between_two_pages_is_refused(write: Callable[[str, bytes], str]) -> None:
    xml = dump(page(1), page(2))
    cut = xml.rindex(b"  <page>")
    for name, data in [
        ("d.xml", xml[:cut]),
        ("d.xml.bz2", bz2.compress(xml[:cut])),
        ("d.xml.gz", gzip.compress(xml[:cut])),
    ]:
        path = write(name, data)
        with pytest.raises(InputError, match=r"cut off: it ends without </mediawiki>"):
            list(read_unit(path))
        with pytest.raises(InputError, match="cut off"):
            dump_units(path)


def test_a_damaged_stream_is_an_error_of_its_unit(
    multistream: tuple[str, list[int]], english: list[ArticleRow], write: Callable[[str, bytes], str]
) -> None:
    path, streams = multistream
    data = bytearray(Path(path).read_bytes())
    for begin, end in ((streams[5] + 500, streams[5] + 600), (streams[5], streams[5] + 4), (streams[5], streams[6])):
        damaged = write("damaged.xml.bz2", bytes(data[:begin]) + bytes(end - begin) + bytes(data[end:]))
        for unit in ((0, len(data)), (streams[4], streams[8])):
            with pytest.raises(InputError, match=r"damaged\.xml\.bz2 is damaged before byte \d+.*get the file again"):
                list(read_unit(damaged, *unit))
        around = [a for unit in ((0, streams[5]), (streams[6], -1)) for a in read_unit(damaged, *unit)]
        assert set(around) < set(english)


def test_a_unit_whose_last_stream_breaks_off_is_damaged(multistream: tuple[str, list[int]]) -> None:
    path, streams = multistream
    with pytest.raises(InputError, match=f"is damaged before byte {streams[5] - 10}"):
        list(read_unit(path, streams[3], streams[5] - 10))


def test_a_dump_without_text_is_refused(write: Callable[[str, bytes], str]) -> None:
    stub = re.sub(rb"<text[^>]*>[^<]*</text>", b'<text bytes="10" id="7" />', dump(*(page(n) for n in range(300))))
    with pytest.raises(InputError, match=r"stub dump.*pages-articles"):
        dump_units(write("stub.xml.gz", gzip.compress(stub)))


def test_a_dump_without_articles_says_what_its_pages_are(write: Callable[[str, bytes], str]) -> None:
    other = "<model>{}</model></revision>"
    models = ["wikibase-item", "Scribunto", "sanitized-css", "json"]
    pages = [page(n, '{"a": "b"}').replace("</revision>", other.format(model)) for n, model in enumerate(models)]
    path = write(
        "d.xml", dump(*pages, page(8, namespace=4), page(9, "{{x}}").replace("</revision>", other.format("wikitext")))
    )
    assert dump_units(path)
    reader = read_unit(path)
    assert list(reader) == []
    assert reader.skipped == {"not wikitext": 4, "other namespace": 1, "no text": 1}
    with pytest.raises(InputError, match=r"no article: of 6 pages .*1 no text, 4 not wikitext, 1 other namespace"):
        refuse_empty(path, {"records": 0, "pages": 6, "skipped": dict(reader.skipped), "rejected": {}})
    refuse_empty(path, {"records": 1})


def test_an_archive_that_inflates_without_end_is_read_in_little_memory(write: Callable[[str, bytes], str]) -> None:
    compressor = bz2.BZ2Compressor()
    path = write("bomb.xml.bz2", b"".join(map(compressor.compress, endless_page(20))) + compressor.flush())
    assert Path(path).stat().st_size < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="no page that ends"):
            list(read_unit(path, page_limit=200_000))
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_a_missing_dump_is_an_error_at_once(tmp_path: Path) -> None:
    for action in (dump_units, read_unit):
        with pytest.raises(FileNotFoundError):
            action(str(tmp_path / "none.xml.bz2"))


def test_a_piece_of_a_file_that_cannot_be_cut_is_refused(write: Callable[[str, bytes], str]) -> None:
    with pytest.raises(ValueError, match=r"only \.xml and \.bz2"):
        read_unit(write("d.xml.gz", gzip.compress(dump(page(1)))), 10, 20)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damage_to_an_archive_is_refused_or_does_no_harm(
    write: Callable[[str, bytes], str], data: st.DataObject
) -> None:
    streams = [dump(page(0)).replace(b"</mediawiki>\n", b""), page(1).encode(), page(2).encode(), b"</mediawiki>\n"]
    archive = bytearray(b"".join(map(bz2.compress, streams)))
    begin = data.draw(st.integers(0, len(archive) - 1))
    archive[begin : begin + data.draw(st.integers(0, 100))] = data.draw(st.binary(max_size=100))
    path = write("x.xml.bz2", bytes(archive))
    try:
        assert titles(read_unit(path)) == ["T0", "T1", "T2"]
        units = dump_units(path, unit_bytes=1)
        assert sum(len(titles(read_unit(path, *unit))) for unit in units) == 3
    except InputError:
        pass
