"""Units of input, and the plan that numbers them.

The plan is an append-only list of units, written before the work as numbered JSON-lines files under `plan/`. A unit gets
its number when it enters the plan and numbers are never used again, so adding or changing an input file redoes only the
units that hold it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass

from lstm_embed.base import storage


@dataclass(frozen=True)
class Span:
    """A piece of one input file, as it was when it entered the plan."""

    path: str
    start: int
    """First byte (parquet: first row group) that belongs to the span."""
    end: int
    """First one that no longer does; -1 for the end of the file."""
    size: int
    """Of the file, in bytes as stored."""
    stamp: str
    num_bytes: int = -1
    """About how many of the file's bytes belong to the span, where `start` and `end` are no bytes."""

    @classmethod
    def whole(cls, file: storage.FileInfo) -> Span:
        """Return the span that is all of a file."""
        return cls(file.path, 0, -1, file.size, file.stamp)


@dataclass(frozen=True)
class Unit:
    """A piece of input that one task reads."""

    number: int
    spans: tuple[Span, ...]
    committed: int = 0
    """How many of its first parts are committed already."""

    @property
    def size(self) -> int:
        """Bytes as stored."""
        return sum(_stored_bytes(span) for span in self.spans)


def _stored_bytes(span: Span) -> int:
    if span.num_bytes >= 0:
        return span.num_bytes
    return span.size if span.end < 0 else span.end - span.start


def read_plan(output: str) -> tuple[dict[int, Unit], int]:
    """Return the active units of a folder's plan by number, and the next free number."""
    units: dict[int, Unit] = {}
    next_number = 0
    for file in storage.list_files(storage.join(output, "plan")):
        for line in storage.read_bytes(file.path).splitlines():
            entry = json.loads(line)
            if "retire" in entry:
                units.pop(entry["retire"], None)
                continue
            units[entry["unit"]] = Unit(entry["unit"], tuple(Span(*span) for span in entry["spans"]))
            next_number = max(next_number, entry["unit"] + 1)
    return units, next_number


def append_plan(output: str, added: Sequence[Unit], retired: Sequence[int]) -> None:
    """Enter new units into a folder's plan and take others out, in one step."""
    existing = storage.list_files(storage.join(output, "plan"))
    lines = [json.dumps({"retire": number}) for number in retired]
    for unit in added:
        spans = [list(astuple(span)) for span in unit.spans]
        lines.append(json.dumps({"unit": unit.number, "spans": spans}))
    path = storage.join(output, "plan", f"{len(existing):06d}.jsonl")
    storage.write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))


def differs(span: Span, file: storage.FileInfo) -> bool:
    """Tell whether a file is no longer what it was when it entered the plan."""
    return span.size != file.size or span.stamp != file.stamp
