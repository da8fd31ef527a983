"""What holds for every job: quick help without heavy imports, one clear line for a mistake, config files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import descendants, kill

from conftest import ROOT, run_job

JOBS = sorted(path.stem for path in (ROOT / "jobs").glob("*.py") if path.stem not in ("launch", "console"))


@pytest.mark.parametrize("job", JOBS)
def test_help_names_every_flag_and_imports_neither_torch_nor_ray(job: str) -> None:
    result = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "jobs" / f"{job}.py"), "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0
    assert "--" in result.stdout
    imported = {
        line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines() if line.startswith("import time")
    }
    assert not imported & {"torch", "ray", "gensim", "wandb", "scipy", "sklearn"}


@pytest.mark.parametrize("job", JOBS)
def test_a_wrong_flag_gives_one_line_and_exit_code_2(job: str) -> None:
    path = ["some-folder"] if job in ("status", "erase") else []
    result = run_job(job, *path, "--no-such-flag", "1", check=False)
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert "no-such-flag" in result.stderr


@pytest.mark.parametrize(
    ("job", "arguments", "expected"),
    [
        ("prepare", ["--input", "missing", "--output", "{out}"], "missing"),
        ("prepare", ["--input", "{out}", "--output", "{out}/x", "--part-rows", "0"], "--part-rows"),
        ("extract", ["--input", "missing.xml.bz2", "--output", "{out}"], "missing.xml.bz2"),
        ("extract", ["--input", "README.md", "--output", "{out}"], "README.md"),
        ("embed", ["--model", "missing", "--input", "x", "--output", "{out}"], "missing"),
        ("embed", ["--model", "m", "--input", "x", "--output", "{out}", "--level", "word"], "--level"),
        ("search", ["--model", "m", "--embeddings", "e"], "--query"),
        ("decode", ["--embeddings", "missing", "--output", "{out}"], "missing"),
        ("train", ["--preset", "original", "--model.order-size", "9"], "order-size"),
        ("status", ["missing"], "missing"),
        ("train", ["--tokens", "missing", "--vectors", "v", "--storage", "{out}", "--run-name", "r"], "missing"),
        ("train", ["--preset", "nope"], "nope"),
        ("word_vectors", ["--tokens", "missing", "--output", "{out}"], "missing"),
        ("evaluate", ["--model", "missing", "--output", "{out}"], "missing"),
        ("export", ["--model", "missing", "--format", "onnx", "--output", "{out}"], "missing"),
        ("export", ["--model", "missing", "--format", "pickle", "--output", "{out}"], "pickle"),
    ],
)
def test_a_wrong_value_or_path_gives_one_line_that_names_it_and_exit_code_2(
    job: str, arguments: list[str], expected: str, tmp_path: Path
) -> None:
    result = run_job(job, *(argument.format(out=tmp_path / "out") for argument in arguments), check=False)
    assert result.returncode == 2, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_config_file_gives_the_same_fields_and_flags_win_over_it(tmp_path: Path) -> None:
    articles = tmp_path / "articles.jsonl"
    articles.write_text(
        "".join(json.dumps({"id": n, "text": f"One two three. Four five {n}."}) + "\n" for n in range(20))
    )
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"input": [str(articles)], "output": "wrong", "num_pieces": 900, "text": False}))
    output = tmp_path / "tokens"
    shown = run_job("prepare", "--config", str(file), "--output", str(output), "--dry-run")
    assert str(output) in shown.stdout
    assert not output.exists()
    toml = tmp_path / "config.toml"
    toml.write_text('inputs = ["x"]\n')
    refused = run_job("prepare", "--config", str(toml), "--output", str(output), check=False)
    assert refused.returncode == 2
    assert "--inputs" in refused.stderr


def test_a_flag_that_is_gone_names_what_stands_in_its_place(tmp_path: Path) -> None:
    toml, values = tmp_path / "old.toml", {"code_size": 48, "skip_path": False, "mask_padding": True, "hidden_size": 9}
    toml.write_text("group_size = 32\n[model]\n" + "".join(f"{n} = {json.dumps(v)}\n" for n, v in values.items()))
    for job, arguments, expected in (
        ("train", ["--model.output=transfer"], ["--model.output is gone: --model.embedding stands in its"]),
        ("train", ["--model.no-lstm-path", "--seed", "1"], ["--model.lstm-path is gone: --model.embedding"]),
        (
            "train",
            ["--config", str(toml)],
            [
                "--group-size is gone: --micro-batch-sentences stands in its place",
                "--model.code-size is gone: --model.order-size stands in its place",
                "--model.skip-path is gone: nothing stands in its place",
                "--model.mask-padding is gone: --preset original pads",
            ],
        ),
        ("train", ["--model.word-whitening", "0"], ["--model.word-whitening is gone: nothing stands in its place"]),
        ("evaluate", ["--num-reconstructed", "5"], ["--num-reconstructed is gone: --num-decoded stands"]),
        (
            "prepare",
            ["--min-count", "5"],
            ["--min-count is gone: every word counts, cut into pieces; --whole-word-count"],
        ),
        ("prepare", ["--max-vocabulary=9"], ["--max-vocabulary is gone: --num-pieces stands in its place"]),
    ):
        result = run_job(job, *arguments, check=False)
        assert (result.returncode, result.stdout) == (2, "")
        lines = result.stderr.strip().splitlines()
        assert all(line.startswith(f"error: {start}") for line, start in zip(lines, expected, strict=True)), lines


def test_what_is_said_of_flags_that_are_gone_names_flags_that_there_are() -> None:
    from lstm_embed.corpus.config import REMOVED as OF_PREPARE
    from lstm_embed.evaluation.config import REMOVED as OF_EVALUATION
    from lstm_embed.training.config import REMOVED as OF_TRAINING

    for job, removed in (("train", OF_TRAINING), ("evaluate", OF_EVALUATION), ("prepare", OF_PREPARE)):
        shown = set(re.findall(r"--[a-z][a-z.-]+", run_job(job, "--help").stdout))
        assert set(re.findall(r"--[a-z][a-z.-]+", " ".join(removed.values()))) <= shown
        assert not {f"--{name}" for name in removed} & shown


def test_a_missing_or_broken_config_file_is_refused_in_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    for path in (tmp_path / "missing.json", broken):
        result = run_job("prepare", "--config", str(path), check=False)
        assert result.returncode == 2
        assert len(result.stderr.strip().splitlines()) == 1


def test_importing_the_package_starts_and_imports_nothing_heavy() -> None:
    code = "import sys, lstm_embed; print(sorted({'torch', 'ray', 'pyarrow', 'numpy', 'gensim'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_encoder_imports_without_ray() -> None:
    code = "import sys; from lstm_embed import SentenceEncoder; print('ray' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


IDLE_JOB = """
import sys, time
sys.path.insert(0, sys.argv[1])
import launch
with launch.errors_as_exit_codes(), launch.ray_session():
    print("begun", flush=True)
    time.sleep(100)
"""


def test_a_job_whose_ray_is_killed_says_so_in_one_line() -> None:
    import ray

    command = [sys.executable, "-c", IDLE_JOB, str(ROOT / "jobs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stderr is not None
        assert job.stdout.readline() == "begun\n"
        (raylet,) = descendants(job.pid, f"{Path(ray.__file__).parent}/core/src/ray/raylet/raylet")
        kill(raylet)
        assert job.wait(60) == 1
        text = job.stderr.read()
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert "ended from outside" in line
    assert "run the same command again" in line
    assert "Traceback" not in text
