"""Owner marks: one writer of a folder at a time, and no mark that outlives its job for long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lstm_embed.base import storage
from lstm_embed.base.errors import OutputBusy
from lstm_embed.ledger import owner
from lstm_embed.ledger.owner import Owner, owned

HOLD = """
import sys, time
from lstm_embed.ledger.owner import owned
with owned(sys.argv[1]):
    print("owned", flush=True)
    time.sleep(60)
"""


def marks(output: str) -> list[str]:
    return [file.path for file in storage.list_files(storage.join(output, "owner"))]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let marks be renewed and grow stale in no time."""
    monkeypatch.setattr(owner, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(owner, "STALE_SECONDS", 0.6)


def hold(output: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "owned\n"
    return process


def test_a_second_process_is_refused_by_name_and_let_in_when_the_first_is_killed(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    first = hold(output)
    try:
        with (
            pytest.raises(OutputBusy, match=rf"being written by another job \(host .*, process {first.pid}\)"),
            owned(output),
        ):
            pass
        assert len(marks(output)) == 1
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    started = time.monotonic()
    with owned(output) as mine:
        mine.check()
        assert marks(output) == [mine.path]
    assert time.monotonic() - started < 5
    assert marks(output) == []


def test_of_processes_that_start_together_at_most_one_writes(tmp_path: Path) -> None:
    code = """
import sys, time
from lstm_embed.base.errors import OutputBusy
from lstm_embed.ledger.owner import owned
time.sleep(max(0, float(sys.argv[2]) - time.time()))
for _ in range(10):
    try:
        with owned(sys.argv[1]):
            path = sys.argv[1] + "/writing"
            open(path, "x").close()
            time.sleep(0.01)
            import os; os.unlink(path)
    except OutputBusy:
        time.sleep(0.003)
"""
    begin = str(time.time() + 2)
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "out"), begin]) for _ in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    assert marks(str(tmp_path / "out")) == []


@pytest.mark.usefixtures("quick")
def test_a_mark_of_another_machine_that_is_not_renewed_is_waited_out(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    storage.write_json(storage.join(output, "owner", "far.json"), {"host": "elsewhere", "pid": 1, "birth": "1"})
    started = time.monotonic()
    with owned(output) as mine:
        assert marks(output) == [mine.path]
    assert 0.3 < time.monotonic() - started < 5


@pytest.mark.usefixtures("quick")
def test_a_mark_of_another_machine_that_is_renewed_keeps_its_folder(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    far = storage.join(output, "owner", "far.json")
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(0.05):
            storage.write_json(far, {"host": "elsewhere", "pid": 17, "birth": "1"})

    storage.write_json(far, {"host": "elsewhere", "pid": 17, "birth": "1"})
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(OutputBusy, match="host elsewhere, process 17"), owned(output):
            pass
    finally:
        stop.set()
        thread.join()
    assert marks(output) == [far]


@pytest.mark.usefixtures("quick")
def test_a_mark_is_renewed_while_its_job_lives_and_its_loss_is_noticed(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with owned(output) as mine:
        before = storage.info(mine.path).stamp
        time.sleep(0.5)
        assert storage.info(mine.path).stamp != before
        mine.check()
        storage.remove(mine.path)
        time.sleep(0.5)
        with pytest.raises(OutputBusy, match="taken over"):
            mine.check()


@pytest.mark.usefixtures("quick")
def test_no_mark_is_written_after_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = str(tmp_path / "out")
    real = Owner.write

    def slow(self: Owner) -> storage.FileInfo:
        time.sleep(0.3)
        return real(self)

    with owned(output):
        monkeypatch.setattr(Owner, "write", slow)
        time.sleep(0.2)  # a renewal is under way now
    time.sleep(0.5)
    assert marks(output) == []


@pytest.mark.usefixtures("quick")
def test_an_object_store_knows_owners_too(s3: str) -> None:
    with owned(s3):
        with pytest.raises(OutputBusy, match="being written by another job"), owned(s3):
            pass
        assert len(marks(s3)) == 1
    assert marks(s3) == []
