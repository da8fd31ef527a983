"""The Ray Data pipeline from a corpus to vectors in parquet.

A reading stage (CPU) turns a unit into chunks of token ids, one row a chunk; a pool of actors that hold the model embeds a
chunk and commits its part itself, so that vectors never pass through the object store. The stages ask for different
resources and are therefore not fused: reading, computing and writing overlap.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from lstm_embed import storage
from lstm_embed.corpus.articles import cut_into_units, find_files, inflation
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.sentences import UnitReader
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.token_set import KIND as TOKEN_SET
from lstm_embed.corpus.token_set import TokenSet, read_part
from lstm_embed.distribute import run_chunks
from lstm_embed.embedding.columns import settle_types
from lstm_embed.embedding.config import EmbedConfig, workers_range
from lstm_embed.embedding.earlier import Earlier, leftovers
from lstm_embed.embedding.read import ReadUnit
from lstm_embed.embedding.reuse import Reuse, build_index
from lstm_embed.embedding.vectors import KIND, VectorFormat
from lstm_embed.embedding.worker import REUSED, EmbedChunk
from lstm_embed.errors import InputError, LstmEmbedError
from lstm_embed.ledger import Ledger, PartRecord, Span, Work
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.sealed import open_sealed, read_manifest
from lstm_embed.preflight import Needs
from lstm_embed.progress import SILENT, Reporter, Summary

FORMAT = 1
"""Version of the parts' content; raised by hand when the same text and model would give other rows."""
_READER_CPUS = 0.5


def embed(config: EmbedConfig, report: Reporter = SILENT) -> Summary:
    """Make or bring up to date the vectors of a corpus; Ray must be running unless nothing is left to do.

    Raises:
        FileNotFoundError: if an input matches nothing or there is no model.
        InputError: if model, input and output folder do not go together.
        TooMuchRejected: if more was rejected than the config allows.
        OutputBusy: if another job writes the folder.
    """
    job = EmbedJob(config)
    work = job.compare()
    return job.summary(0.0, already_done=True) if work.finished else job.run(work, report)


class EmbedJob:
    """One call of `embed`: its books, its model and its input."""

    def __init__(self, config: EmbedConfig) -> None:
        self.config = config
        self.output = storage.resolve(config.output)
        self.model = storage.resolve(config.model)
        manifest = open_sealed(self.model, kind="model", verify=False)
        self.model_fingerprint: str = manifest["fingerprint"]
        self.vocabulary_fingerprint: str = manifest["content"]["vocabulary"]
        self.model_config: dict[str, Any] = storage.read_json(storage.join(self.model, "config.json"))
        self.tokens = self._token_set()
        self.text = self._text_config()
        self.precision = self._precision()
        self.format = VectorFormat(
            level=config.level,
            dtype=config.dtype,
            normalize=config.normalize,
            text=config.text,
            empty=config.empty,
            row_group_rows=config.row_group_rows,
            columns=self._columns(),
        )
        source = {"kind": TOKEN_SET, "text": self.tokens.tokenizer} if self.tokens else {"kind": "articles"}
        settings = {
            "content_format": FORMAT,
            "model": self.model_fingerprint,
            "precision": self.precision,
            "vectors": asdict(self.format) | {"columns": list(self.format.columns)},
            "source": {"text": asdict(self.text), **source},
            "part_rows": 0 if self.tokens else config.part_rows,
        }
        self.ledger = Ledger(self.output, kind=KIND, settings=settings, config=asdict(config))
        other = config.reuse and storage.resolve(config.reuse) != self.output  # what is here is reused in any case
        self.earlier = Earlier.open(config.reuse, self.ledger.settings) if other else None
        self._counts: dict[str, int] = {}

    def _token_set(self) -> TokenSet | None:
        path = storage.resolve(self.config.input[0])
        job = storage.join(path, "job.json")
        if not storage.exists(job) or storage.read_json(job)["settings"]["kind"] != TOKEN_SET:
            return None
        if len(self.config.input) > 1:
            raise InputError(f"--input names the token set {path} and more; expected one token set alone, or articles")
        tokens = TokenSet.open(path)
        if tokens.vocabulary_fingerprint != self.vocabulary_fingerprint:
            raise InputError(
                f"the token set {path} has the vocabulary {tokens.vocabulary_fingerprint[:8]}, the model {self.model} has "
                f"{self.vocabulary_fingerprint[:8]}; give the articles as --input, or prepare them with "
                f"--vocabulary {self.model}"
            )
        profile, model_profile = tokens.tokenizer["profile"], self.model_config["tokenizer"]["profile"]
        kept, read = tokens.tokenizer["max_tokens"], self.model_config["model"]["max_tokens"]
        if profile != model_profile:
            raise InputError(
                f"the token set {path} has --profile {profile}, the model {model_profile}; give the articles"
            )
        if kept < read and tokens.totals.get("sentences_cut"):
            raise InputError(
                f"the token set {path} keeps {kept} tokens of a sentence (--max-tokens), the model reads {read}: "
                "longer sentences would get other vectors than their texts have; give the articles as --input"
            )
        if self.config.columns or self.config.level == "row":
            raise InputError("--columns and --level row need articles as --input; a token set does not hold them")
        return tokens

    def _text_config(self) -> TextConfig:
        config, tokenizer = self.config, self.model_config["tokenizer"]
        whole = config.level == "row"
        text = TextConfig(
            text_column=config.text_column,
            id_column=config.id_column,
            title_column=config.title_column,
            language=config.language or tokenizer.get("language", "en"),
            split="none" if whole else tokenizer.get("split", "sentencex"),
            profile=tokenizer["profile"],
            max_tokens=max(TextConfig.max_tokens, min(self.model_config["model"]["max_tokens"], 65535)),
            drop_repeated=tokenizer.get("drop_repeated", True) and not whole,
            max_line_bytes=config.max_line_bytes,
        )
        sentence_splitter(text.split, text.language)  # a wrong name is told before anything is read
        return text

    def _precision(self) -> str:
        if self.config.precision != "auto":
            return self.config.precision
        if self.config.gpu:
            # The driver often has no GPU to try it on; an actor whose GPU cannot compute it says so.
            return "bf16"
        from lstm_embed.model.precision import resolve_precision

        return resolve_precision("auto", "cpu", hidden_size=int(self.model_config["model"]["hidden_size"]))

    def _columns(self) -> tuple[str, ...]:
        if not self.config.columns:
            return ()
        job = storage.join(self.output, "job.json")
        made = storage.read_json(job)["settings"].get("vectors", {}).get("columns", []) if storage.exists(job) else []
        return settle_types(self.config.columns, made, find_files(self.config.input), self.text)

    @property
    def size_unit(self) -> tuple[str, float]:
        """Name of what units are measured in, and how many of their sizes make one of it."""
        return ("rows", 1.0) if self.tokens else ("MB", 1e6)

    @property
    def needs(self) -> Needs:
        """What it needs of the nodes."""
        worker = {"CPU": 1.0, "GPU": float(self.config.gpu)}
        least = max(1, workers_range(self.config.num_workers)[0])
        return Needs(output=self.output, inputs=(self.model,), bundles=(*([worker] * least), {"CPU": _READER_CPUS}))

    def compare(self) -> Work:
        """Tell what is left to do."""
        config = self.config
        if self.tokens:
            files = [storage.FileInfo(part.path, part.rows, part.identity) for part in self.tokens.parts]
            return self.ledger.compare(files, lambda new: [(Span.whole(file),) for file in new], prune=config.prune)
        cut = functools.partial(cut_into_units, unit_bytes=config.unit_bytes)
        return self.ledger.compare(find_files(config.input), cut, prune=config.prune)

    def run(self, work: Work, report: Reporter = SILENT) -> Summary:
        """Do what `compare` found to be left."""
        started = time.monotonic()
        workers = self._workers(report)
        if self.earlier:
            report.note(self.earlier.message)
        with self.ledger.writing(work) as owner:
            work = self.ledger.remaining(work)
            if self.earlier:
                self.earlier.inherit_erased(self.output)
            staging = storage.join(self.output, "staging")
            new = self._embed(work, workers, self._reuse(work, staging, report), report)
            owner.check()
            storage.remove_dir(staging)
            extra = {"model": self.model_fingerprint, "precision": self.precision}
            self.ledger.finish(work, new, max_bad_fraction=self.config.max_bad_fraction, extra=extra)
        return self.summary(time.monotonic() - started, already_done=False)

    def _workers(self, report: Reporter) -> tuple[int, int]:
        """Return the least and the most actors; refuse a number that would leave nothing for reading."""
        import ray

        workers = pool_size(
            self.config, ray.cluster_resources(), ray._private.state.state.get_max_resources_from_cluster_config() or {}
        )
        free = ray.available_resources().get("CPU", 0.0)
        if free < workers[0] + _READER_CPUS:
            report.note(f"other jobs leave {free:g} CPUs of this cluster; {workers[0]} workers wait for theirs")
        return workers

    def _reuse(self, work: Work, staging: str, report: Reporter) -> Reuse | None:
        """Index the earlier vectors there are, in this folder and the one given to reuse."""
        if not work.pending:
            return None
        sources = leftovers(self.ledger.store, work)
        if self.earlier:
            sources += self.earlier.parts
        if not sources:
            return None
        folder = storage.join(staging, "reuse")
        return build_index(folder, sources, article_rows=self.config.level == "article", report=report)

    def _embed(
        self, work: Work, workers: tuple[int, int], reuse: Reuse | None, report: Reporter
    ) -> dict[int, list[PartRecord]]:
        read = ReadUnit(
            text=self.text,
            columns=self.format.columns,
            whole_texts=self.config.level == "row",
            part_rows=self.config.part_rows,
            from_token_set=self.tokens is not None,
            vocabulary=storage.join(self.model, "vocabulary.parquet"),
            vocabulary_fingerprint=self.vocabulary_fingerprint,
            store=self.ledger.store,
            quarantine_text=self.config.quarantine_text,
            keep_text=self.config.text and self.config.level != "article",
            erased=Erased.load(self.output),
        )
        actor = functools.partial(
            EmbedChunk,
            model=self.model,
            model_fingerprint=self.model_fingerprint,
            store=self.ledger.store,
            format=self.format,
            precision=self.precision,
            gpu=self.config.gpu,
            batch_tokens=self.config.batch_tokens,
            reuse=reuse,
        )
        progress = _Progress(work, *self.size_unit, report)
        for record in run_chunks(
            work.pending,
            read,
            actor,
            workers=workers,
            reader_cpus=_READER_CPUS,
            gpu=self.config.gpu,
            stage="embed",
            output=self.output,
            report=report,
        ):
            progress.add(record)
        self._counts = {"encoded": progress.sentences - progress.reused, "reused": progress.reused}
        return progress.complete()

    def summary(self, seconds: float, *, already_done: bool) -> Summary:
        """Return what the finished folder holds."""
        manifest = read_manifest(self.output, kind=KIND)
        totals = manifest["totals"]
        facts = {
            **self._counts,
            "without known words": totals.get("without_known_words", 0),
            "rejected": sum(totals.get("rejected", {}).values()),
            "precision": self.precision,
        }
        if "erased" in totals:
            facts["erased articles"] = totals["erased"]
        if misfits := totals.get("values_of_another_type"):
            facts["values of another type, now null"] = ", ".join(f"{name} {n}" for name, n in sorted(misfits.items()))
        return Summary(
            stage="embed",
            output=self.output,
            rows=manifest["rows"],
            row_name="vectors",
            seconds=seconds,
            already_done=already_done,
            facts=facts,
        )

    def sample_rate(self, work: Work, seconds: float = 3.0) -> float:
        """Return the stored bytes (rows of a token set) a second that one worker embeds, measured on a few sentences."""
        from lstm_embed.model.encoder import SentenceEncoder

        encoder = SentenceEncoder.load(self.model, precision=self.precision)
        read, ids = 0.0, None
        for unit in work.pending[:1]:
            if self.tokens:
                ids = read_part(unit.spans[0].path, ["ids"])["ids"].combine_chunks()[:4096]
                read = float(len(ids))
                continue
            chunk = next(UnitReader(unit.spans, self.text).chunks())
            tokens = chunk.table["tokens"].combine_chunks()
            share = min(1.0, 4096 / max(len(tokens), 1))
            ids = encoder.vocabulary.id_lists(tokens[:4096])
            read = share * chunk.stats["bytes"] / inflation(unit)
        if ids is None or not len(ids):
            return 0.0
        started = time.monotonic()
        encoder.encode_ids(ids)
        return read / max(time.monotonic() - started, 1e-9)


def pool_size(config: EmbedConfig, now: Mapping[str, float], ever: Mapping[str, float]) -> tuple[int, int]:
    """Return the least and the most actors.

    Args:
        config: Of the job.
        now: The cluster's resources.
        ever: What an autoscaler may bring them to; empty without one.

    Raises:
        InputError: if that many actors would leave no CPU for reading, and the job would wait for ever.
    """

    def fit(resources: Mapping[str, float]) -> int:
        places = resources.get("CPU", 0.0) - _READER_CPUS
        return int(max(0.0, min(places, resources.get("GPU", 0.0)) if config.gpu else places))

    low, high = workers_range(config.num_workers)
    most = max(fit(now), fit(ever))
    if most < max(low, 1):
        has = f"{now.get('CPU', 0.0):g} CPUs" + (f" and {now.get('GPU', 0.0):g} GPUs" if config.gpu else "")
        count, device = max(low, 1), "a CPU and a GPU" if config.gpu else "a CPU"
        raise InputError(
            f"{count} workers need {device} each, and reading {_READER_CPUS} CPU; the cluster has {has}; "
            "use a smaller --num-workers or a larger cluster"
        )
    return (max(1, fit(now)),) * 2 if low == 0 else (low, high)


class _Progress:
    """Gathers the records of the parts as they are committed, and reports."""

    def __init__(self, work: Work, unit_name: str, scale: float, report: Reporter) -> None:
        self._work = work
        self._unit, self._scale, self._report = unit_name, scale, report
        self._sizes = {unit.number: unit.size for unit in work.pending}
        self._gathered: dict[int, dict[int, PartRecord]] = {}
        self._total = float(sum(unit.size for unit in work.units))
        self._done = self._total - sum(self._sizes.values())
        self._started = time.monotonic()
        self._rejected = self._parts = 0
        self.sentences = self.reused = 0
        self._tell()

    def add(self, record: PartRecord) -> None:
        """Take the record of a part that was just committed."""
        stats = dict(record.stats)
        self.reused += stats.pop(REUSED, 0)
        self.sentences += record.rows
        self._rejected += sum(stats["rejected"].values())
        self._parts += 1
        parts = self._gathered.setdefault(
            record.unit, {old.part: old for old in self._work.records.get(record.unit, [])}
        )
        parts[record.part] = replace(record, stats=stats)
        if any(part.last and part.part + 1 == len(parts) for part in parts.values()):
            self._done += self._sizes[record.unit]
        self._tell()

    def _tell(self) -> None:
        seconds = max(time.monotonic() - self._started, 1e-9)
        self._report.progress(
            "embed",
            self._done / self._scale,
            self._total / self._scale,
            self._unit,
            sentences=self.sentences,
            sentences_per_second=self.sentences / seconds,
            parts=self._parts,
            rejected=self._rejected,
            **({"reused": self.reused} if self.reused else {}),
        )

    def complete(self) -> dict[int, list[PartRecord]]:
        """Return the records of the units that were pending.

        Raises:
            LstmEmbedError: if parts of them are missing.
        """
        new = {number: [parts[part] for part in sorted(parts)] for number, parts in self._gathered.items()}
        missing = [
            unit.number for unit in self._work.pending if not (new.get(unit.number) and new[unit.number][-1].last)
        ]
        if missing:
            raise LstmEmbedError(f"units {missing[:5]} were not finished; run the same command again")
        return new
