"""What more sentences bring to word vectors, and what they cost.

    python tests/benchmarks/bench_word_vectors.py --tokens TOKENS --output FOLDER --sts STS/*.tsv --counts 75000 150000 0

For each count (0: all) `jobs/word_vectors.py` trains on that many sentences, taken evenly from the token set; then the
similarity sets are scored by `meaning`, which needs nothing else that is trained by steps. Prints a row a count. Folders that
are there already are not trained again; the rate is that of the last epoch. Flags of the job are passed on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import bench_recipe

JOB = Path(__file__).resolve().parents[2] / "jobs" / "word_vectors.py"


def train(tokens: str, output: Path, count: int, flags: list[str]) -> dict[str, float]:
    """Train on so many sentences; return the last epoch's figures."""
    command = [sys.executable, str(JOB), "--tokens", tokens, "--output", str(output), "--max-sentences", str(count)]
    subprocess.run([*command, *flags], check=True, stdout=sys.stderr)
    epochs = json.loads((output / "report.json").read_text())["epochs"]
    return epochs[-1] | {"seconds": sum(epoch["seconds"] for epoch in epochs)}


def main() -> None:
    """Train and score each count, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--output", required=True, help="folder for the word vectors, one a count")
    parser.add_argument("--sts", nargs="+", required=True)
    parser.add_argument("--counts", type=int, nargs="+", default=[75_000, 150_000, 300_000, 0])
    arguments, flags = parser.parse_known_args()
    print(
        "| sentences | words an epoch | similarity by `meaning` | seconds | words/s |\n| --- | --- | --- | --- | --- |"
    )
    for count in arguments.counts:
        folder = Path(arguments.output) / (str(count) if count else "all")
        epoch = train(arguments.tokens, folder, count, flags)
        scored = argparse.Namespace(
            tokens=arguments.tokens, vectors=str(folder), sts=arguments.sts, classification=[], sentences=0, steps=1
        )
        score = bench_recipe.measure("", scored, 0)["meaning"]
        cells = (f"{count:,}" if count else "all", f"{epoch['words']:,.0f}", f"{score:.2f}")
        print(f"| {' | '.join(cells)} | {epoch['seconds']:,.0f} | {epoch['words_per_second']:,.0f} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
