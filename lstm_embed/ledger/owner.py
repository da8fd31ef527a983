"""Owner marks: two jobs never write one output folder at the same time.

Every job writes a mark of its own under `owner/` and then lists the marks. Whoever sees another living mark withdraws. Of
two jobs that start together at least the later one sees the other, since listings are consistent after writes both on
disks and in today's object stores; so no conditional write is needed. A mark is renewed while its job lives. One that
belongs to a dead process of this machine, or that has not been renewed for `STALE_SECONDS`, is removed.
"""

from __future__ import annotations

import contextlib
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from typing import NotRequired

from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError, OutputBusy
from lstm_embed.base.settings import read_json
from lstm_embed.base.text import printable
from lstm_embed.ledger.parts import Count

RENEW_SECONDS = 10.0
STALE_SECONDS = 45.0


class Mark(TypedDict):
    """What an owner mark says."""

    host: str
    pid: Count
    birth: str | None
    """Tells the process from a later one with the same pid."""
    time: NotRequired[float]
    """When it was written or renewed, by the clock of its machine."""


class Owner:
    """A held owner mark."""

    def __init__(self, output: str) -> None:
        self._path = storage.join(output, "owner", f"{secrets.token_hex(8)}.json")
        self._stop = threading.Event()
        self._renewing = threading.Lock()
        self._lost = False

    def check(self) -> None:
        """Raise OutputBusy if the mark was taken away (this process had been asleep for long)."""
        if self._lost:
            raise OutputBusy(f"{storage.parent(storage.parent(self._path))} was taken over by another job")

    def write(self) -> storage.FileInfo:
        """Write or renew the mark; return it as the store lists it."""
        storage.write_json(self._path, {**_this_process(), "time": time.time()})
        return storage.info(self._path)

    def keep(self) -> None:
        """Renew the mark until `release`; run in a thread of its own."""
        while not self._stop.wait(RENEW_SECONDS):
            with self._renewing:
                if self._stop.is_set():
                    return  # released meanwhile: a mark written now would stay for ever
                try:
                    if not storage.exists(self._path):
                        self._lost = True
                        return
                    self.write()
                except OSError:
                    # A store that does not answer now is tried again; a mark missed for too long is noticed above.
                    continue

    def release(self) -> None:
        """Stop renewing and remove the mark."""
        self._stop.set()
        with self._renewing, contextlib.suppress(OSError):
            storage.remove(self._path)

    @property
    def path(self) -> str:
        """Where the mark lies."""
        return self._path


@contextlib.contextmanager
def owned(output: str) -> Iterator[Owner]:
    """Own an output folder for the length of a `with` block.

    Raises:
        OutputBusy: if another job owns it; the message names its host and process.
    """
    owner = Owner(output)
    try:
        _acquire(owner, storage.parent(owner.path))
        keeper = threading.Thread(target=owner.keep, name="owner-mark", daemon=True)
        keeper.start()
        yield owner
    finally:
        owner.release()


def _acquire(owner: Owner, folder: str) -> None:
    """Write a mark and make sure that it is the only living one, waiting for stale ones to show that they are."""
    deadline = time.monotonic() + STALE_SECONDS + RENEW_SECONDS
    seen: dict[str, str] = {}
    while True:
        own = owner.write()
        others = [mark for mark in storage.list_files(folder) if mark.path != owner.path]
        living = [mark for mark in others if not _remove_if_dead(mark, own)]
        if not living:
            return
        renewed = any(seen.get(mark.path, mark.stamp) != mark.stamp for mark in living)
        local = any(_is_this_machine(_read(mark)) for mark in living)
        if renewed or local or time.monotonic() > deadline:
            storage.remove(owner.path)
            mark = _read(living[0])
            who = f"host {printable(mark['host'], 100)}, process {mark['pid']}" if mark else "its mark cannot be read"
            raise OutputBusy(
                f"{storage.parent(folder)} is being written by another job ({who}); wait for it to end, or stop it, then run "
                "this command again"
            )
        seen.update({mark.path: mark.stamp for mark in living})
        time.sleep(RENEW_SECONDS / 2)


def _remove_if_dead(mark: storage.FileInfo, own: storage.FileInfo) -> bool:
    if not storage.exists(mark.path):
        return True  # released since it was listed
    # Both times are the store's own, so clocks of different machines are never compared.
    dead = not _lives(_read(mark), (int(own.stamp) - int(mark.stamp)) / 1e9)
    if dead:
        storage.remove(mark.path)
    return dead


def is_owned(output: str) -> bool:
    """Tell whether a job seems to be writing a folder; changes nothing."""
    now = time.time()
    marks = storage.list_files(storage.join(output, "owner"))
    return any(_lives(_read(mark), now - int(mark.stamp) / 1e9) for mark in marks)


def _lives(mark: Mark | None, age: float) -> bool:
    """Tell whether the job of a mark lives: of one elsewhere, or that cannot be read, its age in seconds tells."""
    if mark and _is_this_machine(mark):
        return _birth(mark["pid"]) == mark["birth"]
    return age <= STALE_SECONDS


def _read(mark: storage.FileInfo) -> Mark | None:
    try:
        return read_json(mark.path, Mark)
    except (OSError, InputError):
        return None


def _this_process() -> Mark:
    return {"host": _host(), "pid": os.getpid(), "birth": _birth(os.getpid())}


def _is_this_machine(mark: Mark | None) -> bool:
    return mark is not None and mark["host"] == _host()


def _host() -> str:
    """Name the machine and, where there are containers, the process namespace: pids mean the same only inside it."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _birth(pid: int) -> str | None:
    """Return something that tells a process from a later one with the same pid; None if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return None if fields[0] == "Z" else fields[19]
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return None
    try:
        os.kill(pid, 0)
    except OSError:
        return None
    return "alive"
