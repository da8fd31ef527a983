"""Storage: the same on a disk and in an object store; files are there whole or not at all."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lstm_embed.base import codecs, storage
from lstm_embed.base.errors import InputError

from conftest import json_of

PLACES = ["local", "s3"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return a fresh folder on the disk and one in the S3 server."""
    return str(tmp_path / "folder") if request.param == "local" else str(request.getfixturevalue("s3"))


def test_local_paths_become_absolute_and_uris_lose_their_trailing_slash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert storage.resolve("a/../b") == "/tmp/b"
    assert storage.resolve("~/x") == "/home/somebody/x"
    assert storage.resolve("file:///x/y") == "/x/y"
    assert storage.resolve("s3://bucket/key/") == "s3://bucket/key"
    assert storage.resolve(storage.resolve("gs://bucket")) == "gs://bucket"


@pytest.mark.parametrize("path", ["", "hdfs://host/path", "s3://", "s3:///", "\ud800", None, 5, b"x", ["x"]])
def test_paths_that_cannot_be_are_refused_by_name(path: Any) -> None:
    with pytest.raises(InputError, match=r"expected|rename"):
        storage.resolve(path)


def test_names_parents_and_codecs_are_read_from_the_path() -> None:
    assert storage.join("s3://bucket/a/", "b", "/c/") == "s3://bucket/a/b/c"
    assert storage.name("s3://bucket/a/b.gz") == "b.gz"
    assert storage.parent("/a/b") == "/a"
    assert storage.parent("/a") == "/"
    assert [codecs.codec(name) for name in ("a", "a.jsonl.gz", "b.bz2", "c.zst", "d.xz", "e.lz4")] == [
        None,
        ".gz",
        ".bz2",
        ".zst",
        ".xz",
        None,
    ]


def test_what_is_written_can_be_read_listed_changed_and_removed(place: str) -> None:
    path = storage.join(place, "deep", "file.bin")
    assert not storage.exists(path)
    assert storage.list_files(place) == []
    storage.write_bytes(path, b"one")
    assert storage.read_bytes(path) == b"one"
    assert storage.exists(path)
    assert storage.is_dir(place)
    assert not storage.is_dir(path)
    info = storage.info(path)
    assert (info.path, info.size) == (path, 3)
    assert storage.list_files(place) == [info]
    assert storage.list_files(place, recursive=False) == []
    storage.write_bytes(path, b"other")
    assert storage.read_bytes(path) == b"other"
    assert storage.info(path) != info
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)
    storage.write_json(storage.join(place, "x", "y.json"), {})
    storage.remove_dir(storage.join(place, "x"))
    storage.remove_dir(storage.join(place, "x"))
    assert storage.list_files(place) == []


def test_listings_are_sorted_and_leave_hidden_names_out(place: str) -> None:
    for name in ("b/2", "a/1", "c", ".hidden/3", "b/.4"):
        storage.write_bytes(storage.join(place, name), b"x")
    assert [file.path for file in storage.list_files(place)] == [storage.join(place, n) for n in ("a/1", "b/2", "c")]


def test_json_keeps_every_string_also_lone_surrogates(place: str) -> None:
    value = {"text": "ж\ud800 \U0001f600", "n": [1, None, 2.5]}
    storage.write_json(storage.join(place, "v.json"), value)
    assert json_of(storage.join(place, "v.json")) == value
    with pytest.raises(ValueError, match="Out of range"):
        storage.write_json(storage.join(place, "v.json"), float("nan"))


def test_the_stamp_changes_with_the_content_even_at_equal_size(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    storage.write_bytes(path, b"aaa")
    before = storage.info(path)
    time.sleep(0.02)
    storage.write_bytes(path, b"bbb")
    assert storage.info(path).stamp != before.stamp


def test_missing_files_are_file_not_found(place: str) -> None:
    for act in (storage.info, storage.read_bytes, storage.open_stream, storage.digest):
        with pytest.raises(FileNotFoundError):
            act(storage.join(place, "nothing"))
    storage.write_bytes(storage.join(place, "d", "f"), b"")
    with pytest.raises(FileNotFoundError):
        storage.info(storage.join(place, "d"))
    with pytest.raises((FileNotFoundError, IsADirectoryError)):
        storage.read_bytes(storage.join(place, "d"))


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        for act in (storage.info, storage.read_bytes, storage.open_stream, storage.digest):
            with pytest.raises(FileNotFoundError):
                act(str(tmp_path / name))
        assert storage.list_files(str(tmp_path)) == []


def test_streams_decompress_by_suffix_and_plain_ones_can_be_sought_in(place: str) -> None:
    storage.write_bytes(storage.join(place, "a.gz"), gzip.compress(b"hello\nworld\n"))
    with storage.open_stream(storage.join(place, "a.gz")) as stream:
        assert list(stream) == [b"hello\n", b"world\n"]
    storage.write_bytes(storage.join(place, "plain"), b"0123456789" * 1000)
    with storage.open_stream(storage.join(place, "plain")) as stream:
        stream.seek(4995)
        assert stream.read(10) == b"5678901234"
    with storage.open_input(storage.join(place, "plain")) as file:
        assert file.size() == 10_000


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "f")
    storage.write_bytes(path, b"old")

    def full(source: str, target: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        storage.write_bytes(path, b"new")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["f"]
    assert storage.read_bytes(path) == b"old"


def test_a_reader_beside_a_writer_sees_only_whole_files(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    storage.write_bytes(path, b"0" * 100_000)
    code = (
        "import sys, time; from lstm_embed.base import storage\n"
        "end = time.monotonic() + 1.5; n = 0\n"
        "while time.monotonic() < end: n += 1; storage.write_bytes(sys.argv[1], b'%d' % (n % 10) * 100_000)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, path])
    seen = set()
    while writer.poll() is None:
        data = storage.read_bytes(path)
        assert len(data) == 100_000
        assert len(set(data)) == 1
        seen.add(data[0])
    assert writer.returncode == 0
    assert len(seen) > 1


def test_what_a_killed_writer_left_is_hidden_and_can_be_cleared(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from lstm_embed.base import storage\n"
        "os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)\n"
        "storage.write_bytes(sys.argv[1], b'half')"
    )
    path = tmp_path / "sub" / "part-00000000-0000.parquet"
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -9
    assert len(os.listdir(path.parent)) == 1
    assert storage.list_files(str(tmp_path)) == []
    storage.write_bytes(str(tmp_path / "sub" / ".keep.tmp-file"), b"of somebody else")
    assert storage.remove_temporaries(str(tmp_path)) == 1
    assert os.listdir(path.parent) == [".keep.tmp-file"]


def test_large_objects_survive_the_way_to_the_store(s3: str) -> None:
    data = os.urandom(1 << 20) * 6
    storage.write_bytes(storage.join(s3, "large"), data)
    assert storage.read_bytes(storage.join(s3, "large")) == data
    with storage.open_stream(storage.join(s3, "large")) as stream:
        stream.seek(5 << 20)
        assert stream.read() == data[5 << 20 :]
