"""What happens to clusters, lived through: a head and two more nodes as processes, jobs through the job API, data in S3.

Each test ends with the right output and prints how long it took from the fault until the work went on.
"""

from __future__ import annotations

import bz2
import itertools
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cluster_tools import RAY, SUBMIT, LocalCluster, client, running_cluster, start_client, write_articles
from gensim.test.utils import datapath

from lstm_embed.base import storage
from lstm_embed.corpus.token_set import TokenSet

from conftest import json_of, run_job

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

STORE = "s3://bucket/cluster"
ENGLISH_DUMP = "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
SMALL_MODEL = ("--model.hidden-size", "32", "--model.order-size", "48", "--micro-batch-sentences", "32")
PREPARE = ("--unit-bytes", "150000")


@pytest.fixture(scope="module")
def cluster(s3_server: str) -> Iterator[LocalCluster]:
    with running_cluster(workers=2, cpus=2) as started:
        yield started


@pytest.fixture(autouse=True)
def whole(cluster: LocalCluster) -> None:
    """Bring the cluster back to a head and two workers, as an autoscaler would."""
    while len(cluster.nodes) < 3:
        cluster.add(cpus=2)


@pytest.fixture(scope="module")
def articles(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A few MB, of which prepare makes some 20 units."""
    return write_articles(tmp_path_factory.mktemp("corpus") / "in", files=8, articles=400, sentences=20, words=500)


@pytest.fixture(scope="module")
def dump(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The English dump several times over, as Wikimedia writes multistream ones: of some 30 units."""
    xml = bz2.decompress(Path(datapath(ENGLISH_DUMP)).read_bytes())
    starts = [match.start() for match in re.finditer(rb"  <page>\n", xml)]
    cuts = [0, *starts[::20], xml.index(b"</mediawiki>"), len(xml)]
    head, *pages, foot = [bz2.compress(xml[begin:stop]) for begin, stop in itertools.pairwise(cuts)]
    path = tmp_path_factory.mktemp("dump") / "enwiki-pages-articles-multistream.xml.bz2"
    path.write_bytes(b"".join([head, *pages * 3, foot]))
    return str(path)


@pytest.fixture(scope="module")
def model(cluster: LocalCluster, articles: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Everything up to a model."""
    log = tmp_path_factory.mktemp("log") / "log"
    tokens, vectors = f"{STORE}/tokens", f"{STORE}/vectors"
    jobs = [
        ["--", "python", "jobs/prepare.py", "--input", articles, "--output", tokens, *PREPARE],
        [
            *("--entrypoint-num-cpus", "1", "--", "python", "jobs/word_vectors.py", "--tokens", tokens),
            *("--output", vectors, "--dimension", "32", "--epochs", "1", "--workers", "1"),
        ],
        ["--", "python", "jobs/train.py", *training("first", steps=30)],
    ]
    for job in jobs:
        client(cluster, log, *SUBMIT, *job, timeout=900)
    return f"{STORE}/runs/first/model"


def training(run: str, *, steps: int, workers: str = "2") -> list[str]:
    return [
        *(
            "--tokens",
            f"{STORE}/tokens",
            "--vectors",
            f"{STORE}/vectors",
            "--storage",
            f"{STORE}/runs",
            "--run-name",
            run,
        ),
        *("--num-workers", workers, "--max-steps", str(steps), "--checkpoint-every", "20", "--log-steps", "5"),
        *("--validation-sentences", "256", *SMALL_MODEL),
    ]


def wait_until(found: Callable[[], bool], what: str, process: subprocess.Popen[bytes] | None = None) -> float:
    """Wait; return the seconds it took."""
    begun = time.monotonic()
    while not found():
        assert process is None or process.poll() is None, f"the job ended before {what}"
        assert time.monotonic() - begun < 900, f"waited for {what} in vain"
        time.sleep(0.3)
    return time.monotonic() - begun


def num_parts(folder: str) -> int:
    return len(storage.list_files(storage.join(folder, "parts")))


def steps_of(run: str) -> list[int]:
    """Return the steps in a run's metrics, in the order in which they were made."""
    try:
        lines = storage.read_bytes(f"{STORE}/runs/{run}/metrics.jsonl").splitlines()
    except FileNotFoundError:
        return []
    return [int(row["train/step"]) for row in map(json.loads, lines) if "train/step" in row]


def last_step(run: str) -> int:
    """Return the newest step in a run's metrics; 0 for none."""
    return (steps_of(run) or [0])[-1]


def checkpoints_of(run: str) -> list[int]:
    paths = [file.path for file in storage.list_files(f"{STORE}/runs/{run}")]
    return sorted({int(match[1]) for path in paths if (match := re.search(r"/step_(\d+)/", path))})


def same_parts(folder: str, reference: str) -> bool:
    """Tell whether two folders hold the same parts, byte by byte."""
    here, there = (
        {
            storage.name(file.path): storage.read_bytes(file.path)
            for file in storage.list_files(storage.join(path, "parts"))
        }
        for path in (folder, reference)
    )
    return bool(here) and here == there


def driver_of(job: str, run: str) -> int:
    """Return the process of a job's driver; its run or output is named `run`."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [f"jobs/{job}.py".encode()] and run.encode() in b" ".join(words):
            return int(entry.parent.name)
    raise AssertionError(f"no driver of {job} {run}")


def say(what: str, seconds: float) -> None:
    print(f"\n{what}: {seconds:.0f} s", flush=True)


def test_the_whole_way_ends_with_scores(cluster: LocalCluster, articles: str, model: str, tmp_path: Path) -> None:
    output = f"{STORE}/embeddings"
    job = ["jobs/embed.py", "--model", model, "--input", f"{STORE}/tokens", "--output", output]
    client(cluster, tmp_path / "log", *SUBMIT, "--", "python", *job, timeout=900)
    scores = ["jobs/evaluate.py", "--model", model, "--output", f"{STORE}/scores", "--embeddings", output]
    quick = ["--num-queries", "50", "--bootstrap", "0", "--num-decoded", "50", "--tokens", f"{STORE}/tokens"]
    options = ["--entrypoint-num-cpus", "1", "--"]
    client(cluster, tmp_path / "log", *SUBMIT, *options, "python", *scores, *quick, timeout=900)
    assert storage.exists(f"{STORE}/scores/results.json")
    rows = TokenSet.open(f"{STORE}/tokens").num_rows
    assert json_of(f"{output}/manifest.json")["rows"] == rows
    again = client(cluster, tmp_path / "again", *SUBMIT, "--", "python", *job)
    assert "everything was done already" in again
    shown = run_job("status", output).stdout
    assert re.search(r"finished: +yes", shown)
    assert re.search(rf"rows.done: +{rows:,}", shown)


def test_a_stopped_training_goes_on_where_it_was(cluster: LocalCluster, model: str, tmp_path: Path) -> None:
    job = ["--", "python", "jobs/train.py", *training("stopped", steps=400)]
    process = start_client(cluster, tmp_path / "log", *SUBMIT, "--submission-id", "stopped", *job)
    wait_until(lambda: bool(steps_of("stopped")) and steps_of("stopped")[-1] >= 30, "step 30", process)
    begun = time.monotonic()
    client(cluster, tmp_path / "stop", RAY, "job", "stop", "stopped")
    process.wait(600)
    say("training stopped, with a checkpoint", time.monotonic() - begun)
    reached = steps_of("stopped")[-1]
    assert reached < 400
    last = checkpoints_of("stopped")[-1]
    assert last >= reached
    assert "stopping: a checkpoint is being saved" in (tmp_path / "log").read_text()
    text = client(cluster, tmp_path / "again", *SUBMIT, *job, timeout=1200)
    assert f"run stopped goes on from step {last}; 400 steps in all" in text, text
    steps = steps_of("stopped")
    assert steps[-1] == 400
    assert steps == sorted(set(steps))  # no step was made twice
    assert storage.exists(f"{STORE}/runs/stopped/model/manifest.json")


@pytest.mark.parametrize("job", ["extract", "prepare", "embed"])
def test_a_node_that_is_lost_and_one_that_comes_change_nothing_of_what_is_made(
    cluster: LocalCluster, model: str, articles: str, dump: str, tmp_path: Path, job: str
) -> None:
    flags = {
        "extract": ["--input", dump, "--unit-bytes", "150000"],
        "prepare": ["--input", articles, *PREPARE],
        "embed": ["--model", model, "--input", f"{STORE}/tokens", "--num-workers", "1:3"],
    }[job]
    output = f"{STORE}/{job}-node-lost"
    command = ["python", f"jobs/{job}.py", *flags, "--output", output]
    process = start_client(cluster, tmp_path / "log", *SUBMIT, "--", *command)

    def parts() -> int:
        return num_parts(f"{output}/staging") + num_parts(output)

    wait_until(lambda: parts() > 2, "the first parts", process)
    cluster.kill(sorted(cluster.nodes)[-1])
    before, begun = parts(), time.monotonic()
    cluster.add(cpus=2, wait=False)
    wait_until(lambda: parts() > before or process.poll() is not None, "more parts")
    say(f"{job} went on after a node was lost", time.monotonic() - begun)
    assert process.wait(900) == 0, (tmp_path / "log").read_text()
    say(f"{job} ended after that", time.monotonic() - begun)
    run_job(job, *flags, "--output", str(tmp_path / "reference"))
    assert same_parts(output, str(tmp_path / "reference"))


def test_a_node_lost_during_training_costs_the_steps_since_the_checkpoint(
    cluster: LocalCluster, model: str, tmp_path: Path
) -> None:
    options = ["--cpus-per-worker", "2", *training("node-lost", steps=200)]  # a worker fills a node
    process = start_client(cluster, tmp_path / "log", *SUBMIT, "--", "python", "jobs/train.py", *options)
    wait_until(lambda: last_step("node-lost") >= 45, "step 45", process)
    cluster.kill(sorted(cluster.nodes)[-1])
    begun = time.monotonic()
    cluster.add(cpus=2, wait=False)
    wait_until(lambda: "begin again at step" in (tmp_path / "log").read_text(), "a new start", process)
    (step,) = re.findall(r"2 workers begin again at step (\d+)", (tmp_path / "log").read_text())
    wait_until(lambda: last_step("node-lost") > int(step), "further steps", process)
    say("training went on after a node was lost", time.monotonic() - begun)
    assert int(step) >= 40
    assert process.wait(1200) == 0, (tmp_path / "log").read_text()
    steps = steps_of("node-lost")
    assert steps[-1] == 200
    assert steps == sorted(set(steps))


def test_a_node_that_is_announced_to_go_costs_no_steps(cluster: LocalCluster, model: str, tmp_path: Path) -> None:
    options = [*training("drained", steps=500), "--checkpoint-every", "100000", "--cpus-per-worker", "2"]
    process = start_client(cluster, tmp_path / "log", *SUBMIT, "--", "python", "jobs/train.py", *options)

    def shown_steps(since: str) -> list[int]:  # the metrics are in the store with the next checkpoint only
        text = (tmp_path / "log").read_text().partition(since)[2]
        return [int(step) for step in re.findall(r"(\d+)/500 steps", text)]

    wait_until(lambda: max(shown_steps("train: "), default=0) >= 30, "step 30", process)
    name, begun = sorted(cluster.nodes)[-1], time.monotonic()
    cluster.drain(name, seconds=60)
    wait_until(lambda: bool(checkpoints_of("drained")), "a checkpoint", process)
    say("a checkpoint was there after a node was announced to go", time.monotonic() - begun)
    saved = checkpoints_of("drained")[-1]
    cluster.kill(name)
    begun = time.monotonic()
    cluster.add(cpus=2, wait=False)
    wait_until(lambda: bool(shown_steps("2 workers begin again at step")), "further steps", process)
    say("training went on after the node had gone", time.monotonic() - begun)
    assert saved >= 30
    assert f"2 workers begin again at step {saved}\n" in (tmp_path / "log").read_text()
    assert process.wait(1200) == 0, (tmp_path / "log").read_text()
    steps = steps_of("drained")
    assert steps[-1] == 500
    assert steps == sorted(set(steps))


@pytest.mark.parametrize("job", ["prepare", "train"])
def test_the_command_of_a_lost_driver_goes_on_where_it_was(
    cluster: LocalCluster, model: str, articles: str, tmp_path: Path, job: str
) -> None:
    output = f"{STORE}/tokens-driver-lost"
    if job == "train":
        command = ["jobs/train.py", *training("driver-lost", steps=150)]
    else:
        command = ["jobs/prepare.py", "--input", articles, "--output", output, *PREPARE]

    def progress() -> int:
        return (
            (steps_of("driver-lost") or [0])[-1]
            if job == "train"
            else num_parts(f"{output}/staging") + num_parts(output)
        )

    process = start_client(cluster, tmp_path / "log", *SUBMIT, "--", "python", *command)
    wait_until(lambda: progress() > (45 if job == "train" else 2), "progress", process)
    os.kill(driver_of(job, "driver-lost"), signal.SIGKILL)
    begun = time.monotonic()
    assert process.wait(600) == 1
    client(cluster, tmp_path / "again", *SUBMIT, "--", "python", *command, timeout=1200)
    say(f"{job} was done after its driver was killed", time.monotonic() - begun)
    if job == "prepare":
        assert same_parts(output, f"{STORE}/tokens")
    else:
        steps = steps_of("driver-lost")
        assert steps[-1] == 150
        assert steps == sorted(set(steps))  # no step that was saved was made twice


def test_training_takes_a_node_that_comes(cluster: LocalCluster, model: str, tmp_path: Path) -> None:
    for name in [name for name in cluster.nodes if name != "head"][1:]:
        cluster.kill(name)
    elastic = ["--cpus-per-worker", "2", *training("elastic", steps=2000, workers="1:2")]
    named = ["--submission-id", "elastic", "--", "python", "jobs/train.py"]
    process = start_client(cluster, tmp_path / "log", *SUBMIT, *named, *elastic)
    wait_until(lambda: len(train_workers()) == 1 and bool(steps_of("elastic")), "one worker", process)
    begun = time.monotonic()
    cluster.add(cpus=2)
    wait_until(lambda: len(train_workers()) == 2, "a second worker", process)
    reached = steps_of("elastic")[-1]
    wait_until(lambda: steps_of("elastic")[-1] > reached, "steps of two workers", process)
    say("training went on with two workers after a node came", time.monotonic() - begun)
    client(cluster, tmp_path / "stop", RAY, "job", "stop", "elastic")
    process.wait(600)


def train_workers() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(b"ray::RayTrainWorker") and mine(entry):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def mine(process: Path) -> bool:
    """Tell whether a process belongs to this test's cluster, whose folder is in its environment."""
    return f"/tmp/lc-{os.getpid()}/".encode() in (process / "environ").read_bytes()


def test_a_new_head_goes_on_where_the_lost_one_was(cluster: LocalCluster, model: str, tmp_path: Path) -> None:
    command = [*SUBMIT, "--", "python", "jobs/train.py", *training("head-lost", steps=150)]
    process = start_client(cluster, tmp_path / "log", *command)
    wait_until(lambda: last_step("head-lost") >= 25, "step 25", process)
    for name in list(cluster.nodes):  # a new head starts a new cluster, with workers of its own
        cluster.kill(name)
    process.kill()  # with the head gone it may wait for long
    process.wait()
    begun = time.monotonic()
    cluster.start_head()
    cluster.add(cpus=2, wait=False)
    cluster.add(cpus=2, wait=False)
    cluster.wait_for_nodes(3)
    say("head and workers were started anew", time.monotonic() - begun)
    client(cluster, tmp_path / "again", *command, timeout=1200)
    say("training was done after the head was lost", time.monotonic() - begun)
    assert last_step("head-lost") == 150
