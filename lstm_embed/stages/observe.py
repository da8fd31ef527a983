"""What can be seen of a running job from outside: metrics, a line for each unit, and a word when nothing moves.

The names of the metrics are fixed, so that dashboards keep working:

    lstm_embed_stage_done     {run, stage, unit}      how much of a stage is done
    lstm_embed_stage_total    {run, stage, unit}      of how much
    lstm_embed_stage_rate     {run, stage, unit}      per second, over the last report
    lstm_embed_stage_counter  {run, stage, counter}   sentences, rejected, …
    lstm_embed_train          {run, metric}           the columns of metrics.jsonl: train/loss, val/loss, …

Ray serves them to Prometheus with `ray_` in front.
"""

from __future__ import annotations

import contextlib
import json
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from lstm_embed.base import storage
from lstm_embed.base.progress import Reporter
from lstm_embed.stages import ray_private
from lstm_embed.stages.capacity import Bundle, describe, unplaced

STAGE_DONE, STAGE_TOTAL, STAGE_RATE = "lstm_embed_stage_done", "lstm_embed_stage_total", "lstm_embed_stage_rate"
STAGE_COUNTER, TRAIN = "lstm_embed_stage_counter", "lstm_embed_train"
LOG_FOLDER, PROGRESS = "log", "progress.json"
_FILE_SECONDS = 5.0
_FLUSH_SECONDS = 30.0

Item = TypeVar("Item")


class Observer:
    """A `Reporter` that hands everything on, sets Ray metrics (none where Ray is not running), and keeps `progress.json`.

    Args:
        report: Receiver of everything.
        run: Label of the metrics: a run's name or an output folder.
        output: Folder that gets `progress.json` while the block lasts, for `status`; empty for none.
    """

    def __init__(self, report: Reporter, run: str, output: str = "") -> None:
        self._report = report
        self._gauges = Gauges(run)
        self._output = output
        self._stage, self._first = "", (0.0, 0.0)
        self._written = -math.inf

    def progress(self, stage: str, done: float, total: float, unit: str, **counters: float) -> None:
        """Hand progress on, set the stage's metrics, and write the file now and then."""
        self._report.progress(stage, done, total, unit, **counters)
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._first = stage, (now, done)
        elapsed = now - self._first[0]
        rate = (done - self._first[1]) / elapsed if elapsed > 0 else 0.0
        labels = {"stage": stage, "unit": unit}
        for name, value in ((STAGE_DONE, done), (STAGE_TOTAL, total), (STAGE_RATE, rate)):
            self._gauges.set(name, value, **labels)
        for name, value in counters.items():
            self._gauges.set(STAGE_COUNTER, value, stage=stage, counter=name)
        if self._output and now - self._written >= _FILE_SECONDS:
            self._written = now
            left = (total - done) / rate if rate > 0 else None
            state = {"stage": stage, "done": done, "total": total, "unit": unit, "rate": rate, "seconds_left": left}
            with contextlib.suppress(OSError):  # progress is a courtesy; the job itself meets a store that fails
                storage.write_json(storage.join(self._output, PROGRESS), {**state, **counters, "time": time.time()})

    def note(self, message: str) -> None:
        """Hand a line on."""
        self._report.note(message)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._output and kind is None:
            storage.remove(storage.join(self._output, PROGRESS))


class Gauges:
    """Ray metrics of one run, made when they are first set."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a metric; a failing metrics agent never fails the work."""
        import ray

        if not ray.is_initialized() or not math.isfinite(value):
            return
        with contextlib.suppress(Exception):
            if name not in self._gauges:
                from ray.util.metrics import Gauge

                self._gauges[name] = Gauge(name, tag_keys=("run", *sorted(labels)))
            self._gauges[name].set(value, {"run": self._run, **labels})

    def set_row(self, row: Mapping[str, float]) -> None:
        """Set the metrics of a line of training metrics."""
        for metric, value in row.items():
            if isinstance(value, int | float):
                self.set(TRAIN, value, metric=metric)


class UnitLog:
    """One line of JSON for each unit of work, in `log/` of the output folder: `log/<start of the job>.jsonl`.

    Object stores cannot append, so the file is written anew now and then; it has some hundred bytes a unit. Lines say what
    was done where and when, never what the text was.
    """

    def __init__(self, output: str) -> None:
        started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        self._path = storage.join(output, LOG_FOLDER, f"{started}-{secrets.token_hex(3)}.jsonl")
        self._lines: list[str] = []
        self._written = time.monotonic()

    def add(self, **facts: Any) -> None:
        """Add a line; its time is filled in."""
        self._lines.append(json.dumps({"time": round(time.time(), 3), **facts}, ensure_ascii=False))
        if time.monotonic() - self._written > _FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what there is; a store that fails now is tried again with the next line."""
        if self._lines:
            self._written = time.monotonic()
            with contextlib.suppress(OSError):
                storage.write_bytes(self._path, ("\n".join(self._lines) + "\n").encode("utf-8", "surrogatepass"))

    def __enter__(self) -> UnitLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()


@contextlib.contextmanager
def stall_watch(
    report: Reporter, what: str, *, seconds: float = 300.0, explain: Callable[[], str] | None = None
) -> Iterator[Callable[[], None]]:
    """Yield a function to call at each sign of life; where it is not called for a while, say so and why, then twice as late.

    Args:
        report: Receiver of the word.
        what: Name of what is waited for, such as "unit".
        seconds: Silence before the first word.
        explain: Function that finds out why; a look at the Ray cluster if not given.
    """
    explain = explain or explain_stall
    state = {"last": time.monotonic(), "due": seconds}
    stop = threading.Event()

    def alive() -> None:
        state.update(last=time.monotonic(), due=seconds)

    def watch() -> None:
        while not stop.wait(min(seconds / 5, 10.0)):
            silence = time.monotonic() - state["last"]
            if silence >= state["due"]:
                state["due"] = 2 * silence
                try:
                    reason = explain()
                except Exception as error:  # an explanation that fails must not look like the failure itself
                    reason = f"why could not be found out ({error})"
                if not stop.is_set():
                    report.note(f"no {what} has finished for {silence / 60:.0f} min: {reason}")

    watcher = threading.Thread(target=watch, name="stall-watch", daemon=True)
    watcher.start()
    try:
        yield alive
    finally:
        stop.set()


def watched(
    items: Iterable[Item],
    report: Reporter,
    what: str,
    *,
    seconds: float = 300.0,
    explain: Callable[[], str] | None = None,
) -> Iterator[Item]:
    """Yield the items under a `stall_watch`; what the caller does with an item is no silence."""
    with stall_watch(report, what, seconds=seconds, explain=explain) as alive:
        for item in items:
            alive()
            yield item
            alive()


def explain_stall() -> str:
    """Look at the cluster and return what may be holding the work up."""
    import ray

    nodes = ray.nodes()
    lost = [node["NodeManagerAddress"] for node in nodes if not node["Alive"]]
    living = [node["Resources"] for node in nodes if node["Alive"]]
    return stall_reason(living, ray.available_resources(), ray_private.waiting_bundles(), lost)


def stall_reason(
    nodes: Sequence[Bundle], free: Mapping[str, float], waiting: Sequence[Bundle], lost: Sequence[str]
) -> str:
    """Return in a line what may be holding the work up.

    Args:
        nodes: Resources of the living nodes.
        free: Resources of the cluster that nobody holds.
        waiting: What tasks and actors that have not started ask for.
        lost: Addresses of nodes that were there once.
    """
    total = describe(nodes)
    note = f"; nodes gone since the cluster started: {', '.join(sorted(set(lost)))}" if lost else ""
    never = [bundle for bundle in waiting if unplaced([bundle], nodes)]
    if never:
        return f"work waits for {describe(never[:1])} on one node, which no node has (cluster: {total}){note}"
    if waiting:
        return (
            f"work waits for {describe(waiting[:1])} while {describe([free])} of {total} are free: other jobs, or actors "
            f"of this one, hold the rest (lower --num-workers, stop other jobs, or add nodes){note}"
        )
    if any(node.get(name, 0) for node in nodes for name in ("CPU", "GPU")) and describe([free]) != total:
        return (
            f"work is running ({describe([free])} of {total} free): it can be slow, such as one large compressed file, or "
            f"hang; see the stack traces of the dashboard{note}"
        )
    return f"nothing runs and nothing waits ({total}); stop the job and run the same command again{note}"
