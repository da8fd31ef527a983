"""Lines: every line once whatever the cuts, and what is whole of what is damaged."""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import itertools
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.base import storage
from lstm_embed.base.errors import LstmEmbedError
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.readers import lines
from lstm_embed.corpus.readers.lines import Block, Line, read_lines
from lstm_embed.corpus.readers.source import opened
from lstm_embed.ledger import Rejected, Span

LONG = 1 << 20


def zst(data: bytes) -> bytes:
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return bytes(zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}))


CODECS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": functools.partial(gzip.compress, compresslevel=1),
    ".bz2": bz2.compress,
    ".zst": zst,
    ".xz": functools.partial(lzma.compress, preset=0),
}


def write(path: Path, data: bytes) -> Span:
    path.write_bytes(data)
    return Span.whole(storage.info(str(path)))


def read(span: Span, most: int = LONG) -> list[Line | Rejected]:
    with opened(span, TextConfig(max_line_bytes=most)) as source:
        return list(source.lines())


def good(found: list[Line | Rejected]) -> list[bytes]:
    return [line.data for line in found if isinstance(line, Line)]


def reasons(found: list[Line | Rejected]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Rejected)]


def ranges(span: Span, cuts: list[int]) -> list[Span]:
    edges = [0, *sorted(cuts), span.size]
    return [Span(span.path, a, b, span.size, span.stamp) for a, b in itertools.pairwise(edges) if a < b]


@functools.cache
def some_lines(number: int) -> bytes:
    return b"".join(b"%d %s\n" % (i, hashlib.sha256(b"%d" % i).hexdigest().encode()) for i in range(number))


@settings(max_examples=150, deadline=None)
@given(
    data=st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"\xff\x00", b"long" * 9])).map(b"".join),
    cuts=st.lists(st.integers(0, 120), max_size=6),
    block=st.integers(1, 40),
)
def test_any_cuts_give_every_line_once_with_its_offset(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int], block: int
) -> None:
    span = write(tmp_path_factory.getbasetemp() / "any.jsonl", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        found = [line for piece in ranges(span, [cut for cut in cuts if cut < len(data)]) for line in read(piece)]
    # Empty lines may be passed over.
    assert list(filter(None, good(found))) == list(filter(None, data.split(b"\n")))
    assert all(data[line.offset :].startswith(line.data) for line in found)
    assert [line.offset for line in found] == sorted({line.offset for line in found})


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), max_size=12),
    cuts=st.lists(st.integers(1, 200), max_size=4),
    block=st.integers(1, 40),
)
def test_long_lines_are_rejected_once_with_the_same_hash_whatever_the_cuts(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], cuts: list[int], block: int
) -> None:
    data = b"".join(bytes([97 + number % 26]) * size + b"\n" for number, size in enumerate(sizes))
    span = write(tmp_path_factory.getbasetemp() / "long.jsonl", data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "_BLOCK", block)
        pieces = ranges(span, [cut for cut in cuts if cut < len(data)])
        found = [line for piece in pieces for line in read(piece, 10)]
    assert [len(line) for line in good(found) if line] == [size for size in sizes if 0 < size <= 10]
    assert [item.digest for item in found if isinstance(item, Rejected)] == [
        hashlib.sha256(bytes([97 + number % 26]) * 10).hexdigest() for number, size in enumerate(sizes) if size > 10
    ]
    # Behind the end of its span no more of a line is read than shows that it is too long.
    assert all(10 < item.size <= max(sizes) for item in found if isinstance(item, Rejected))


def test_a_range_inside_one_endless_line_does_not_read_to_its_end(tmp_path: Path) -> None:
    span = write(tmp_path / "endless", b"x" * (8 << 20))

    def bytes_read(start: int, end: int) -> tuple[list[Line | Rejected], int]:
        taken = 0

        def counted(blocks: Iterator[Block]) -> Iterator[Block]:
            nonlocal taken
            for block in blocks:
                assert isinstance(block, bytes)
                taken += len(block)
                yield block

        piece = Span(span.path, start, end, span.size, span.stamp)
        with opened(piece, TextConfig()) as source:
            found = list(read_lines(piece, counted(source.blocks), 1000))
        return found, taken

    found, taken = bytes_read(1 << 20, 2 << 20)
    assert found == []
    assert taken <= 3 << 20
    found, taken = bytes_read(0, 1 << 20)
    assert reasons(found) == ["line too long"]
    assert taken <= 3 << 20


@functools.cache
def archive(suffix: str) -> bytes:
    return CODECS[suffix](some_lines(20_000))


@pytest.mark.parametrize("suffix", CODECS)
def test_a_whole_archive_and_joined_archives_give_all_lines(tmp_path: Path, suffix: str) -> None:
    data = some_lines(3000)
    compress = CODECS[suffix]
    once = read(write(tmp_path / f"once{suffix}", compress(data)))
    assert good(once) == data.splitlines()
    twice = read(write(tmp_path / f"twice{suffix}", compress(data[:50_000]) + compress(data[50_000:])))
    assert twice == once


@pytest.mark.parametrize("suffix", CODECS)
def test_what_follows_a_whole_archive_is_another_one_or_damage(tmp_path: Path, suffix: str) -> None:
    data = some_lines(100)
    first, second = CODECS[suffix](data), CODECS[suffix](data.upper())
    behind = {"cut": second[:-7], "overwritten": b"#" * 9 + second[9:], "noise": b"noise" * 9}
    for name, follows in behind.items():
        found = read(write(tmp_path / f"{name}{suffix}", first + follows))
        assert good(found)[:100] == data.splitlines()
        assert reasons(found) == ["damaged or truncated archive"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize("num_zeros", [4, 3, 200_000])
def test_zeros_between_archives_are_passed_over(tmp_path: Path, suffix: str, num_zeros: int) -> None:
    data = some_lines(100)
    stored = CODECS[suffix](data) + bytes(num_zeros)
    found = read(write(tmp_path / f"padded{suffix}", stored * 2))
    assert good(found) == data.splitlines() * 2
    assert reasons(found) == []


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_archive_keeps_what_is_whole_and_lists_the_damage(
    tmp_path: Path, suffix: str, share: float
) -> None:
    data, stored = some_lines(20_000), archive(suffix)
    found = read(write(tmp_path / f"cut{suffix}", stored[: int(len(stored) * share)]))
    kept = good(found)
    assert kept == data.splitlines()[: len(kept)]
    assert reasons(found) == ["damaged or truncated archive"]
    # A bzip2 block of 900 kB is whole or lost; the others give nearly every byte that is there.
    assert sum(map(len, kept)) > share * len(data) - (1_000_000 if suffix == ".bz2" else 200_000)
    last = found[-1]
    assert isinstance(last, Rejected)
    assert last.offset == sum(len(line) + 1 for line in kept)


@pytest.mark.parametrize("suffix", CODECS)
def test_bytes_turned_over_in_an_archive_never_raise(tmp_path: Path, suffix: str) -> None:
    stored = bytearray(archive(suffix))
    for at in range(len(stored) // 2, len(stored) // 2 + 40):
        stored[at] ^= 0xFF
    found = read(write(tmp_path / f"turned{suffix}", bytes(stored)))
    assert reasons(found)[-1:] == ["damaged or truncated archive"]


@pytest.mark.parametrize("suffix", CODECS)
def test_something_that_is_no_archive_is_listed(tmp_path: Path, suffix: str) -> None:
    assert reasons(read(write(tmp_path / f"no{suffix}", b'{"text": "plain"}\n'))) == ["damaged or truncated archive"]


def test_an_archive_that_inflates_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_INFLATION", 64)
    bomb = bz2.compress(b"first\n" + b"\0" * (20 << 20))
    found = read(write(tmp_path / "bomb.bz2", bomb), 1000)
    assert good(found) == [b"first"]
    assert reasons(found)[-1] == "archive inflates without end"
    assert found[-1].size <= 6 << 20  # type: ignore[union-attr]


def test_an_archive_of_nothing_but_line_ends_is_read_in_little_memory(tmp_path: Path) -> None:
    import tracemalloc

    tracemalloc.start()
    found = read(write(tmp_path / "blank.bz2", bz2.compress(b"\n" * (30 << 20))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) < 2 << 20
    assert peak < 100 << 20


def test_a_long_line_is_never_held(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "big.gz"
    path.write_bytes(gzip.compress(b"a\n" + b"x" * (60 << 20) + b"\nb\n"))
    span = Span.whole(storage.info(str(path)))
    tracemalloc.start()
    found = read(span, 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert good(found) == [b"a", b"b"]
    assert reasons(found) == ["line too long"]
    assert peak < 24 << 20


def test_a_store_that_fails_is_no_damaged_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "fine.gz"
    path.write_bytes(gzip.compress(some_lines(100)))
    span = Span.whole(storage.info(str(path)))

    class Failing:
        def readinto(self, buffer: object) -> int:
            raise OSError("AWS Error NETWORK_CONNECTION")

        def close(self) -> None:
            return None

    monkeypatch.setattr(storage, "open_input", lambda path: Failing())
    with pytest.raises(LstmEmbedError, match=r"reading .*fine.gz failed: AWS Error"):
        read(span)
