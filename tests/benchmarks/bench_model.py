"""Speed of the bare model: encoding and training steps, against the machine's measured peak of matrix products.

Run `PYTHONPATH=. python tests/benchmarks/bench_model.py [--device cuda] [--seconds 4] [--only encode|train|bf16|keras]`. One
thread on a CPU, timed in CPU seconds, which neighbours on the machine disturb less; wall-clock on a GPU. The peak is measured
beside each figure. Sentences are made up: word frequencies by Zipf's law over 36,000 words, lengths as in Wikipedia (mean 25).

Useful FLOP are those of the function as written down: every token projected, nothing for padding. A share of the peak can so
pass what the hardware does, where distinct words are projected once.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.model.batch import Batch, collate
from lstm_embed.model.config import AnyConfig, ModelConfig, default, large, original
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.inputs import unit_rows
from lstm_embed.model.lstm import Lstm
from lstm_embed.model.precision import PRECISIONS, resolve_precision
from lstm_embed.model.recipes import Model, class_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic import vocabulary_of

VOCABULARY_SIZE = 36_000
COUNTS = np.concatenate(
    [np.zeros(FIRST_LEARNED, np.int64), 5_000_000 // np.arange(1, VOCABULARY_SIZE - FIRST_LEARNED + 1)]
)

ROWS: list[dict[str, Any]] = []
"""What was measured so far: useful TFLOP/s, and those of matrix products."""


class Corpus:
    """Made-up sentences."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def sentences(self, num: int, low: int, high: int) -> list[np.ndarray]:
        lengths = np.clip(self._rng.gamma(3.0, 8.6, num).astype(int), low, high)
        words = np.searchsorted(np.cumsum(COUNTS / COUNTS.sum()), self._rng.random(lengths.sum()))
        return np.split(words.astype(np.int64), np.cumsum(lengths)[:-1])

    def batches(self, config: AnyConfig, num: int, size: int) -> list[Batch]:
        """Return micro-batches of like lengths, from short to long, as the batch plan makes them."""
        sentences = sorted(self.sentences(num * size, 4, config.train_max_tokens), key=len)
        found = []
        for start in range(0, len(sentences), size):
            lengths = np.array([len(one) for one in sentences[start : start + size]])
            ids = np.zeros((size, lengths.max()), np.int64)
            ids[np.arange(lengths.max()) < lengths[:, None]] = np.concatenate(sentences[start : start + size])
            found.append(collate(ids, lengths, config.padded_length))
        return found


def make_model(config: AnyConfig, word_size: int) -> Model:
    vectors = np.random.default_rng(0).normal(size=(VOCABULARY_SIZE, word_size)).astype(np.float32)
    return class_of(config).start(config, vectors, COUNTS, [f"w{n}" for n in range(VOCABULARY_SIZE)])


def encode_flop(config: AnyConfig, word_size: int) -> float:
    """Return useful FLOP of one token in the encoder."""
    return 2 * 8 * config.hidden_size * (config.hidden_size + word_size)


def train_flop(config: AnyConfig, word_size: int, batch: Batch) -> float:
    """Return useful FLOP of a training step: three times the forward pass, less the gradient of frozen word vectors."""
    tokens = config.padded_length * batch.num_sentences or batch.num_tokens
    per_token = 3 * encode_flop(config, word_size) - 2 * 8 * config.hidden_size * word_size
    if isinstance(config, ModelConfig):
        code, units = config.order_size, config.decoder_hidden_size
        per_token += 3 * 8 * units**2 + 2 * 8 * units * word_size + 2 * 2 * units * word_size
        once = 3 * 2 * 2 * config.hidden_size * code
    else:
        code, units = 2 * config.hidden_size, config.hidden_size
        per_token += 3 * (8 * units**2 + 2 * units * word_size)
        once = 0
    return per_token * tokens + (once + 3 * 8 * units * code) * batch.num_sentences


class Clock:
    """Times the steady state of a function."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.seconds = device, seconds

    def _now(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def __call__(self, run: Callable[[], object]) -> float:
        """Return the seconds of one call: the least of at least three, after one that does not count."""
        run()
        best, calls, end = float("inf"), 0, self._now() + self.seconds
        while calls < 3 or self._now() < end:
            start = self._now()
            run()
            best, calls = min(best, self._now() - start), calls + 1
        return best


def peak(clock: Clock, precision: str) -> float:
    """Return the best FLOP/s of a matrix product in a precision."""
    best = 0.0
    shapes = ((1024, 1024, 1024), (128, 512, 2048)) if clock.device == "cpu" else ((8192, 8192, 8192),)
    for rows, inner, columns in shapes:
        a, b = (
            torch.randn(s, dtype=PRECISIONS[precision], device=clock.device) for s in ((rows, inner), (inner, columns))
        )
        quick = Clock(clock.device, clock.seconds / 8)
        best = max(best, 2.0 * rows * inner * columns / quick(functools.partial(torch.mm, a, b)))
    return best


@contextmanager
def library_lstm() -> Iterator[None]:
    """Compute with `nn.LSTM` on the CPU too."""
    own = Lstm.recurs
    Lstm.recurs = property(lambda self: False)  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        Lstm.recurs = own  # type: ignore[method-assign]


def report(
    clock: Clock, name: str, precision: str, num: int, flop: float, runs: Sequence[Callable[[], object]]
) -> None:
    """Time functions that together handle `num` sentences in `flop` useful operations, and print and keep a row."""
    before, seconds = peak(clock, precision), sum(clock(run) for run in runs)
    peak_flops = max(before, peak(clock, precision))
    rates = {"sentences_per_second": num / seconds, "tflops": flop / seconds / 1e12, "gemm_tflops": peak_flops / 1e12}
    ROWS.append({"name": name, "precision": precision, **rates})
    print(
        f"{name:44} {precision} {num / seconds:11,.0f} sentences/s {flop / seconds / 1e9:9,.1f} GFLOP/s, "
        f"{flop / seconds / peak_flops:4.2f} of the peak of {peak_flops / 1e9:,.0f}",
        flush=True,
    )


def bench_encode(clock: Clock, precisions: list[str], num: int) -> None:
    vocabulary = vocabulary_of([f"w{n}" for n in range(VOCABULARY_SIZE - FIRST_LEARNED)], COUNTS[FIRST_LEARNED:])
    sentences = Corpus().sentences(num, 1, 64)
    tokens = sum(map(len, sentences))
    batch_tokens = 16_384 if clock.device == "cpu" else 262_144
    for name, config, word_size in (
        ("default", default(), 300),
        ("original", original(), 128),
        ("large", large(), 300),
    ):
        model, flop = make_model(config, word_size), encode_flop(config, word_size) * tokens
        for precision in precisions:
            encoder = SentenceEncoder(
                model, vocabulary, {"profile": "default"}, device=clock.device, precision=precision
            )
            run = functools.partial(encoder.encode_ids, sentences, batch_tokens=batch_tokens)
            report(clock, f"encode {name}", precision, num, flop, [run])
        if clock.device == "cpu":
            with library_lstm():
                encoder = SentenceEncoder(model, vocabulary, {"profile": "default"})
                run = functools.partial(encoder.encode_ids, sentences, batch_tokens=1600)
                report(clock, f"encode {name}, nn.LSTM", "fp32", num, flop, [run])


def bench_bf16(rounds: int = 7) -> None:
    """Print how many times as fast as fp32 a CPU encodes in bf16, the two in turns, and the same of the products alone."""
    vocabulary = vocabulary_of([f"w{n}" for n in range(VOCABULARY_SIZE - FIRST_LEARNED)], COUNTS[FIRST_LEARNED:])
    for name, config, num in (("default", default(), 16_384), ("large", large(), 1024)):
        sentences, model = Corpus().sentences(num, 1, 64), make_model(config, 300)
        encoders = [SentenceEncoder(model, vocabulary, {"profile": "default"}, precision=p) for p in ("fp32", "bf16")]
        for embedding in ("joined", "exact"):
            times = in_turns(
                [functools.partial(one.encode_ids, sentences, embedding=embedding) for one in encoders], rounds
            )
            made = [one.encode_ids(sentences[:1000], embedding=embedding) for one in encoders]
            cosine = float((unit_rows(made[0]) * unit_rows(made[1])).sum(1).min())
            print(
                f"encode {name}, {embedding}: fp32 {num / times[:, 0].min():,.0f} sentences/s, bf16 "
                f"{np.median(times[:, 0] / times[:, 1]):.2f} times that; least cosine {cosine:.7f}",
                flush=True,
            )
        rows, units = 512, config.hidden_size
        pairs = [[torch.randn(s, dtype=t) for s in ((rows, units), (units, 4 * units))] for t in PRECISIONS.values()][
            :2
        ]
        times = in_turns([functools.partial(torch.mm, *pair) for pair in pairs], 100)
        print(f"products of {rows} x {units} x {4 * units}: bf16 {np.median(times[:, 0] / times[:, 1]):.2f} times fp32")


def in_turns(runs: Sequence[Callable[[], object]], rounds: int) -> np.ndarray:
    """Return the CPU seconds of each function in each round, shape (rounds, functions)."""
    times = np.zeros((rounds, len(runs)))
    for round_, (number, run) in itertools.product(range(rounds), enumerate(runs)):
        start = time.process_time()
        run()
        times[round_, number] = time.process_time() - start
    return times


def bench_keras(clock: Clock, precisions: list[str], num: int, python: str, path: str | None) -> None:
    """Compare `encode`, from text to vectors, with `predict` of the original encoder in Keras on padded word vectors."""
    words = [f"w{n}" for n in range(VOCABULARY_SIZE - FIRST_LEARNED)]
    texts = [" ".join(words[n - FIRST_LEARNED] for n in ids) for ids in Corpus().sentences(num, 1, 64)]
    if path:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
        most = Counter(word for text in texts for word in tokenize([text], "default")[0].as_py())
        words[: len(most)] = [word for word, _ in most.most_common(len(words))]
    vocabulary = vocabulary_of(words, COUNTS[FIRST_LEARNED:])
    script = Path(__file__).with_name("keras_predict.py")
    model, best = make_model(original(), 128), 0.0
    for _ in range(2):
        output = subprocess.run([python, str(script)], capture_output=True, text=True, check=True).stdout
        best = max(best, float(output.rpartition("KERAS ")[2]))
    print(f"{'predict in Keras on TensorFlow':44} fp32 {best:11,.0f} sentences/s")
    for precision in precisions:
        encoder = SentenceEncoder(model, vocabulary, {"profile": "default"}, precision=precision)
        rate = len(texts) / clock(functools.partial(encoder.encode, texts))
        print(f"{'encode original, from text':44} {precision} {rate:11,.0f} sentences/s, {rate / best:.1f} times Keras")


def bench_train(clock: Clock, precisions: list[str], together: int) -> None:
    """Time training steps.

    Args:
        clock: Times them.
        precisions: In turn.
        together: Micro-batches computed in one pass.
    """
    runs = [("default", default(), 300, 128), ("original", original(), 128, 64)]
    if clock.device != "cpu":
        runs.append(("large", large(), 300, 128))
    for name, config, word_size, size in runs:
        # A few from short to long, so that a round is quick and stands for the corpus.
        used = Corpus().batches(config, 12, size * together)[1::4]
        num = sum(batch.num_sentences for batch in used)
        flop = sum(train_flop(config, word_size, batch) for batch in used)
        for precision in precisions:
            model = make_model(config, word_size).to(clock.device)
            steps = training_steps(model, used, clock.device, PRECISIONS[precision])
            report(clock, f"train {name}, micro-batches of {size}", precision, num, flop, steps)
        if clock.device == "cpu":
            with library_lstm():
                steps = training_steps(make_model(config, word_size), used, "cpu", torch.float32)
                report(clock, f"train {name}, micro-batches of {size}, nn.LSTM", "fp32", num, flop, steps)


def training_steps(model: Model, batches: list[Batch], device: str, dtype: torch.dtype) -> list[Callable[[], None]]:
    """Return for each batch a function that makes one optimiser step with it."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3, fused=True)

    def step(batch: Batch) -> None:
        with torch.autocast(device.split(":")[0], dtype, enabled=dtype != torch.float32):
            losses = model(batch)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return [functools.partial(step, batch.to(device)) for batch in batches]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a figure is measured for")
    parser.add_argument("--only", choices=["encode", "train", "bf16", "keras"])
    parser.add_argument(
        "--keras-python", help="Python of an environment with keras and tensorflow-cpu, to compare with"
    )
    parser.add_argument("--texts", help="file with a sentence a line for that comparison (default: made up)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    on_cpu = arguments.device == "cpu"
    precisions = (
        ["fp32", "bf16", "fp16"] if not on_cpu else sorted({"fp32", resolve_precision("auto", "cpu")}, reverse=True)
    )
    clock = Clock(arguments.device, arguments.seconds)
    if arguments.keras_python and on_cpu:
        bench_keras(clock, precisions, 3_000, arguments.keras_python, arguments.texts)
    if arguments.only in (None, "encode"):
        bench_encode(clock, precisions, 3_000 if on_cpu else 400_000)
    if on_cpu and "bf16" in precisions and arguments.only in (None, "bf16"):
        bench_bf16()
    if arguments.only in (None, "train"):
        bench_train(clock, [p for p in precisions if p != "fp16"], 1 if on_cpu else 32)


if __name__ == "__main__":
    main()
