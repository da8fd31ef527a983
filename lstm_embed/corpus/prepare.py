"""The Ray Data pipeline from articles to a token set.

Words are cut into pieces only when all of them have been counted, but text is worked through once: parts are first staged with
a dictionary of their own (`counts.py`), the vocabulary is learned from all dictionaries, and the words of the staged parts are
then cut into its pieces. Once a folder has its vocabulary, new input goes straight to its final parts. Sentences repeated
anywhere in the corpus are found between the two steps (`repeats.py`).
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding, values_of
from lstm_embed.corpus import repeats, token_set
from lstm_embed.corpus.articles import cut_into_units, discover, inflation, read_articles
from lstm_embed.corpus.config import PrepareConfig, TextConfig
from lstm_embed.corpus.counts import merge_counts
from lstm_embed.corpus.sentences import UnitReader
from lstm_embed.corpus.tasks import FinalTask, RecountTask, StageTask, counts_path, recounts_path
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Rejected, Unit, Work, fingerprint
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.plan import add_counts, check_rejected
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.units import UnitFunction, run_units

_SAMPLE_RECORDS = 100
_HIDDEN_FACTS = ("holdout", "records", "sentences", "rejected")

Records = dict[int, list[PartRecord]]


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
            "content_format": token_set.FORMAT,
            "text": deciding(config, TextConfig),
            "keep_text": config.text,
            "holdout_every": config.holdout_every,
            "part_rows": config.part_rows,
        }
        if config.drop_repeated_corpus:
            settings["drop_repeated_corpus"] = True
        self.ledger = Ledger(self.output, kind=token_set.KIND, settings=settings, config=values_of(config))
        self.staging = PartStore(storage.join(self.output, "staging"), self.ledger.store.fingerprint)
        self.hashes: PartStore | None = None
        if config.drop_repeated_corpus:
            self.hashes = repeats.hash_store(self.output, self.ledger.store.fingerprint)
        self.ignored: list[str] = []
        self._unbound = self.ledger.store
        self._own_vocabulary = storage.join(self.output, token_set.VOCABULARY)
        self.vocabulary: Vocabulary | None = None
        self._made: dict[str, Any] = {}
        self._find_vocabulary()

    @property
    def size_unit(self) -> tuple[str, float]:
        """Name of what units are measured in, and how many of their sizes make one of it."""
        return "MB", 1e6

    @property
    def needs(self) -> Needs:
        """What it needs of the nodes."""
        return Needs(output=self.output)

    def _find_vocabulary(self) -> None:
        """Take the folder's vocabulary, or the one given; leave it open if words have to be counted."""
        own = Vocabulary.load(self._own_vocabulary) if storage.exists(self._own_vocabulary) else None
        rebuild = self.config.rebuild_vocabulary
        if self.config.vocabulary:
            path = _vocabulary_path(self.config.vocabulary)
            given = Vocabulary.load(path)
            if own and own.fingerprint != given.fingerprint and not rebuild:
                raise InputError(
                    f"{self.output} has another vocabulary than {path}; "
                    "choose another output folder, or replace its vocabulary with --rebuild-vocabulary"
                )
            self._bind(given, {"given": given.fingerprint})
        elif own:
            made = Vocabulary.read_made(self._own_vocabulary)
            wanted = self._wanted
            other = [name for name in wanted if "given" not in made and made.get(name, wanted[name]) != wanted[name]]
            if other and not rebuild:
                raise FingerprintMismatch(
                    f"the vocabulary of {self.output} is frozen: "
                    + ", ".join(f"{name} was {made[name]} and is now {wanted[name]}" for name in other)
                    + "; use the same values, another output folder, or --rebuild-vocabulary"
                )
            self._bind(own, made)

    def _bind(self, vocabulary: Vocabulary, made: dict[str, Any]) -> None:
        """Let the fingerprint of the parts depend on the vocabulary too."""
        self.vocabulary, self._made = vocabulary, made
        self.ledger.bind({"vocabulary": vocabulary.fingerprint})

    def _counted(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Return what a vocabulary counted over these units is made with."""
        return {**self._wanted, "units": fingerprint([unit.number for unit in units])}

    @property
    def _wanted(self) -> dict[str, int]:
        return {"num_pieces": self.config.num_pieces, "whole_word_count": self.config.whole_word_count}

    def compare(self) -> Work:
        """Tell what is left to do.

        Raises:
            InputError: also if nothing of a sample of the input can be used.
        """
        files, self.ignored = discover(self.config.input)
        inside = next((file.path for file in files if file.path.startswith(f"{self.output}/")), None)
        if inside:
            raise InputError(f"the input holds the output ({inside}); choose an output folder outside of the input")
        if self.hashes is not None:
            self.ledger.unit_content = dict(repeats.marked_units(self.hashes))
        cut = functools.partial(cut_into_units, unit_bytes=self.config.unit_bytes)
        work = self.ledger.compare(files, cut, prune=self.config.prune)
        recount = self.config.rebuild_vocabulary and not self.config.vocabulary
        if recount and self.vocabulary is not None and self._made != self._counted(work.units):
            self.vocabulary, self.ledger.store = None, self._unbound
            work = self.ledger.compare(files, cut, prune=self.config.prune)
        if self.vocabulary is None:
            work = replace(work, finished=False)
        if not work.finished and len(work.pending) == len(work.units) and self.config.max_bad_fraction < 1:
            _check_sample(work.pending, self.config)
        return work

    def run(self, work: Work, report: Reporter = SILENT) -> Summary:
        """Do what `compare` found to be left."""
        started = time.monotonic()
        with self.ledger.writing(work) as owner:
            if self.vocabulary is None or self.hashes is not None:
                self._stage(work, report)
            if self.hashes is not None:
                self.ledger.unit_content = dict(repeats.find_repeats(self.hashes, work.units, report))
            if self.vocabulary is None:
                self._count_words(work, report)
            self._write_vocabulary()
            work = self.ledger.remaining(work)
            new = _run(work, self._final_task(), "prepare", self.output, report)
            owner.check()
            storage.remove_dir(self.staging.output)
            self._finish(work, new)
        return self.summary(time.monotonic() - started, already_done=False)

    def _stage(self, work: Work, report: Reporter) -> None:
        """Stage the units that are not; if only repeats are looked for, those whose hashes are not there."""
        numbers = {unit.number for unit in work.units}
        ready = set(Ledger.complete_units(self.staging, numbers))
        if self.hashes is not None:
            hashed = set(Ledger.complete_units(self.hashes, numbers))
            ready = ready & hashed if self.vocabulary is None else hashed
        left = tuple(replace(unit, committed=0) for unit in work.units if unit.number not in ready)
        _run(
            replace(work, pending=left),
            StageTask(config=self.config, store=self.staging, hashes=self.hashes),
            "read",
            self.output,
            report,
        )

    def _count_words(self, work: Work, report: Reporter) -> None:
        """Make the vocabulary of all staged units."""
        staged = Ledger.complete_units(self.staging, {unit.number for unit in work.units})
        totals: dict[str, Any] = {}
        for records in staged.values():
            for record in records:
                add_counts(totals, record.stats)
        check_rejected(totals, self.config.max_bad_fraction, self.output)
        if self.hashes is not None:
            task = RecountTask(store=self.staging, hashes=self.hashes)
            _run(replace(work, pending=work.units), task, "count words", self.output, report)
        stems = [record.stem for number in sorted(staged) for record in staged[number]]
        if not totals.get("tokens"):
            raise InputError(self._nothing_usable(totals))
        vocabulary = merge_counts(self._counts_paths(stems), self.config, report)
        self._bind(vocabulary, self._counted(work.units))

    def _counts_paths(self, stems: Sequence[str]) -> list[str]:
        folder = storage.parent(recounts_path(self.staging, ""))
        recounted = {file.path for file in storage.list_files(folder)} if self.hashes is not None else set()
        paths = [(recounts_path(self.staging, stem), counts_path(self.staging, stem)) for stem in stems]
        return [anew if anew in recounted else first for anew, first in paths]

    def _nothing_usable(self, totals: dict[str, Any]) -> str:
        bad = ", ".join(f"{count} {reason}" for reason, count in totals.get("rejected", {}).items()) or "nothing"
        if not totals.get("articles"):
            return f"the input holds no usable article (rejected: {bad})"
        return f"the input's {totals['articles']} articles hold no word"

    def _write_vocabulary(self) -> None:
        """Save the vocabulary in the folder, unless it is there."""
        assert self.vocabulary
        if storage.exists(self._own_vocabulary):
            own = Vocabulary.load(self._own_vocabulary)
            if (
                own.fingerprint == self.vocabulary.fingerprint
                and Vocabulary.read_made(self._own_vocabulary) == self._made
            ):
                return
        self.vocabulary.save(self._own_vocabulary, self._made)

    def _final_task(self) -> FinalTask:
        """Return what workers do once there is a vocabulary."""
        assert self.vocabulary
        return FinalTask(
            config=self.config,
            store=self.ledger.store,
            staging=self.staging if storage.exists(self.staging.output) else None,
            hashes=self.hashes,
            vocabulary_path=self._own_vocabulary,
            vocabulary_fingerprint=self.vocabulary.fingerprint,
            erased=Erased.load(self.output),
        )

    def _finish(self, work: Work, new: Records) -> None:
        assert self.vocabulary
        totals: dict[str, Any] = {}
        for records in {**work.records, **new}.values():
            for record in records:
                add_counts(totals, record.stats)
        if not totals.get("sentences"):
            check_rejected(totals, self.config.max_bad_fraction, self.output)
            raise InputError(self._nothing_usable(totals))
        extra = {"vocabulary": self.vocabulary.fingerprint, "holdout_every": self.config.holdout_every}
        self.ledger.finish(work, new, max_bad_fraction=self.config.max_bad_fraction, extra=extra)

    def sample_rate(self, work: Work, seconds: float = 3.0) -> float:
        """Return the stored bytes a second that one CPU works through, measured on the first pending unit."""
        if not work.pending:
            return 0.0
        unit = work.pending[0]
        started = time.monotonic()
        read = 0.0
        for chunk in UnitReader(unit.spans, self.config).chunks():
            read += chunk.stats["bytes"]
            if time.monotonic() - started > seconds:
                break
        return read / inflation(unit) / max(time.monotonic() - started, 1e-9)

    def summary(self, seconds: float, *, already_done: bool) -> Summary:
        """Return what the finished folder holds."""
        tokens = token_set.TokenSet.open(self.output)
        facts = {name: value for name, value in tokens.totals.items() if name not in _HIDDEN_FACTS}
        rejected = tokens.totals.get("rejected", {})
        facts["rejected"] = sum(rejected.values())
        if rejected:
            facts["rejected_as"] = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
            facts["rejected_listed_in"] = storage.join(self.output, "quarantine")
        if self.ignored:
            facts["files_passed_over_for_their_names"] = f"{len(self.ignored)} (such as {self.ignored[0]})"
        facts["vocabulary"] = len(self.vocabulary) if self.vocabulary else 0
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


def _check_sample(units: Sequence[Unit], config: PrepareConfig) -> None:
    """Raise InputError if none of the first records of three units can be used: a column is wrong, or all of the input."""
    reasons: Counter[str] = Counter()
    for unit in {units[at].number: units[at] for at in (0, len(units) // 2, -1)}.values() if units else ():
        records = itertools.chain.from_iterable(read_articles(span, config) for span in unit.spans)
        for record in itertools.islice(records, _SAMPLE_RECORDS):
            if not isinstance(record, Rejected):
                return
            reasons[record.reason] += record.count
    if reasons:
        found = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        raise InputError(
            f"none of the first records of {units[0].spans[0].path} (or of two other places of the input) can be used: "
            f"{found}; expected wikiextractor output, or JSON lines or parquet with the text in {config.text_column!r} "
            "(--text-column)"
        )


def _run(work: Work, task: UnitFunction, stage: str, output: str, report: Reporter) -> Records:
    """Run a task on the pending units with progress in stored bytes."""
    total = sum(unit.size for unit in work.units)
    sizes = {unit.number: unit.size for unit in work.pending}
    done = total - sum(sizes.values())
    new: Records = {}
    sentences = 0
    report.progress(stage, done / 1e6, total / 1e6, "MB")
    for records in run_units(work.pending, task, stage=stage, output=output, report=report):
        number = records[0].unit
        new[number] = records
        done += sizes[number]
        sentences += sum(record.rows for record in records)
        rejected = sum(sum(record.stats["rejected"].values()) for record in records)
        report.progress(stage, done / 1e6, total / 1e6, "MB", sentences=sentences, rejected=rejected)
    return new
