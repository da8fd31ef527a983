"""How library code tells its caller what it is doing, without printing.

Every long function takes `report: Reporter = SILENT`; the jobs hand in one that draws a line on a terminal. A stage returns
a `Summary`, which the jobs print as a row of a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol


class Reporter(Protocol):
    """Receives progress and short notes; must be cheap and must not raise."""

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        """Say that `done` of `total` `unit`s of `stage` are finished, with further counters by name."""

    def note(self, message: str) -> None:
        """Say one line that matters to the user."""


class _Silent:
    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        return None

    def note(self, message: str) -> None:
        return None


SILENT: Reporter = _Silent()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What one stage did."""

    stage: str
    output: str
    """Folder that holds the result."""
    rows: int
    """Rows in the finished output, including those of earlier runs."""
    row_name: str
    seconds: float
    """Wall-clock seconds this call took."""
    already_done: bool = False
    """True when everything had been done before and nothing was written."""
    dry_run: bool = False
    """True when it was only looked at what would be done; the figures tell of that."""
    stopped: bool = False
    """True when the job was told to stop; the same command goes on."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Further figures worth showing, by name."""
    notes: tuple[str, ...] = ()
    """Lines that matter to the user beside the figures."""
