"""The stage from articles to a token set.

Words are cut into pieces only when all of them have been counted, but text is worked through once: parts are first staged with
a dictionary of their own (`counts.py`), the vocabulary is learned from all dictionaries, and the words of the staged parts are
then cut into its pieces. Once a folder has its vocabulary, new input goes straight to its final parts.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding
from lstm_embed.corpus import token_set
from lstm_embed.corpus.articles import cut_into_units, inflation, read_articles
from lstm_embed.corpus.config import PrepareConfig, TextConfig
from lstm_embed.corpus.counts import merge_counts
from lstm_embed.corpus.input import discover, refuse_output_inside
from lstm_embed.corpus.sentences import UnitReader
from lstm_embed.corpus.tasks import FinalTask, StageTask, counts_path
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger import Ledger, PartStore, Rejected, Span, Unit, Work, fingerprint
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.manifest import MANIFEST
from lstm_embed.ledger.parts import rejected_files
from lstm_embed.ledger.plan import add_counts, check_rejected
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import Job, Records, UnitStage

_SAMPLE_RECORDS = 100
_SAMPLE_SECONDS = 3.0
_HIDDEN_FACTS = ("holdout", "records", "sentences", "rejected")


def prepare(config: PrepareConfig, report: Reporter = SILENT) -> Summary:
    """Make or bring up to date a token set.

    Raises:
        FileNotFoundError: if an input matches nothing.
        InputError: if an input or the output folder is of the wrong kind, or nothing usable was found.
        TooMuchRejected: if more was rejected than the config allows.
        OutputBusy: if another job writes the folder.
    """
    return run_stage(PrepareStage(config), report)


class PrepareStage(UnitStage[PrepareConfig]):
    """From articles to a token set."""

    name, kind, row_name = "prepare", token_set.KIND, "sentences"

    def open(self) -> None:
        """Look at the input, and find the vocabulary if there is one already."""
        refuse_output_inside(self.config.input, self.output)
        self._found = discover(self.config.input)
        self._own_vocabulary = storage.join(self.output, token_set.VOCABULARY)
        self._vocabulary: Vocabulary | None = None
        self._made: dict[str, Any] = {}
        self._find_vocabulary()

    def settings(self) -> dict[str, Any]:
        """Return what decides the sentences and their ids, besides the vocabulary."""
        text, all_fields = deciding(self.config, TextConfig), deciding(self.config)
        own = {name: value for name, value in all_fields.items() if name not in text}
        return {"content_format": token_set.FORMAT, "text": text, "keep_text": self.config.text, **own}

    def files(self) -> list[storage.FileInfo]:
        """Return the files of articles."""
        return self._found.files

    def cut(self, files: Sequence[storage.FileInfo]) -> list[tuple[Span, ...]]:
        """Cut and bundle files into pieces of equal size."""
        return cut_into_units(files, self.config.unit_bytes)

    def _find_vocabulary(self) -> None:
        """Take the folder's vocabulary, or the one given; leave it open if words have to be counted."""
        own = Vocabulary.load(self._own_vocabulary) if storage.exists(self._own_vocabulary) else None
        rebuild = self.config.rebuild_vocabulary
        if own and own.fingerprint != self._listed_vocabulary(own.fingerprint):
            if not rebuild:
                raise InputError(
                    f"{self._own_vocabulary} is not the vocabulary that the folder's {MANIFEST} tells of; put it back from a "
                    "copy, or make it anew with --rebuild-vocabulary"
                )
            own = None
        if self.config.vocabulary:
            path = _vocabulary_path(self.config.vocabulary)
            given = Vocabulary.load(path)
            if own and own.fingerprint != given.fingerprint and not rebuild:
                raise InputError(
                    f"{self.output} has another vocabulary than {path}; "
                    "choose another output folder, or replace its vocabulary with --rebuild-vocabulary"
                )
            self._vocabulary, self._made = given, {"given": given.fingerprint}
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
            self._vocabulary, self._made = own, made

    def _listed_vocabulary(self, otherwise: str) -> str:
        """Return the fingerprint of the vocabulary that a finished folder tells of, or else what is given."""
        try:
            return token_set.TokenSet(self.output).vocabulary_fingerprint
        except (FileNotFoundError, InputError):  # what is unfinished or damaged is made again
            return otherwise

    def _counted(self, units: Sequence[Unit]) -> dict[str, Any]:
        """Return what a vocabulary counted over these units is made with."""
        return {**self._wanted, "units": fingerprint([unit.number for unit in units])}

    @property
    def _wanted(self) -> dict[str, int]:
        return {"num_pieces": self.config.num_pieces, "whole_word_count": self.config.whole_word_count}

    def compare(self, ledger: Ledger) -> Work:
        """Tell what is left to do.

        Raises:
            InputError: also if nothing of a sample of the input can be used.
        """
        unbound = ledger.store
        self._staging = PartStore(self.staging_dir, unbound.fingerprint)
        if self._vocabulary is not None:
            ledger.bind({"vocabulary": self._vocabulary.fingerprint})
        work = super().compare(ledger)
        recount = self.config.rebuild_vocabulary and not self.config.vocabulary
        if recount and self._vocabulary is not None and self._made != self._counted(work.units):
            self._vocabulary, ledger.store = None, unbound
            work = super().compare(ledger)
        if self._vocabulary is None:
            work = replace(work, finished=False)
        if not work.finished and len(work.pending) == len(work.units) and self.config.max_bad_fraction < 1:
            _check_sample(work.pending, self.config)
        return work

    def make(self, job: Job) -> Records:
        """Stage what is new, learn the vocabulary if there is none, and commit the parts."""
        if self._vocabulary is None:
            self._stage(job)
            self._learn_vocabulary(job)
        self._write_vocabulary()
        job.look_again()
        new = job.units(self._final_task(job.ledger.store))
        self._check_usable({**job.work.records, **new})
        return new

    def _stage(self, job: Job) -> None:
        """Stage the units that are not."""
        units = job.work.units
        ready = set(Ledger.complete_units(self._staging, {unit.number for unit in units}))
        left = [replace(unit, committed=0) for unit in units if unit.number not in ready]
        job.units(StageTask(config=self.config, store=self._staging), name="read", pending=left)

    def _learn_vocabulary(self, job: Job) -> None:
        """Make the vocabulary of all staged units."""
        units = job.work.units
        staged = Ledger.complete_units(self._staging, {unit.number for unit in units})
        totals = _totals(staged)
        check_rejected(totals, self.config.max_bad_fraction, self.output)
        paths = [counts_path(self._staging, record.stem) for number in sorted(staged) for record in staged[number]]
        if not totals.get("tokens"):
            raise InputError(_nothing_usable(totals))
        self._vocabulary = merge_counts(paths, self.config, job.report)
        self._made = self._counted(units)
        job.ledger.bind({"vocabulary": self._vocabulary.fingerprint})

    def _write_vocabulary(self) -> None:
        """Save the vocabulary in the folder, unless it is there."""
        assert self._vocabulary
        if storage.exists(self._own_vocabulary):
            same = Vocabulary.load(self._own_vocabulary).fingerprint == self._vocabulary.fingerprint
            if same and Vocabulary.read_made(self._own_vocabulary) == self._made:
                return
        self._vocabulary.save(self._own_vocabulary, self._made)

    def _final_task(self, store: PartStore) -> FinalTask:
        """Return what workers do once there is a vocabulary."""
        assert self._vocabulary
        return FinalTask(
            config=self.config,
            store=store,
            staging=self._staging if storage.exists(self._staging.output) else None,
            vocabulary_path=self._own_vocabulary,
            vocabulary_fingerprint=self._vocabulary.fingerprint,
            erased=Erased.load(self.output),
        )

    def _check_usable(self, records: Records) -> None:
        totals = _totals(records)
        if not totals.get("sentences"):
            check_rejected(totals, self.config.max_bad_fraction, self.output)
            raise InputError(_nothing_usable(totals))

    def manifest(self) -> dict[str, Any]:
        """Return what those who train on the token set have to know of it."""
        assert self._vocabulary
        return {"vocabulary": self._vocabulary.fingerprint, "holdout_every": self.config.holdout_every}

    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return what was read, and what of it was left out."""
        totals = manifest["totals"]
        facts = {name: value for name, value in totals.items() if name not in _HIDDEN_FACTS}
        rejected = totals.get("rejected", {})
        facts["rejected"] = sum(rejected.values())
        if rejected:
            facts["rejected_as"] = ", ".join(f"{count} {reason}" for reason, count in rejected.items())
            facts["rejected_listed_in"] = storage.join(self.output, "quarantine")
        if "files_rejected" in facts:
            facts["files_rejected"] = f"{facts['files_rejected']} ({rejected_files(self.output)})"
        facts |= self._found.facts()
        facts["vocabulary"] = len(self._vocabulary) if self._vocabulary else 0
        return facts

    def sample_rate(self, work: Work) -> float:
        """Return the stored bytes a second that one CPU works through, measured on the first pending unit."""
        started = time.monotonic()
        read = 0.0
        for unit in work.pending[:1]:
            for chunk in UnitReader(unit.spans, self.config).chunks():
                read += chunk.stats["bytes"] / inflation(unit)
                if time.monotonic() - started > _SAMPLE_SECONDS:
                    break
        return read / max(time.monotonic() - started, 1e-9)


def _totals(records: Records) -> dict[str, Any]:
    """Return the sums of the counts of parts."""
    totals: dict[str, Any] = {}
    for record in itertools.chain.from_iterable(records.values()):
        add_counts(totals, record.stats)
    return totals


def _nothing_usable(totals: dict[str, Any]) -> str:
    bad = ", ".join(f"{count} {reason}" for reason, count in totals.get("rejected", {}).items()) or "nothing"
    if not totals.get("articles"):
        return f"the input holds no usable article (rejected: {bad})"
    return f"the input's {totals['articles']} articles hold no word"


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
