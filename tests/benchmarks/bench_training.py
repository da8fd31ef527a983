"""Sentences trained in a second, steady state, and what Ray Train costs.

Every figure of a table is from one run of this script; repetitions of the variants take turns, so that a busy machine slows
all of them. The first steps of each are left out. The data are made up unless token ids of a real corpus are given:

    python tests/benchmarks/bench_training.py --tokens TOKENS --vectors VECTORS
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lstm_embed.model.config import ModelConfig
from lstm_embed.stages.session import ray_session
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import RunFolder

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WARM_UP = 0.34
"""Share of the steps, from the first on, that are not counted."""

Figures = dict[str, Any]
Run = Callable[[TrainingConfig], Figures]


def bare(config: TrainingConfig) -> Figures:
    """Train in a process of its own, with the loop alone."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(config.to_dict(), file)
        file.flush()
        subprocess.run([sys.executable, __file__, "--bare", file.name], check=True)
    return figures(config)


def on_ray(config: TrainingConfig) -> Figures:
    """Train on Ray Train."""
    from lstm_embed.training.trainer import train

    train(config)
    return figures(config)


def train_bare(path: str) -> None:
    """Run the loop of a config file in this process."""
    from lstm_embed.corpus.token_set import TokenSet
    from lstm_embed.training.batches import BatchPlan
    from lstm_embed.training.run import plan_run
    from lstm_embed.training.session import LocalSession
    from lstm_embed.training.setup import set_up

    values = json.loads(Path(path).read_text())
    config = TrainingConfig(**{**values, "model": ModelConfig(**values["model"]), "wandb_tags": ()})
    tokens = TokenSet.open(config.tokens)
    data = {"tokens": tokens.fingerprint, "precision": config.precision}
    run = plan_run(config, None, data, BatchPlan.of(tokens, config).num_steps(config))
    device = "cuda" if config.gpu else "cpu"
    set_up(config, run, LocalSession(run.path, device)).loop.train()


def keras(python: str, batch_size: int, num_batches: int) -> Run:
    """Return what trains the original architecture in Keras, in an environment of its own."""

    def run(config: TrainingConfig) -> Figures:
        script = str(Path(__file__).with_name("keras_original.py"))
        command = [python, script, str(batch_size), str(num_batches)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        rate = float(output.rpartition("KERAS ")[2])
        return {"sentences/s": rate, "tokens/s": 0.0, "wait": 0.0, "padding": 0.0, "memory": 0.0, "losses": []}

    return run


def figures(config: TrainingConfig) -> Figures:
    """Return the rates of a run's steady state."""
    lines = Path(RunFolder.of(config).path, "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = [row["train/loss"] for row in rows]
    rows = [row for row in rows if row["train/step"] > WARM_UP * config.max_steps]
    seconds = [1.0 / row["train/sentences_per_second"] for row in rows]
    return {
        "sentences/s": 1.0 / statistics.fmean(seconds),
        "tokens/s": statistics.fmean(row["train/tokens_per_second"] for row in rows),
        "wait": statistics.fmean(row["train/data_wait_fraction"] for row in rows),
        "padding": statistics.fmean(row["train/padding_efficiency"] for row in rows),
        "memory": max(row["train/peak_memory_mib"] for row in rows),
        "losses": losses,
    }


def variants(arguments: argparse.Namespace, folder: str) -> dict[str, tuple[Run, TrainingConfig]]:
    """Return what is measured, by name."""

    def config(preset: str, steps: int, **fields: Any) -> TrainingConfig:
        # The original's word vectors had 128 dimensions.
        vectors = arguments.vectors if preset != "original" else arguments.vectors_128
        return TrainingConfig.for_preset(
            preset,
            tokens=arguments.tokens,
            vectors=vectors,
            storage=folder,
            run_name="bench",
            max_steps=steps,
            epochs=50,
            log_steps=1,
            validation_sentences=0,
            validate_steps=0,
            checkpoint_every="1000000",
            gpu=arguments.gpu,
            **{"precision": arguments.precision, **fields},
        )

    steps, few = arguments.steps, max(3, arguments.steps // 4)
    found: dict[str, tuple[Run, TrainingConfig]] = {
        "default, bare loop": (bare, config("default", steps)),
        "default, Ray, 1 worker": (on_ray, config("default", steps)),
        "default, Ray, 2 workers": (on_ray, config("default", steps, num_workers="2")),
        "default, bare loop, bf16": (bare, config("default", steps, precision="bf16")),
        "original": (bare, config("original", few, micro_batches_per_step=1)),
        "original, bf16": (bare, config("original", few, micro_batches_per_step=1, precision="bf16")),
    }
    if arguments.keras_python:
        for size in (16, 64):
            run = keras(arguments.keras_python, size, 4 * few * 16 // size)
            found[f"original, Keras, batches of {size}"] = (run, config("original", few))
    chosen = arguments.only.split(",") if arguments.only else list(found)
    return {name: found[name] for name in found if any(part in name for part in chosen)}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", help="token set")
    parser.add_argument("--vectors", help="its word vectors")
    parser.add_argument("--steps", type=int, default=30, help="steps of each run")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each variant, taking turns")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--only", default="", help="comma-separated parts of variants' names")
    parser.add_argument("--keras-python", default="", help="Python of an environment with keras and tensorflow-cpu")
    parser.add_argument("--bare", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare:
        train_bare(arguments.bare)
        return
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.tokens:
            arguments.tokens, arguments.vectors = made_up_data(folder)
        arguments.vectors_128 = write_vectors(f"{folder}/vectors-128", arguments.tokens)
        measure(arguments)


def made_up_data(folder: str) -> tuple[str, str]:
    """Write a token set with sentences of a real corpus' lengths, and vectors of 128 dimensions."""
    from synthetic import write_token_set

    tokens = write_token_set(f"{folder}/tokens", num_articles=1500, num_parts=4, num_words=20_000, max_tokens=40)
    return tokens.path, write_vectors(f"{folder}/vectors", tokens.path)


def write_vectors(path: str, tokens: str) -> str:
    """Write random word vectors of 128 dimensions for a token set; they train as fast as good ones."""
    from synthetic import write_word_vectors

    from lstm_embed.corpus.token_set import TokenSet

    return write_word_vectors(path, TokenSet.open(tokens).vocabulary, 128)


def measure(arguments: argparse.Namespace) -> None:
    """Run all variants in turns and print the table."""
    names: dict[str, list[Figures]] = {}
    with contextlib.ExitStack() as stack:
        if any(run is on_ray for run, _ in variants(arguments, "-").values()):
            stack.enter_context(ray_session())
        for _ in range(arguments.repeat):
            for name in variants(arguments, "-"):
                with tempfile.TemporaryDirectory() as folder:
                    run, config = variants(arguments, folder)[name]
                    names.setdefault(name, []).append(run(config))
    _print(names)


def _print(names: dict[str, list[Figures]]) -> None:
    print(
        f"{'variant':<34} {'sentences/s':>12} {'(min to max)':>16} {'tokens/s':>9} {'wait':>7} {'padding':>8} {'MiB':>6}"
    )
    for name, found in names.items():
        rates = sorted(one["sentences/s"] for one in found)
        middle = {key: statistics.median(one[key] for one in found) for key in found[0] if key != "losses"}
        print(
            f"{name:<34} {middle['sentences/s']:>12,.0f} {f'{rates[0]:,.0f} to {rates[-1]:,.0f}':>16} "
            f"{middle['tokens/s']:>9,.0f} {middle['wait']:>7.2%} {middle['padding']:>8.3f} {middle['memory']:>6,.0f}"
        )
    for one, other in (
        ("default, Ray, 1 worker", "default, bare loop"),
        ("default, Ray, 2 workers", "default, Ray, 1 worker"),
        ("default, bare loop, bf16", "default, bare loop"),
        ("original, bf16", "original"),
        *((one, f"original, Keras, batches of {size}") for one in ("original", "original, bf16") for size in (16, 64)),
    ):
        if one in names and other in names:
            # Of runs that followed each other, since the machine's speed changes over minutes.
            pairs = zip(names[one], names[other], strict=True)
            print(f"{one} / {other}: {statistics.median(a['sentences/s'] / b['sentences/s'] for a, b in pairs):.3f}")
    one, other = names.get("default, Ray, 1 worker"), names.get("default, Ray, 2 workers")
    if one and other:
        pairs = list(zip(one[0]["losses"], other[0]["losses"], strict=True))
        apart = max(abs(b / a - 1.0) for a, b in pairs)
        print(f"loss of a step, 2 workers against 1: differs by {apart:.1e} at most, in {len(pairs)} steps")


if __name__ == "__main__":
    main()
