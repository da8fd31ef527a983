"""Run the whole system on a real Wikipedia dump that ships with gensim, in one process with one embedded Ray.

Dump, articles, token set, word vectors, an autoencoder trained on two workers, every sentence embedded, scores, search, and
sentences read back from their vectors. Run again, it finds everything done and only shows the results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lstm_embed.dump.config import ExtractConfig, PrepareConfig
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.training.config import TrainingConfig
from lstm_embed.words.config import WordVectorsConfig

from console import Console, print_summary
from launch import UnitJob, main, ray_session
from search import print_hits

if TYPE_CHECKING:
    from lstm_embed.base.progress import Summary

DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
QUERIES = (
    "He won the Academy Award for best director.",
    "The economy depends on agriculture and mining.",
    "The disease affects the brain of children.",
)
NUM_SHOWN = 8
DECODED = {"exact": "exact", "joined": "LSTM alone"}
"""What is decoded, and what it is called here."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Run the whole system on a small real corpus."""

    output: str = "demo-output"
    """Folder for all outputs."""


def run(config: Config) -> None:
    """Run every stage that is not done yet, then show what came out."""
    from lstm_embed.base import storage

    folder = functools.partial(storage.join, storage.resolve(config.output))
    summaries: list[Summary] = []
    with contextlib.ExitStack() as stack:
        # Ray starts before the first stage that needs it, and not at all when everything is done.
        start_ray = functools.cache(lambda: stack.enter_context(ray_session()))
        for stage in _stages(folder, start_ray):
            started = time.monotonic()
            summary = stage()
            if not summary.already_done:
                summary = dataclasses.replace(summary, seconds=time.monotonic() - started)
            summaries.append(summary)
    _show(folder)
    print()
    print_summary(summaries, facts=False)


def _stages(folder: Callable[[str], str], start_ray: Callable[[], Any]) -> list[Callable[[], Summary]]:
    """Return the stages in order, each a function that makes its output unless it is there."""
    articles, tokens, vectors = folder("articles"), folder("tokens"), folder("word-vectors")
    runs, embeddings, scores = folder("runs"), folder("embeddings"), folder("scores")
    model = f"{runs}/demo/model"

    def extract() -> Summary:
        from gensim.test.utils import datapath

        from lstm_embed.dump.extract import ExtractJob

        return _run(ExtractJob(ExtractConfig(input=datapath(DUMP), output=articles)), start_ray)

    def prepare() -> Summary:
        from lstm_embed.corpus.prepare import PrepareJob

        return _run(PrepareJob(PrepareConfig(input=(articles,), output=tokens, holdout_every=20)), start_ray)

    def word_vectors() -> Summary:
        from lstm_embed.words.train import train_word_vectors

        config = WordVectorsConfig(tokens=tokens, output=vectors, dimension=100, epochs=15, sample=1e-3, workers=2)
        return train_word_vectors(config, Console())

    def train() -> Summary:
        from lstm_embed.training.trainer import finished_run
        from lstm_embed.training.trainer import train as train_model

        config = TrainingConfig.for_preset(
            "default",
            tokens=tokens,
            vectors=vectors,
            storage=runs,
            run_name="demo",
            num_workers="2",
            epochs=2,
            # A corpus this small gives few steps: small micro-batches make more of them.
            micro_batch_sentences=64,
            learning_rate=3e-3,
        )
        if summary := finished_run(config):
            return summary
        start_ray()
        with Console() as console:
            return train_model(config, console)

    def embed() -> Summary:
        from lstm_embed.embedding.embed import EmbedJob

        return _run(EmbedJob(EmbedConfig(model=model, input=(articles,), output=embeddings)), start_ray)

    def evaluate() -> Summary:
        from lstm_embed.evaluation.evaluate import evaluate as evaluate_model

        config = EvaluationConfig(
            model=model,
            output=scores,
            embeddings=embeddings,
            tokens=tokens,
            vectors=vectors,
            num_queries=300,
            num_decoded=60,
            bootstrap=100,
        )
        with Console() as console:
            return evaluate_model(config, console)

    return [extract, prepare, word_vectors, train, embed, evaluate]


def _run(job: UnitJob, start_ray: Callable[[], Any]) -> Summary:
    work = job.compare()
    if work.finished:
        return job.summary(0.0, already_done=True)
    start_ray()
    with Console(job.output) as console:
        return job.run(work, console)


def _show(folder: Callable[[str], str]) -> None:
    """Print scores, the nearest sentences of three queries, and what comes back from vectors."""
    from lstm_embed.base import storage
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
    from lstm_embed.base import storage

    words = storage.read_json(storage.join(folder("word-vectors"), "report.json"))
    scores = storage.read_json(storage.join(folder("scores"), "results.json"))["headline"]
    print(f"\n{'Scores':<48} {'model':>7} {'mean of words':>14}")
    print(f"  {'wordsim353, Spearman x100':<46} {'':>7} {words['wordsim353']['spearman']:>14.1f}")
    for name, methods in scores.items():
        if "embedded corpus" not in name:
            mean = f"{methods['mean']:.1f}" if "mean" in methods else ""
            print(f"  {name:<46} {methods['model']:>7.1f} {mean:>14}")


def _show_decoded(folder: Callable[[str], str]) -> None:
    """Print held-out sentences beside what their vectors give back, and how many of all came back."""
    from lstm_embed.base import storage

    decoding = storage.read_json(storage.join(folder("scores"), "results.json"))["decoding"]
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
    main(Config, run, __doc__)
