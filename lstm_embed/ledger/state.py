"""How an output folder stands, read from its files alone; also while its job runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.ledger.parts import PartRecord, PartStore
from lstm_embed.ledger.plan import READERS, add_counts, differs, read_plan, read_records
from lstm_embed.ledger.sealed import MANIFEST


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


def folder_state(output: str) -> FolderState:
    """Return how the output folder of a job on units stands; works while the job runs.

    Raises:
        InputError: if the folder's job.json is damaged.
    """
    try:
        kind = str(storage.read_json(storage.join(output, "job.json"))["settings"]["kind"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{storage.join(output, 'job.json')} is damaged ({error})") from None
    units, _ = read_plan(output)
    records = read_records(PartStore(output, ""), set(units))
    chains: dict[int, list[PartRecord]] = {}
    for record in records:
        chains.setdefault(record.unit, []).append(record)
    done = tuple(n for n, chain in sorted(chains.items()) if chain[-1].last and chain[-1].part + 1 == len(chain))
    totals: dict[str, Any] = {}
    for record in records:
        add_counts(totals, record.stats)
    # The parts of a token set enter a plan with their identity; only files have a numeric stamp.
    spans = {span.path: span for unit in units.values() for span in unit.spans if span.stamp.isdigit()}
    with ThreadPoolExecutor(READERS) as pool:
        now = dict(zip(spans, pool.map(_info, spans), strict=True))
    return FolderState(
        kind=kind,
        finished=storage.exists(storage.join(output, MANIFEST)),
        num_units=len(units),
        done=done,
        missing=tuple(n for n in sorted(units) if n not in set(done)),
        rows=sum(record.rows for record in records),
        rejected=totals.get("rejected", {}),
        changed=tuple(p for p, file in sorted(now.items()) if file and differs(spans[p], file)),
        gone=tuple(p for p, file in sorted(now.items()) if file is None),
    )


def _info(path: str) -> storage.FileInfo | None:
    try:
        return storage.info(path)
    except FileNotFoundError:
        return None
