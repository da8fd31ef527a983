"""Units over the cluster: Ray Data hands each unit to a task; what comes back is small.

Ray Data is asked to distribute, retry and bound the work, not to remember it: what has been done is read from the parts.
Workers check, before their first unit, that the node they run on is fit. Each unit (chunk) leaves a line in the log of the
output folder, and where none finishes for minutes, the reporter is told why.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lstm_embed.base import errors
from lstm_embed.base.errors import LstmEmbedError
from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.ledger import PartRecord, Span, Unit
from lstm_embed.stages.observe import UnitLog, watched
from lstm_embed.stages.pool import READER_CPUS
from lstm_embed.stages.preflight import check_worker, host_name

if TYPE_CHECKING:
    import ray.data

_MAX_RETRIES = 15
"""Times a unit or chunk is tried again after its worker died; nodes may come and go, but one too large must be told."""
_BLOCK_BYTES = 1 << 20

UnitFunction = Callable[[Unit], Iterable[PartRecord]]
"""Works on one unit in a worker; yields the records of the parts it commits."""


def unit_to_json(unit: Unit) -> str:
    """Return a unit as JSON, the form in which it travels."""
    return json.dumps(asdict(unit))


def unit_from_json(text: str) -> Unit:
    """Return the unit of `unit_to_json`."""
    value = json.loads(text)
    return Unit(value["number"], tuple(Span(**span) for span in value["spans"]), value["committed"])


class _UnitTask:
    """The function Ray Data calls; a class so that its name shows in Ray's dashboard."""

    def __init__(self, function: UnitFunction) -> None:
        self._function = function

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for text in batch["unit"]:
            started = time.monotonic()
            try:
                check_worker()
                answer = _finished([asdict(record) for record in self._function(unit_from_json(text))], started)
            except READABLE as error:
                answer = _failed(error)
            yield {"answer": np.array([answer], dtype=object)}


READABLE = (LstmEmbedError, OSError)
"""What a worker may raise for the user to read. It travels as a value: of what is raised, Ray hands on the text alone."""


def _failed(error: Exception) -> str:
    plain = [arg if isinstance(arg, str | int | None) else str(arg) for arg in error.args[:2]]
    filename = getattr(error, "filename", None)
    return json.dumps({"failed": type(error).__name__, "arguments": plain if filename is None else [*plain, filename]})


def _finished(value: Any, started: float) -> str:
    """Return what a worker answers: what it made, where, and in how many seconds."""
    return json.dumps({"value": value, "node": host_name(), "seconds": round(time.monotonic() - started, 3)})


def _answer(text: str) -> dict[str, Any]:
    """Return what a worker answered; raise what it failed with."""
    answer: dict[str, Any] = json.loads(text)
    if "failed" in answer:
        name = answer["failed"]
        kind: type[Exception] = getattr(errors, name, getattr(builtins, name, LstmEmbedError))
        raise kind(*answer["arguments"])
    return answer


def _log(log: UnitLog | None, stage: str, records: Sequence[PartRecord], answer: dict[str, Any], **facts: int) -> None:
    if log is not None and records:
        rejected = sum(sum(record.stats.get("rejected", {}).values()) for record in records)
        rows = sum(record.rows for record in records)
        where = {"node": answer["node"], "seconds": answer["seconds"]}
        log.add(stage=stage, unit=records[0].unit, **facts, rows=rows, rejected=rejected, **where)


def _log_of(output: str) -> contextlib.AbstractContextManager[UnitLog | None]:
    return UnitLog(output) if output else contextlib.nullcontext()


def run_units(
    units: Sequence[Unit],
    function: UnitFunction,
    *,
    stage: str = "",
    output: str = "",
    report: Reporter = SILENT,
    num_cpus: float = 1.0,
    memory: int | None = None,
) -> Iterator[list[PartRecord]]:
    """Run `function` on every unit, in any order, on all CPUs of the cluster; yield each unit's part records when done.

    Args:
        units: The work.
        function: What a worker does with a unit; picklable, and without anything large in it.
        stage: Name in the log.
        output: Folder whose log gets a line for each unit; empty for none.
        report: Receiver of a word where nothing moves.
        num_cpus: CPUs a task takes.
        memory: Bytes a task may need, for Ray's scheduler.

    Raises:
        LstmEmbedError, OSError: what the function raised, without Ray's wrapping; or that workers died over one unit.
    """
    if not units:
        return
    import ray.data
    from ray.exceptions import WorkerCrashedError

    items = [{"unit": unit_to_json(unit)} for unit in units]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            _named(function), batch_size=1, num_cpus=num_cpus, memory=memory, max_retries=_MAX_RETRIES
        )
    try:
        with _log_of(output) as log:
            for row in watched(dataset.iter_rows(), report, "unit"):
                answer = _answer(row["answer"])
                records = [PartRecord(**record) for record in answer["value"]]
                _log(log, stage, records, answer, parts=len(records))
                yield records
    except WorkerCrashedError as error:
        raise LstmEmbedError(
            f"a worker died {_MAX_RETRIES + 1} times over the same unit of input, perhaps for lack of memory: take smaller "
            f"units (--unit-bytes) or larger machines, then run the command again ({str(error).splitlines()[0]})"
        ) from None


def _named(function: UnitFunction) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    task = _UnitTask(function)

    def run_unit(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from task(batch)

    return run_unit


ChunkReader = Callable[[Unit], Iterable[tuple[PartRecord, pa.Table]]]
"""Turns a unit into the chunks that are left of it, each with the record of the part it will be."""
ChunkWorker = Callable[[], Callable[[PartRecord, pa.Table], PartRecord]]
"""Makes, in an actor, the function that commits a chunk as a part."""


def run_chunks(
    units: Sequence[Unit],
    read: ChunkReader,
    make_worker: ChunkWorker,
    *,
    workers: tuple[int, int],
    gpu: bool,
    stage: str = "",
    output: str = "",
    report: Reporter = SILENT,
) -> Iterator[PartRecord]:
    """Read units in tasks and work on their chunks in a pool of actors; yield the records of parts as they are committed.

    A chunk travels as one row, its table as Arrow IPC bytes: Ray may gather and split rows into blocks as it likes, and a
    chunk still arrives whole. The two stages ask for different resources, so Ray does not fuse them.

    Args:
        units: The work.
        read: The reading stage, `READER_CPUS` a task.
        make_worker: Maker of the function that commits a chunk, called once in each actor (one CPU; a GPU if `gpu`).
        workers: Least and most actors.
        gpu: Give each actor a GPU.
        stage: Name in the log.
        output: Folder whose log gets a line for each chunk; empty for none.
        report: Receiver of a word where nothing moves.
    """
    if not units:
        return
    from ray.exceptions import RayActorError

    with warnings.catch_warnings():
        # Ray counts units, but a unit gives as many chunks as it has parts.
        warnings.filterwarnings("ignore", message="The minimum number of concurrent actors")
        warnings.filterwarnings("ignore", message="`ray_remote_args` is deprecated")
        dataset = _chunk_dataset(units, read, make_worker, workers=workers, gpu=gpu)
        try:
            with _log_of(output) as log:
                for row in watched(dataset.iter_rows(), report, "part"):
                    answer = _answer(row["answer"])
                    record = PartRecord(**answer["value"])
                    _log(log, stage, [record], answer, part=record.part)
                    yield record
        except RayActorError as error:
            raise LstmEmbedError(
                f"a worker died {_MAX_RETRIES + 1} times over the same chunk, perhaps for lack of memory: take smaller parts "
                f"(--part-rows) or larger machines, then run the command again to continue ({str(error).splitlines()[0]})"
            ) from None


def _chunk_dataset(
    units: Sequence[Unit],
    read: ChunkReader,
    make_worker: ChunkWorker,
    *,
    workers: tuple[int, int],
    gpu: bool,
) -> ray.data.Dataset:
    import ray.data

    items = [{"unit": unit_to_json(unit)} for unit in units]
    low, high = workers
    pool = ray.data.ActorPoolStrategy(
        min_size=low, max_size=high, max_concurrent_calls_per_actor=2, enable_true_multi_threading=True
    )
    dataset = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(_reading(read), batch_size=1, num_cpus=READER_CPUS)
        .map_batches(
            _ChunkActor,
            fn_constructor_args=(make_worker,),
            batch_size=1,
            batch_format="pyarrow",
            compute=pool,
            num_cpus=1,
            num_gpus=1 if gpu else None,
            max_task_retries=_MAX_RETRIES,
        )
    )
    # Hand on each chunk when it is read, rather than several of them together.
    dataset.context.target_max_block_size = _BLOCK_BYTES
    return dataset


def _reading(read: ChunkReader) -> Callable[[dict[str, Any]], Iterator[pa.Table]]:
    def read_unit(batch: dict[str, Any]) -> Iterator[pa.Table]:
        for text in batch["unit"]:
            started = time.monotonic()
            try:
                check_worker()
                for record, table in read(unit_from_json(text)):
                    yield pa.table({"answer": [_finished(asdict(record), started)], "chunk": _as_value(table)})
                    started = time.monotonic()
            except READABLE as error:
                yield pa.table({"answer": [_failed(error)], "chunk": _as_value(pa.table({}))})

    return read_unit


def _as_value(table: pa.Table) -> pa.Array:
    """Return a column of one value, the table's Arrow IPC bytes, without copying them once more."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue()
    offsets = pa.array([0, data.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data])


class _ChunkActor:
    """Works on two chunks at a time, in two threads."""

    def __init__(self, make_worker: ChunkWorker) -> None:
        self._failed = ""
        try:
            check_worker()
            self._work = make_worker()
        except READABLE as error:
            self._failed = _failed(error)

    def __call__(self, batch: pa.Table) -> dict[str, Any]:
        done = [self._answer(text.as_py(), chunk) for text, chunk in zip(batch["answer"], batch["chunk"], strict=True)]
        return {"answer": np.array(done, object)}

    def _answer(self, text: str, chunk: pa.Scalar) -> str:
        started = time.monotonic()
        try:
            record = PartRecord(**_answer(text)["value"])  # or what reading failed with
            if self._failed:
                return self._failed
            made = self._work(record, pa.ipc.open_stream(chunk.as_buffer()).read_all())
            return _finished(asdict(made), started)
        except READABLE as error:
            return _failed(error)
