"""The stage from a corpus to vectors in parquet.

A reading stage (CPU) turns a unit into chunks of token ids, one row a chunk; a pool of actors that hold the model embeds a
chunk and commits its part itself, so that vectors never pass through the object store. The stages ask for different
resources and are therefore not fused: reading, computing and writing overlap.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import deciding, values_of
from lstm_embed.corpus.articles import cut_into_units, inflation
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.input import find_files, refuse_output_inside
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
from lstm_embed.embedding.worker import REUSED, EmbedChunk, choose_precision
from lstm_embed.ledger import PartStore, Span, Work
from lstm_embed.ledger.erased import Erased
from lstm_embed.ledger.manifest import JOB, read_folder_config
from lstm_embed.ledger.parts import rejected_files
from lstm_embed.model.config import PARTS, OriginalConfig, config_from_dict
from lstm_embed.stages.pool import find_workers, pool_needs
from lstm_embed.stages.preflight import Needs
from lstm_embed.stages.runner import run_stage
from lstm_embed.stages.stage import Job, Records, UnitStage

FORMAT = 2
"""Version of the parts' content; raised by hand when the same text and model would give other rows."""


def embed(config: EmbedConfig, report: Reporter = SILENT) -> Summary:
    """Make or bring up to date the vectors of a corpus.

    Raises:
        FileNotFoundError: if an input matches nothing or there is no model.
        InputError: if model, input and output folder do not go together.
        TooMuchRejected: if more was rejected than the config allows.
        OutputBusy: if another job writes the folder.
    """
    return run_stage(EmbedStage(config), report)


class EmbedStage(UnitStage[EmbedConfig]):
    """From a corpus and a model to vectors."""

    name, kind, row_name = "embed", KIND, "vectors"
    shown = (REUSED,)

    def open(self) -> None:
        """Look at the model, the input, and what the output folder was made with."""
        from lstm_embed.model.folder import describe_model, open_model

        self.model = storage.resolve(self.config.model)
        manifest = open_model(self.model)
        self.model_fingerprint: str = manifest["fingerprint"]
        self.vocabulary_fingerprint: str = manifest["content"]["vocabulary"]
        self.model_config: Any = describe_model(self.model)
        self.embedding = self._embedding()
        self.tokens = self._token_set()
        self.size_unit = ("rows", 1.0) if self.tokens else ("MB", 1e6)
        self.text = self._text_config()
        job = storage.join(self.output, JOB)
        made = dict(read_folder_config(job)["settings"]) if storage.exists(job) else {}
        refuse_earlier(self.output, made)
        self.precision = self._precision(made)
        self.format = VectorFormat(
            level=self.config.level,
            dtype=self.config.dtype,
            normalize=self.config.normalize,
            text=self.config.text,
            empty=self.config.empty,
            row_group_rows=self.config.row_group_rows,
            columns=self._columns(made),
        )
        other = self.config.reuse and storage.resolve(self.config.reuse) != self.output
        # What the output folder itself holds is reused in any case.
        self.earlier = Earlier.open(self.config.reuse, self.settings()) if other else None
        if not self.tokens:
            refuse_output_inside(self.config.input, self.output)
        self._counts: dict[str, int] = {}

    def settings(self) -> dict[str, Any]:
        """Return what decides the vectors."""
        source = {"kind": TOKEN_SET, "text": self.tokens.tokenizer} if self.tokens else {"kind": "articles"}
        return {
            "content_format": FORMAT,
            "model": self.model_fingerprint,
            "embedding": self.embedding,
            "precision": self.precision,
            "vectors": asdict(self.format) | {"columns": list(self.format.columns)},
            "source": {"text": deciding(self.text), **source},
            "part_rows": 0 if self.tokens else self.config.part_rows,
        }

    def recorded_config(self) -> dict[str, Any]:
        """Return the config with the model's whole path, for those who look for it later."""
        return values_of(self.config) | {"model": self.model}

    def _token_set(self) -> TokenSet | None:
        path = storage.resolve(self.config.input[0])
        job = storage.join(path, JOB)
        if not storage.exists(job) or read_folder_config(job)["settings"]["kind"] != TOKEN_SET:
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

    def _precision(self, made: dict[str, Any]) -> str:
        self._gain = 0.0
        if self.config.precision != "auto":
            return self.config.precision
        if "precision" in made:
            return str(made["precision"])
        if "order" not in PARTS[self.embedding]:
            return "fp32"  # no LSTM runs
        if self.config.gpu:
            # The driver often has no GPU to try it on; an actor whose GPU cannot compute it says so.
            return "bf16"
        precision, self._gain = choose_precision(self.model, self.embedding)
        return precision

    def _columns(self, made: dict[str, Any]) -> tuple[str, ...]:
        if not self.config.columns:
            return ()
        columns = made.get("vectors", {}).get("columns", [])
        return settle_types(self.config.columns, columns, find_files(self.config.input), self.text)

    def files(self) -> list[storage.FileInfo]:
        """Return the parts of the token set, or the files of articles."""
        return self.tokens.as_files() if self.tokens else find_files(self.config.input)

    def cut(self, files: Sequence[storage.FileInfo]) -> list[tuple[Span, ...]]:
        """Cut files of articles; a part of a token set is a unit."""
        return super().cut(files) if self.tokens else cut_into_units(files, self.config.unit_bytes)

    def needs(self) -> Needs:
        """Return what the actors and one reader need."""
        return pool_needs(self.config.num_workers, gpu=self.config.gpu, output=self.output, model=self.model)

    def begin(self, report: Reporter) -> None:
        """Find out how many actors fit on the cluster."""
        self._workers = find_workers(self.config.num_workers, gpu=self.config.gpu, report=report)
        if self._gain:
            report.note(f"bf16 is {self._gain:.2f} times as fast as fp32 here: this folder is made in {self.precision}")
        if self.earlier:
            report.note(self.earlier.message)

    def make(self, job: Job) -> Records:
        """Read units in tasks and embed their chunks in a pool of actors; what was embedded before is copied."""
        if self.earlier:
            self.earlier.inherit_erased(self.output)
        reuse = self._reuse(job)
        read, actor = self._reader(job.ledger.store), self._actor(job.ledger.store, reuse)
        new = job.chunks(read, actor, workers=self._workers, gpu=self.config.gpu)
        reused = job.counts.get(REUSED, 0)
        self._counts = {"encoded": job.rows - reused, "reused": reused}
        return new

    def _reuse(self, job: Job) -> Reuse | None:
        """Index the earlier vectors there are, in this folder and the one given to reuse."""
        if not job.work.pending:
            return None
        sources = leftovers(job.ledger.store, job.work)
        if self.earlier:
            sources += self.earlier.parts
        if not sources:
            return None
        folder = storage.join(self.staging_dir, "reuse")
        return build_index(folder, sources, article_rows=self.config.level == "article", report=job.report)

    def _reader(self, store: PartStore) -> ReadUnit:
        return ReadUnit(
            text=self.text,
            columns=self.format.columns,
            whole_texts=self.config.level == "row",
            part_rows=self.config.part_rows,
            from_token_set=self.tokens is not None,
            vocabulary=storage.join(self.model, "vocabulary.parquet"),
            vocabulary_fingerprint=self.vocabulary_fingerprint,
            store=store,
            quarantine_text=self.config.quarantine_text,
            keep_text=self.config.text and self.config.level != "article",
            erased=Erased.load(self.output),
        )

    def _actor(self, store: PartStore, reuse: Reuse | None) -> Callable[[], EmbedChunk]:
        return functools.partial(
            EmbedChunk,
            model=self.model,
            model_fingerprint=self.model_fingerprint,
            embedding=self.embedding,
            store=store,
            format=self.format,
            precision=self.precision,
            gpu=self.config.gpu,
            batch_tokens=self.config.batch_tokens,
            reuse=reuse,
        )

    def manifest(self) -> dict[str, Any]:
        """Return what the vectors were made with."""
        return {"model": self.model_fingerprint, "precision": self.precision}

    def facts(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Return how many vectors are new, and what was left out."""
        totals = manifest["totals"]
        facts = {
            **self._counts,
            "without words": totals.get("without_words", 0),
            "rejected": sum(totals.get("rejected", {}).values()),
            "embedding": self.embedding,
            "precision": self.precision,
        }
        if "files_rejected" in totals:
            facts["files rejected"] = f"{totals['files_rejected']} ({rejected_files(self.output)})"
        if "characters_replaced" in totals:
            facts["characters replaced"] = totals["characters_replaced"]
        if "erased" in totals:
            facts["erased articles"] = totals["erased"]
        if misfits := totals.get("values_of_another_type"):
            facts["values of another type, now null"] = ", ".join(f"{name} {n}" for name, n in sorted(misfits.items()))
        return facts

    def sample_rate(self, work: Work) -> float:
        """Return the stored bytes (rows of a token set) a second that one worker embeds, measured on a few sentences."""
        from lstm_embed.model.encoder import SentenceEncoder

        encoder = SentenceEncoder.load(self.model, precision=self.precision, embedding=self.embedding)
        read, ids = 0.0, None
        for unit in work.pending[:1]:
            if self.tokens:
                ids = read_part(unit.spans[0].as_part, ["ids"])["ids"].combine_chunks()[:4096]
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
