"""What the READMEs say: every command is understood, and the first page's commands and lines of Python run as they stand."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lstm_embed.cli import config_of
from lstm_embed.verbs import VERBS

from conftest import ROOT

READMES = ("README.md", "jobs/README.md", "cluster/README.md", "tests/README.md", "tests/benchmarks/README.md")
DUMP = "enwiki-latest-pages-articles-multistream.xml.bz2"
SMALLER = {
    "word-vectors": "--dimension 20 --epochs 1",
    "train": "--max-steps 8 --model.hidden-size 16 --model.order-size 16 --model.decoder-hidden-size 16",
    "evaluate": "--num-queries 20 --num-decoded 5 --bootstrap 20",
    "decode": "--part-rows 4096",
}
"""Flags that make a command of the first page fast enough for a test."""


def blocks(path: str, language: str = "(?:bash|sh)?") -> list[str]:
    """Return the fenced blocks of a page; of shell if no other language is asked for."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / path).read_text(), re.MULTILINE | re.DOTALL)


def commands(path: str) -> Iterator[list[str]]:
    """Yield the words of the commands of a page that run a verb."""
    for block in blocks(path):
        for line in block.replace("\\\n", " ").splitlines():
            if re.search(r"(^\s*lstm-embed [a-z]|(^|\s)python \S*jobs/(?!demo))", line):
                yield shlex.split(line, comments=True)


def verb_of(words: list[str]) -> tuple[str, list[str]]:
    """Return the verb that a command runs, and its flags."""
    for at, word in enumerate(words):
        if word.endswith("lstm-embed"):
            return words[at + 1].replace("-", "_"), words[at + 2 :]
        if match := re.fullmatch(r"(?:.*/)?jobs/(\w+)\.py", word):
            return match[1], words[at + 1 :]
    raise AssertionError(f"no verb in {words}")


@pytest.mark.parametrize("path", READMES)
def test_every_command_is_understood(path: str) -> None:
    for words in commands(path):
        verb, flags = verb_of(words)
        assert config_of(verb, flags), words


def test_the_first_page_has_a_command_for_every_verb_and_less_than_a_thousand_words() -> None:
    shown = {verb_of(words)[0] for words in commands("README.md")}
    assert shown == set(VERBS)
    assert len((ROOT / "README.md").read_text().split()) < 1000


@pytest.mark.parametrize("path", READMES)
def test_links_lead_somewhere(path: str) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / path).read_text()):
        assert ((ROOT / path).parent / target).exists(), target


def test_the_first_page_runs_as_it_stands(tmp_path: Path) -> None:
    from gensim.test.utils import datapath

    shutil.copy(datapath("bgwiki-latest-pages-articles-shortened.xml.bz2"), tmp_path / DUMP)
    page = [words for words in commands("README.md") if words[0] == "lstm-embed"]
    assert len(page) == len(VERBS)
    for words in page:
        words = [{"200": "3"}.get(word, word) for word in words]
        command = [str(Path(sys.executable).parent / words[0]), *words[1:], *SMALLER.get(words[1], "").split()]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=550)
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    for code in blocks("README.md", "python"):
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{code}\n{done.stderr}"
