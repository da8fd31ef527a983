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

from conftest import ROOT

JOBS = ROOT / "jobs"


class _Parsed(BaseException):
    """Ends a job after its flags have been read."""


def parse_job(command: str) -> list[Any]:
    """Return the configs that a command line stands for, `jobs/submit.py` and the job behind it each giving one.

    Raises:
        SystemExit: if a job refuses its flags.
    """
    words = shlex.split(command)
    scripts = [position for position, word in enumerate(words) if re.fullmatch(r"(.*/)?jobs/\w+\.py", word)]
    configs = []
    for position, following in zip(scripts, [*scripts[1:], None], strict=True):
        arguments = words[position + 1 : following]
        if following is not None:
            assert "--" in arguments, f"-- is missing in {command}"
            arguments = arguments[: arguments.index("--")]
        configs.append(_parse(words[position].rsplit("/", 1)[-1], arguments))
    return configs


def _parse(script: str, arguments: list[str]) -> Any:
    if str(JOBS) not in sys.path:
        sys.path.insert(0, str(JOBS))
    import launch

    real = launch.parse
    found: list[Any] = []

    def stop_after(*given: Any, **named: Any) -> Any:
        found.append(real(*given, **named))
        raise _Parsed

    with patch.object(launch, "parse", stop_after), patch.object(sys, "argv", [script, *arguments]):
        try:
            runpy.run_path(str(JOBS / script), run_name="__main__")
        except _Parsed:
            return found[0]
    raise AssertionError(f"{script} ended without reading its flags")


def commands_of(path: Path) -> Iterator[str]:
    """Yield the commands of the shell blocks of a Markdown file that run a job."""
    for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"python \S*jobs/", line):
                yield line.strip()
