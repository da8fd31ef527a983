"""How many sentences come back out of their vectors, how fast, and whether what is called proven ever is wrong.

    python tests/benchmarks/bench_decoding.py --model MODEL --tokens TOKENS [--sentences 400] [--random 100000]

The sentences are of the token set's held-out articles. The first row takes them as they come, the others by length; those that
are longer than the model reads stand in a row of their own, where only the words count that it does read. Vectors are stored in
half precision and read back from parquet. Beside `exact` and `joined`, which is the LSTM alone, stand what is left without a
part, and what to beat. Speeds are sentences a second of CPU time on one thread.

`--random N` decodes `exact` vectors of N random sequences of 1 to 64 pieces, evenly and by frequency, with and without
repeats, half of them disturbed by noise of several sizes. It ends with an error if an answer that is called proven is wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.embedding.vectors import embedding_field, parquet_options, read_vectors
from lstm_embed.evaluation.baselines import Tokens
from lstm_embed.evaluation.corpora import token_set_sentences
from lstm_embed.evaluation.decoding import (
    ALL,
    Answer,
    Decode,
    figures,
    most_frequent_word,
    nearest_sentence,
    rows_by_length,
)
from lstm_embed.model.batch import FIRST_WORD
from lstm_embed.model.encoder import SentenceEncoder

NOISE = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3)
"""Length of the disturbance as a share of the vector's."""
CHUNK = 500
TRAINING_SENTENCES = 10_000


Ids = np.ndarray


def through_parquet(vectors: np.ndarray) -> np.ndarray:
    """Return vectors as they come back from a file in half precision."""
    field = embedding_field("float16", vectors.shape[1])
    flat = pa.array(np.ascontiguousarray(vectors, "float16").reshape(-1))
    table = pa.table([pa.FixedSizeListArray.from_arrays(flat, type=field.type)], pa.schema([field]))
    with tempfile.NamedTemporaryFile(suffix=".parquet") as file:
        pq.write_table(table, file.name, **parquet_options(table, CHUNK))
        return np.concatenate([matrix for _, matrix in read_vectors(file.name, [])])


def methods_of(model: str, tokens: TokenSet) -> dict[str, Callable[[Sequence[str]], tuple[list[Answer], float]]]:
    """Return what is measured: each takes texts and returns what came back and the seconds that decoding took."""
    exact, joined = (SentenceEncoder.load(model, embedding=name) for name in ("exact", "joined"))
    words = Tokens(exact.vocabulary, exact.tokenizer["profile"])
    order = slice(exact.model.embedding_dimension("meaning"), joined.embedding_dimension - 2)

    def decoded(encoder: SentenceEncoder, vectors: np.ndarray) -> tuple[list[Answer], float]:
        stored = through_parquet(vectors)
        begin = time.process_time()
        found = encoder.decode(stored)
        return [(one.words, one.proven) for one in found], time.process_time() - begin

    def without_order(texts: Sequence[str]) -> tuple[list[Answer], float]:
        vectors = exact.encode(texts)
        vectors[:, order] = 0.0
        return decoded(exact, vectors)

    def words_alone(texts: Sequence[str]) -> tuple[list[Answer], float]:
        found, seconds = decoded(exact, exact.encode(texts))
        return [(sorted(some, key=exact.vocabulary.id), None) for some, _ in found], seconds

    def untimed(decode: Decode) -> Callable[[Sequence[str]], tuple[list[Answer], float]]:
        return lambda texts: (decode(texts), 0.0)

    known = token_set_sentences(tokens, TRAINING_SENTENCES, held_out=False).texts
    for encoder in (exact, joined):  # the first call makes tables
        encoder.reconstruct(known[:10])
    return {
        "exact": lambda texts: decoded(exact, exact.encode(texts)),
        "joined, the LSTM alone": lambda texts: decoded(joined, joined.encode(texts)),
        "exact without the LSTM's order": without_order,
        "words alone, the most frequent first": words_alone,
        "most frequent word": untimed(most_frequent_word(words, exact.max_tokens)),
        "nearest of 10,000 training sentences": untimed(nearest_sentence(known, joined.encode, words)),
    }


def print_table(arguments: argparse.Namespace) -> None:
    """Measure all methods on held-out sentences, by length."""
    tokens = TokenSet.open(arguments.tokens)
    methods = methods_of(arguments.model, tokens)
    encoder = SentenceEncoder.load(arguments.model)
    words = Tokens(encoder.vocabulary, encoder.tokenizer["profile"])
    texts = token_set_sentences(tokens, tokens.num_rows, held_out=True, min_tokens=1).texts
    written, read = words.words(texts), words.read(texts, encoder.max_tokens)
    print("| words | sentences | vector | exact, % | words in place, % | proven, % | of these right, % | sentences/s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    rows = rows_by_length(written, read)
    rows[ALL] = [i for i in rows[ALL] if 4 <= len(read[i]) <= 32]
    for row, numbers in rows.items():
        some = numbers[:: max(1, len(numbers) // arguments.sentences)][: arguments.sentences]
        for name, method in methods.items():
            made, seconds = method([texts[i] for i in some])
            found = figures([read[i] for i in some], made)
            shares = " | ".join("" if share is None else f"{share:.2f}" for share in found.values())
            speed = f"{len(some) / seconds:,.0f}" if seconds else ""
            print(f"| {'4-32' if row == ALL else row} | {len(some)} | {name} | {shares} | {speed} |", flush=True)


def random_sequences(vocabulary: Vocabulary, number: int, rng: np.random.Generator) -> list[Ids]:
    """Return sequences of 1 to 64 pieces: evenly drawn or by frequency, half of them with many repeats."""
    p = vocabulary.counts[FIRST_WORD:] / vocabulary.counts[FIRST_WORD:].sum()
    sequences = []
    for n in rng.integers(1, 65, number):
        ids = rng.choice(len(p), n, p=p if rng.random() < 0.5 else None) + FIRST_WORD
        # Half of the sequences draw again from a few of their pieces.
        sequences.append(rng.choice(ids[: rng.integers(1, n + 1)], n) if rng.random() < 0.5 else ids)
    return sequences


def check_proofs(model: str, number: int) -> int:
    """Decode disturbed vectors of random sequences, print how many are right and proven; return the wrong proofs."""
    encoder = SentenceEncoder.load(model, embedding="exact")
    counts = {size: np.zeros(4, np.int64) for size in (0.0, *NOISE)}
    rng = np.random.default_rng(0)
    for start in range(0, number, CHUNK):
        sequences = random_sequences(encoder.vocabulary, min(CHUNK, number - start), rng)
        vectors = encoder.encode_ids(sequences)
        sizes = np.where(rng.random(len(vectors)) < 0.5, 0.0, rng.choice(NOISE, len(vectors)))
        noise = rng.normal(size=vectors.shape) * np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors += (sizes[:, None] * noise / np.sqrt(vectors.shape[1])).astype(np.float32)
        if start // CHUNK % 4:  # most in half precision
            vectors = through_parquet(vectors)
        for ids, size, found in zip(sequences, sizes, encoder.decode(vectors), strict=True):
            right = found.words == tuple(encoder.vocabulary.words(ids))
            counts[size] += (1, right, found.proven, found.proven and not right)
        done = sum(counts.values())
        print(f"{done[0]:,} sequences, {done[3]} wrong but proven", file=sys.stderr, flush=True)
    print("| disturbed by | sequences | right | proven | wrong but proven | right but not proven |")
    print("| --- | --- | --- | --- | --- | --- |")
    for size, (all_, right, proven, wrong) in counts.items():
        print(f"| {size:g} | {all_:,} | {right:,} | {proven:,} | {wrong} | {right - proven + wrong:,} |")
    return int(sum(counts.values())[3])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--tokens", default="", help="token set; without it only --random is done")
    parser.add_argument("--sentences", type=int, default=400, help="most sentences of each row")
    parser.add_argument("--random", type=int, default=0, help="random sequences of pieces")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.tokens:
        print_table(arguments)
    if arguments.random and check_proofs(arguments.model, arguments.random):
        sys.exit("error: an answer that is proven was wrong")


if __name__ == "__main__":
    main()
