"""How an output folder stands, read from its files alone; also while its job runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import FiniteFloat
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.settings import read_json
from lstm_embed.ledger.manifest import JOB, MANIFEST, read_folder_config
from lstm_embed.ledger.owner import is_owned
from lstm_embed.ledger.parts import PartStore
from lstm_embed.ledger.plan import READERS, add_counts, chains, differs, is_complete, read_plan, read_records

PROGRESS = "progress.json"


class Progress(TypedDict):
    """What a job last said of its progress; other keys are counters."""

    stage: str
    done: FiniteFloat
    total: FiniteFloat
    unit: str
    rate: FiniteFloat
    """Units a second."""
    seconds_left: FiniteFloat | None
    time: FiniteFloat
    """When that was, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class FolderState:
    """How an output folder stands, as far as its files tell."""

    kind: str
    finished: bool
    num_units: int
    done: tuple[int, ...]
    missing: tuple[int, ...]
    rows: int
    rejected: dict[str, int]
    """Rejected records by reason."""
    changed: tuple[str, ...]
    """Input files that differ from when they entered the plan."""
    gone: tuple[str, ...]
    """Input files that are no longer there."""
    running: bool
    """Whether a job seems to be writing it."""
    progress: Progress | None
    """What a job that runs, or did not end well, last said."""


def folder_state(output: str) -> FolderState:
    """Return how the output folder of a job on units stands; works while the job runs.

    Raises:
        InputError: if what the folder says of itself is damaged.
    """
    kind = read_folder_config(storage.join(output, JOB))["settings"]["kind"]
    units, _ = read_plan(output)
    units_parts = chains(read_records(PartStore(output, ""), set(units)), {})
    done = {number for number, chain in units_parts.items() if is_complete(chain)}
    records = [record for chain in units_parts.values() for record in chain]
    totals: dict[str, Any] = {}
    for record in records:
        add_counts(totals, record.stats)
    # The parts of a token set enter a plan with their identity; only files have a numeric stamp.
    spans = {span.path: span for unit in units.values() for span in unit.spans if span.stamp.isdigit()}
    with ThreadPoolExecutor(READERS) as pool:
        now = dict(zip(spans, pool.map(_info, spans), strict=True))
    progress = storage.join(output, PROGRESS)
    return FolderState(
        kind=kind,
        finished=storage.exists(storage.join(output, MANIFEST)),
        num_units=len(units),
        done=tuple(sorted(done)),
        missing=tuple(sorted(set(units) - done)),
        rows=sum(record.rows for record in records),
        rejected=totals.get("rejected", {}),
        changed=tuple(p for p, file in sorted(now.items()) if file and differs(spans[p], file)),
        gone=tuple(p for p, file in sorted(now.items()) if file is None),
        running=is_owned(output),
        progress=read_json(progress, Progress) if storage.exists(progress) else None,
    )


def _info(path: str) -> storage.FileInfo | None:
    try:
        return storage.info(path)
    except FileNotFoundError:
        return None
