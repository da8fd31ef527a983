"""What a GPU does: tests, rates beside the machine's peak, and all jobs that can use it. Started by `gpu.sh`.

Every section runs in a process of its own within a limit of time; what one fails with is in the report, and the exit code is 1
then. `OUTPUT/gpu.json` and `OUTPUT/gpu.md` hold all figures; `--only` adds to those that are there, and finds corpus and model
there. Without a GPU everything is small, runs on the CPU, and is no measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import bench_model
from processes import ROOT, log_of, start_training, wait_for

from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.embed import embed
from lstm_embed.evaluation.baselines import Tokens
from lstm_embed.evaluation.corpora import token_set_sentences
from lstm_embed.evaluation.decoding import figures
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.stages.session import ray_session
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.run import STEP, RunFolder, read_metrics
from lstm_embed.training.trainer import train

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
PRECISIONS = ("fp32", "bf16", "fp16") if GPU else ("fp32",)
MOST_SECONDS, PATIENCE = 480.0, 1 if GPU else 3
"""Of all sections together, so that ten minutes are enough to unpack the wheels too; and a factor on all limits."""
DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
EPOCHS = "15" if GPU else "2"
TRAIN_SECONDS, PROBE_STEPS, NUM_DECODED, COPIES = (90.0, 150, 200, 40) if GPU else (15.0, 12, 20, 1)
MOVED_STEPS = (60, 70, 130) if GPU else (6, 12, 18)
"""Steps after which a run goes from the GPU to the CPU, and back, and where it ends."""

Figures = dict[str, Any]


def run_job(name: str, *arguments: str) -> float:
    """Run a job as a user does; return its seconds.

    Raises:
        RuntimeError: if it fails, with what it said last.
    """
    begun = time.monotonic()
    command = [sys.executable, str(ROOT / "jobs" / f"{name}.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.monotonic() - begun


def training(folder: Path, name: str, **changes: Any) -> TrainingConfig:
    """Return the config of a new run on the corpus of the section before; it validates as it ends."""
    shutil.rmtree(folder / "runs" / name, ignore_errors=True)
    values = {"num_workers": "1", "epochs": 1000, "validate_steps": 0, "log_steps": 5, "gpu": GPU, **changes}
    data = {"tokens": str(folder / "tokens"), "vectors": str(folder / "vectors"), "storage": str(folder / "runs")}
    return TrainingConfig.for_preset("default", **data, run_name=name, **values)


def steady(config: TrainingConfig) -> Figures:
    """Return the figures of a run, without the first third of its steps."""
    rows = read_metrics(RunFolder.of(config).path)
    late = [row for row in rows if row[STEP] > rows[-1][STEP] / 3]
    names = ("sentences_per_second", "tokens_per_second", "data_wait_fraction", "padding_efficiency")
    means = {name: statistics.fmean(row[f"train/{name}"] for row in late) for name in names}
    measured = {name: value for name, value in rows[-1].items() if name.startswith("val/")}
    peak = max(row["train/peak_memory_mib"] for row in rows)
    return {"steps": rows[-1][STEP], **means, "peak_memory_mib": peak, "loss": rows[-1]["train/loss"], **measured}


def measure_tests(folder: Path, dump: str) -> Figures:
    """Run the tests of the model on the GPU, and those of its parts."""
    files = ("test_model_cuda.py", "test_model_lstm.py", "test_model_order.py")
    report = folder / "tests.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    done = subprocess.run(
        [*command, *(str(ROOT / "tests" / name) for name in files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stdout[-4000:] + done.stderr[-1000:])
    suite = next(ET.parse(report).getroot().iter("testsuite")).attrib
    return {name: int(suite[name]) for name in ("tests", "skipped")}


def make_corpus(folder: Path, dump: str) -> Figures:
    """Make articles, token set and word vectors; no GPU is used."""
    articles, tokens, vectors = (str(folder / name) for name in ("articles", "tokens", "vectors"))
    words = ("--tokens", tokens, "--output", vectors, "--dimension", "100", "--epochs", EPOCHS, "--sample", "1e-3")
    return {
        "extract_seconds": run_job("extract", "--input", dump, "--output", articles),
        "prepare_seconds": run_job("prepare", "--input", articles, "--output", tokens, "--holdout-every", "20"),
        "word_vectors_seconds": run_job("word_vectors", *words, "--workers", "4" if GPU else "2"),
        "sentences": TokenSet.open(tokens).num_rows,
    }


def measure_rates(folder: Path, dump: str) -> Figures:
    """Time the bare model beside matrix products, and the library's LSTM alone in every precision."""
    clock = bench_model.Clock(DEVICE, 1.0 if GPU else 0.1)
    bench_model.bench_encode(clock, list(PRECISIONS), 400_000 if GPU else 300)
    # Training knows no fp16.
    bench_model.bench_train(clock, [one for one in PRECISIONS if one != "fp16"], 32 if GPU else 1)
    rates = {f"{row.pop('name')}, {row.pop('precision')}": row for row in bench_model.ROWS}
    rows, steps = (1024, 32) if GPU else (32, 8)
    for precision in PRECISIONS:
        lstm = torch.nn.LSTM(300, 512).to(DEVICE, bench_model.PRECISIONS[precision])
        inputs = torch.randn(steps, rows, 300, device=DEVICE, dtype=bench_model.PRECISIONS[precision])
        seconds = clock(lambda lstm=lstm, inputs=inputs: lstm(inputs)[0].sum().backward())
        rates[f"nn.LSTM, 512 units, forward and backward, {precision}"] = {"sentences_per_second": rows / seconds}
    return rates


def measure_training(folder: Path, dump: str) -> Figures:
    """Train for some minutes on Ray; the steps that fit into them are known from a short run."""
    probe = training(folder, "probe", max_steps=PROBE_STEPS)
    with ray_session():
        train(probe)
        times = [(row[STEP], row["time"]) for row in read_metrics(RunFolder.of(probe).path)]
        late = times[len(times) // 3 :]
        steps_per_second = (late[-1][0] - late[0][0]) / (late[-1][1] - late[0][1])
        steps = max(PROBE_STEPS, int(TRAIN_SECONDS * steps_per_second))
        config = training(folder, "gpu", max_steps=steps, validate_steps=max(1, steps // 4))
        train(config)
    found = steady(config)
    in_place = {
        int(row[STEP]): row["val/words_in_place"]
        for row in read_metrics(RunFolder.of(config).path)
        if "val/words_in_place" in row
    }
    return {**found, "words_in_place_by_step": in_place}


def measure_decoding(folder: Path, dump: str) -> Figures:
    """Decode vectors of held-out sentences that each precision made."""
    model, tokens = str(folder / "runs" / "gpu" / "model"), TokenSet.open(str(folder / "tokens"))
    texts = token_set_sentences(tokens, tokens.num_rows, held_out=True, min_tokens=4).texts
    texts = texts[:: max(1, len(texts) // NUM_DECODED)][:NUM_DECODED]
    found = {}
    for embedding in ("exact", "joined"):
        for precision in PRECISIONS:
            encoder = SentenceEncoder.load(model, DEVICE, precision, embedding)
            read = Tokens(encoder.vocabulary, encoder.tokenizer["profile"]).read(texts, encoder.max_tokens)
            vectors = encoder.encode(texts)
            encoder.decode(vectors[:5])
            begun = time.perf_counter()
            made = [(one.words, one.proven) for one in encoder.decode(vectors)]
            rate = len(texts) / (time.perf_counter() - begun)
            found[f"{embedding}, {precision}"] = {"sentences_per_second": rate, **figures(read, made)}
    return found


def measure_embedding(folder: Path, dump: str) -> Figures:
    """Embed copies of the corpus with one actor."""
    copies = folder / "copies"
    if not copies.exists():
        copies.mkdir()
        parts = [path for path in (folder / "articles" / "parts").rglob("*") if path.is_file()]
        for number in range(COPIES):
            for path in parts:
                shutil.copy(path, copies / f"{number:03}-{path.name}")
    found = {}
    with ray_session():
        for precision in PRECISIONS:
            output = folder / "embeddings" / precision
            shutil.rmtree(output, ignore_errors=True)
            summary = embed(
                EmbedConfig(
                    model=str(folder / "runs" / "gpu" / "model"),
                    input=(str(copies),),
                    output=str(output),
                    num_workers="1",
                    gpu=GPU,
                    precision=precision,
                )
            )
            found[precision] = {"sentences": summary.rows, "sentences_per_second": summary.rows / summary.seconds}
    return found


def move_run(folder: Path, dump: str) -> Figures:
    """Stop a run on the GPU, continue it on the CPU, stop it there and end it on the GPU."""
    to_cpu, back, end = MOVED_STEPS
    config = training(
        folder, "moving", max_steps=end, log_steps=1, validation_sentences=512, precision="bf16" if GPU else "fp32"
    )
    path = RunFolder.of(config).path
    for gpu, until in ((GPU, to_cpu), (False, back)):
        job = start_training(dataclasses.replace(config, gpu=gpu), folder)
        wait_for(lambda job=job, until=until: job.poll() is not None or len(read_metrics(path)) >= until, 90, "steps")
        if job.poll() is None:
            os.kill(job.pid, signal.SIGTERM)
        if job.wait(60) != 130:
            raise RuntimeError(f"the job ended with {job.returncode}: {log_of(config, folder)[-2000:]}")
    if code := start_training(config, folder).wait(120):
        raise RuntimeError(f"the job ended with {code}: {log_of(config, folder)[-2000:]}")
    rows = read_metrics(path)
    assert [row[STEP] for row in rows] == list(range(1, end + 1)), "a step is missing, or there twice"
    return {"steps": end, "first_loss": rows[0]["train/loss"], "last_loss": rows[-1]["train/loss"]}


def share_gpu(folder: Path, dump: str) -> Figures:
    """Train with two workers that share a GPU, which Ray Train can and NCCL commonly refuses, beside one worker."""
    import ray.train.torch

    found: Figures = {}
    whole = ray.train.torch.TorchTrainer
    for backend in ("nccl", "gloo") if GPU else ("gloo",):
        config = training(folder, f"two-{backend}", max_steps=PROBE_STEPS, num_workers="2", max_failures=0)

        def halved(*arguments: Any, scaling_config: Any, backend: str = backend, **more: Any) -> Any:
            half = {"CPU": 1, **({"GPU": 0.5} if GPU else {})}
            scaling = dataclasses.replace(scaling_config, resources_per_worker=half)
            torch_config = ray.train.torch.TorchConfig(backend=backend, timeout_s=60)
            return whole(*arguments, scaling_config=scaling, torch_config=torch_config, **more)

        with (
            mock.patch("ray.train.torch.TorchTrainer", halved),
            mock.patch("lstm_embed.training.trainer._check_resources"),
            ray_session(),
        ):
            try:
                train(config)
                found[backend] = steady(config)
            except Exception as error:  # what it says is the finding
                found[backend] = {"refused": " ".join(str(error).split())[-300:]}
    if not any("steps" in one for one in found.values()):
        raise RuntimeError(json.dumps(found))
    return found


Section = Callable[[Path, str], Figures]
SECTIONS: dict[str, tuple[Section, float]] = {
    "tests": (measure_tests, 90),
    "corpus": (make_corpus, 120),
    "rates": (measure_rates, 130),
    "training": (measure_training, 220),
    "decoding": (measure_decoding, 60),
    "embedding": (measure_embedding, 90),
    "moved": (move_run, 150),
    "two workers": (share_gpu, 120),
}
"""Functions that are given the output folder and the dump, and the seconds that each may take."""


def run_section(name: str, arguments: argparse.Namespace, seconds: float) -> Figures:
    """Run a section in a process of its own; return its figures, or the error, and its seconds."""
    begun, result = time.monotonic(), Path(arguments.output, f"{name}.json")
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--output", arguments.output, "--input", arguments.input, "--section", name]
    found: Figures
    with open(Path(arguments.output, f"{name}.log"), "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            process.wait(max(1.0, seconds))
            ended = f"it ended with {process.returncode}"
        except subprocess.TimeoutExpired:
            # The section's own processes, in a group of their own.
            os.killpg(process.pid, signal.SIGKILL)
            ended = f"it took longer than {seconds:.0f} s"
    if result.exists():
        found = json.loads(result.read_text())
    else:
        said = Path(log.name).read_text(errors="replace").strip().splitlines()[-15:]
        found = {"error": f"{ended}: " + "\n".join(said)}
    return {**found, "seconds": time.monotonic() - begun}


def machine() -> Figures:
    """Return what was measured on."""
    facts: Figures = {"device": "no GPU: nothing here is a measurement", "cpus": os.cpu_count()}
    if GPU:
        facts |= {"device": torch.cuda.get_device_name(), "cudnn": torch.backends.cudnn.version()}
    return {**facts, "torch": torch.__version__, "python": sys.version.split()[0]}


def table(report: Figures) -> Iterator[str]:
    """Yield the lines of the table of all figures."""
    yield "| section | what | figure |"
    yield "| --- | --- | --- |"

    def rows(what: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for name, inner in value.items():
                yield from rows(f"{what}: {name}" if what else str(name), inner)
        else:
            yield what, f"{value:,.4g}" if isinstance(value, float) else " ".join(str(value).split())

    for section, found in report.items():
        for what, figure in rows("", found):
            yield f"| {section} | {what} | {figure} |"


def main() -> None:
    """Run all sections, or the one that a process of its own is for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="folder of all results")
    parser.add_argument("--input", default="", help="MediaWiki dump (default: that which gensim ships with)")
    parser.add_argument("--wheels", help="folder of wheels, which gpu.sh has unpacked")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections to run")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.output = os.path.abspath(arguments.output)
    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    if not arguments.input:
        from gensim.test.utils import datapath

        arguments.input = datapath(DUMP)
    if arguments.section:
        found = SECTIONS[arguments.section][0](folder, arguments.input)
        Path(folder, f"{arguments.section}.json").write_text(json.dumps(found))
        return
    kept, end = folder / "gpu.json", time.monotonic() + PATIENCE * MOST_SECONDS
    report = {**(json.loads(kept.read_text()) if kept.exists() else {}), "machine": machine()}
    for name in arguments.only:
        report[name] = run_section(name, arguments, min(PATIENCE * SECTIONS[name][1], end - time.monotonic()))
        print(name, json.dumps(report[name]), flush=True)
        kept.write_text(json.dumps(report, indent=1))
    lines = "\n".join(table(report))
    Path(folder, "gpu.md").write_text(lines + "\n")
    print(lines)
    sys.exit(any("error" in report[name] for name in arguments.only))


if __name__ == "__main__":
    main()
