"""Units of input, and the plan that numbers them.

The plan is an append-only list of units, written before the work as numbered JSON-lines files under `plan/`. A unit gets
its number when it enters the plan and numbers are never used again, so adding or changing an input file redoes only the
units that hold it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Annotated, NamedTuple

from annotated_types import MinLen
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Range, Words, parse_json
from lstm_embed.ledger.parts import Count, PartInfo, UnitNumber

_ADVICE = "put the file back from a copy, or remove the folder plan, whose units are then made anew"
_CountOrNone = Annotated[int, Range(-1, 2**63 - 1)]


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

    @property
    def as_part(self) -> PartInfo:
        """The part of another folder that the span is; its stamp is the part's identity."""
        return PartInfo.at(self.path, self.stamp)


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


class _Stored(NamedTuple):
    """A span as a line of the plan has it; see `Span`."""

    path: Words
    start: Count
    end: _CountOrNone
    size: Count
    stamp: str
    num_bytes: _CountOrNone = -1


class _Line(TypedDict, total=False):
    """A line of the plan: a unit with its spans, or the number of a unit that retired."""

    unit: UnitNumber
    spans: Annotated[list[_Stored], MinLen(1)]
    retire: UnitNumber


def _stored_bytes(span: Span) -> int:
    if span.num_bytes >= 0:
        return span.num_bytes
    return span.size if span.end < 0 else span.end - span.start


def read_plan(output: str) -> tuple[dict[int, Unit], int]:
    """Return the active units of a folder's plan by number, and the next free number.

    Raises:
        InputError: if the plan is damaged.
    """
    units: dict[int, Unit] = {}
    next_number = 0
    for file in storage.list_files(storage.join(output, "plan")):
        for number, text in enumerate(storage.read_bytes(file.path).splitlines(), 1):
            line = parse_json(text, _Line, f"line {number} of {file.path}", advice=_ADVICE)
            if "retire" in line:
                units.pop(line["retire"], None)
            elif "unit" in line and "spans" in line and line["unit"] >= next_number:
                next_number = line["unit"] + 1
                units[line["unit"]] = Unit(line["unit"], tuple(Span(*span) for span in line["spans"]))
            else:
                raise InputError(
                    f"line {number} of {file.path} is damaged, or not what it should be: expected a unit with its spans and "
                    f"a number from {next_number}, or one that retires; {_ADVICE}"
                )
    return units, next_number


def append_plan(output: str, added: Sequence[Unit], retired: Sequence[int]) -> None:
    """Enter new units into a folder's plan and take others out, in one step."""
    numbers = [storage.name(file.path).partition(".")[0] for file in storage.list_files(storage.join(output, "plan"))]
    # One more than the last one, not their count: a lost file must not let another one be replaced.
    following = max((int(number) + 1 for number in numbers if number.isdecimal()), default=0)
    lines = [json.dumps({"retire": number}) for number in retired]
    for unit in added:
        spans = [list(astuple(span)) for span in unit.spans]
        lines.append(json.dumps({"unit": unit.number, "spans": spans}))
    path = storage.join(output, "plan", f"{following:06d}.jsonl")
    storage.write_bytes(path, ("\n".join(lines) + "\n").encode("ascii"))


def differs(span: Span, file: storage.FileInfo) -> bool:
    """Tell whether a file is no longer what it was when it entered the plan."""
    return span.size != file.size or span.stamp != file.stamp
