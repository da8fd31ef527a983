"""The Ray Data pipeline from a corpus to vectors in parquet.

A reading stage (CPU) turns a unit into chunks of token ids, one row a chunk; a pool of actors that hold the model embeds a
chunk and commits its part itself, so that vectors never pass through the object store. The stages ask for different
resources and are therefore not fused: reading, computing and writing overlap.
"""

from __future__ import annotations

import functools
import time
from dataclasses import asdict, replace
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.corpus.articles import cut_into_units, find_files, inflation
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.sentences import UnitReader
from lstm_embed.corpus.text import sentence_splitter
from lstm_embed.corpus.token_set import KIND as TOKEN_SET
from lstm_embed.corpus.token_set import TokenSet, read_part
from lstm_embed.embedding.columns import settle_types
from lstm_embed.embedding.config import EmbedConfig
from lstm_embed.embedding.earlier import Earlier, leftovers
from lstm_embed.embedding.read import ReadUnit
from lstm_embed.embedding.reuse import Reuse, build_index
from lstm_embed.embedding.vectors import KIND, VectorFormat, refuse_earlier
from lstm_embed.embedding.worker import REUSED, EmbedChunk
from lstm_embed.ledger import Ledger, PartRecord, Span, Work
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.sealed import read_manifest
from lstm_embed.model.config import OriginalConfig, config_from_dict
from lstm_embed.stages.pool import READER_CPUS, PartProgress, find_workers, pool_needs
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.units import run_chunks

FORMAT = 2
"""Version of the parts' content; raised by hand when the same text and model would give other rows."""


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
        from lstm_embed.model.folder import open_model

        self.config = config
        self.output = storage.resolve(config.output)
        self.model = storage.resolve(config.model)
        manifest = open_model(self.model)
        self.model_fingerprint: str = manifest["fingerprint"]
        self.vocabulary_fingerprint: str = manifest["content"]["vocabulary"]
        self.model_config: dict[str, Any] = storage.read_json(storage.join(self.model, "config.json"))
        self.embedding = self._embedding()
        self.tokens = self._token_set()
        self.text = self._text_config()
        self.precision = self._precision()
        job = storage.join(self.output, "job.json")
        made: dict[str, Any] = storage.read_json(job).get("settings", {}) if storage.exists(job) else {}
        refuse_earlier(self.output, made)
        self.format = VectorFormat(
            level=config.level,
            dtype=config.dtype,
            normalize=config.normalize,
            text=config.text,
            empty=config.empty,
            row_group_rows=config.row_group_rows,
            columns=self._columns(made),
        )
        source = {"kind": TOKEN_SET, "text": self.tokens.tokenizer} if self.tokens else {"kind": "articles"}
        settings = {
            "content_format": FORMAT,
            "model": self.model_fingerprint,
            "embedding": self.embedding,
            "precision": self.precision,
            "vectors": asdict(self.format) | {"columns": list(self.format.columns)},
            "source": {"text": asdict(self.text), **source},
            "part_rows": 0 if self.tokens else config.part_rows,
        }
        self.ledger = Ledger(self.output, kind=KIND, settings=settings, config=asdict(config) | {"model": self.model})
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

    def _embedding(self) -> str:
        recipe = config_from_dict(self.model_config["model"])
        if self.config.embedding not in ("", recipe.embedding) and isinstance(recipe, OriginalConfig):
            raise InputError(
                f"{self.model} is a model of the preset original, whose vectors are the embedding order and no other; "
                f"expected --embedding order, or none, and not {self.config.embedding}"
            )
        return self.config.embedding or recipe.embedding

    def _precision(self) -> str:
        if self.config.precision != "auto":
            return self.config.precision
        if self.embedding == "meaning":
            return "fp32"  # no LSTM runs
        if self.config.gpu:
            # The driver often has no GPU to try it on; an actor whose GPU cannot compute it says so.
            return "bf16"
        from lstm_embed.model.precision import resolve_precision

        return resolve_precision("auto", "cpu", hidden_size=int(self.model_config["model"]["hidden_size"]))

    def _columns(self, made: dict[str, Any]) -> tuple[str, ...]:
        if not self.config.columns:
            return ()
        columns = made.get("vectors", {}).get("columns", [])
        return settle_types(self.config.columns, columns, find_files(self.config.input), self.text)

    @property
    def size_unit(self) -> tuple[str, float]:
        """Name of what units are measured in, and how many of their sizes make one of it."""
        return ("rows", 1.0) if self.tokens else ("MB", 1e6)

    @property
    def needs(self) -> Needs:
        """What it needs of the nodes."""
        return pool_needs(self.config.num_workers, gpu=self.config.gpu, output=self.output, model=self.model)

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
        workers = find_workers(self.config.num_workers, gpu=self.config.gpu, report=report)
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
            embedding=self.embedding,
            store=self.ledger.store,
            format=self.format,
            precision=self.precision,
            gpu=self.config.gpu,
            batch_tokens=self.config.batch_tokens,
            reuse=reuse,
        )
        progress = PartProgress("embed", work, *self.size_unit, report)
        for record in run_chunks(
            work.pending,
            read,
            actor,
            workers=workers,
            reader_cpus=READER_CPUS,
            gpu=self.config.gpu,
            stage="embed",
            output=self.output,
            report=report,
        ):
            stats = dict(record.stats)
            reused, rejected = stats.pop(REUSED, 0), sum(stats["rejected"].values())
            progress.add(replace(record, stats=stats), rejected=rejected, reused=reused)
        reused = progress.counts["reused"]
        self._counts = {"encoded": progress.sentences - reused, "reused": reused}
        return progress.complete()

    def summary(self, seconds: float, *, already_done: bool) -> Summary:
        """Return what the finished folder holds."""
        manifest = read_manifest(self.output, kind=KIND)
        totals = manifest["totals"]
        facts = {
            **self._counts,
            "without words": totals.get("without_words", 0),
            "rejected": sum(totals.get("rejected", {}).values()),
            "embedding": self.embedding,
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

        encoder = SentenceEncoder.load(self.model, precision=self.precision, embedding=self.embedding)
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
