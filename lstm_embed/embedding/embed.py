"""The Ray Data pipeline from a corpus to vectors in parquet.

A reading stage (CPU) turns a unit into chunks of token ids, one row a chunk; a pool of actors that hold the model embeds a
chunk and commits its part itself, so that vectors never pass through the object store. The stages ask for different
resources and are therefore not fused: reading, computing and writing overlap.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed import storage
from lstm_embed.corpus.articles import cut_into_units, find_files, inflation
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.sentences import UnitReader, part_chunks
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.token_set import TokenSet, read_part
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.distribute import run_chunks
from lstm_embed.embedding.config import EmbedConfig, workers_range
from lstm_embed.embedding.vectors import KIND, EmbedChunk, VectorFormat
from lstm_embed.errors import InputError, LstmEmbedError
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Span, Unit, Work
from lstm_embed.ledger.sealed import open_sealed, read_manifest
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
        model_config = storage.read_json(storage.join(self.model, "config.json"))
        self.tokenizer: dict[str, Any] = model_config["tokenizer"]
        self.tokens = self._token_set(manifest)
        self.text = self._text_config()
        self.format = VectorFormat(
            level=config.level,
            dtype=config.dtype,
            normalize=config.normalize,
            text=config.text,
            empty=config.empty,
            row_group_rows=config.row_group_rows,
            columns=config.columns,
            model_fingerprint=manifest["fingerprint"],
        )
        self.precision = self._precision()
        settings = {
            "content_format": FORMAT,
            "model": manifest["fingerprint"],
            "precision": self.precision,
            "vectors": asdict(self.format) | {"columns": list(config.columns)},
            "source": "token_set" if self.tokens else asdict(self.text),
            "part_rows": 0 if self.tokens else config.part_rows,
        }
        self.ledger = Ledger(self.output, kind=KIND, settings=settings, config=asdict(config))

    def _token_set(self, model_manifest: dict[str, Any]) -> TokenSet | None:
        path = storage.resolve(self.config.input[0])
        if not storage.exists(storage.join(path, "job.json")) or _kind(path) != "token_set":
            return None
        if len(self.config.input) > 1:
            raise InputError(f"--input names the token set {path} and more; expected one token set alone, or articles")
        tokens = TokenSet.open(path)
        vocabulary = Vocabulary.load(storage.join(self.model, "vocabulary.parquet"))
        if tokens.vocabulary_fingerprint != vocabulary.fingerprint:
            raise InputError(
                f"the token set {path} has the vocabulary {tokens.vocabulary_fingerprint[:8]}, the model {self.model} has "
                f"{vocabulary.fingerprint[:8]}; give the articles as --input, or prepare them with --vocabulary {self.model}"
            )
        if self.config.columns or self.config.level == "row":
            raise InputError("--columns and --level row need articles as --input; a token set does not hold them")
        return tokens

    def _text_config(self) -> TextConfig:
        config = self.config
        split = "none" if config.level == "row" else self.tokenizer.get("split", "sentencex")
        text = TextConfig(
            text_column=config.text_column,
            id_column=config.id_column,
            title_column=config.title_column,
            language=config.language or self.tokenizer.get("language", "en"),
            split=split,
            profile=self.tokenizer["profile"],
            drop_repeated=self.tokenizer.get("drop_repeated", True) and config.level != "row",
            max_line_bytes=config.max_line_bytes,
        )
        sentence_splitter(text.split, text.language)
        return text

    def _precision(self) -> str:
        if self.config.precision != "auto":
            return self.config.precision
        if self.config.gpu:
            # The driver often has no GPU to try it on; an actor whose GPU cannot compute it says so.
            return "bf16"
        from lstm_embed.model.precision import resolve_precision

        return resolve_precision("auto", "cpu")

    @property
    def size_unit(self) -> tuple[str, float]:
        """Name of what units are measured in, and how many of their sizes make one of it."""
        return ("rows", 1.0) if self.tokens else ("MB", 1e6)

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
        workers = self._workers()
        with self.ledger.writing(work) as owner:
            work = self.ledger.remaining(work)
            new = self._embed(work, workers, report)
            owner.check()
            extra = {"model": self.format.model_fingerprint, "precision": self.precision}
            self.ledger.finish(work, new, max_bad_fraction=self.config.max_bad_fraction, extra=extra)
        return self.summary(time.monotonic() - started, already_done=False)

    def _workers(self) -> tuple[int, int]:
        """Return the least and the most actors; refuse a number that would leave nothing for reading."""
        import ray

        low, high = workers_range(self.config.num_workers)
        resources = ray.cluster_resources()
        cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
        fit = int(min(cpus - _READER_CPUS, gpus) if self.config.gpu else cpus - _READER_CPUS)
        if fit < max(low, 1):
            kind = f"{gpus:g} GPUs and {cpus:g} CPUs" if self.config.gpu else f"{cpus:g} CPUs"
            raise InputError(
                f"{max(low, 1)} workers need {max(low, 1)} {'GPUs' if self.config.gpu else 'CPUs'} and {_READER_CPUS} CPU for "
                f"reading; the cluster has {kind}; use a smaller --num-workers or a larger cluster"
            )
        return (fit, fit) if low == 0 else (low, high)

    def _embed(self, work: Work, workers: tuple[int, int], report: Reporter) -> dict[int, list[PartRecord]]:
        read = ReadUnit(
            text=self.text,
            columns=self.config.columns,
            part_rows=self.config.part_rows,
            from_token_set=self.tokens is not None,
            model=self.model,
            store=self.ledger.store,
            quarantine_text=self.config.quarantine_text,
            keep_text=self.config.text and self.config.level != "article",
        )
        actor = functools.partial(
            EmbedChunk,
            model=self.model,
            store=self.ledger.store,
            format=self.format,
            precision=self.precision,
            gpu=self.config.gpu,
            batch_tokens=self.config.batch_tokens,
        )
        gathered: dict[int, dict[int, PartRecord]] = {}
        total = sum(unit.size for unit in work.units)
        sizes = {unit.number: unit.size for unit in work.pending}
        done = float(total - sum(sizes.values()))
        unit_name, scale = self.size_unit
        report.progress("embed", done / scale, total / scale, unit_name)
        sentences = rejected = 0
        for record in run_chunks(
            work.pending, read, actor, workers=workers, reader_cpus=_READER_CPUS, gpu=self.config.gpu
        ):
            parts = gathered.setdefault(record.unit, {old.part: old for old in work.records.get(record.unit, [])})
            parts[record.part] = record
            sentences += record.rows
            rejected += sum(record.stats["rejected"].values())
            if any(part.last and part.part + 1 == len(parts) for part in parts.values()):
                done += sizes[record.unit]
            report.progress("embed", done / scale, total / scale, unit_name, sentences=sentences, rejected=rejected)
        new = {number: [parts[part] for part in sorted(parts)] for number, parts in gathered.items()}
        missing = [unit.number for unit in work.pending if not (new.get(unit.number) and new[unit.number][-1].last)]
        if missing:
            raise LstmEmbedError(f"units {missing[:5]} were not finished; run the same command again")
        return new

    def summary(self, seconds: float, *, already_done: bool) -> Summary:
        """Return what the finished folder holds."""
        manifest = read_manifest(self.output, kind=KIND)
        totals = manifest["totals"]
        return Summary(
            stage="embed",
            output=self.output,
            rows=manifest["rows"],
            row_name="vectors",
            seconds=seconds,
            already_done=already_done,
            facts={
                "without known words": totals.get("without_known_words", 0),
                "rejected": sum(totals.get("rejected", {}).values()),
                "precision": self.precision,
            },
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


def _kind(path: str) -> str:
    return str(storage.read_json(storage.join(path, "job.json"))["settings"]["kind"])


@dataclass(frozen=True, kw_only=True)
class ReadUnit:
    """What a reading task does with one unit: yields its chunks, ready for the model."""

    text: TextConfig
    columns: tuple[str, ...]
    part_rows: int
    from_token_set: bool
    model: str
    store: PartStore
    quarantine_text: bool
    keep_text: bool

    def __call__(self, unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
        """Yield for each part that is not committed yet its record (without what the model adds) and its table."""
        for record, table in self._token_part(unit) if self.from_token_set else self._articles(unit):
            if record.part >= unit.committed:
                yield (
                    record,
                    table if self.keep_text or "text" not in table.column_names else table.drop_columns(["text"]),
                )

    def _token_part(self, unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
        span = unit.spans[0]
        table = read_part(span.path).replace_schema_metadata(None)
        articles = len(pc.unique(table["article"]))
        stats = {"records": articles, "articles": articles, "sentences": table.num_rows, "rejected": {}}
        yield (
            self.store.record(unit.number, 0, last=True, rows=table.num_rows, input_digest=span.stamp, stats=stats),
            table,
        )

    def _articles(self, unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
        vocabulary = _vocabulary(storage.join(self.model, "vocabulary.parquet"))
        reader = UnitReader(unit.spans, self.text, self.columns)
        for number, (chunk, last) in enumerate(part_chunks(reader.chunks(), self.part_rows)):
            if last:
                self.store.write_quarantine(unit.number, reader.rejected, reader.unlisted, self.quarantine_text)
            tokens = chunk.table["tokens"].combine_chunks()
            table = chunk.table.set_column(
                chunk.table.schema.get_field_index("tokens"), "ids", vocabulary.id_lists(tokens)
            )
            for name, values in chunk.columns.items():
                table = table.append_column(name, _column(name, values).take(table["article"]))
            yield (
                self.store.record(
                    unit.number,
                    number,
                    last=last,
                    rows=table.num_rows,
                    input_digest=chunk.input_digest,
                    stats=chunk.stats,
                ),
                table,
            )


def _column(name: str, values: list[Any]) -> pa.Array:
    """Return carried values as a column; values that have no common type become text."""
    try:
        column = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    return column.cast(pa.string()) if pa.types.is_null(column.type) else column


@functools.lru_cache(maxsize=1)
def _vocabulary(path: str) -> Vocabulary:
    """Load the vocabulary once for each worker process."""
    return Vocabulary.load(path)
