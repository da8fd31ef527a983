"""The embedding jobs as a user runs them: across processes, killed, raced, and read."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from embedding_help import (
    all_files,
    change,
    embed_here,
    end_group,
    make_articles,
    part_bytes,
    read_rows,
    save_model,
    start_job,
    write_articles,
)

from lstm_embed.embedding.config import EmbedConfig

from conftest import run_job

UNIT_BYTES = 3000
NUM_ARTICLES = 240


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> EmbedConfig:
    """Return the settings of an output that was made without interruption."""
    folder = tmp_path_factory.mktemp("embed")
    articles = make_articles(NUM_ARTICLES)
    for start in range(0, NUM_ARTICLES, 3):
        write_articles(folder / "in" / f"{start:03d}.jsonl", articles[start : start + 3])
    config = EmbedConfig(
        model=save_model(folder / "model"),
        input=(str(folder / "in"),),
        output=str(folder / "whole"),
        unit_bytes=UNIT_BYTES,
    )
    embed_here(config)
    assert len(part_bytes(config.output)) > 40
    return config


def flags(config: EmbedConfig) -> list[str]:
    return [
        "--model",
        config.model,
        "--input",
        *config.input,
        "--output",
        config.output,
        "--unit-bytes",
        str(UNIT_BYTES),
    ]


def test_of_two_racing_jobs_one_is_refused_and_the_other_killed_and_run_again_leaves_the_same_bytes(
    config: EmbedConfig, tmp_path: Path
) -> None:
    given = change(config, output=str(tmp_path / "out"))
    racers = [
        start_job("embed", [*flags(given), "--num-workers", "1"], tmp_path / f"{number}.log") for number in range(2)
    ]
    try:
        deadline = time.monotonic() + 500
        while all(racer.poll() is None for racer in racers):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        loser, winner = sorted(racers, key=lambda racer: racer.poll() is None)
        if loser.returncode != 0:  # else it was done before the other one looked, which then has nothing to do
            assert loser.returncode in (1, 2)
            assert "another job" in (tmp_path / f"{racers.index(loser)}.log").read_text()
        while len(list((tmp_path / "out" / "parts").glob("part-*"))) < 3 and winner.poll() is None:
            time.sleep(0.01)
        winner.kill()
        winner.wait()
    finally:
        for racer in racers:
            end_group(racer)
    result = run_job("embed", *flags(given), "--num-workers", "2", "--wandb-project", "p", WANDB_MODE="offline")
    assert "send the run later with: wandb sync" in result.stderr
    assert list((tmp_path / "out" / "wandb").glob("offline-run-*/*.wandb"))
    assert part_bytes(given.output) == part_bytes(config.output)
    assert not [name for name in all_files(given.output) if ".tmp-" in name or "progress" in name]
    assert f"{len(read_rows(given.output)):,} vectors" in result.stdout
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    again = run_job("embed", *flags(given))
    assert "everything was done already; nothing was written" in again.stdout
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_search_prints_json_lines_for_queries_from_flags_and_a_file(config: EmbedConfig, tmp_path: Path) -> None:
    text = next(text for text in read_rows(config.output)["text"].to_pylist() if len(text.split()) > 4)
    (tmp_path / "queries.txt").write_text(f"\n  {text}  \n\n… ?\n", encoding="utf-8")
    found = run_job(
        *("search", "--model", config.model, "--embeddings", config.output, "--query", "waa wab"),
        *("--queries", str(tmp_path / "queries.txt"), "--top-k", "2", "--json"),
    )
    hits = [json.loads(line) for line in found.stdout.splitlines()]
    assert [(hit["query"].strip(), hit["rank"]) for hit in hits] == [
        ("waa wab", 1),
        ("waa wab", 2),
        (text, 1),
        (text, 2),
    ]
    assert (hits[2]["text"], hits[2]["score"]) == (text, pytest.approx(1.0, abs=1e-4))
    assert hits[2]["title"].startswith("Title ")
    assert "the query '… ?' has no word; it has no hits" in found.stderr


def test_search_prints_a_table_with_titles_and_texts(config: EmbedConfig) -> None:
    found = run_job(
        "search", "--model", config.model, "--embeddings", config.output, "--query", "Waa wab.", "--top-k", "3"
    )
    query, *lines = found.stdout.splitlines()
    assert query == "Waa wab."
    assert len(lines) == 3
    assert all("Title" in line for line in lines)


def test_search_with_another_model_or_an_empty_file_is_refused_in_one_line(config: EmbedConfig, tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", seed=1)
    result = run_job("search", "--model", other, "--embeddings", config.output, "--query", "q", check=False)
    assert result.returncode == 2
    assert "was made with the model" in result.stderr
    (tmp_path / "empty.txt").write_text("\n")
    flags = ["--model", config.model, "--embeddings", config.output, "--queries", str(tmp_path / "empty.txt")]
    result = run_job("search", *flags, check=False)
    assert result.returncode == 2
    assert "holds no query" in result.stderr
