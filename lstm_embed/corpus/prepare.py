"""The Ray Data pipeline from articles to a token set.

Words get ids only when all of them have been counted, but text is worked through once: parts are first staged with a
dictionary of their own (`counts.py`), the dictionaries are merged into the vocabulary, and the staged parts are then given
the vocabulary's ids. Once a folder has its vocabulary, new input goes straight to its final parts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed import storage
from lstm_embed.corpus import counts, token_set
from lstm_embed.corpus.articles import cut_into_units, find_files, inflation
from lstm_embed.corpus.config import PrepareConfig, text_settings
from lstm_embed.corpus.sentences import SentenceChunk, UnitReader, part_chunks
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.distribute import run_units
from lstm_embed.errors import InputError
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Unit, Work
from lstm_embed.ledger.plan import check_rejected
from lstm_embed.progress import SILENT, Reporter, Summary

FORMAT = 1
"""Version of the parts' content; raised by hand when the same text would give other tokens or sentences."""


def prepare(config: PrepareConfig, report: Reporter = SILENT) -> Summary:
    """Make or bring up to date a token set; Ray must be running unless nothing is left to do.

    Raises:
        FileNotFoundError: if an input matches nothing.
        InputError: if an input or the output folder is of the wrong kind, or nothing usable was found.
        TooMuchRejected: if more was rejected than the config allows.
        OutputBusy: if another job writes the folder.
    """
    job = PrepareJob(config)
    work = job.compare()
    return job.summary(0.0, already_done=True) if work.finished else job.run(work, report)


class PrepareJob:
    """One call of `prepare`: its books and the state of its vocabulary."""

    def __init__(self, config: PrepareConfig) -> None:
        sentence_splitter(config.split, config.language)  # a wrong name is told before anything is read
        self.config = config
        self.output = storage.resolve(config.output)
        settings = {
            "content_format": FORMAT,
            "text": text_settings(config),
            "keep_text": config.text,
            "holdout_every": config.holdout_every,
            "part_rows": config.part_rows,
        }
        self.ledger = Ledger(self.output, kind=token_set.KIND, settings=settings, config=asdict(config))
        self.staging = PartStore(storage.join(self.output, "staging"), self.ledger.store.fingerprint)
        self._own_vocabulary = storage.join(self.output, token_set.VOCABULARY)
        self.vocabulary_path = self._find_vocabulary()
        if self.vocabulary_path:
            self._bind()

    def _find_vocabulary(self) -> str | None:
        exists = storage.exists(self._own_vocabulary)
        given = self.config.vocabulary and _vocabulary_path(self.config.vocabulary)
        if exists and not self.config.rebuild_vocabulary:
            if given and Vocabulary.load(given).fingerprint != Vocabulary.load(self._own_vocabulary).fingerprint:
                raise InputError(
                    f"{self.output} has another vocabulary than {given}; "
                    "choose another output folder, or replace its vocabulary with --rebuild-vocabulary"
                )
            return self._own_vocabulary
        return given or None

    def _bind(self) -> None:
        """Let the fingerprint of the parts depend on the vocabulary too."""
        assert self.vocabulary_path
        self.vocabulary = Vocabulary.load(self.vocabulary_path)
        self.ledger.bind({"vocabulary": self.vocabulary.fingerprint})

    @property
    def size_unit(self) -> tuple[str, float]:
        """Name of what units are measured in, and how many of their sizes make one of it."""
        return "MB", 1e6

    def compare(self) -> Work:
        """Tell what is left to do."""
        files = find_files(self.config.input)
        cut = functools.partial(cut_into_units, unit_bytes=self.config.unit_bytes)
        work = self.ledger.compare(files, cut, prune=self.config.prune)
        return replace(work, finished=False) if self.vocabulary_path is None else work

    def run(self, work: Work, report: Reporter = SILENT) -> Summary:
        """Do what `compare` found to be left."""
        started = time.monotonic()
        with self.ledger.writing(work) as owner:
            if self.vocabulary_path is None:
                self._count_words(work, report)
            elif self.vocabulary_path != self._own_vocabulary:
                self.vocabulary.save(self._own_vocabulary)
                self.vocabulary_path = self._own_vocabulary
            work = self.ledger.remaining(work)
            new = _run(work, self._final_task(), "prepare", report)
            owner.check()
            extra = {"vocabulary": self.vocabulary.fingerprint, "holdout_every": self.config.holdout_every}
            self.ledger.finish(work, new, max_bad_fraction=self.config.max_bad_fraction, extra=extra)
            storage.remove_dir(self.staging.output)
        return self.summary(time.monotonic() - started, already_done=False)

    def _count_words(self, work: Work, report: Reporter) -> None:
        """Stage every unit and make the vocabulary of all of them."""
        staged = Ledger.complete_units(self.staging, {unit.number for unit in work.units})
        left = [unit for unit in work.units if unit.number not in staged]
        task = PrepareTask(config=self.config, store=self.staging, vocabulary_path=None, staging=None)
        new = _run(replace(work, pending=tuple(left)), task, "count words", report)
        totals: dict[str, Any] = {"rejected": {}, "records": 0}
        for records in [*staged.values(), *new.values()]:
            for record in records:
                totals["records"] += record.stats["records"]
                for reason, count in record.stats["rejected"].items():
                    totals["rejected"][reason] = totals["rejected"].get(reason, 0) + count
        check_rejected(totals, self.config.max_bad_fraction, self.output)
        names = [record.stem for records in {**staged, **new}.values() for record in records]
        vocabulary = merge_counts(self.staging, sorted(names), self.config, report)
        if len(vocabulary) <= 2:
            raise InputError(
                f"no word of the input occurs {self.config.min_count} times or more (--min-count); "
                f"read {totals['records']} articles"
            )
        vocabulary.save(self._own_vocabulary)
        self.vocabulary_path = self._own_vocabulary
        self._bind()

    def sample_rate(self, work: Work, seconds: float = 3.0) -> float:
        """Return the stored bytes a second that one CPU works through, measured on the first pending unit."""
        started = time.monotonic()
        read = 0.0
        for unit in work.pending[:1]:
            for chunk in UnitReader(unit.spans, self.config).chunks():
                read += chunk.stats["bytes"]
                if time.monotonic() - started > seconds:
                    break
            ratio = inflation(unit)
        return read / ratio / max(time.monotonic() - started, 1e-9)

    def _final_task(self) -> PrepareTask:
        """Return what workers do once there is a vocabulary."""
        staging = self.staging if storage.exists(self.staging.output) else None
        return PrepareTask(
            config=self.config, store=self.ledger.store, vocabulary_path=self.vocabulary_path, staging=staging
        )

    def summary(self, seconds: float, *, already_done: bool) -> Summary:
        """Return what the finished folder holds."""
        tokens = token_set.TokenSet.open(self.output)
        facts = {name: value for name, value in tokens.totals.items() if name not in ("items", "records", "sentences")}
        facts["rejected"] = sum(tokens.totals.get("rejected", {}).values())
        facts["vocabulary"] = len(self.vocabulary)
        return Summary(
            stage="prepare",
            output=self.output,
            rows=tokens.num_rows,
            row_name="sentences",
            seconds=seconds,
            already_done=already_done,
            facts=facts,
        )


def _vocabulary_path(path: str) -> str:
    path = storage.resolve(path)
    return storage.join(path, token_set.VOCABULARY) if storage.is_dir(path) else path


def _run(work: Work, task: PrepareTask, stage: str, report: Reporter) -> dict[int, list[PartRecord]]:
    """Run a task on the pending units with progress in stored bytes."""
    total = sum(unit.size for unit in work.units)
    sizes = {unit.number: unit.size for unit in work.pending}
    done = total - sum(sizes.values())
    new: dict[int, list[PartRecord]] = {}
    sentences = 0
    report.progress(stage, done / 1e6, total / 1e6, "MB")
    for records in run_units(work.pending, task):
        number = records[0].unit
        new[number] = records
        done += sizes[number]
        sentences += sum(record.rows for record in records)
        rejected = sum(sum(record.stats["rejected"].values()) for record in records)
        report.progress(stage, done / 1e6, total / 1e6, "MB", sentences=sentences, rejected=rejected)
    return new


@dataclass(frozen=True, kw_only=True)
class PrepareTask:
    """What a worker does with one unit: reads it and commits its parts, staged or final."""

    config: PrepareConfig
    store: PartStore
    vocabulary_path: str | None
    """None while words are being counted."""
    staging: PartStore | None

    def __call__(self, unit: Unit) -> Iterator[PartRecord]:
        if self.staging is not None:
            staged = Ledger.complete_units(self.staging, {unit.number}).get(unit.number)
            if staged:
                yield from self._from_staging(staged)
                return
        reader = UnitReader(unit.spans, self.config)
        for number, (chunk, last) in enumerate(part_chunks(reader.chunks(), self.config.part_rows)):
            if last:
                quarantine = replace(self.store, output=storage.resolve(self.config.output))
                quarantine.write_quarantine(unit.number, reader.rejected, reader.unlisted, self.config.quarantine_text)
            yield self._write(unit, number, chunk, last)

    def _write(self, unit: Unit, number: int, chunk: SentenceChunk, last: bool) -> PartRecord:
        tokens = chunk.table["tokens"].combine_chunks()
        lengths = pc.list_value_length(tokens).to_numpy(zero_copy_only=False).astype(np.int32)
        if self.vocabulary_path is None:
            ids, words, word_counts, sizes = counts.local_dictionary(tokens.flatten())
            counts.write_counts(
                counts_path(self.store, f"part-{unit.number:08d}-{number:04d}"), words, word_counts, sizes
            )
        else:
            ids = _vocabulary(self.vocabulary_path).ids(tokens.flatten())
        article = chunk.table["article"].to_numpy()
        stats = {**chunk.stats, "items": token_set.count_items(article, lengths, self.config.holdout_every)}
        record = self.store.record(
            unit.number, number, last=last, rows=len(lengths), input_digest=chunk.input_digest, stats=stats
        )
        if number >= unit.committed:
            self.store.write_table(record, self._table(chunk.table, ids, lengths))
        return record

    def _table(self, table: pa.Table, ids: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any]) -> pa.Table:
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
        lists = pa.ListArray.from_arrays(offsets, pa.array(ids.astype(np.int32)))
        table = table.set_column(table.schema.get_field_index("tokens"), "ids", lists)
        schema = token_set.SCHEMA
        if not self.config.text:
            table = table.drop_columns(["text"])
            schema = schema.remove(schema.get_field_index("text"))
        return table.cast(schema)

    def _from_staging(self, staged: list[PartRecord]) -> Iterator[PartRecord]:
        """Give staged parts the vocabulary's ids."""
        assert self.staging
        assert self.vocabulary_path
        vocabulary = _vocabulary(self.vocabulary_path)
        for old in staged:
            known = vocabulary.ids(counts.read_words(counts_path(self.staging, old.stem)))
            table = token_set.read_part(self.staging.path(old.unit, old.part))
            lists = table["ids"].combine_chunks()
            flat = known[lists.flatten().to_numpy()] if len(known) else np.zeros(0, np.int32)
            ids = pa.ListArray.from_arrays(lists.offsets, pa.array(flat))
            schema = table.schema.remove_metadata()
            table = table.set_column(schema.get_field_index("ids"), "ids", ids).cast(schema)
            record = replace(old, fingerprint=self.store.fingerprint)
            self.store.write_table(record, table)
            yield record


def counts_path(store: PartStore, stem: str) -> str:
    """Return where the counts file of a staged part lies."""
    return storage.join(store.output, "counts", f"{stem}.parquet")


@functools.lru_cache(maxsize=1)
def _vocabulary(path: str) -> Vocabulary:
    """Load the vocabulary once for each worker process and job."""
    return Vocabulary.load(path)


def merge_counts(store: PartStore, stems: list[str], config: PrepareConfig, report: Reporter) -> Vocabulary:
    """Add up the counts of all staged parts; return the vocabulary."""
    paths = [counts_path(store, stem) for stem in stems]
    tables = []
    unknown = 0
    for partition in range(counts.NUM_PARTITIONS):
        table, dropped = counts.merge_partition(paths, partition, config.min_count)
        tables.append(table)
        unknown += dropped
        report.progress("merge counts", partition + 1, counts.NUM_PARTITIONS, "partitions")
    merged = pa.concat_tables(tables)
    vocabulary = Vocabulary.from_counts(
        merged["word"].combine_chunks(),
        merged["count"].combine_chunks(),
        min_count=config.min_count,
        max_words=config.max_vocabulary,
    )
    vocabulary.counts[1] += unknown
    return vocabulary
