"""The command line: quick help, one clear line for a mistake, config files, exit codes."""

from __future__ import annotations

import dataclasses
import errno
import json
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints
from unittest import mock

import pytest

from lstm_embed import cli, verbs
from lstm_embed.base.errors import InputError, LstmEmbedError, OutputBusy, TooMuchRejected
from lstm_embed.base.progress import Summary

from conftest import ROOT, run_job

HEAVY = {"torch", "ray", "gensim", "wandb", "scipy", "sklearn"}
ENOUGH = {"status": ("folder",), "erase": ("folder",)}
"""Words that a verb cannot do without before its flags are read."""

Told = Callable[..., str]


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Return a function that runs a verb and returns the one line with which it refuses, with exit code 2."""

    def run(verb: str, *arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main(verb, arguments)
        shown = capsys.readouterr()
        assert (stop.value.code, shown.out) == (2, "")
        (line,) = shown.err.strip().splitlines()
        assert line.startswith("error: ")
        return line

    return run


def flags_of(config_class: type) -> set[str]:
    """Return the flags of the fields of settings."""
    return {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(config_class)}


@pytest.mark.parametrize("verb", [*verbs.VERBS, "demo"])
def test_help_lists_every_flag_and_imports_nothing_heavy(verb: str) -> None:
    command = [sys.executable, "-X", "importtime", str(ROOT / "jobs" / f"{verb}.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("import time")]
    assert not {line.rsplit("|", 1)[-1].strip() for line in lines} & HEAVY
    shown = set(re.findall(r"--[a-z][a-z-]*", result.stdout))
    if verb != "demo":
        positional = {"--path"} if verb == "status" else {"--output"} if verb == "erase" else set()
        assert flags_of(get_type_hints(verbs.VERBS[verb])["config"]) - positional - {"--model"} <= shown


def test_help_without_a_verb_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(argv=["--help"])
    shown = capsys.readouterr().out
    assert all(re.search(rf"^  {name.replace('_', '-')} +\w", shown, re.MULTILINE) for name in verbs.VERBS)


def test_without_a_verb_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(argv=[])
    assert capsys.readouterr().err.startswith("usage: lstm-embed VERB")


def test_a_word_that_is_no_verb_is_refused_with_those_there_are(told: Told) -> None:
    assert "'embd' is no verb; expected one of extract, prepare, word-vectors" in told("", "embd")


def test_each_verb_has_a_job_of_its_name() -> None:
    called: list[str] = []
    with mock.patch("lstm_embed.cli.main", called.append):
        for path in (ROOT / "jobs").glob("*.py"):
            if path.stem != "demo":
                runpy.run_path(str(path), run_name="__main__")
    assert sorted(called) == sorted(verbs.VERBS)


def test_the_installed_command_does_what_the_job_does(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"train/step": 3}\n')
    command = [str(Path(sys.executable).parent / "lstm-embed"), "status", str(tmp_path), "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert found.stdout == run_job("status", str(tmp_path), "--json").stdout
    assert json.loads(found.stdout)["train/step"] == 3


def test_a_mistake_is_one_line_for_a_user_too() -> None:
    result = run_job("prepare", "--no-such-flag", "1", check=False)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "--no-such-flag" in line
    assert line.endswith("(see prepare.py --help)")


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_a_wrong_flag_is_named(told: Told, verb: str) -> None:
    assert "no-such-flag" in told(verb, *ENOUGH.get(verb, ()), "--no-such-flag", "1")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("prepare --input missing --output OUT", "missing"),
        ("prepare --input OUT --output OUT/x --part-rows 0", "--part-rows"),
        ("prepare --input OUT --output OUT/x --unit-bytes many", "--unit-bytes"),
        ("extract --input missing.xml.bz2 --output OUT", "missing.xml.bz2"),
        ("extract --input README.md --output OUT", "README.md"),
        ("embed --model missing --input x --output OUT", "missing"),
        ("embed --model m --input x --output OUT --level word", "--level"),
        ("search --model m --embeddings e", "--query"),
        ("decode --embeddings missing --output OUT", "missing"),
        ("group --embeddings missing --output OUT", "missing"),
        ("erase missing --article-id 1", "missing"),
        ("train --preset original --model.order-size 9", "order-size"),
        ("train --preset=nope", "nope"),
        ("train --tokens missing --vectors v --storage OUT --run-name r", "missing"),
        ("status missing", "missing"),
        ("word_vectors --tokens missing --output OUT", "missing"),
        ("evaluate --model missing --output OUT", "missing"),
        ("export --model missing --format onnx --output OUT", "missing"),
        ("export --model missing --format pickle --output OUT", "pickle"),
    ],
)
def test_a_wrong_value_or_path_is_named_and_nothing_is_written(
    told: Told, command: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    verb, *arguments = command.replace("OUT", str(tmp_path / "out")).split()
    assert expected in told(verb, *arguments)
    assert not (tmp_path / "out").exists()


# Config files


def write_config(path: Path, values: dict[str, Any]) -> str:
    """Write flags as JSON or, if they are all on one level, as TOML; return the path."""
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    path.write_text(lines if path.suffix == ".toml" else json.dumps(values))
    return str(path)


@pytest.mark.parametrize("name", ["flags.json", "flags.toml"])
def test_a_config_file_gives_the_same_settings_as_flags_which_win_over_it(tmp_path: Path, name: str) -> None:
    values = {"input": ["a", "b"], "output": "wrong", "num_pieces": 900, "text": False, "id_column": "-id"}
    path = write_config(tmp_path / name, values)
    flags = ["--input", "a", "b", "--output", "o", "--num-pieces", "900", "--no-text", "--id-column=-id"]
    assert cli.config_of("prepare", ["--config", path, "--output", "o"]) == cli.config_of("prepare", flags)


def test_what_a_job_wrote_of_its_settings_is_a_config_file(tmp_path: Path) -> None:
    values = {"tokens": "t", "vectors": "v", "storage": "s", "run_name": "r", "model": {"hidden_size": 64}}
    config = cli.config_of("train", ["--config", write_config(tmp_path / "flags.json", values)])
    assert config.model.hidden_size == 64
    path = write_config(tmp_path / "job.json", {"settings": {}, "config": config.to_dict()})
    assert cli.config_of("train", ["--config", path]) == config


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b"{", "it is no JSON"),
        ("a.json", b"[1]", "expected"),
        ("a.json", b"\xff\xfe{}", "it is no JSON"),
        ("a.json", b'{"a": ' * 5000 + b"1" + b"}" * 5000, "it is no JSON"),
        ("a.json", b'{"inputs": "x"}', "--inputs"),
        ("a.json", b'{"part_rows": {"x": 1}}', "--part-rows.x"),
        ("a.json", b"{}" + b" " * (1 << 20), "is larger than 1,048,576 bytes"),
        ("a.toml", b"inputs = ['x']", "--inputs"),
        ("a.toml", b"input", "is no TOML"),
        ("a.toml", b"a = '\xff'", "is no TOML"),
        ("a.toml", b"a = " + b"[" * 5000 + b"]" * 5000, "nested too deeply"),
        ("a.toml", b".".join([b"a"] * 5000) + b" = 1", "nested too deeply"),
    ],
)
def test_a_broken_config_file_is_refused_in_one_line(
    told: Told, tmp_path: Path, name: str, content: bytes, expected: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert expected in told("prepare", "--config", str(tmp_path / name), "--input", "x", "--output", "y")


def test_a_missing_config_file_is_named(told: Told, tmp_path: Path) -> None:
    assert "missing.json" in told("prepare", "--config", str(tmp_path / "missing.json"))
    assert "--config: it needs the path" in told("prepare", "--config")


# How a verb ends


def run_status(action: Any) -> None:
    """Run a verb whose work is an action."""
    with mock.patch.dict(verbs.VERBS, status=replaced(action)):
        cli.main("status", ["folder"])


def replaced(action: Any) -> Any:
    def status(config: verbs.StatusConfig) -> Summary | None:
        return action()  # type: ignore[no-any-return]

    return status


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("wrong"), 2, "error: wrong"),
        (TooMuchRejected("3 of 4"), 2, "error: 3 of 4"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/x"), 2, "No such file or directory: /x"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/x"), 2, "error: File name too long: /x"),
        (PermissionError("not yours"), 2, "error: not yours"),
        (OutputBusy("busy"), 1, "error: busy"),
        (LstmEmbedError("a worker died"), 1, "error: a worker died"),
        (OSError(errno.ENOSPC, "No space left on device", "/x"), 1, "run the command again to continue"),
        (InputError("of a million columns " * 1000), 2, "…"),
        (KeyboardInterrupt(), 130, "run the same command again to continue"),
    ],
)
def test_what_a_user_can_read_is_a_line_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        run_status(mock.Mock(side_effect=error))
    assert stop.value.code == code
    (shown,) = capsys.readouterr().err.strip().splitlines()
    assert line in shown
    assert len(shown) < 2100


def test_sigterm_ends_a_job_in_the_background_where_ctrl_c_is_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit) as stop:
            run_status(lambda: signal.raise_signal(signal.SIGTERM))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stop.value.code == 130
    assert "run the same command again" in capsys.readouterr().err


def test_a_bug_shows_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_status(lambda: 1 // 0)


def test_a_stopped_job_prints_its_summary_and_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    summary = Summary(stage="train", output="/runs/a", rows=7, row_name="steps", seconds=2.0, stopped=True)
    with pytest.raises(SystemExit) as stop:
        run_status(lambda: summary)
    assert stop.value.code == cli.STOPPED == 130
    assert re.search(r"train +7 steps +2\.0 +4  /runs/a", capsys.readouterr().out)
    run_status(lambda: dataclasses.replace(summary, stopped=False))  # ends by itself


# What is imported


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import lstm_embed", {"torch", "ray", "pyarrow", "numpy", "gensim"}),
        ("import lstm_embed.cli", {"torch", "ray", "pyarrow", "numpy", "gensim", "smart_open"}),
        ("import lstm_embed.embedding.worker", {"ray", "gensim", "smart_open", "scipy.optimize"}),
        ("from lstm_embed import SentenceEncoder", {"ray"}),
    ],
)
def test_what_is_not_needed_is_not_imported(statement: str, absent: set[str]) -> None:
    code = f"import sys; {statement}; print(sorted({absent} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_flag_of_several_values_that_is_given_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.config_of("prepare", ["--input", "a", "--input=b", "--output", "c"])
    assert "--input is given 2 times; give it once" in capsys.readouterr().err
    assert cli.config_of("prepare", ["--input", "a", "b", "--output", "c"]).input == ("a", "b")
