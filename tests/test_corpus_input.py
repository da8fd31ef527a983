"""The input: every file that is named is found, and each once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.input import discover, find_files, refuse_output_inside


def write(path: Path, data: bytes = b"x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return str(path)


def names(files: list[storage.FileInfo], base: Path) -> list[str]:
    return [file.path[len(str(base)) + 1 :] for file in files]


def test_trees_globs_lists_and_single_files_are_found_each_file_once(tmp_path: Path) -> None:
    for name in (
        "AA/wiki_00",
        "AA/wiki_01.bz2",
        "AB/wiki_00.gz",
        "x.jsonl",
        "y.JSON.zst",
        "z.parquet",
        "notes.md",
        ".hidden/a",
    ):
        write(tmp_path / name, b"x")
    write(tmp_path / "AB" / "_SUCCESS", b"")
    files, ignored, _ = discover([str(tmp_path)])
    assert names(files, tmp_path) == [
        *("AA/wiki_00", "AA/wiki_01.bz2", "AB/wiki_00.gz", "x.jsonl", "y.JSON.zst", "z.parquet")
    ]
    assert ignored == [str(tmp_path / "AB" / "_SUCCESS"), str(tmp_path / "notes.md")]
    assert find_files([str(tmp_path), str(tmp_path / "x.jsonl"), f"{tmp_path}/AA"]) == files
    for glob, expected in (
        ("*.jsonl", ["x.jsonl"]),
        ("A?", ["AA/wiki_00", "AA/wiki_01.bz2", "AB/wiki_00.gz"]),
        ("*/wiki_00", ["AA/wiki_00"]),
        ("**/*.[gb]z*", ["AA/wiki_01.bz2", "AB/wiki_00.gz"]),
        ("A[!A]/w*", ["AB/wiki_00.gz"]),
        ("notes.*", ["notes.md"]),
    ):
        assert names(find_files([f"{tmp_path}/{glob}"]), tmp_path) == expected
    write(tmp_path / "odd[1].jsonl", b"x")
    assert names(find_files([f"{tmp_path}/odd[1].jsonl"]), tmp_path) == ["odd[1].jsonl"]


def test_input_that_gives_nothing_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder at .*/nowhere"):
        find_files([f"{tmp_path}/nowhere"])
    with pytest.raises(FileNotFoundError, match=r"no file or folder matches .*\*\.jsonl; looked below"):
        find_files([f"{tmp_path}/*.jsonl"])
    with pytest.raises(
        InputError, match=r"holds no usable file: found 0 files \(nothing\); expected wikiextractor output"
    ):
        find_files([str(tmp_path)])
    write(tmp_path / "table.csv", b"a,b\n")
    with pytest.raises(InputError, match=r"found 1 files \(table\.csv\)"):
        find_files([str(tmp_path)])
    write(tmp_path / "zero.jsonl", b"")
    with pytest.raises(InputError, match=r"holds only empty files: found 2 files \(table\.csv, zero\.jsonl\)"):
        find_files([str(tmp_path)])
    with pytest.raises(InputError, match=r"zero\.jsonl is empty \(0 bytes\)"):
        find_files([f"{tmp_path}/zero.jsonl"])


def test_the_store_is_looked_through_like_a_disk(s3: str) -> None:
    for name in ("AA/wiki_00", "AB/wiki_01", "readme.md"):
        storage.write_bytes(storage.join(s3, name), b"{}")
    assert [storage.name(file.path) for file in find_files([s3])] == ["wiki_00", "wiki_01"]
    found = find_files([f"{s3}/A*/wiki_0[1-9]"])
    assert [storage.name(file.path) for file in found] == ["wiki_01"]


def test_names_by_which_writers_hide_files_are_passed_over_unless_they_are_given(tmp_path: Path) -> None:
    kept = write(tmp_path / "date=2026-01-01" / "part-0.parquet")
    hidden = [
        write(tmp_path / name)
        for name in ("_SUCCESS", "_metadata", "_common_metadata", "_temporary/0/part-1.parquet", "_delta_log/0.json")
    ]
    for given in (str(tmp_path), f"{tmp_path}/*", f"{tmp_path}/**/*"):
        assert names(find_files([given]), tmp_path) == ["date=2026-01-01/part-0.parquet"]
    assert discover([str(tmp_path)]).passed_over == sorted(hidden)
    assert names(find_files([hidden[4]]), tmp_path) == ["_delta_log/0.json"]
    assert names(find_files([f"{tmp_path}/_delta_log"]), tmp_path) == ["_delta_log/0.json"]
    assert names(find_files([f"{tmp_path}/_m*"]), tmp_path) == ["_metadata"]
    assert kept.endswith("part-0.parquet")


def test_a_file_with_several_names_is_read_once_by_its_own(tmp_path: Path) -> None:
    write(tmp_path / "in" / "2026-01" / "a.jsonl")
    write(tmp_path / "in" / "b.jsonl")
    (tmp_path / "in" / "2026-01" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "latest").symlink_to("2026-01")
    (tmp_path / "in" / "0-link.jsonl").symlink_to("b.jsonl")
    (tmp_path / "in" / "nowhere").symlink_to("gone")
    (tmp_path / "in" / "itself").symlink_to("itself")
    os.link(tmp_path / "in" / "b.jsonl", tmp_path / "in" / "c.jsonl")
    found = discover([f"{tmp_path}/in"])
    assert names(found.files, tmp_path / "in") == ["2026-01/a.jsonl", "b.jsonl"]
    assert [storage.name(path) for path in found.repeated] == ["0-link.jsonl", "c.jsonl"]
    assert found.facts() == {"further_names_of_the_same_files": f"2 (such as {tmp_path}/in/0-link.jsonl)"}
    assert discover([f"{tmp_path}/in", f"{tmp_path}/in/latest"]).files == found.files
    # What lies elsewhere is found through the link to it.
    (tmp_path / "other").mkdir()
    write(tmp_path / "elsewhere" / "d.jsonl")
    (tmp_path / "other" / "here").symlink_to(tmp_path / "elsewhere")
    assert names(find_files([f"{tmp_path}/other"]), tmp_path) == ["other/here/d.jsonl"]


def test_a_listing_says_of_files_what_looking_at_each_says(tmp_path: Path) -> None:
    for name in ("a", "b/c.gz"):
        write(tmp_path / name, name.encode())
    assert storage.list_files(str(tmp_path)) == [storage.info(f"{tmp_path}/a"), storage.info(f"{tmp_path}/b/c.gz")]
    with pytest.raises(InputError, match=r"/a is a file; expected a folder"):
        storage.list_files(f"{tmp_path}/a")


def test_a_name_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    with open(os.fsencode(tmp_path) + b"/caf\xe9.jsonl", "wb") as file:
        file.write(b"{}")
    with pytest.raises(InputError, match=r"holds a name that is not UTF-8: b'caf\\xe9.jsonl'; rename it"):
        find_files([str(tmp_path)])
    with pytest.raises(InputError, match=r"the path '.*caf\\udce9.jsonl' is not UTF-8"):
        find_files([os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "a path is empty"),
        ("  ", "a path is empty"),
        ("http://host/x", "has the scheme 'http'; expected a local path, s3:// or gs://"),
        ("s3://", "names no bucket"),
        ("a\0b", "is not UTF-8"),
        ("s3://KEY:HIDDEN@bucket/x", r"the path s3://\*\*\*@bucket/x holds a key or password"),
        ("s3://KEY:HID/DEN@bucket/x", r"the path s3://\*\*\*@bucket/x holds"),
        ("s3://KEY:HIDDEN", r"the path s3://\*\*\*@ holds"),
        ("gs://HIDDEN@bucket", r"the path gs://\*\*\*@bucket holds"),
        ("https://user:HIDDEN@host/x", r"the path https://\*\*\*@host/x holds"),
    ],
)
def test_what_is_no_path_is_refused_and_no_secret_is_shown(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as told:
        find_files([path])
    assert "HID" not in str(told.value)


def test_an_output_that_lies_in_the_input_is_refused_at_once(tmp_path: Path) -> None:
    write(tmp_path / "in" / "AA" / "wiki_00")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for given in ("in", "i*", "link", "in/A*", "in/AA"):
        with pytest.raises(
            InputError, match=r"the input holds the output: --output .*; choose an output folder outside"
        ):
            refuse_output_inside([str(tmp_path / "other"), f"{tmp_path}/{given}"], f"{tmp_path}/in/AA/out")
    for output in ("out", "in2", "in/AB"):
        refuse_output_inside([f"{tmp_path}/in/AA", f"{tmp_path}/in/AA/wiki_00"], f"{tmp_path}/{output}")
