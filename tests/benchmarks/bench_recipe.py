"""What each ingredient of the recipe is worth: the same short training with one of them changed, scored on similarity sets.

Every row is one command, `jobs/train.py` with the flags in its last column; the labelled sets are only looked at after
training. The score is the mean of the sets' Spearman x100:

    python tests/benchmarks/bench_recipe.py --tokens TOKENS --vectors VECTORS --sts STS/*.tsv --steps 120 --seeds 0 1 2

`--rows` takes names of rows, `--row 'NAME: FLAGS'` adds one of your own, and `--results FILE` keeps the figures, so that
what is in there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

ROWS = {
    "default": "",
    "pooling: plain mean": "--model.pooling mean",
    "pooling: largest state": "--model.pooling max",
    "pooling: last state": "--model.pooling last",
    "no skip path": "--model.no-skip-path --model.code-size 0",
    "no LSTM": "--model.no-lstm-path",
    "no LSTM, no decoder": "--model.no-lstm-path --model.decoder none",
    "no contrast": "--model.contrast-weight 0",
    "no spelling": "--model.spelling-size 0",
    "no noise": "--model.noise 0",
    "learned word weights off": "--model.no-learn-word-weights",
    "decoder weight 1": "--model.decoder-weight 1",
    "no decoder": "--model.decoder none",
    "decoder: teacher-forced LSTM": "--model.decoder teacher",
    "decoder: bag of words": "--model.decoder bag",
    "decoder: repeat, squared error": "--model.reconstruction mse",
    "word vectors not whitened, log weights": "--model.word-whitening 0 --model.start-weights log",
    "word vectors trained too": "--model.no-freeze-word-vectors",
    "temperature 0.1": "--model.temperature 0.1",
    "same article counts as wrong": "--model.same-article-negatives",
    "groups of 512": "--group-size 512 --groups-per-step 2",
}
Figures = dict[str, float]


def measure(flags: str, arguments: argparse.Namespace, seed: int) -> Figures:
    """Train with some flags in this process and score what comes out."""
    from command_lines import parse_job

    from lstm_embed.corpus.token_set import TokenSet
    from lstm_embed.evaluation.similarity import read_pairs
    from lstm_embed.model.encoder import SentenceEncoder
    from lstm_embed.training.run import RunFolder, plan_run
    from lstm_embed.training.session import LocalSession
    from lstm_embed.training.setup import plan_of, set_up, steps_of

    with tempfile.TemporaryDirectory() as folder:
        [config] = parse_job(
            f"jobs/train.py --tokens {arguments.tokens} --vectors {arguments.vectors} --storage {folder} --run-name row "
            f"--max-steps {arguments.steps} --validate-steps 0 --validation-sentences 0 --checkpoint-every 1000000 "
            f"--precision fp32 --seed {seed} {flags}"
        )
        tokens = TokenSet.open(config.tokens)
        data = {"tokens": tokens.fingerprint, "precision": config.precision}
        run = plan_run(
            config,
            None,
            data,
            steps_of(config, plan_of(config, tokens)),
            path=RunFolder.of(config).path,
            finished=False,
        )
        begin = time.process_time()
        worker = set_up(config, run, LocalSession(run.path))
        worker.loop.train()
        seconds = time.process_time() - begin
        metrics = [json.loads(line) for line in Path(run.path, "metrics.jsonl").read_text().splitlines()]
    encoder = SentenceEncoder(worker.loop.learner.model, tokens.vocabulary, tokens.tokenizer)
    pairs = [read_pairs(path) for path in arguments.sts]
    found = {"seconds": seconds, "accuracy": 100 * metrics[-1].get("train/accuracy", 0.0)}
    return found | scores(encoder, pairs) | {"shuffled": scores(encoder, pairs, shuffle=True)["joined"]}


def scores(encoder: Any, pairs: Sequence[Any], shuffle: bool = False) -> Figures:
    """Return the mean Spearman x100 of the sets, by the whole vectors and by their parts.

    Args:
        encoder: The model.
        pairs: The sets.
        shuffle: Put the words of every sentence in random order first.
    """
    from lstm_embed.evaluation.baselines import Tokens
    from lstm_embed.evaluation.similarity import cosines, spearman

    def embed(texts: list[str]) -> Any:
        if shuffle:
            rng = random.Random(0)
            words = Tokens(encoder.vocabulary, encoder.tokenizer["profile"]).words(texts)
            texts = [" ".join(rng.sample(sentence, len(sentence))) for sentence in words]
        return encoder.encode(texts)

    sides = [(embed(one.left), embed(one.right)) for one in pairs]
    config = encoder.config
    begins = np.cumsum([0, encoder.autoencoder.word_vectors.shape[1], config.code_dimension, config.spelling_size])
    parts = {name: slice(*begins[at : at + 2]) for at, name in enumerate(("words", "code", "spelling"))}
    if config.output == "code":
        parts = {"code": slice(None)}
    return {
        name: 100
        * float(
            np.mean(
                [spearman(one.gold, cosines(a[:, part], b[:, part])) for one, (a, b) in zip(pairs, sides, strict=True)]
            )
        )
        for name, part in {"joined": slice(None), **parts}.items()
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--sts", required=True, nargs="+")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="*", default=list(ROWS), metavar="NAME")
    parser.add_argument("--row", action="append", default=[], metavar="NAME: FLAGS")
    parser.add_argument("--results", default="")
    return parser.parse_args()


def show(name: str, flags: str, seeds: Sequence[Figures]) -> None:
    """Print a line of the table: means over the seeds, and how far the joined vectors' scores lie apart."""
    mean = {key: statistics.fmean(one[key] for one in seeds) for key in seeds[0]}
    spread = (max(one["joined"] for one in seeds) - min(one["joined"] for one in seeds)) / 2
    parts = " | ".join(f"{mean[key]:.1f}" if key in mean else "" for key in ("words", "code", "spelling", "shuffled"))
    joined = f"{mean['joined']:.2f}" + (f" ± {spread:.2f}" if len(seeds) > 1 else "")
    print(f"| {name} | {mean['seconds']:.0f} | {joined} | {parts} | {mean['accuracy']:.1f} | `{flags}` |", flush=True)


def main() -> None:
    """Measure the rows and print a table of them."""
    arguments = parse()
    rows = {name: ROWS[name] for name in arguments.rows}
    rows |= {name.strip(): flags.strip() for name, _, flags in (row.partition(":") for row in arguments.row)}
    kept = Path(arguments.results) if arguments.results else None
    known = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    print("| row | CPU s | vectors | word mean | code | spelling | words shuffled | words right, % | flags |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, flags in rows.items():
        seeds = []
        for seed in arguments.seeds:
            key = {"flags": flags, "seed": seed, "steps": arguments.steps, "vectors": arguments.vectors}
            figures = next((line["figures"] for line in known if line["key"] == key), None)
            if figures is None:
                figures = measure(flags, arguments, seed)
                if kept:
                    with kept.open("a") as file:
                        file.write(json.dumps({"key": key, "figures": figures}) + "\n")
            seeds.append(figures)
        show(name, flags, seeds)


if __name__ == "__main__":
    main()
