"""`jobs/prepare.py` as a user runs it: killed and run again, told what to do, and clear about what is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from processes import wait_for
from stages_help import prepare_here

from lstm_embed.base import storage
from lstm_embed.corpus.config import PrepareConfig

from conftest import ROOT, run_job

FLAGS = ("--unit-bytes", "40000", "--part-rows", "300", "--num-pieces", "600")


def write_corpus(folder: Path, files: int = 6) -> None:
    folder.mkdir()
    for number in range(files):
        rows = (
            {
                "id": f"{number}-{n}",
                "title": f"T{n}",
                "text": " ".join(f"Word{n % 97} and {k} more of them." for k in range(20)),
            }
            for n in range(60)
        )
        (folder / f"wiki_{number:02d}").write_text("".join(json.dumps(row) + "\n" for row in rows))


def files_of(output: Path) -> dict[str, bytes]:
    found = {
        file.path[len(str(output)) + 1 :]: storage.read_bytes(file.path) for file in storage.list_files(str(output))
    }
    return {name: data for name, data in found.items() if name.startswith(("parts/", "manifest", "vocabulary"))}


def test_killed_in_the_middle_the_same_command_ends_with_the_bytes_of_an_uninterrupted_run(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in")
    output = tmp_path / "out"
    arguments = ["--input", str(tmp_path / "in"), "--output", str(output), *FLAGS]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "jobs" / "prepare.py"), *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: len(list(output.glob("staging/parts/*.parquet"))) >= 3, 500, "parts")
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (output / "manifest.json").exists()

    result = run_job("prepare", *arguments)
    assert "7,200 sentences" in result.stdout
    assert not (output / "staging").exists()
    before = {file.path: file for file in storage.list_files(str(output))}
    again = run_job("prepare", *arguments)
    assert "everything was done already; nothing was written" in again.stdout
    assert {file.path: file for file in storage.list_files(str(output))} == before

    whole = PrepareConfig(
        input=(str(tmp_path / "in"),), output=str(tmp_path / "whole"), unit_bytes=40_000, part_rows=300, num_pieces=600
    )
    prepare_here(whole)
    assert files_of(output) == files_of(tmp_path / "whole")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in", 3)
    shown = run_job("prepare", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out"), *FLAGS, "--dry-run")
    assert "dry run" in shown.stdout
    assert f"{tmp_path}/out" in shown.stdout
    assert "MB" in shown.stdout
    assert not (tmp_path / "out").exists()


def test_mistakes_are_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jsonl").write_text("no json\n" * 10)
    (tmp_path / "zero.jsonl").write_text("")
    output = ("--output", str(tmp_path / "out"))
    for input_, more, code, expected in (
        ("empty", (), 2, "holds no usable file: found 0 files"),
        ("zero.jsonl", (), 2, "is empty (0 bytes)"),
        ("bad", (), 2, "10 not JSON"),
        ("bad", ("--language", "english"), 2, "--language"),
        ("bad", ("--split", "no.such"), 2, "--split"),
        ("bad", ("--vocabulary", "no.parquet"), 2, "no.parquet"),
        ("bad", ("--num-pieces", "300"), 2, "num_pieces is 300; expected 512 to 10,000,000 (--num-pieces)"),
        ("bad", ("--whole-word-count", "-1"), 2, "whole_word_count is -1"),
    ):
        result = run_job("prepare", "--input", str(tmp_path / input_), *output, *more, check=False)
        assert result.returncode == code, result.stderr
        assert expected in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_too_much_that_is_bad_is_a_failure_of_one_line(tmp_path: Path) -> None:
    lines = ['{"id": 1, "text": "One sentence here. Another one there."}'] * 20 + ["no json"] * 2
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    failed = run_job("prepare", "--input", str(tmp_path / "a.jsonl"), "--output", str(tmp_path / "out"), check=False)
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[-1].startswith("error: 2 of 22 records were rejected (2 not JSON)")
