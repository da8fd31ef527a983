"""The contract of a stage: what it says of itself. Everything else is the runner's.

A stage reads its input and makes one output folder. Most work on units, which are distributed over a cluster and done one by
one: `UnitStage`. Those that make their folder in one go on one machine are a `FolderStage`. A constructor only keeps the
settings; `open` looks at what is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from lstm_embed.base import storage
from lstm_embed.base.progress import Reporter
from lstm_embed.base.settings import values_of
from lstm_embed.ledger import Ledger, PartRecord, Span, Unit, Work, provenance
from lstm_embed.stages.preflight import Needs

if TYPE_CHECKING:
    from lstm_embed.stages.units import ChunkReader, ChunkWorker, UnitFunction

Records = dict[int, list[PartRecord]]
"""The records of each unit's parts, by the unit's number."""


class HasOutput(Protocol):
    """Settings that name an output folder."""

    @property
    def output(self) -> str:
        """The folder; local or s3://."""


Config = TypeVar("Config", bound=HasOutput)


class Stage(ABC, Generic[Config]):
    """What all stages say of themselves.

    Args:
        config: The stage's settings.
    """

    name: ClassVar[str]
    """Of the stage, in summaries and logs."""
    kind: ClassVar[str]
    """What its output folder holds, such as "token_set"."""
    row_name: ClassVar[str]
    """What the rows of its output are called."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.output = storage.resolve(config.output)
        self.staging_dir = storage.join(self.output, "staging")
        """Folder for what is needed only until the parts are there; the runner removes it."""

    @abstractmethod
    def open(self) -> None:
        """Look at what is given, without writing or loading anything large.

        Raises:
            FileNotFoundError: if something is not there.
            InputError: if it is not of use, or does not fit together.
        """

    def begin(self, report: Reporter) -> None:
        """Do what may still find that the work cannot be done, before anything is written. Ray runs if it is needed."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return everything but the input of units that decides the content of the output, as JSON-like values."""

    def recorded_config(self) -> dict[str, Any]:
        """Return what is written beside the output about how it was asked for."""
        return values_of(self.config)


class UnitStage(Stage[Config]):
    """A stage that works on units of input, wherever there are CPUs, and commits parts."""

    suffix: ClassVar[str] = ".parquet"
    """Of the parts."""
    size_unit: tuple[str, float] = ("MB", 1e6)
    """Name of what units are measured in, and how many of their sizes make one of it."""
    counted: ClassVar[str] = "sentences"
    """What the rows are called while they are made."""
    shown: ClassVar[tuple[str, ...]] = ()
    """Counts of the parts' records that progress shows besides."""

    @abstractmethod
    def files(self) -> list[storage.FileInfo]:
        """Return the input as it is now."""

    def cut(self, files: Sequence[storage.FileInfo]) -> list[tuple[Span, ...]]:
        """Cut files that are new or changed into the spans of units; each is a unit if not said otherwise."""
        return [(Span.whole(file),) for file in files]

    def compare(self, ledger: Ledger) -> Work:
        """Tell what is left to do, writing nothing."""
        return ledger.compare(self.files(), self.cut, prune=getattr(self.config, "prune", True))

    def needs(self) -> Needs:
        """Return what the work needs of the nodes, besides the files of its units."""
        return Needs(output=self.output)

    @abstractmethod
    def make(self, job: Job) -> Records:
        """Do what is left; return the records of the parts of the units that were pending."""

    def manifest(self) -> dict[str, Any]:
        """Return what the manifest says besides the parts."""
        return {}

    @abstractmethod
    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return the figures of the summary."""

    def sample_rate(self, work: Work) -> float:
        """Return the stored bytes (or whatever units are measured in) a second that one CPU works through; 0 if unknown."""
        return 0.0


@dataclass
class Job:
    """A run of a stage on units: its books and what is left, handed to `UnitStage.make`."""

    stage: UnitStage[Any]
    ledger: Ledger
    work: Work
    report: Reporter
    counts: dict[str, int] = field(default_factory=dict)
    """Counts of this run, by the names in `UnitStage.shown`."""
    rows: int = 0
    """Rows made by this run, in its last step."""

    def look_again(self) -> None:
        """Bring `work` up to date with the parts that are there now."""
        self.work = self.ledger.remaining(self.work)

    def units(self, function: UnitFunction, *, name: str = "", pending: Sequence[Unit] | None = None) -> Records:
        """Run a function on units in tasks; return the records of their parts.

        Args:
            function: What a worker does with a unit.
            name: Name of this step in progress and log; that of the stage if not given.
            pending: The units; those that are left if not given.
        """
        from lstm_embed.stages.units import run_units

        work = self.work if pending is None else _with_pending(self.work, pending)
        records = run_units(work.pending, function, stage=name or self.stage.name, **self._common())
        return self._gathered((record for unit in records for record in unit), work, name)

    def chunks(self, read: ChunkReader, make_worker: ChunkWorker, *, workers: tuple[int, int], gpu: bool) -> Records:
        """Read units in tasks and work on their chunks in a pool of actors; return the records of their parts.

        Args:
            read: Function that turns a unit into the chunks that are left of it.
            make_worker: Maker, in an actor, of the function that commits a chunk.
            workers: Least and most actors.
            gpu: Whether each has a GPU.
        """
        from lstm_embed.stages.units import run_chunks

        found = run_chunks(
            self.work.pending, read, make_worker, workers=workers, gpu=gpu, stage=self.stage.name, **self._common()
        )
        return self._gathered(found, self.work, "")

    def _common(self) -> dict[str, Any]:
        return {"output": self.ledger.output, "report": self.report}

    def _gathered(self, records: Iterable[PartRecord], work: Work, name: str) -> Records:
        from lstm_embed.stages.pool import PartProgress

        progress = PartProgress(self.stage, work, self.report, name)
        for record in records:
            progress.add(record)
        self.counts, self.rows = dict(progress.counts), progress.rows
        return progress.complete()


def _with_pending(work: Work, pending: Sequence[Unit]) -> Work:
    return replace(work, pending=tuple(pending), records={})


@dataclass(frozen=True, kw_only=True)
class Made:
    """What a `FolderStage` has made."""

    content: dict[str, Any]
    """What the manifest says of it."""
    decided_by: Any
    """What its fingerprint is the hash of."""


class FolderStage(Stage[Config]):
    """A stage that makes its folder in one go, on one machine."""

    @property
    def advice(self) -> str:
        """What else to do where the folder was made with other settings; empty for nothing."""
        return ""

    def made_by(self) -> dict[str, str]:
        """Return where and with what the folder is made, as it is written beside it."""
        return provenance()

    @abstractmethod
    def make(self, report: Reporter) -> Made:
        """Write the files of the output folder."""

    @abstractmethod
    def facts(self, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return the rows and the figures of the summary, from what the manifest says of the content."""
