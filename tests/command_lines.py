"""Command lines in manifests and texts, read as a shell and the jobs themselves read them."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lstm_embed import cli

from conftest import ROOT


class _Parsed(BaseException):
    """Ends a job after its flags have been read."""


def parse_job(command: str) -> Any:
    """Return the settings that a command line with a job in it stands for.

    Raises:
        SystemExit: if the job refuses its flags.
    """
    words = shlex.split(command)
    (position,) = (number for number, word in enumerate(words) if re.fullmatch(r"(.*/)?jobs/\w+\.py", word))
    script = words[position].rpartition("/")[2]
    real = cli.parse
    found: list[Any] = []

    def stop_after(*given: Any, **named: Any) -> Any:
        found.append(real(*given, **named))
        raise _Parsed

    with patch.object(cli, "parse", stop_after), patch.object(sys, "argv", [script, *words[position + 1 :]]):
        try:
            runpy.run_path(str(ROOT / "jobs" / script), run_name="__main__")
        except _Parsed:
            return found[0]
    raise AssertionError(f"{script} ended without reading its flags")


def commands_of(path: Path) -> Iterator[str]:
    """Yield the commands of the shell blocks of a Markdown file that run a job."""
    for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"python \S*jobs/", line):
                yield line.strip()
