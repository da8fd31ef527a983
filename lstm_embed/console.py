"""What the command line shows: a progress line on a terminal, plain lines elsewhere, and a closing table."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from lstm_embed.base.progress import Summary
from lstm_embed.base.text import printable

_TERMINAL_SECONDS = 0.2
_PLAIN_SECONDS = 10.0


class Console:
    """A `Reporter` that prints to standard error."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._stage = ""
        self._started = (0.0, 0.0)
        self._shown = 0.0
        self._line_open = False

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        """Show how far a stage is, with rate and time left; drawn a few times a second at most."""
        now = time.monotonic()
        if stage != self._stage:
            self._close_line()
            self._stage, self._started, self._shown = stage, (now, done), 0.0
        finished = done >= total
        if now - self._shown >= (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS) or finished:
            self._shown = now
            self._draw(_line(stage, done, total, unit, counters, now - self._started[0], done - self._started[1]))
        if finished:
            self._close_line()

    def note(self, message: str) -> None:
        """Print one line."""
        self._close_line()
        print(printable(message), file=sys.stderr, flush=True)

    def _draw(self, line: str) -> None:
        if not self._terminal:
            print(line, file=sys.stderr, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[2K{line[:width]}", end="", file=sys.stderr, flush=True)
        self._line_open = True

    def _close_line(self) -> None:
        if self._line_open:
            print(file=sys.stderr, flush=True)
            self._line_open = False

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_line()


def _line(
    stage: str, done: float, total: float, unit: str, counters: dict[str, float], elapsed: float, gained: float
) -> str:
    share = f"{100 * done / total:3.0f} %" if total else ""
    parts = [f"{stage}: {share} {_number(done)}/{_number(total)} {unit}"]
    parts += [f"{_number(value)} {name.replace('_', ' ')}" for name, value in counters.items()]
    if gained > 0 and elapsed > 0.5:
        parts.append(f"{_number(gained / elapsed)} {unit}/s")
        if done < total:
            parts.append(f"{duration((total - done) * elapsed / gained)} left")
    return ", ".join(parts)


def _number(value: float) -> str:
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def print_summary(summaries: Sequence[Summary], *, facts: bool = True) -> None:
    """Print what stages did, as a table, where their outputs lie, and further figures."""
    print(f"{'stage':<14} {'rows':>20} {'seconds':>9} {'rows/s':>10}  output")
    for summary in summaries:
        worked = summary.seconds > 0 and not summary.already_done
        rate = f"{summary.rows / summary.seconds:,.0f}" if worked else "-"
        seconds = "done" if summary.already_done else "dry run" if summary.dry_run else f"{summary.seconds:,.1f}"
        rows = f"{summary.rows:,} {summary.row_name}"
        print(f"{summary.stage:<14} {rows:>20} {seconds:>9} {rate:>10}  {summary.output}")
    for summary in summaries:
        if summary.facts and facts:
            figures = ", ".join(f"{name.replace('_', ' ')} {_fact(value)}" for name, value in summary.facts.items())
            print(f"{summary.stage}: {figures}")
        if summary.already_done and facts:
            print(f"{summary.stage}: everything was done already; nothing was written")
        for note in summary.notes:
            print(f"{summary.stage}: {note}")


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else printable(value)
