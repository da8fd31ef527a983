"""Run the whole system on a real Wikipedia dump that ships with gensim, in one process with one embedded Ray.

Dump, articles, token set, word vectors, an autoencoder trained on two workers, every sentence embedded, scores, search, and
sentences read back from their vectors. Run again, it finds everything done and only shows the results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.progress import Reporter, Summary
from lstm_embed.base.settings import Words, read_json, settings
from lstm_embed.cli import errors_as_exit_codes, parse
from lstm_embed.console import Console, print_summary
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.dump.config import ExtractConfig
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.stages.session import prepare_environment, ray_session
from lstm_embed.training.config import TrainingConfig
from lstm_embed.verbs import print_hits
from lstm_embed.words.config import WordVectorsConfig

DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
QUERIES = (
    "He won the Academy Award for best director.",
    "The economy depends on agriculture and mining.",
    "The disease affects the brain of children.",
)
NUM_SHOWN = 8
DECODED = {"exact": "exact", "joined": "LSTM alone"}
"""What is decoded, and what it is called here."""


@settings()
class DemoConfig:
    """Run the whole system on a small real corpus."""

    output: Words = "demo-output"
    """Folder for all outputs."""


def run(config: DemoConfig) -> None:
    """Run every stage that is not done yet, then show what came out."""
    folder = functools.partial(storage.join, storage.resolve(config.output))
    done = storage.exists(storage.join(folder("scores"), "manifest.json"))
    summaries = []
    with Console() as console, contextlib.nullcontext() if done else ray_session():
        for stage in _stages(folder, console):
            started = time.monotonic()
            summary = stage()
            seconds = 0.0 if summary.already_done else time.monotonic() - started
            summaries.append(dataclasses.replace(summary, seconds=seconds))
    _show(folder)
    print()
    print_summary(summaries, facts=False)


def _stages(folder: Callable[[str], str], report: Reporter) -> Iterator[Callable[[], Summary]]:
    """Yield the stages in order, each a function that makes its output unless it is there."""
    from gensim.test.utils import datapath

    from lstm_embed.corpus.prepare import prepare
    from lstm_embed.dump.extract import extract
    from lstm_embed.embedding.embed import embed
    from lstm_embed.evaluation.evaluate import evaluate
    from lstm_embed.training.trainer import train
    from lstm_embed.words.train import train_word_vectors

    articles, tokens, vectors = folder("articles"), folder("tokens"), folder("word-vectors")
    model, embeddings = folder("runs/demo/model"), folder("embeddings")
    yield lambda: extract(ExtractConfig(input=datapath(DUMP), output=articles), report)
    yield lambda: prepare(PrepareConfig(input=(articles,), output=tokens, holdout_every=20), report)
    words = WordVectorsConfig(tokens=tokens, output=vectors, dimension=100, epochs=15, sample=1e-3, workers=2)
    yield lambda: train_word_vectors(words, report)
    training = TrainingConfig.for_preset(
        "default",
        tokens=tokens,
        vectors=vectors,
        storage=folder("runs"),
        run_name="demo",
        num_workers="2",
        epochs=2,
        # A corpus this small gives few steps: small micro-batches make more of them.
        micro_batch_sentences=64,
        learning_rate=3e-3,
    )
    yield lambda: train(training, report)
    yield lambda: embed(EmbedConfig(model=model, input=(articles,), output=embeddings), report)
    evaluation = EvaluationConfig(
        model=model,
        output=folder("scores"),
        embeddings=embeddings,
        tokens=tokens,
        vectors=vectors,
        num_queries=300,
        num_decoded=60,
        bootstrap=100,
    )
    yield lambda: evaluate(evaluation, report)


def _show(folder: Callable[[str], str]) -> None:
    """Print scores, the nearest sentences of three queries, and what comes back from vectors."""
    from lstm_embed.embedding.search import search
    from lstm_embed.embedding.vectors import Embeddings, encode_queries
    from lstm_embed.model.encoder import SentenceEncoder

    _show_scores(folder)
    encoder = SentenceEncoder.load(folder("runs/demo/model"))
    print("\nNearest sentences")
    found = search(Embeddings(folder("embeddings")), encode_queries(encoder, QUERIES), top_k=3)
    for query, hits in zip(QUERIES, found, strict=True):
        print_hits(query, hits)
    _show_decoded(folder)
    print(f"\nThe report of all scores is {storage.join(folder('scores'), 'report.html')}")


def _show_scores(folder: Callable[[str], str]) -> None:
    """Print the model's scores beside those of averaging its word vectors."""

    words = read_json(storage.join(folder("word-vectors"), "report.json"), dict[str, Any])
    scores = read_json(storage.join(folder("scores"), "results.json"), dict[str, Any])["headline"]
    print(f"\n{'Scores':<48} {'model':>7} {'mean of words':>14}")
    print(f"  {'wordsim353, Spearman x100':<46} {'':>7} {words['wordsim353']['spearman']:>14.1f}")
    for name, methods in scores.items():
        if "embedded corpus" not in name:
            mean = f"{methods['mean']:.1f}" if "mean" in methods else ""
            print(f"  {name:<46} {methods['model']:>7.1f} {mean:>14}")


def _show_decoded(folder: Callable[[str], str]) -> None:
    """Print held-out sentences beside what their vectors give back, and how many of all came back."""

    decoding = read_json(storage.join(folder("scores"), "results.json"), dict[str, Any])["decoding"]
    print("\nSentences that were not trained on, and what comes back from the vector alone")
    for example in decoding["examples"][:NUM_SHOWN]:
        print(f"  {' '.join(example['words'])}")
        for name, title in DECODED.items():
            made = example["made"][name]
            same = made["words"] == example["words"]
            print(
                f"    {title}: {'the same' if same else ' '.join(made['words'])}{', proven' if made['proven'] else ''}"
            )
    size = decoding["rows"]["all"]["sentences"]
    for name, title in DECODED.items():
        shares = decoding["methods"][name]["all"]
        print(
            f"  {title}: {size * shares['exact'] / 100:,.0f} of {size:,} held-out sentences came back word for "
            f"word, {shares['in_place']:.1f} % of the words in place"
        )


if __name__ == "__main__":
    settings_given = parse(DemoConfig, sys.argv[1:], os.path.basename(sys.argv[0]), __doc__ or "")
    prepare_environment()
    with errors_as_exit_codes():
        run(settings_given)
