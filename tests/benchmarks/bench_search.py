"""Search against reading alone: exact top-k should cost little more than decoding the vectors. Prints ratios of one run.

python tests/benchmarks/bench_search.py [--rows 200000] [--dimension 620]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from synthetic import write_manifest

from lstm_embed.embedding.search import search
from lstm_embed.embedding.vectors import KIND, Embeddings, VectorFormat, read_vectors, unit_rows, write_vectors
from lstm_embed.ledger import PartStore
from lstm_embed.ledger.parts import PartInfo

PART_ROWS = 32_768


def write(path: str, rows: int, dimension: int, dtype: str) -> Embeddings:
    """Write random vectors as embed writes them."""
    rng = np.random.default_rng(0)
    store = PartStore(path, "f")
    made = VectorFormat(
        level="sentence", dtype=dtype, normalize=False, text=False, empty="zero", row_group_rows=8192, columns=()
    )
    records = []
    for number in range(-(-rows // PART_ROWS)):
        count = min(PART_ROWS, rows - number * PART_ROWS)
        records.append(store.record(number, 0, last=True, rows=count, input_digest=""))
        table = pa.table({"sentence": np.arange(count, dtype=np.int32)})
        write_vectors(
            store, records[-1], table, np.tanh(rng.normal(size=(count, dimension))).astype(np.float32), made, {}
        )
    settings = {"kind": KIND, "embedding": "joined", "precision": "fp32", "vectors": {"level": "sentence"}}
    write_manifest(path, KIND, records, model="m", settings=settings)
    return Embeddings(path)


def read_all(embeddings: Embeddings) -> None:
    def read(part: PartInfo) -> None:
        for _ in read_vectors(part, ()):
            pass

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(read, embeddings.parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimension", type=int, default=620)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    for dtype in ("float32", "float16"):
        with tempfile.TemporaryDirectory(prefix="bench-search-") as folder:
            embeddings = write(folder, given.rows, given.dimension, dtype)
            read_all(embeddings)  # into the page cache
            wall, cpu = time.time(), time.process_time()
            read_all(embeddings)
            read_wall, read_cpu = time.time() - wall, time.process_time() - cpu
            megabytes = given.rows * given.dimension * 4 / 1e6
            print(f"{dtype}: reading {megabytes / read_wall:,.0f} MB/s (as float32), {read_cpu:.2f} CPU s")
            for queries in (1, 10, 100):
                vectors = unit_rows(rng.normal(size=(queries, given.dimension)).astype(np.float32))
                wall, cpu = time.time(), time.process_time()
                search(embeddings, vectors, 10)
                wall, cpu = time.time() - wall, time.process_time() - cpu
                print(
                    f"  {queries} queries: {wall:.2f} s, reading / search {read_wall / wall:.2f} wall, "
                    f"{read_cpu / cpu:.2f} CPU"
                )


if __name__ == "__main__":
    main()
