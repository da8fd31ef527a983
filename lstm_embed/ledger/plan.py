"""The work that is left of an output folder's plan, and the manifest that closes it.

What has been done is read from the parts themselves. The manifest is written last.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError, TooMuchRejected
from lstm_embed.base.text import printable
from lstm_embed.ledger import parts
from lstm_embed.ledger.erased import refuse_unfinished
from lstm_embed.ledger.manifest import FORMAT, JOB, MANIFEST, read_folder_config, read_manifest, words
from lstm_embed.ledger.origin import fingerprint, provenance
from lstm_embed.ledger.owner import Owner, owned
from lstm_embed.ledger.parts import PartRecord, PartStore
from lstm_embed.ledger.units import Span, Unit, append_plan, differs, read_plan

READERS = 32
"""Threads that read the records of parts; the work is waiting for the store."""


Cut = Callable[[Sequence[storage.FileInfo]], list[tuple[Span, ...]]]
"""Cuts files into the spans of new units."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """How an output folder stands to its input; made without writing anything."""

    finished: bool
    """Nothing is left to do and the manifest is there."""
    units: tuple[Unit, ...]
    """Active units, in order."""
    pending: tuple[Unit, ...]
    """Those of them that are not complete."""
    added: tuple[Unit, ...]
    """Those of them that are not in the plan yet."""
    retired: tuple[int, ...]
    """Numbers of planned units whose input changed or, with pruning, vanished."""
    vanished: tuple[str, ...]
    """Input files that are no longer there, while what they gave is kept."""
    records: dict[int, list[PartRecord]] = field(default_factory=dict)
    """Records of the units' committed parts from the first one on, by unit number."""


class Ledger:
    """The books of one output folder.

    Args:
        output: The folder.
        kind: What it will hold, such as "token_set".
        settings: Everything but the input that decides the content; its hash is the fingerprint of the parts.
        config: The resolved configuration, saved for the reader.
        suffix: Of the parts.
    """

    def __init__(
        self, output: str, *, kind: str, settings: dict[str, Any], config: dict[str, Any], suffix: str = ".parquet"
    ) -> None:
        self.output = storage.resolve(output)
        self.kind = kind
        self.settings = {"kind": kind, "format": FORMAT, **settings}
        self.config = config
        self.store = PartStore(self.output, fingerprint(self.settings), suffix)
        self.unit_content: dict[int, Any] = {}
        """What else decides the content of single units' parts: theirs are in `store.bound(content)`."""

    def bind(self, content: dict[str, Any]) -> None:
        """Let the parts' fingerprint depend on something that is known only later, such as a vocabulary."""
        self.store = replace(self.store, fingerprint=fingerprint([self.settings, content]))

    def compare(self, files: Sequence[storage.FileInfo], cut: Cut, *, prune: bool = False) -> Work:
        """Tell what is left to do for these input files.

        Args:
            files: The input as it is now.
            cut: Cuts files that are new or changed into units.
            prune: Retire the units that hold files which are no longer there.

        Raises:
            FingerprintMismatch: if the folder was made with other settings.
            InputError: if the folder holds something else, an erasure was interrupted, or input is gone that has to be read.
        """
        self._check_folder()
        refuse_unfinished(self.output)
        planned, next_number = read_plan(self.output)
        now = {file.path: file for file in files}
        known = {span.path: span for unit in planned.values() for span in unit.spans}
        changed = {p for p, span in known.items() if p in now and differs(span, now[p])}
        vanished = sorted(set(known) - set(now))
        stale = changed | (set(vanished) if prune else set())
        retired = sorted(n for n, unit in planned.items() if any(span.path in stale for span in unit.spans))
        again = {span.path for n in retired for span in planned[n].spans}
        if not prune:
            self._refuse_lost(again & set(vanished))
        new = set(now) - set(known)
        if again & set(now) or new:
            # Where plan files were lost, other input must not get the numbers of the parts that their units left.
            next_number = max(next_number, self._last_number() + 1)
        added = []
        for group in (again & set(now), new):
            for spans in cut([now[path] for path in sorted(group)]) if group else []:
                added.append(Unit(next_number, spans))
                next_number += 1
        units = [unit for n, unit in sorted(planned.items()) if n not in set(retired)]
        work = Work(
            finished=not added and not retired and self._manifest_matches(units),
            units=(*units, *added),
            pending=(),
            added=tuple(added),
            retired=tuple(retired),
            vanished=() if prune else tuple(vanished),
        )
        if work.finished:
            return work
        work = self.remaining(work)
        self._refuse_lost({span.path for unit in work.pending for span in unit.spans} & set(vanished))
        return work

    def _refuse_lost(self, paths: set[str]) -> None:
        if paths:
            first, *others = sorted(paths)
            more = f" (and {len(others)} more files)" if others else ""
            raise InputError(
                f"{first}{more} is gone but must be read (again) for {self.output}; "
                "put it back, or let go of what it gave with --prune"
            )

    def remaining(self, work: Work) -> Work:
        """Return `work` with what is pending according to the parts that are there now."""
        records = _committed(self.store, {unit.number for unit in work.units}, self.unit_content)
        pending = tuple(
            replace(unit, committed=len(records.get(unit.number, [])))
            for unit in work.units
            if not is_complete(records.get(unit.number))
        )
        return replace(work, pending=pending, records=records)

    @staticmethod
    def complete_units(store: PartStore, numbers: set[int]) -> dict[int, list[PartRecord]]:
        """Return the part records of those units that are complete in a part store."""
        return {number: chain for number, chain in _committed(store, numbers, {}).items() if is_complete(chain)}

    @contextlib.contextmanager
    def writing(self, work: Work) -> Iterator[Owner]:
        """Own the folder and enter new units into the plan. What retired units gave stays until `finish`: it may be reused.

        Raises:
            OutputBusy: if another job writes the folder.
        """
        with owned(self.output) as owner:
            # The books may have moved between `compare` and here; whoever came second starts over.
            planned, _ = read_plan(self.output)
            expected = {unit.number for unit in work.units} - {unit.number for unit in work.added} | set(work.retired)
            if set(planned) != expected:
                raise InputError(f"another job changed {self.output} just now; run this command again")
            self._write_job()
            storage.remove_temporaries(self.output)
            storage.remove(storage.join(self.output, MANIFEST))
            if work.added or work.retired:
                append_plan(self.output, work.added, work.retired)
            yield owner

    def finish(
        self, work: Work, new: dict[int, list[PartRecord]], *, max_bad_fraction: float, extra: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the manifest once every unit is complete; return it.

        Args:
            work: What `compare` returned.
            new: Records of the parts that were written since, by unit number.
            max_bad_fraction: Share of records that may have been rejected.
            extra: Further content of the manifest.

        Raises:
            TooMuchRejected: if more than that was rejected; the parts stay, the manifest is not written.
        """
        records = {**work.records, **new}
        sizes = self._part_sizes()
        entries: list[dict[str, Any]] = []
        totals: dict[str, Any] = {}
        for unit in work.units:
            for record in records[unit.number]:
                entries.append({"name": record.stem + self.store.suffix, **asdict(record)})
                add_counts(totals, record.stats)
        # A record that was read back has its counts in another order than one just made.
        entries, totals = _ordered(entries), _ordered(totals)
        check_rejected(totals, max_bad_fraction, self.output)
        # Parts of retired units, or of one that had more parts when it was made otherwise.
        for stranger in set(sizes) - {entry["name"] for entry in entries}:
            if parts.parse_name(stranger):
                storage.remove(storage.join(self.store.folder, stranger))
        self._sweep_quarantine({unit.number for unit in work.units})
        storage.remove_temporaries(self.output)  # of workers that were killed on the way
        manifest = {
            "format": FORMAT,
            "kind": self.kind,
            "fingerprint": fingerprint([self.store.fingerprint, entries, extra]),
            "settings": self.settings,
            "units": [unit.number for unit in work.units],
            "rows": sum(entry["rows"] for entry in entries),
            "totals": totals,
            **extra,
            # How many bytes a part has depends on the version of the parquet library: no matter of the fingerprint.
            "parts": [{**entry, "bytes": sizes[entry["name"]]} for entry in entries],
        }
        storage.write_json(storage.join(self.output, MANIFEST), manifest)
        return manifest

    def _check_folder(self) -> None:
        job_path = storage.join(self.output, JOB)
        if not storage.exists(job_path):
            strangers = [f.path for f in storage.list_files(self.output, recursive=False)]
            if strangers:
                raise InputError(
                    f"{self.output} holds files of something else (such as {storage.name(strangers[0])}); "
                    "choose an empty or new output folder"
                )
            return
        made = read_folder_config(job_path)["settings"]
        if made["kind"] != self.kind:
            raise InputError(
                f"{self.output} holds a {words(made['kind'])}; this job writes a {words(self.kind)}; "
                "choose another output folder"
            )
        if made != self.settings:
            raise FingerprintMismatch(
                f"{self.output} was made with other settings: {differences(made, self.settings)}; "
                "use the same settings, or another output folder"
            )

    def _write_job(self) -> None:
        path = storage.join(self.output, JOB)
        if not storage.exists(path):
            storage.write_json(path, {"settings": self.settings, "config": self.config, "made_by": provenance()})

    def _manifest_matches(self, units: Sequence[Unit]) -> bool:
        try:
            manifest = read_manifest(self.output, kind=self.kind)
        except (FileNotFoundError, InputError):
            return False
        if manifest["units"] != [unit.number for unit in units]:
            return False
        expected = {number: self.store.bound(content).fingerprint for number, content in self.unit_content.items()}
        sizes = self._part_sizes()
        return all(
            part["fingerprint"] == expected.get(part["unit"], self.store.fingerprint)
            and part["name"] in sizes
            and sizes[part["name"]] == part.get("bytes", sizes[part["name"]])
            for part in manifest["parts"]
        )

    def _last_number(self) -> int:
        """Return the largest number of a unit that has a part or a file of its making; -1 if none has."""
        names = [parts.parse_name(storage.name(file.path)) for file in storage.list_files(self.output)]
        return max((named[0] for named in names if named), default=-1)

    def _part_sizes(self) -> dict[str, int]:
        return {storage.name(file.path): file.size for file in storage.list_files(self.store.folder)}

    def _sweep_quarantine(self, active: set[int]) -> None:
        """Delete the quarantine lists of units that left the plan."""
        for file in storage.list_files(storage.join(self.output, "quarantine")):
            digits = storage.name(file.path).partition("-")[2][:8]
            if digits.isdigit() and int(digits) not in active:
                storage.remove(file.path)


def is_complete(records: Sequence[PartRecord] | None) -> bool:
    """Tell whether the records of a unit's parts, in order, are all there are."""
    return records is not None and len(records) > 0 and records[-1].last


def read_records(store: PartStore, numbers: set[int]) -> list[PartRecord]:
    """Return the records of all whole parts of some units, in order."""
    wanted = [
        file.path
        for file in storage.list_files(store.folder)
        if (named := parts.parse_name(storage.name(file.path))) and named[0] in numbers
    ]
    with ThreadPoolExecutor(READERS) as pool:
        found = [record for record in pool.map(parts.read_record, wanted) if record]
    return sorted(found, key=lambda record: (record.unit, record.part))


def chains(
    records: Iterable[PartRecord], fingerprints: dict[int, str], default: str = ""
) -> dict[int, list[PartRecord]]:
    """Return for each unit those of its parts' records that follow each other, from the first one to the last of the unit.

    Args:
        records: Records in order.
        fingerprints: Fingerprint of the parts that count, by the number of their unit.
        default: That of all other units' parts; that of the unit's first part if empty.
    """
    found: dict[int, list[PartRecord]] = {}
    for record in records:
        chain = found.setdefault(record.unit, [])
        wanted = fingerprints.get(record.unit, default) or (chain[0] if chain else record).fingerprint
        if not is_complete(chain) and record.fingerprint == wanted and record.part == len(chain):
            chain.append(record)
    return found


def _committed(store: PartStore, numbers: set[int], content: dict[int, Any]) -> dict[int, list[PartRecord]]:
    """Return for each unit the records of its committed parts from the first one on, without gaps."""
    expected = {number: store.bound(value).fingerprint for number, value in content.items()}
    return chains(read_records(store, numbers), expected, store.fingerprint)


def check_rejected(totals: dict[str, Any], max_bad_fraction: float, output: str) -> None:
    """Refuse a result of which too much was rejected, counted by records or by bytes, or in which nothing was usable.

    Raises:
        TooMuchRejected: with the counts by reason and where the list is.
    """
    rejected = totals.get("rejected", {})
    bad, bad_bytes = sum(rejected.values()), totals.get("rejected_bytes", 0)
    records, num_bytes = totals.get("records", 0) + bad, totals.get("bytes", 0) + bad_bytes
    if bad <= max_bad_fraction * records and bad_bytes <= max_bad_fraction * num_bytes:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items()))
    of_bytes = f", with {bad_bytes:,} of {num_bytes:,} bytes" if bad_bytes else ""
    files = (
        f"whole files or rests of files are {parts.rejected_files(output)}; " if totals.get("files_rejected") else ""
    )
    raise TooMuchRejected(
        f"{bad} of {records} records were rejected ({reasons}){of_bytes}, more than --max-bad-fraction "
        f"{max_bad_fraction:g} allows; {files}all are listed in {storage.join(output, 'quarantine')}; what was read is "
        "kept: run again with a larger --max-bad-fraction to accept it"
    )


def differences(made: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Name the entries in which two settings differ, with both values."""
    old, new = _flat(made), _flat(wanted)
    names = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
    return ", ".join(
        f"{printable(name)} was {_short(old.get(name))} and is now {_short(new.get(name))}" for name in names
    )


def _ordered(value: Any) -> Any:
    return json.loads(json.dumps(value, sort_keys=True))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _short(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False), 60)


def add_counts(totals: dict[str, Any], stats: dict[str, Any]) -> None:
    """Add counts to totals, element by element through dicts and lists.

    Raises:
        InputError: if counts of one name are a number here and a list there, or lists of different lengths.
    """
    for name, value in stats.items():
        old = totals.get(name, [0] * len(value) if isinstance(value, list) else type(value)())
        if type(old) is not type(value) or (isinstance(value, list) and len(old) != len(value)):
            raise InputError(
                f"of one folder's parts some count {name!r} as {old!r} and some as {value!r}; make it again"
            )
        if isinstance(value, dict):
            add_counts(old, value)
            totals[name] = old
        elif isinstance(value, list):
            totals[name] = [a + b for a, b in zip(old, value, strict=True)]
        else:
            totals[name] = old + value
