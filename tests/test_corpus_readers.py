"""Articles: every format gives its text, every bad record is listed, and units cover every file once."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from readers_help import CONFIG, good, read, reasons, row, span_of

from lstm_embed.base import codecs, storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.articles import cut_into_units, inflation, read_articles
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.input import find_files
from lstm_embed.corpus.readers import lines
from lstm_embed.corpus.readers.article import Article
from lstm_embed.ledger import Rejected, Span, Unit

BAD_LINES = [
    (b"{not json}", "not JSON"),
    (b'{"text": "cut off', "not JSON"),
    (b"[" * 100_000, "not JSON"),
    (b'{"text": ' * 50_000, "not JSON"),
    (b'{"id": ' + b"9" * 5000 + b', "text": "x"}', "not JSON"),
    (b'["a list"]', "not a JSON object"),
    (b'"a string"', "not a JSON object"),
    (b"12", "not a JSON object"),
    (b"null", "not a JSON object"),
    (b'{"id": "1"}', "no text"),
    (b'{"text": null}', "no text"),
    (b'{"text": 5}', "text is not a string"),
    (b'{"text": ["a"]}', "text is not a string"),
    (b'{"text": "a", "id": {"n": 1}}', "id or title is not a string or number"),
    (b'{"text": "a", "title": ["b"]}', "id or title is not a string or number"),
    (b'{"text": "a\xff"}', "invalid UTF-8"),
    (b'{"text": "\xed\xa0\x80"}', "invalid UTF-8"),
    ("Привет".encode("utf-16"), "invalid UTF-8"),
    (b"\0\0\0\0", "not JSON"),
    (b"x" * 2_000_000, "line too long"),
]


def test_bad_lines_are_listed_by_reason_and_the_lines_around_them_read(tmp_path: Path) -> None:
    data = b"".join(row(number) + line + b"\n" for number, (line, _) in enumerate(BAD_LINES)) + row(99)
    found = read(span_of(tmp_path / "wiki_00", data), TextConfig(max_line_bytes=1_000_000))
    assert [id_ for id_, _, _ in good(found)] == [*(str(number) for number in range(len(BAD_LINES))), "99"]
    expected = [reason for _, reason in BAD_LINES]
    # A line feed is half a character in UTF-16.
    assert reasons(found) == expected
    for item in found:
        if isinstance(item, Rejected) and item.reason != "line too long":
            line = data[item.offset :].split(b"\n", 1)[0]
            assert item.digest == hashlib.sha256(line).hexdigest()
            assert line.startswith(item.excerpt)
            assert len(item.excerpt) <= 500


def test_ids_and_titles_may_be_numbers_or_missing_and_names_may_be_chosen(tmp_path: Path) -> None:
    lines = [{"text": "a"}, {"id": 7, "title": 1984, "text": "b"}, {"id": 2.5, "text": "c"}, {"id": 10**40, "text": ""}]
    data = "".join(json.dumps(line) + "\r\n" for line in lines).encode()
    assert good(read(span_of(tmp_path / "a.jsonl", b"\xef\xbb\xbf\n \n" + data))) == [
        (None, None, "a"),
        ("7", "1984", "b"),
        ("2.5", None, "c"),
        (str(10**40), None, ""),
    ]
    chosen = TextConfig(text_column="body", id_column="key", title_column="head")
    span = span_of(tmp_path / "b.jsonl", b'{"body": "B", "key": "k", "head": "h", "text": "no", "n": [1]}\n')
    found = read(span, chosen, ("n", "missing"))
    assert good(found) == [("k", "h", "B")]
    assert isinstance(found[0], Article)
    assert found[0].columns == {"n": [1], "missing": None}


def test_segment_wiki_sections_become_one_text(tmp_path: Path) -> None:
    line = {
        "title": "T",
        "section_titles": ["Introduction", "History"],
        "section_texts": ["Intro.", "Past."],
        "interlinks": [],
    }
    found = read(span_of(tmp_path / "seg.json.gz", gzip.compress(json.dumps(line).encode() + b"\n")))
    assert good(found) == [(None, "T", "Intro.\nHistory.\nPast.")]


DOC = '<doc id="{0}" url="u" title="T &quot;{0}&quot;">\nT "{0}"\n\nFirst &amp; line {0}.\nSecond line.\n\n</doc>\n'


def test_the_doc_format_gives_titles_and_texts(tmp_path: Path) -> None:
    data = "".join(DOC.format(number) for number in range(3)).encode()
    expected = [(str(n), f'T "{n}"', f"First & line {n}.\nSecond line.\n") for n in range(3)]
    assert good(read(span_of(tmp_path / "wiki_00", data))) == expected
    assert good(read(span_of(tmp_path / "wiki_01.bz2", bz2.compress(data)))) == expected


def test_documents_that_are_broken_are_listed(tmp_path: Path) -> None:
    doc = DOC.format
    no_end = '<doc id="2" title="no end">\nlost\n'
    too_long = '<doc id="4" title="long">\n' + "x" * 300 + "\n" + "y" * 300 + "\nrest\n</doc>\n"
    cut_off = '<doc id="6" title="cut">\ntext\n'
    data = "".join(["stray\nmore stray\n", doc(1), "between\n", no_end, doc(3), too_long, doc(5), cut_off]).encode()
    found = read(span_of(tmp_path / "w", b"<doc " + data), TextConfig(max_line_bytes=500))
    assert [id_ for id_, _, _ in good(found)] == ["1", "3", "5"]
    assert reasons(found) == [
        "text outside of a document",
        "text outside of a document",
        "document without end",
        "document too long",
        "document without end",
    ]
    too_long = '<doc id="1" title="t">\n' + "x" * 600 + "\n</doc>\n" + doc(2)
    found = read(span_of(tmp_path / "w2", too_long.encode()), TextConfig(max_line_bytes=500))
    assert (reasons(found), [id_ for id_, _, _ in good(found)]) == (["document too long"], ["2"])
    half = '<doc id="1" title="t">\n\xff\n</doc>\n'.encode("latin-1")
    assert reasons(read(span_of(tmp_path / "w3", half))) == ["invalid UTF-8"]


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["json", "doc"]),
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    cuts=st.lists(st.integers(1, 2000), max_size=6),
)
def test_any_cut_of_a_file_gives_every_article_once(
    tmp_path_factory: pytest.TempPathFactory, kind: str, sizes: list[int], cuts: list[int]
) -> None:
    texts = [f"{number}.\n" + "word\n" * size for number, size in enumerate(sizes)]
    if kind == "json":
        data = "".join(json.dumps({"id": n, "text": text}) + "\n" for n, text in enumerate(texts)).encode()
    else:
        data = "".join(f'<doc id="{n}" title="t">\n{text}</doc>\n' for n, text in enumerate(texts)).encode()
    span = span_of(tmp_path_factory.getbasetemp() / "cut", data)
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    pieces = [Span(span.path, a, b, span.size, span.stamp) for a, b in itertools.pairwise(edges)]
    found = [item for piece in pieces for item in read(piece)]
    assert reasons(found) == []
    assert [text.strip() for _, _, text in good(found)] == [text.strip() for text in texts]


def parquet(path: Path, **columns: Any) -> Span:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=10)
    return Span.whole(storage.info(str(path)))


def test_what_a_file_holds_is_told_by_its_content_whatever_its_name(tmp_path: Path) -> None:
    span_of(tmp_path / "packed", gzip.compress(row(1)))
    span_of(tmp_path / "wrong.gz", bz2.compress(row(1)))
    span_of(tmp_path / "UPPER.JSONL.GZ", gzip.compress(row(1)))
    for name in ("packed", "wrong.gz", "UPPER.JSONL.GZ"):
        assert good(read(Span.whole(storage.info(str(tmp_path / name))))) == [("1", "T1", "Text 1.")]
    assert good(read(parquet(tmp_path / "renamed.jsonl", text=["a"]))) == [(None, None, "a")]
    assert read(span_of(tmp_path / "empty", b"")) == []
    assert read(span_of(tmp_path / "blank", b" \n\n")) == []


UTF_16 = "UTF-16 text (convert it to UTF-8, as iconv -f UTF-16 -t UTF-8 does)"
UTF_32 = "UTF-32 text (convert it to UTF-8, as iconv -f UTF-32 -t UTF-8 does)"
LFS = "Git LFS pointer in place of a file (run git lfs pull first)"
DUMP = "MediaWiki dump (run extract on it first)"
FOREIGN = [
    ("dump.xml", b"<mediawiki xmlns='x'>\n<page>\n", DUMP),
    ("dump.xml.bz2", bz2.compress(b"<mediawiki xmlns='x'>\n<page>\n"), DUMP),
    ("dump", b'<?xml version="1.0"?>', DUMP),
    ("a.json", row(1).decode().encode("utf-16"), UTF_16),
    ("b.json", row(1).decode().encode("utf-16-be"), UTF_16),
    ("c.txt", "Привет".encode("utf-16"), UTF_16),
    ("d.jsonl", row(1).decode().encode("utf-32"), UTF_32),
    ("e.jsonl", row(1).decode().encode("utf-32-be"), UTF_32),
    ("f.jsonl", row(1).decode().encode("utf-32-le"), UTF_32),
    ("twice.jsonl.gz", gzip.compress(gzip.compress(row(1))), "archive inside an archive (unpack it once)"),
    ("a.orc", b"ORC\n\x0b\n\x03\0\0\0", "ORC file (write it as parquet)"),
    ("pointer.txt", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", LFS),
    ("a.pdf.txt", b"%PDF-1.7\n", "PDF document (extract its text first)"),
    ("a.parquet", row(1), "not a parquet file, or a damaged one"),
    ("empty.parquet", b"", "not a parquet file, or a damaged one"),
    ("cut.parquet", b"PAR1" + bytes(100), "not a parquet file, or a damaged one"),
    ("b.parquet.gz", gzip.compress(b"PAR1" + bytes(100) + b"PAR1"), "parquet file in an archive (unpack it first)"),
    ("a.jsonl", b"PK\3\4" + bytes(60), "zip archive (unpack it first)"),
    ("a.json.gz", gzip.compress(b"a.json".ljust(257, b"\0") + b"ustar" + bytes(99)), "tar archive (unpack it first)"),
    ("cut.gz", gzip.compress(row(1) * 9)[:-9], "damaged or truncated archive"),
]


@pytest.mark.parametrize(("name", "data", "reason"), FOREIGN, ids=[name for name, _, _ in FOREIGN])
def test_a_file_that_cannot_be_used_is_told_once_and_weighs_all_its_bytes(
    tmp_path: Path, name: str, data: bytes, reason: str
) -> None:
    found = read(span_of(tmp_path / name, data))
    last = found[-1]
    assert isinstance(last, Rejected)
    assert (last.reason, last.rest_of_file) == (reason, True)
    assert last.size >= len(data)
    assert reasons(found) == [reason]
    edges = [0, len(data) // 2, len(data)]
    pieces = [Span(last.path, a, b, len(data), storage.info(last.path).stamp) for a, b in itertools.pairwise(edges)]
    if not name.endswith(".parquet"):  # whose spans count row groups
        assert [item for piece in pieces for item in read(piece)] == found


def array(texts: list[str], between: str = ", ") -> bytes:
    return ("[" + between.join(json.dumps({"id": n, "text": text}) for n, text in enumerate(texts)) + "]").encode()


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.text('a\\"[]{},\n é', max_size=20), max_size=8),
    between=st.sampled_from([",", " ,\n ", ",\n\n"]),
    before=st.sampled_from(["", "\n ", "\ufeff"]),
    block=st.integers(1, 40),
)
def test_an_array_gives_the_articles_of_its_records_wherever_blocks_end(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], between: str, before: str, block: int
) -> None:
    data = before.encode() + array(texts, between) + b"\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        found = read(span_of(tmp_path_factory.getbasetemp() / "array.json", data))
    assert good(found) == [(str(n), None, text) for n, text in enumerate(texts)]
    for item in found:
        assert isinstance(item, Article)
        assert item.raw.strip() in data


def test_what_is_wrong_with_an_array_is_listed_and_the_rest_is_read(tmp_path: Path) -> None:
    data = b'[{"text": "a"}, 5, {"text": "b"} {"text": "c"}, {"text": "' + b"x" * 900 + b'"},\n{"text": "d"},]\n'
    path = tmp_path / "a.json"
    config = TextConfig(max_line_bytes=500)
    found = read(span_of(path, data + row(1)), config)
    assert [text for _, _, text in good(found)] == ["a", "d", "Text 1."]
    assert reasons(found) == ["not a JSON object", "not JSON", "record too long"]
    too_long = next(item for item in found if isinstance(item, Rejected) and item.reason == "record too long")
    assert data[too_long.offset :].lstrip().startswith(b'{"text": "xx')
    assert too_long.size > 900
    cut_off = read(span_of(path, data[:40]), config)
    assert [text for _, _, text in good(cut_off)] == ["a"]
    assert reasons(cut_off)[-1] == "JSON array without end"
    assert reasons(read(span_of(path, b'["a", {"text": "b"}]'), config)) == ["not a JSON object"]


def test_an_array_is_one_unit_and_is_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    span = span_of(tmp_path / "big.json", array(["word " * 2000] * 3000))
    (unit,) = cut_into_units(find_files([str(tmp_path)]), 1_000_000)
    assert unit == (span,)
    tracemalloc.start()
    assert sum(isinstance(item, Article) for item in read_articles(span, CONFIG)) == 3000
    assert tracemalloc.get_traced_memory()[1] < 12 << 20
    tracemalloc.stop()


def test_a_text_file_is_one_article_unless_it_holds_records(tmp_path: Path) -> None:
    assert good(read(span_of(tmp_path / "Tea.txt", b"\xef\xbb\xbfTea is hot.\n\nIt is old.\n"))) == [
        ("Tea.txt", "Tea", "Tea is hot.\n\nIt is old.\n")
    ]
    assert good(read(span_of(tmp_path / "b.TXT.gz", gzip.compress(b"[Music] plays.")))) == [
        ("b.TXT.gz", "b", "[Music] plays.")
    ]
    assert good(read(span_of(tmp_path / "e.txt", b"ORCHIDS are flowers."))) == [("e.txt", "e", "ORCHIDS are flowers.")]
    assert good(read(span_of(tmp_path / "lines.txt", row(1)))) == [("1", "T1", "Text 1.")]
    assert good(read(span_of(tmp_path / "docs.txt", DOC.format(1).encode())))[0][0] == "1"
    latin = read(span_of(tmp_path / "c.txt", "café".encode("latin-1")))
    long = read(span_of(tmp_path / "d.txt", b"word " * 200), TextConfig(max_line_bytes=500))
    assert reasons(latin + long) == ["invalid UTF-8", "text file longer than --max-line-bytes"]
    assert all(isinstance(item, Rejected) and item.rest_of_file for item in latin + long)


def test_characters_that_no_text_can_hold_are_replaced_and_counted(tmp_path: Path) -> None:
    line = b'{"id": "1\\u0000", "title": "\\udfff", "text": "a\\u0000b \\ud83d c \\ud83d\\ude00"}\n'
    (found,) = read(span_of(tmp_path / "a.jsonl", line))
    assert isinstance(found, Article)
    assert (found.id, found.title, found.text) == ("1\ufffd", "\ufffd", "a\ufffdb \ufffd c \U0001f600")
    assert found.num_replaced == 4
    (found,) = read(span_of(tmp_path / "raw.jsonl", b'{"text": "a\0b\tc"}\n'))
    assert isinstance(found, Article)
    assert (found.text, found.num_replaced) == ("a\ufffdb\tc", 1)


def test_files_that_were_joined_may_have_byte_order_marks_inside(tmp_path: Path) -> None:
    found = read(span_of(tmp_path / "joined.jsonl", b"\xef\xbb\xbf" + row(1) + b"\xef\xbb\xbf" + row(2)))
    assert [text for _, _, text in good(found)] == ["Text 1.", "Text 2."]
    assert reasons(found) == []


def test_a_file_that_changes_under_the_job_stops_it(tmp_path: Path) -> None:
    span = span_of(tmp_path / "a", row(1))
    (tmp_path / "a").write_bytes(row(1) + row(2))
    with pytest.raises(InputError, match="changed while the job ran"):
        read(span)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10_000_000), st.sampled_from(["", ".jsonl", ".gz", ".bz2", ".zst"])),
        min_size=1,
        max_size=30,
    ),
    st.integers(1, 5_000_000),
)
def test_units_cover_every_byte_of_every_file_once_in_order(files: list[tuple[int, str]], unit_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "open_input", lambda path: io.BytesIO(b'{"text": '))
        check_units(files, unit_bytes)


def check_units(files: list[tuple[int, str]], unit_bytes: int) -> None:
    infos = [storage.FileInfo(f"/in/{number:03d}{suffix}", size, "1") for number, (size, suffix) in enumerate(files)]
    unit_bytes = max(unit_bytes, sum(file.size for file in infos) // 200)
    units = cut_into_units(infos, unit_bytes)
    spans = [span for unit in units for span in unit]
    assert list(dict.fromkeys(span.path for span in spans)) == [file.path for file in infos]
    for file in infos:
        own = [(span.start, file.size if span.end < 0 else span.end) for span in spans if span.path == file.path]
        assert (own[0][0], own[-1][1]) == (0, file.size)
        assert all(a[1] == b[0] for a, b in itertools.pairwise(own))
        assert len(own) == 1 or codecs.codec(file.path) is None
    assert sum(Unit(0, unit).size for unit in units) == sum(file.size for file in infos)
    assert all(inflation(Unit(0, unit)) >= 1 for unit in units)
    assert cut_into_units(infos, unit_bytes) == units
