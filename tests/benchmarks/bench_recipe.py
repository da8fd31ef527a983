"""What each ingredient of the recipe is worth: the same short training with one of them changed.

Every row is one command, `jobs/train.py` with the flags in its last column; the labelled sets and the held-out sentences are
only looked at after training:

    python tests/benchmarks/bench_recipe.py --tokens TOKENS --vectors VECTORS --sts STS/*.tsv --classification MR.tsv \\
        TREC.train.tsv --steps 600 --seeds 0 1 2

Columns: mean Spearman x100 of the similarity sets by `meaning` and by `joined`; accuracies of a linear classifier on `joined`;
of held-out sentences of 4 to 32 words, how many words stand in place and how many sentences come back by the LSTM alone
(`joined`), and how many by `exact`, of 33 to 64 words too. `--rows` takes names of rows, `--row 'NAME: FLAGS'` adds one of your
own, and `--results FILE` keeps the figures, so that what is in there already is not measured again.
"""

from __future__ import annotations

import argparse
import json
import shlex
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
    "nothing from neighbours": "--model.neighbour-strength 0",
    "neighbours half as strong": "--model.neighbour-strength 1",
    "neighbours twice as strong": "--model.neighbour-strength 4",
    "no spelling": "--model.spelling-size 0",
    "spelling 512": "--model.spelling-size 512",
    "word constant 2e-3": "--model.word-constant 2e-3",
    "spelling constant 1e-4": "--model.spelling-constant 1e-4",
    "order at 0.5": "--model.order-share 0.5",
    "order at 1": "--model.order-share 1",
    "encoder 64": "--model.hidden-size 64",
    "encoder 256": "--model.hidden-size 256",
    "code 160": "--model.order-size 160",
    "code 512": "--model.order-size 512",
    "decoder 128": "--model.decoder-hidden-size 128",
    "decoder 256": "--model.decoder-hidden-size 256",
    "positions 192": "--model.position-size 192",
    "positions 256": "--model.position-size 256",
    "positions 512": "--model.position-size 512",
}
Figures = dict[str, float]
_DIGITS = {"seconds": 0, "speed": 0, "meaning": 2, "joined": 2}
_CLOSED_FORM = (
    "neighbour_strength",
    "spelling_size",
    "spelling_constant",
    "word_constant",
    "order_share",
    "position_size",
)
"""Settings that do not touch what is trained: rows that differ in them alone share one training."""


_trained: dict[str, tuple[Figures, dict[str, Any]]] = {}


def measure(flags: str, arguments: argparse.Namespace, seed: int) -> Figures:
    """Train with some flags in this process and score what comes out."""
    from lstm_embed.cli import config_of
    from lstm_embed.corpus.token_set import TokenSet
    from lstm_embed.training.batches import BatchPlan
    from lstm_embed.training.run import plan_run
    from lstm_embed.training.session import LocalSession
    from lstm_embed.training.setup import set_up

    with tempfile.TemporaryDirectory() as folder:
        words = (
            f"--tokens {arguments.tokens} --vectors {arguments.vectors} --storage {folder} --run-name row "
            f"--max-steps {arguments.steps} --validate-steps 0 --validation-sentences 0 --checkpoint-every 1000000 "
            f"--precision fp32 --seed {seed} {flags}"
        )
        config = config_of("train", shlex.split(words))
        tokens = TokenSet.open(config.tokens)
        data = {"tokens": tokens.fingerprint, "precision": config.precision}
        run = plan_run(config, None, data, BatchPlan.of(tokens, config).num_steps(config))
        worker = set_up(config, run, LocalSession(run.path))
        model = worker.loop.learner.model
        trains = {name: value for name, value in config.meaning().items() if name.partition(".")[2] not in _CLOSED_FORM}
        key = json.dumps(trains, sort_keys=True)
        if key not in _trained:
            begin = time.process_time()
            worker.loop.train()
            seconds = time.process_time() - begin
            costs = {"seconds": seconds, "speed": worker.loop.progress.sentences / seconds}
            _trained[key] = costs, model.order.state_dict()
        costs, weights = _trained[key]
        model.order.load_state_dict(weights)
    return costs | scores(model, tokens, arguments)


def scores(model: Any, tokens: Any, arguments: argparse.Namespace) -> Figures:
    """Return the figures of a trained model."""
    from lstm_embed.evaluation.baselines import Tokens
    from lstm_embed.evaluation.classification import accuracy
    from lstm_embed.evaluation.corpora import token_set_sentences
    from lstm_embed.evaluation.decoding import by_encoder, figures
    from lstm_embed.evaluation.labelled import read_pairs, read_sets
    from lstm_embed.evaluation.similarity import cosines, spearman
    from lstm_embed.model.encoder import SentenceEncoder

    encoders = {
        name: SentenceEncoder(model, tokens.vocabulary, tokens.tokenizer, embedding=name)
        for name in ("meaning", "joined", "exact")
    }
    found: Figures = {}
    pairs = [read_pairs(path) for path in arguments.sts]
    for name in ("meaning", "joined"):
        encode = encoders[name].encode
        rhos = [spearman(one.gold, cosines(encode(one.left), encode(one.right))) for one in pairs]
        found[name] = float(np.mean(rhos)) if rhos else 0.0
    for labelled in read_sets(arguments.classification):
        found[labelled.name] = accuracy(labelled, encoders["joined"].encode)["accuracy"]
    if not arguments.sentences:
        return found
    texts = token_set_sentences(tokens, 20 * arguments.sentences, held_out=True).texts
    reader = Tokens(tokens.vocabulary, tokens.tokenizer["profile"])
    both = zip(texts, reader.words(texts), reader.read(texts, model.config.max_tokens), strict=True)
    whole = [(text, words) for text, words, read in both if words == read]
    for name, least, most in (("joined", 4, 32), ("exact", 4, 32), ("exact", 33, 64)):
        some = [(text, words) for text, words in whole if least <= len(words) <= most][: arguments.sentences]
        if not some:
            continue
        shares = figures([words for _, words in some], by_encoder(encoders[name])([text for text, _ in some]))
        found[f"{name} {least}-{most} exact"] = float(shares["exact"] or 0.0)
        found[f"{name} {least}-{most} in place"] = float(shares["in_place"] or 0.0)
    return found


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--vectors", required=True)
    parser.add_argument("--sts", nargs="+", default=[])
    parser.add_argument("--classification", nargs="+", default=[])
    parser.add_argument(
        "--sentences", type=int, default=300, help="sentences of each kind that are decoded; 0 for none"
    )
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rows", nargs="*", default=list(ROWS), metavar="NAME")
    parser.add_argument("--row", action="append", default=[], metavar="NAME: FLAGS")
    parser.add_argument("--results", default="")
    return parser.parse_args()


def show(name: str, flags: str, seeds: Sequence[Figures]) -> None:
    """Print a line of the table: means over the seeds."""
    cells = [f"{statistics.fmean(one[key] for one in seeds):.{_DIGITS.get(key, 1)}f}" for key in seeds[0]]
    print(f"| {name} | {' | '.join(cells)} | `{flags}` |", flush=True)


def main() -> None:
    """Measure the rows and print a table of them."""
    arguments = parse()
    rows = {name: ROWS[name] for name in arguments.rows}
    rows |= {name.strip(): flags.strip() for name, _, flags in (row.partition(":") for row in arguments.row)}
    kept = Path(arguments.results) if arguments.results else None
    earlier = [json.loads(line) for line in kept.read_text().splitlines()] if kept and kept.exists() else []
    for name, flags in rows.items():
        seeds = []
        for seed in arguments.seeds:
            key = {"flags": flags, "seed": seed, "steps": arguments.steps, "vectors": arguments.vectors}
            figures = next((line["figures"] for line in earlier if line["key"] == key), None)
            if figures is None:
                figures = measure(flags, arguments, seed)
                if kept:
                    with kept.open("a") as file:
                        file.write(json.dumps({"key": key, "figures": figures}) + "\n")
            seeds.append(figures)
        if name == next(iter(rows)):
            print(
                f"| row | {' | '.join(seeds[0])} | flags |",
                "|".join(["", *[" --- "] * (len(seeds[0]) + 2), ""]),
                sep="\n",
            )
        show(name, flags, seeds)


if __name__ == "__main__":
    main()
