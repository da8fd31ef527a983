"""Speed of the bare model: encoding and training steps, against the machine's measured peak of matrix products.

Run `PYTHONPATH=. python tests/benchmarks/bench_model.py [--device cuda] [--seconds 4] [--only encode|train|keras]`. One thread
on a CPU, timed in CPU seconds, which neighbours on the machine disturb less; wall-clock on a GPU. The peak is measured
beside each figure. Sentences are made up: word frequencies by Zipf's law over 36,000 words, lengths as in Wikipedia (mean 25).

Useful FLOP are those of the function as written down: every token projected, nothing for padding. A share of the peak can so
pass what the hardware does, where distinct words are projected once.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.model.autoencoder import Autoencoder
from lstm_embed.model.batch import Batch, collate
from lstm_embed.model.config import ModelConfig, default, large, original
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.group import Group, NegativeSampler, make_group
from lstm_embed.model.lstm import Lstm
from lstm_embed.model.precision import PRECISIONS, resolve_precision

VOCABULARY_SIZE = 36_000
MASKED = dataclasses.replace(original(), mask_padding=True)
COUNTS = np.concatenate([[0, 10_000], 5_000_000 // np.arange(1, VOCABULARY_SIZE - 1)])


class Corpus:
    """Made-up sentences."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self.sampler = NegativeSampler(COUNTS)

    def sentences(self, num: int, low: int, high: int) -> list[np.ndarray]:
        lengths = np.clip(self._rng.gamma(3.0, 8.6, num).astype(int), low, high)
        words = np.searchsorted(np.cumsum(COUNTS / COUNTS.sum()), self._rng.random(lengths.sum()))
        return np.split(words.astype(np.int64), np.cumsum(lengths)[:-1])

    def groups(self, config: ModelConfig, num: int, size: int) -> list[Group]:
        """Return groups of neighbouring pairs, sorted by length as the batch plan does."""
        high = config.train_max_tokens
        pairs = np.array(self.sentences(num * size, 4, high), object).reshape(-1, 2)
        order = np.argsort([max(len(a), len(b)) for a, b in pairs])
        partners = np.arange(size) ^ 1
        return [
            make_group(
                [sentence for pair in pairs[rows] for sentence in pair],
                partners,
                np.arange(size) // 2,
                noise=config.noise,
                num_negatives=config.num_negatives,
                sampler=self.sampler,
                rng=self._rng,
            )
            for rows in np.split(order, num)
        ]


def make_model(config: ModelConfig, word_size: int) -> Autoencoder:
    vectors = np.random.default_rng(0).normal(size=(VOCABULARY_SIZE, word_size)).astype(np.float32)
    return Autoencoder(config, vectors, COUNTS)


def encode_flop(config: ModelConfig, word_size: int) -> float:
    """Return useful FLOP of one token in the encoder."""
    return 2 * 8 * config.hidden_size * (config.hidden_size + word_size)


def train_flop(config: ModelConfig, word_size: int, group: Group) -> float:
    """Return useful FLOP of a training step: three times the forward pass, less the gradient of frozen word vectors."""
    group_tokens = config.padded_length * group.num_sentences or group.num_tokens
    encoder = 3 * encode_flop(config, word_size) - 2 * 8 * config.hidden_size * word_size
    decoder = 3 * (8 * config.decoder_dimension**2 + 2 * config.decoder_dimension * word_size)
    once = 3 * (8 * config.decoder_dimension * config.code_dimension) * group.num_sentences
    softmax = 0.0
    if config.reconstruction == "softmax":
        softmax = 3 * 2 * min(config.decoder_dimension, word_size) * len(group.candidates_C) * group_tokens
    return (encoder + decoder) * group_tokens + once + softmax


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
    """Time functions that together handle `num` sentences in `flop` useful operations, and print a row."""
    before, seconds = peak(clock, precision), sum(clock(run) for run in runs)
    peak_flops = max(before, peak(clock, precision))
    print(
        f"{name:44} {precision} {num / seconds:11,.0f} sentences/s {flop / seconds / 1e9:9,.1f} GFLOP/s, "
        f"{flop / seconds / peak_flops:4.2f} of the peak of {peak_flops / 1e9:,.0f}",
        flush=True,
    )


def bench_encode(clock: Clock, precisions: list[str], num: int) -> None:
    vocabulary = Vocabulary(["<pad>", "<unk>", *(f"w{n}" for n in range(VOCABULARY_SIZE - 2))], COUNTS)
    sentences = Corpus().sentences(num, 1, 64)
    tokens = sum(map(len, sentences))
    batch_tokens = 16_384 if clock.device == "cpu" else 262_144
    for name, config, word_size in (
        ("default", default(), 300),
        ("original masked", MASKED, 128),
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


def bench_keras(clock: Clock, precisions: list[str], num: int, python: str, path: str | None) -> None:
    """Compare `encode`, from text to vectors, with `predict` of the original encoder in Keras on padded word vectors."""
    words = [f"w{n}" for n in range(VOCABULARY_SIZE - 2)]
    texts = [" ".join(words[n - 2] for n in ids) for ids in Corpus().sentences(num, 1, 64)]
    if path:
        texts = Path(path).read_text(encoding="utf-8").splitlines()
        most = Counter(word for text in texts for word in tokenize([text], "default")[0].as_py())
        words[: len(most)] = [word for word, _ in most.most_common(len(words))]
    vocabulary = Vocabulary(["<pad>", "<unk>", *words], COUNTS)
    script = Path(__file__).with_name("keras_predict.py")
    model, best = make_model(MASKED, 128), 0.0
    for _ in range(2):
        output = subprocess.run([python, str(script)], capture_output=True, text=True, check=True).stdout
        best = max(best, float(output.rpartition("KERAS ")[2]))
    print(f"{'predict in Keras on TensorFlow':44} fp32 {best:11,.0f} sentences/s")
    for precision in precisions:
        encoder = SentenceEncoder(model, vocabulary, {"profile": "default"}, precision=precision)
        rate = len(texts) / clock(functools.partial(encoder.encode, texts))
        print(
            f"{'encode original masked, from text':44} {precision} {rate:11,.0f} sentences/s, {rate / best:.1f} times Keras"
        )


def bench_train(clock: Clock, precisions: list[str], groups_at_once: int) -> None:
    runs = [
        ("default", default(), 300, 128),
        ("original masked", MASKED, 128, 64),
        ("original padded", original(), 128, 64),
    ]
    if clock.device != "cpu":
        runs.append(("large", large(), 300, 128))
    for name, config, word_size, size in runs:
        groups = Corpus().groups(config, 12 * groups_at_once, size)
        # A few groups from short to long, so that a round is quick and stands for the corpus.
        passes = [groups[n : n + groups_at_once] for n in range(groups_at_once, len(groups), 4 * groups_at_once)]
        used = [group for one in passes for group in one]
        num = sum(group.num_sentences for group in used)
        flop = sum(train_flop(config, word_size, group) for group in used)
        for precision in precisions:
            model = make_model(config, word_size).to(clock.device)
            steps = training_steps(model, config, passes, clock.device, PRECISIONS[precision])
            report(clock, f"train {name}, groups of {size}", precision, num, flop, steps)
        if clock.device == "cpu":
            with library_lstm():
                steps = training_steps(make_model(config, word_size), config, passes, "cpu", torch.float32)
                report(clock, f"train {name}, groups of {size}, nn.LSTM", "fp32", num, flop, steps)


def training_steps(
    model: Autoencoder, config: ModelConfig, passes: list[list[Group]], device: str, dtype: torch.dtype
) -> list[Callable[[], None]]:
    """Return for each pass a function that makes one optimiser step with it."""
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3, fused=True)

    def step(batch: Batch) -> None:
        with torch.autocast(device.split(":")[0], dtype, enabled=dtype != torch.float32):
            losses = model(batch)
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return [functools.partial(step, collate(groups, config.padded_length).to(device)) for groups in passes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=4.0, help="seconds a figure is measured for")
    parser.add_argument("--only", choices=["encode", "train", "keras"])
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
    if arguments.only in (None, "train"):
        bench_train(clock, [p for p in precisions if p != "fp16"], 1 if on_cpu else 32)


if __name__ == "__main__":
    main()
