"""What workers do with one unit of a corpus: stage it with a dictionary of its own, or commit its final parts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed.base import storage
from lstm_embed.corpus import counts, token_set
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.sentences import CHUNK_ROWS, SentenceChunk, UnitReader, part_chunks
from lstm_embed.corpus.vocabulary import Vocabulary, take_lists
from lstm_embed.ledger import Ledger, PartRecord, PartStore, Unit
from lstm_embed.ledger.erased import Erased

# Columns that repeat a few values; for text a dictionary is tried in vain, and statistics of no column are of use.
PARQUET: dict[str, Any] = {
    "use_dictionary": ["article", "article_id", "title", "article_hash", "sentence", "ids.list.element"],
    "write_statistics": False,
}


@dataclass(frozen=True, kw_only=True)
class StageTask:
    """Reads a unit and commits its parts with local ids, and their word counts."""

    config: PrepareConfig
    store: PartStore
    """Of the staged parts."""

    def __call__(self, unit: Unit) -> Iterator[PartRecord]:
        for number, chunk, last in read_parts(unit, self.config):
            tokens = chunk.table["tokens"].combine_chunks()
            record = self.store.record(
                unit.number,
                number,
                last=last,
                rows=len(tokens),
                input_digest=chunk.input_digest,
                stats=chunk.stats,
            )
            ids, words, word_counts, sizes = counts.local_dictionary(tokens.flatten())
            counts.write_counts(counts_path(self.store, record.stem), words, word_counts, sizes)
            table = with_ids(chunk.table, lists_of(ids, lengths_of(tokens)), self.config.text)
            self.store.write_table(record, table, **{**PARQUET, "compression": "lz4"})
            yield record


@dataclass(frozen=True, kw_only=True)
class FinalTask:
    """Commits a unit's parts of the token set, from the staged parts where there are some, else from the input."""

    config: PrepareConfig
    store: PartStore
    staging: PartStore | None
    vocabulary_path: str
    vocabulary_fingerprint: str
    erased: Erased = field(default_factory=Erased)
    """Articles to leave out."""

    def __call__(self, unit: Unit) -> Iterator[PartRecord]:
        staged = None
        if self.staging is not None:
            staged = Ledger.complete_units(self.staging, {unit.number}).get(unit.number)
        for record, table in self._from_staging(staged) if staged else self._from_input(unit):
            table, num_erased = self.erased.without(table)
            if num_erased:
                record = replace(record, stats={**record.stats, "erased": num_erased})
            record = replace(
                record,
                rows=table.num_rows,
                stats=recounted(record.stats, table, self.config.holdout_every),
                fingerprint=self.store.fingerprint,
            )
            if record.part >= unit.committed:
                self.store.write_table(record, table, **PARQUET)
            yield record

    def _from_input(self, unit: Unit) -> Iterator[tuple[PartRecord, pa.Table]]:
        vocabulary = _vocabulary(self.vocabulary_path, self.vocabulary_fingerprint)
        for number, chunk, last in read_parts(unit, self.config):
            lists, num_cut = cut_off(
                vocabulary.id_lists(chunk.table["tokens"].combine_chunks()), self.config.max_tokens
            )
            record = self.store.record(
                unit.number,
                number,
                last=last,
                rows=len(lists),
                input_digest=chunk.input_digest,
                stats={**chunk.stats, "sentences_cut": num_cut},
            )
            yield record, with_ids(chunk.table, lists, self.config.text)

    def _from_staging(self, staged: Sequence[PartRecord]) -> Iterator[tuple[PartRecord, pa.Table]]:
        """Give staged parts the vocabulary's ids."""
        assert self.staging
        vocabulary = _vocabulary(self.vocabulary_path, self.vocabulary_fingerprint)
        for record in staged:
            words, _, _ = counts.read_counts(counts_path(self.staging, record.stem))
            flat, lengths = vocabulary.cut(words)
            table = token_set.read_part(self.staging.path(record.unit, record.part)).replace_schema_metadata(None)
            local = table["ids"].combine_chunks()
            ids, num_pieces = take_lists(flat, lengths, local.flatten().to_numpy())
            pieces_before = np.concatenate([[0], np.cumsum(num_pieces)]).astype(np.int32)
            offsets = pa.array(pieces_before[local.offsets.to_numpy() - local.offsets[0].as_py()])
            lists, num_cut = cut_off(pa.ListArray.from_arrays(offsets, pa.array(ids)), self.config.max_tokens)
            column = table.schema.get_field_index("ids")
            record = replace(record, stats={**record.stats, "sentences_cut": num_cut})
            yield record, table.set_column(column, "ids", lists).cast(table.schema)


def read_parts(unit: Unit, config: PrepareConfig) -> Iterator[tuple[int, SentenceChunk, bool]]:
    """Read a unit; yield each part's number and content, and whether it is the last. Quarantines what is rejected."""
    reader = UnitReader(unit.spans, config, chunk_rows=min(CHUNK_ROWS, config.part_rows))
    for number, (chunk, last) in enumerate(part_chunks(reader.chunks(), config.part_rows)):
        if last:
            PartStore(storage.resolve(config.output), "").write_quarantine(
                unit.number, reader.rejected, reader.unlisted, config.quarantine_text
            )
        yield number, chunk, last


def recounted(stats: dict[str, Any], table: pa.Table, holdout_every: int) -> dict[str, Any]:
    """Return the counts of a part with those of its sentences as they are now, of what is trained on and held out too."""
    lengths = lengths_of(table["ids"].combine_chunks())
    return {
        **stats,
        "sentences": table.num_rows,
        "sentences_without_tokens": int((lengths == 0).sum()),
        "tokens": int(lengths.sum()),
        "holdout": token_set.count_rows(table["article"].to_numpy(), lengths, holdout_every),
    }


def lengths_of(lists: pa.ListArray) -> npt.NDArray[np.int32]:
    """Return the length of each list."""
    return pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int32)


def lists_of(values: npt.NDArray[np.int32], lengths: npt.NDArray[np.int32]) -> pa.ListArray:
    """Return lists whose values lie one after the other."""
    return pa.ListArray.from_arrays(
        pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)), pa.array(values)
    )


def cut_off(lists: pa.ListArray, max_tokens: int) -> tuple[pa.ListArray, int]:
    """Return lists of at most `max_tokens` ids, and how many were longer."""
    num_long = int((lengths_of(lists) > max_tokens).sum())
    return (pc.list_slice(lists, 0, max_tokens) if num_long else lists), num_long


def with_ids(table: pa.Table, lists: pa.ListArray, keep_text: bool) -> pa.Table:
    """Return a chunk's table as the token set's schema has it: ids in the place of tokens."""
    table = table.set_column(table.schema.get_field_index("tokens"), "ids", lists)
    schema = token_set.SCHEMA
    if not keep_text:
        table = table.drop_columns(["text"])
        schema = schema.remove(schema.get_field_index("text"))
    return table.cast(schema)


def counts_path(store: PartStore, stem: str) -> str:
    """Return where the counts file of a staged part lies."""
    return storage.join(store.output, "counts", f"{stem}.parquet")


@functools.lru_cache(maxsize=1)
def _vocabulary(path: str, fingerprint: str) -> Vocabulary:
    """Load the vocabulary once for each worker process, and anew when it is another one."""
    vocabulary = Vocabulary.load(path)
    assert vocabulary.fingerprint == fingerprint, f"{path} changed while the job ran"
    return vocabulary
