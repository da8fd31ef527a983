"""Random kill -9 while a corpus is embedded, or decoded: the bytes of an uninterrupted run, and no part written twice."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from embedding_help import (
    all_files,
    change,
    decode_here,
    embed_here,
    end_group,
    make_articles,
    make_text,
    part_bytes,
    save_model,
    start_job,
    write_articles,
)
from processes import descendants

from lstm_embed.embedding.config import DecodeConfig, EmbedConfig

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

KILLS_OF_JOBS, KILLS_OF_NODES, KILLS_OF_DECODING = 30, 6, 12
MOST_KILLS_OF_A_RUN = 10
SETTINGS = {"unit_bytes": 12_000, "part_rows": 40, "row_group_rows": 16}
VARIANTS = ("sentence", "article", "reuse")
RAYLET = "raylet/raylet"


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EmbedConfig]:
    """Return the settings of outputs made without interruption, of several hundred parts each."""
    import numpy as np

    folder = tmp_path_factory.mktemp("embed")
    articles = make_articles(2400)
    for start in range(0, len(articles), 12):
        write_articles(folder / "in" / f"{start:04d}.jsonl", articles[start : start + 12])
    earlier = [dict(article) for article in articles[::2]]
    rng = np.random.default_rng(7)
    for article in earlier[::5]:
        article["text"] = make_text(rng)
    config = EmbedConfig(
        model=save_model(folder / "model"),
        input=(str(folder / "in"),),
        output=str(folder / "sentence"),
        **SETTINGS,  # type: ignore[arg-type]
    )
    before = change(config, input=(write_articles(folder / "before.jsonl", earlier),), output=str(folder / "before"))
    embed_here(before)
    made = {
        "sentence": config,
        "article": change(config, output=str(folder / "article"), level="article"),
        "reuse": change(config, output=str(folder / "reuse"), reuse=before.output),
    }
    for name, one in made.items():
        embed_here(one)
        assert len(part_bytes(one.output)) > 300, name
    return made


class Watch:
    """Follows the parts of an output: one that is there stays the same file."""

    def __init__(self, output: str) -> None:
        self._folder = Path(output) / "parts"
        self._seen: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def look(self) -> int:
        """Check that what was committed was left alone; return the number of parts."""
        if not self._folder.exists():
            return 0
        now = {}
        for path in self._folder.glob("part-*.parquet"):
            facts = path.stat()
            now[path.name] = (facts.st_ino, facts.st_mtime_ns)
        changed = [name for name, facts in self._seen.items() if now.get(name) != facts]
        assert not changed, f"{changed} were written again or removed"
        self._seen = now
        return len(now)


def start(config: EmbedConfig, log: Path, **environment: str) -> subprocess.Popen[bytes]:
    flags = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in SETTINGS]
    names = ("model", "output", "level", *(["reuse"] if config.reuse else []))
    flags += [f"--{name}={getattr(config, name)}" for name in names]
    return start_job("embed", ["--input", *config.input, *flags, "--num-workers=1"], log, **environment)


def start_decoding(config: DecodeConfig, log: Path) -> subprocess.Popen[bytes]:
    flags = [f"--{name}={getattr(config, name)}" for name in ("embeddings", "output")]
    return start_job("decode", [*flags, f"--part-rows={config.part_rows}", "--num-workers=1"], log)


def kinds_of_victims(driver: int) -> dict[str, list[int]]:
    """Return the processes of a job by kind."""
    found = {
        "driver": [driver],
        "actor": descendants(driver, "ray::MapWorker"),
        "reader": descendants(driver, "ray::MapBatches(read_unit)"),
        "raylet": [pid for pid in descendants(driver, "/") if RAYLET in Path(f"/proc/{pid}/cmdline").read_text()],
    }
    return {kind: pids for kind, pids in found.items() if pids}


def wait_for_work(process: subprocess.Popen[bytes], watch: Watch) -> bool:
    """Wait until the job commits a part more; return False if it ended before."""
    before = watch.look()
    while process.poll() is None:
        if watch.look() > before:
            return True
        time.sleep(0.02)
    return False


def follow(process: subprocess.Popen[bytes], watch: Watch, seconds: float) -> None:
    """Let a job run for a while, watching its parts."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        watch.look()
        time.sleep(0.05)


def check_end(config: EmbedConfig | DecodeConfig, whole: EmbedConfig | DecodeConfig) -> None:
    """Check that an output is that of an uninterrupted run."""
    assert part_bytes(config.output) == part_bytes(whole.output)
    files, expected = all_files(config.output), all_files(whole.output)
    names = {name for name in files if not name.startswith(("log/", "logs/"))}
    assert names == {name for name in expected if not name.startswith(("log/", "logs/"))}
    assert not [name for name in files if "tmp" in name]


def log_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def run_with_kills(
    begin: Callable[[], subprocess.Popen[bytes]], output: str, log: Path, rng: random.Random, kills: Counter[str]
) -> int:
    """Start a job again and again, killing what it is made of at random, until it is done; return how often it was started."""
    watch = Watch(output)
    starts = in_this_run = 0
    while True:
        process = begin()
        starts += 1
        try:
            while in_this_run < MOST_KILLS_OF_A_RUN and wait_for_work(process, watch):
                follow(process, watch, rng.uniform(0, 1.5))
                victims = kinds_of_victims(process.pid)
                if process.poll() is not None:
                    break
                kind = rng.choice(sorted(victims))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims[kind]), signal.SIGKILL)
                    kills[kind] += 1
                    in_this_run += 1
                if kind in ("driver", "raylet"):
                    break
            follow(process, watch, 240)
            assert process.poll() is not None, log_of(log)
        finally:
            # Now and then what the driver left behind lives on beside the next start.
            if rng.random() < 0.5:
                end_group(process)
        if process.returncode == 0:
            end_group(process)
            watch.look()
            return starts
        # A job whose raylet is gone fails; one whose driver was killed says nothing.
        assert process.returncode in (1, -signal.SIGKILL), log_of(log)


def test_drivers_actors_readers_and_raylets_killed_at_random_moments(
    configs: dict[str, EmbedConfig], tmp_path: Path
) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time()))
    rng = random.Random(seed)
    kills: Counter[str] = Counter()
    runs = starts = 0
    while sum(kills.values()) < KILLS_OF_JOBS or runs % len(VARIANTS):
        whole = configs[VARIANTS[runs % len(VARIANTS)]]
        runs += 1
        config = change(whole, output=str(tmp_path / f"{runs}" / "out"))
        log = tmp_path / f"{runs}" / "log"
        log.parent.mkdir()
        starts += run_with_kills(functools.partial(start, config, log), config.output, log, rng, kills)
        check_end(config, whole)
    print(f"\nseed {seed}: {dict(kills)} killed in {starts} starts of {runs} runs, all with the bytes of whole ones")


def test_decoding_with_drivers_actors_readers_and_raylets_killed_at_random_moments(
    configs: dict[str, EmbedConfig], tmp_path: Path
) -> None:
    seed = int(os.environ.get("FAULT_SEED", time.time()))
    rng = random.Random(seed)
    embeddings = change(configs["sentence"], embedding="exact", output=str(tmp_path / "exact"))
    embed_here(embeddings)
    whole = DecodeConfig(embeddings=embeddings.output, output=str(tmp_path / "whole"), part_rows=30)
    decode_here(whole)
    assert len(part_bytes(whole.output)) > 300
    kills: Counter[str] = Counter()
    runs = starts = 0
    while sum(kills.values()) < KILLS_OF_DECODING:
        runs += 1
        config = change(whole, output=str(tmp_path / f"{runs}" / "out"))
        log = tmp_path / f"{runs}" / "log"
        log.parent.mkdir()
        starts += run_with_kills(functools.partial(start_decoding, config, log), config.output, log, rng, kills)
        check_end(config, whole)
    print(f"\nseed {seed}: {dict(kills)} killed in {starts} starts of {runs} runs, all with the bytes of whole ones")


def test_nodes_killed_at_random_moments(configs: dict[str, EmbedConfig], tmp_path: Path) -> None:
    from ray.cluster_utils import Cluster

    seed = int(os.environ.get("FAULT_SEED", time.time()))
    rng = random.Random(seed)
    # A folder of its own: other sessions on this machine must not find this cluster and join it.
    folder = tempfile.mkdtemp(prefix="ray", dir="/tmp")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "temp_dir": folder}
    )
    kills = runs = 0
    try:
        while kills < KILLS_OF_NODES:
            whole = configs[VARIANTS[runs % len(VARIANTS)]]
            runs += 1
            config = change(whole, output=str(tmp_path / f"{runs}" / "out"))
            log = tmp_path / f"{runs}" / "log"
            log.parent.mkdir()
            watch = Watch(config.output)
            node = cluster.add_node(num_cpus=2)
            process = start(config, log, RAY_ADDRESS=cluster.address)
            while wait_for_work(process, watch) and kills < KILLS_OF_NODES:
                follow(process, watch, rng.uniform(0, 2))
                if process.poll() is None:
                    node.kill_raylet()
                    kills += 1
                    cluster.remove_node(node)
                    node = cluster.add_node(num_cpus=2)
            follow(process, watch, 600)
            assert process.poll() == 0, log_of(log)
            watch.look()
            check_end(config, whole)
            cluster.remove_node(node)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nseed {seed}: {kills} nodes killed in {runs} runs, all with the bytes of whole ones")


def test_watching_notices_a_part_that_is_written_again(configs: dict[str, EmbedConfig], tmp_path: Path) -> None:
    shutil.copytree(Path(configs["sentence"].output) / "parts", tmp_path / "parts")
    watch = Watch(str(tmp_path))
    watch.look()
    path = next((tmp_path / "parts").iterdir())
    copy = path.with_suffix(".copy")
    shutil.copy2(path, copy)
    os.replace(copy, path)
    with pytest.raises(AssertionError, match="were written again"):
        watch.look()
