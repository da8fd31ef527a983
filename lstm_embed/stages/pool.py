"""How many actors a job gets, and how far their parts are."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lstm_embed.base.errors import InputError, LstmEmbedError
from lstm_embed.base.progress import Reporter
from lstm_embed.ledger import PartRecord, Work
from lstm_embed.stages import ray_private
from lstm_embed.stages.config import workers_range
from lstm_embed.stages.preflight import Needs

if TYPE_CHECKING:
    from lstm_embed.stages.stage import UnitStage

READER_CPUS = 0.5
"""CPUs of a task that reads units for the actors."""
_ACTORS_PER_READER = 8
"""Actors that one such task feeds: it reads articles eight times as fast as a core embeds them by default."""


def pool_needs(num_workers: str, *, gpu: bool, output: str, model: str) -> Needs:
    """Return what the least number of actors and one reader need of the nodes."""
    least = max(1, workers_range(num_workers)[0])
    worker = {"CPU": 1.0, "GPU": float(gpu)}
    return Needs(output=output, inputs=(model,), bundles=(*([worker] * least), {"CPU": READER_CPUS}))


def find_workers(num_workers: str, *, gpu: bool, report: Reporter) -> tuple[int, int]:
    """Return the least and the most actors on this cluster; refuse a number that would leave nothing for reading."""
    import ray

    workers = pool_size(num_workers, gpu, ray.cluster_resources(), ray_private.most_resources())
    free = ray.available_resources().get("CPU", 0.0)
    if free < workers[0] + READER_CPUS:
        report.note(f"other jobs leave {free:g} CPUs of this cluster; {workers[0]} workers wait for theirs")
    return workers


def pool_size(num_workers: str, gpu: bool, now: Mapping[str, float], ever: Mapping[str, float]) -> tuple[int, int]:
    """Return the least and the most actors.

    Args:
        num_workers: Number of actors as the user gave it.
        gpu: Whether each has a GPU.
        now: The cluster's resources.
        ever: What an autoscaler may bring them to; empty without one.

    Raises:
        InputError: if that many actors would leave no CPU for reading, and the job would wait for ever.
    """

    def fit(resources: Mapping[str, float]) -> int:
        places = resources.get("CPU", 0.0) - READER_CPUS
        return int(max(0.0, min(places, resources.get("GPU", 0.0)) if gpu else places))

    low, high = workers_range(num_workers)
    most = max(fit(now), fit(ever))
    if most < max(low, 1):
        has = f"{now.get('CPU', 0.0):g} CPUs" + (f" and {now.get('GPU', 0.0):g} GPUs" if gpu else "")
        count, device = max(low, 1), "a CPU and a GPU" if gpu else "a CPU"
        raise InputError(
            f"{count} workers need {device} each, and reading {READER_CPUS} CPU; the cluster has {has}; "
            "use a smaller --num-workers or a larger cluster"
        )
    if low > 0:
        return low, high
    fed = int(now.get("CPU", 0.0) / (1 + READER_CPUS / _ACTORS_PER_READER))
    return (max(1, min(fit(now), fed)),) * 2


class PartProgress:
    """Gathers the records of the parts as they are committed, and reports.

    Args:
        stage: What is done; it says how units are measured and which counts are shown.
        work: What is left to do.
        report: Receiver of progress, at every part.
        name: Name of this step of the stage; that of the stage if empty.
    """

    def __init__(self, stage: UnitStage[Any], work: Work, report: Reporter, name: str = "") -> None:
        self._stage, self._work, self._report = stage, work, report
        self._name = name or stage.name
        self._sizes = {unit.number: unit.size for unit in work.pending}
        self._gathered: dict[int, dict[int, PartRecord]] = {}
        self._total = float(sum(unit.size for unit in work.units))
        self._done = self._total - sum(self._sizes.values())
        self._started = time.monotonic()
        self._parts = self.rows = 0
        self.counts: Counter[str] = Counter()
        self._tell()

    def add(self, record: PartRecord) -> None:
        """Take the record of a part that was just committed."""
        self.rows += record.rows
        self._parts += 1
        self.counts["rejected"] += sum(record.stats.get("rejected", {}).values())
        for name in self._stage.shown:
            self.counts[name] += record.stats.get(name, 0)
        parts = self._gathered.setdefault(
            record.unit, {old.part: old for old in self._work.records.get(record.unit, [])}
        )
        parts[record.part] = record
        if any(part.last and part.part + 1 == len(parts) for part in parts.values()):
            self._done += self._sizes.pop(record.unit, 0)
        self._tell()

    def _tell(self) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        unit_name, scale = self._stage.size_unit
        counted = self._stage.counted
        self._report.progress(
            self._name,
            self._done / scale,
            self._total / scale,
            unit_name,
            **{counted: self.rows, f"{counted}_per_second": self.rows / seconds, "parts": self._parts},
            **{name.strip("_"): count for name, count in self.counts.items() if count},
        )

    def complete(self) -> dict[int, list[PartRecord]]:
        """Return the records of the units that were pending, without the counts that are only for progress.

        Raises:
            LstmEmbedError: if parts of them are missing.
        """
        new = {
            number: [_as_committed(parts[part]) for part in sorted(parts)] for number, parts in self._gathered.items()
        }
        missing = [
            unit.number for unit in self._work.pending if not (new.get(unit.number) and new[unit.number][-1].last)
        ]
        if missing:
            raise LstmEmbedError(f"units {missing[:5]} were not finished; run the same command again")
        return new


def _as_committed(record: PartRecord) -> PartRecord:
    """Leave out the counts whose names begin with an underscore: a worker tells them, but they are not in the part."""
    return replace(record, stats={name: count for name, count in record.stats.items() if not name.startswith("_")})
