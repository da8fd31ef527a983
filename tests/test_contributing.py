"""The contributor's page: its diffs apply to the repository as it is, what they add works, and the places it names exist."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

PAGE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
DIFFS = re.findall(r"^```diff\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def tracked_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def run(*command: str, folder: Path, given: str | None = None) -> None:
    # What is imported is the copy, wherever the package is installed from.
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        command, cwd=folder, env=environment, input=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def new_tests(diff: str) -> list[str]:
    """Return the ids of the tests that a diff adds."""
    found, path = [], ""
    for line in diff.splitlines():
        if match := re.match(r"\+\+\+ b/(.*)", line):
            path = match[1]
        elif match := re.match(r"\+def (test_\w+)", line):
            found.append(f"{path}::{match[1]}")
    return found


def test_every_diff_applies_to_the_library_and_its_tests_pass(tmp_path: Path) -> None:
    for name in tracked_files():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    run("git", "init", "-q", folder=tmp_path)
    added = []
    for diff in DIFFS:
        run("git", "apply", "-", folder=tmp_path, given=diff)
        assert new_tests(diff)
        added += new_tests(diff)
    run(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", *added, folder=tmp_path)
    changed = sorted({name for diff in DIFFS for name in re.findall(r"^\+\+\+ b/(.*\.py)$", diff, re.MULTILINE)})
    run(sys.executable, "-m", "ruff", "check", "-q", *changed, folder=tmp_path)
    run(sys.executable, "-m", "ruff", "format", "-q", "--check", *changed, folder=tmp_path)


def test_every_kind_of_addition_has_its_diff() -> None:
    assert len(DIFFS) == len(re.findall(r"^## Add a", PAGE, re.MULTILINE))


@pytest.mark.parametrize(("path", "name"), re.findall(r"\| `(\S+\.py)` `([\w.]+)` \|", PAGE))
def test_a_place_that_is_named_exists(path: str, name: str) -> None:
    found: ast.AST = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    for part in name.split("."):
        bodies = getattr(found, "body", [])
        found = next(node for node in bodies if getattr(node, "name", "") == part)
