"""The stage from a MediaWiki dump to articles as JSON lines, as wikiextractor writes them.

Their text is what a reader of the page takes for prose: paragraphs, headings, and items of lists that say something of
their own (`wikitext.clean` tells which); tables, references, formulas and boxes are left out.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding
from lstm_embed.dump.articles import ArticleRow, UnitReader, dump_units, read_unit, refuse_empty
from lstm_embed.dump.config import ExtractConfig
from lstm_embed.ledger import PartRecord, PartStore, Rejected, Span, Unit, Work
from lstm_embed.ledger.parts import MAX_LISTED_REJECTIONS, read_record
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import Job, Records, UnitStage

KIND = "articles"
FORMAT = 2
"""Version of the parts' content; raised by hand when the cleaner would give another text."""
_SAMPLE_SECONDS = 3.0


def extract(config: ExtractConfig, report: Reporter = SILENT) -> Summary:
    """Make or bring up to date the articles of a dump.

    Raises:
        FileNotFoundError: if there is no dump at the path.
        InputError: if the input is no dump or the output folder is of another kind.
        TooMuchRejected: if more was rejected than the config allows.
        OutputBusy: if another job writes the folder.
    """
    return run_stage(ExtractStage(config), report)


class ExtractStage(UnitStage[ExtractConfig]):
    """From a MediaWiki dump to articles as JSON lines, as wikiextractor writes them."""

    name, kind, row_name = "extract", KIND, "articles"
    suffix, counted = ".jsonl.gz", "articles"

    def open(self) -> None:
        """Refuse what is not named like a dump."""
        self.input = storage.resolve(self.config.input)
        if ".xml" not in storage.name(self.input):
            raise InputError(
                f"{self.input} is not named like a MediaWiki dump; expected .xml in its name, as in pages.xml.bz2"
            )

    def settings(self) -> dict[str, Any]:
        """Return what decides the articles."""
        return {"content_format": FORMAT, **deciding(self.config)}

    def files(self) -> list[storage.FileInfo]:
        """Return the dump."""
        return [storage.info(self.input)]

    def cut(self, files: Sequence[storage.FileInfo]) -> list[tuple[Span, ...]]:
        """Cut a multistream dump where its streams begin, plain XML where pages begin."""
        return [
            (Span(file.path, start, end, file.size, file.stamp),)
            for file in files
            for start, end in dump_units(file.path, self.config.unit_bytes)
        ]

    def make(self, job: Job) -> Records:
        """Turn each unit into articles."""
        return job.units(ExtractTask(config=self.config, store=job.ledger.store))

    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return how many pages there were, and what became of them."""
        totals = manifest["totals"]
        refuse_empty(self.input, totals)
        facts = {"pages": totals["pages"], **{f"skipped ({why})": n for why, n in sorted(totals["skipped"].items())}}
        return facts | {"rejected": sum(totals["rejected"].values()), "MB of text": totals["bytes"] / 1e6}

    def sample_rate(self, work: Work) -> float:
        """Return the stored bytes a second that one CPU works through, measured on the first pending unit."""
        started = time.monotonic()
        read = 0
        for unit in work.pending[:1]:
            reader = _reader(unit, 0)
            for _ in reader:
                read = reader.num_read
                if time.monotonic() - started > _SAMPLE_SECONDS:
                    break
        return read / max(time.monotonic() - started, 1e-9)


def _reader(unit: Unit, skip_pages: int) -> UnitReader:
    span = unit.spans[0]
    now = storage.info(span.path)
    if (now.size, now.stamp) != (span.size, span.stamp):
        raise InputError(f"{span.path} changed while the job ran; run the command again when it is at rest")
    return read_unit(span.path, span.start, span.end, skip_pages=skip_pages)


@dataclass(frozen=True, kw_only=True)
class ExtractTask:
    """What a worker does with one unit: yields the records of the parts it commits, from the first missing one on."""

    config: ExtractConfig
    store: PartStore

    def __call__(self, unit: Unit) -> Iterator[PartRecord]:
        earlier = [read_record(self.store.path(unit.number, part)) for part in range(unit.committed)]
        old = [record.stats for record in earlier if record]
        reader = _reader(unit, sum(stats["pages"] for stats in old))
        known_rejections = sum(sum(stats["rejected"].values()) for stats in old)
        rejected: list[Rejected] = []
        unlisted = 0
        number = unit.committed
        part = _PartBuffer(reader)
        for item in reader:
            if isinstance(item, Rejected):
                if known_rejections:
                    known_rejections -= 1  # counted in a part that is committed; listed again
                else:
                    part.rejected[item.reason] += 1
                if len(rejected) < MAX_LISTED_REJECTIONS:
                    rejected.append(item)
                else:
                    unlisted += 1
                continue
            if part.size >= self.config.part_bytes:
                # The article in hand belongs to the next part, so this one is not the last.
                yield self._commit(unit, number, part, last=False, ahead=1)
                number, part = number + 1, _PartBuffer(reader, ahead=1)
            part.add(item)
        self.store.write_quarantine(unit.number, rejected, unlisted, self.config.quarantine_text)
        yield self._commit(unit, number, part, last=True, ahead=0)

    def _commit(self, unit: Unit, number: int, part: _PartBuffer, *, last: bool, ahead: int) -> PartRecord:
        record = self.store.record(
            unit.number, number, last=last, rows=len(part.lines), input_digest=part.digest(), stats=part.stats(ahead)
        )
        self.store.write_lines(record, b"".join(part.lines))
        return record


class _PartBuffer:
    """Lines of the part that is being made, and what was read for it."""

    def __init__(self, reader: UnitReader, ahead: int = 0) -> None:
        self._reader = reader
        self._pages_before = reader.num_pages - ahead
        self._skipped_before = Counter(reader.skipped)
        self.lines: list[bytes] = []
        self.size = 0
        self.rejected: Counter[str] = Counter()

    def add(self, article: ArticleRow) -> None:
        line = article.to_json().encode("utf-8") + b"\n"
        self.lines.append(line)
        self.size += len(line)

    def digest(self) -> str:
        return self._reader.digest()

    def stats(self, ahead: int) -> dict[str, Any]:
        skipped = Counter(self._reader.skipped)
        skipped.subtract(self._skipped_before)
        return {
            "records": len(self.lines),
            "pages": self._reader.num_pages - ahead - self._pages_before,
            "bytes": self.size,
            "skipped": {reason: count for reason, count in sorted(skipped.items()) if count},
            "rejected": dict(sorted(self.rejected.items())),
        }
