"""The export job across real processes: a folder another process loads without this package, and mistakes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from embedding_help import make_text, save_model

from lstm_embed.model.encoder import SentenceEncoder

from conftest import run_job

_LOAD = """
import json, sys
sys.modules["lstm_embed"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
print(json.dumps(model.encode(json.loads(sys.argv[2])).tolist()))
"""


def test_another_process_without_this_package_gets_the_same_vectors(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    output = tmp_path / "out"
    flags = ("--model", model, "--format", "sentence-transformers", "--output", str(output))
    first = run_job("export", *flags)
    assert "dimension 126" in first.stdout
    moved = shutil.move(output, tmp_path / "elsewhere")
    rng = np.random.default_rng(0)
    texts = [*(make_text(rng) for _ in range(5)), "", "unheard of"]
    result = subprocess.run(
        [sys.executable, "-c", _LOAD, str(moved), json.dumps(texts)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
    )
    found = np.array(json.loads(result.stdout.splitlines()[-1]))
    assert np.abs(found - SentenceEncoder.load(model).encode(texts)).max() < 1e-5


def test_mistakes_are_told_in_one_line_with_exit_code_2(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    for flags, expected in (
        (("--model", model, "--format", "onnx", "--output", str(foreign)), "thesis.txt"),
        (("--model", model, "--format", "onnx", "--output", str(tmp_path / "o"), "--scores", "nowhere"), "nowhere"),
    ):
        result = run_job("export", *flags, check=False)
        assert result.returncode == 2, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
        assert expected in result.stderr
    assert sorted(path.name for path in foreign.iterdir()) == ["thesis.txt"]
