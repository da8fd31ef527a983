"""Units over the cluster: Ray Data hands each unit to a task; what comes back is small.

Ray Data is asked to distribute, retry and bound the work, not to remember it: what has been done is read from the parts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from lstm_embed.errors import LstmEmbedError
from lstm_embed.ledger import PartRecord, Span, Unit

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
            records = [json.dumps(asdict(record)) for record in self._function(unit_from_json(text))]
            yield {"records": np.array([json.dumps(records)], dtype=object)}


def run_units(
    units: Sequence[Unit], function: UnitFunction, *, num_cpus: float = 1.0, memory: int | None = None
) -> Iterator[list[PartRecord]]:
    """Run `function` on every unit, in any order, on all CPUs of the cluster; yield each unit's part records when done.

    Args:
        units: The work.
        function: Runs in the workers, so it must be picklable and must not hold anything large.
        num_cpus: CPUs a task takes.
        memory: Bytes a task may need, for Ray's scheduler.

    Raises:
        LstmEmbedError: what the function raised, without Ray's wrapping.
    """
    if not units:
        return
    import ray.data

    items = [{"unit": unit_to_json(unit)} for unit in units]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _named(function), batch_size=1, num_cpus=num_cpus, memory=memory
    )
    with plain_errors():
        for row in dataset.iter_rows():
            yield [PartRecord(**json.loads(record)) for record in json.loads(row["records"])]


def _named(function: UnitFunction) -> Callable[[dict[str, Any]], Iterator[dict[str, Any]]]:
    task = _UnitTask(function)

    def run_unit(batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from task(batch)

    return run_unit


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Re-raise what a worker raised on purpose as itself instead of inside Ray's error."""
    try:
        yield
    except Exception as error:
        found = find_cause(error)
        if found is None or found is error:
            raise
        raise found from None


def find_cause(error: BaseException | None) -> BaseException | None:
    """Return the readable failure inside Ray's wrappers of it, or None."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, LstmEmbedError | FileNotFoundError) and "RayTask" not in type(error).__name__:
            return error
        seen.add(id(error))
        error = getattr(error, "cause", None) or error.__cause__ or error.__context__
    return None
