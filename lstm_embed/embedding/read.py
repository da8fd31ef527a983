"""What a reading task does with a unit: turns it into chunks of token ids, each of which will be one part."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.sentences import CHUNK_ROWS, UnitReader, part_chunks
from lstm_embed.corpus.tasks import cut_off, lengths_of
from lstm_embed.corpus.token_set import read_part
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.embedding.columns import carried
from lstm_embed.embedding.config import split_column
from lstm_embed.ledger import PartRecord, PartStore, Unit
from lstm_embed.ledger.erased import Erased

Chunk = tuple[PartRecord, pa.Table]
"""A part's record (without what the model adds) and its table: as `token_set.SCHEMA`, and the carried columns."""


def whole_text(text: str) -> list[tuple[int, int]]:
    """Cut nothing: return the whole text as one sentence, an empty one where it is blank, so that every record has a row."""
    start = len(text) - len(text.lstrip())
    return [(start, len(text.rstrip()))] if start < len(text) else [(0, 0)]


@dataclass(frozen=True, kw_only=True)
class ReadUnit:
    """Reads units. Small and picklable."""

    text: TextConfig
    columns: tuple[str, ...]
    """Columns to carry along, as "name:type"."""
    whole_texts: bool
    """One vector a record."""
    part_rows: int
    from_token_set: bool
    vocabulary: str
    """Path of the model's vocabulary."""
    vocabulary_fingerprint: str
    store: PartStore
    quarantine_text: bool
    keep_text: bool
    erased: Erased

    def __call__(self, unit: Unit) -> Iterator[Chunk]:
        """Yield the unit's chunks, from the first one that is not committed yet."""
        for record, table in self._token_part(unit) if self.from_token_set else self._articles(unit):
            if record.part < unit.committed:
                continue
            # Only here: what was erased must not move the borders between parts.
            table, num_erased = self.erased.without(table)
            if num_erased:
                record.stats["erased"] = num_erased
            if not self.keep_text and "text" in table.column_names:
                table = table.drop_columns(["text"])
            yield record, table

    def _token_part(self, unit: Unit) -> Iterator[Chunk]:
        span = unit.spans[0]
        table = read_part(span.as_part)
        # The same schema as from articles: without metadata, every column nullable.
        table = pa.table({name: table[name] for name in table.column_names})
        articles = len(pc.unique(table["article"]))
        stats = {"records": articles, "articles": articles, "sentences": table.num_rows, "rejected": {}}
        yield self._record(unit, 0, last=True, table=table, input_digest=span.stamp, stats=stats), table

    def _articles(self, unit: Unit) -> Iterator[Chunk]:
        vocabulary = _vocabulary(self.vocabulary, self.vocabulary_fingerprint)
        columns = [split_column(column) for column in self.columns]
        splitter = whole_text if self.whole_texts else None
        reader = UnitReader(
            unit.spans,
            self.text,
            [name for name, _ in columns],
            chunk_rows=min(CHUNK_ROWS, self.part_rows),
            splitter=splitter,
        )
        for number, (chunk, last) in enumerate(part_chunks(reader.chunks(), self.part_rows)):
            if last:
                self.store.write_quarantine(unit.number, reader.rejected, reader.unlisted, self.quarantine_text)
            if number < unit.committed:
                continue
            table = chunk.table
            ids, num_cut = cut_off(vocabulary.id_lists(table["tokens"].combine_chunks()), self.text.max_tokens)
            table = table.set_column(table.schema.get_field_index("tokens"), "ids", ids)
            stats = {**chunk.stats, "sentences_cut": num_cut, "tokens": int(lengths_of(ids).sum())}
            for name, kind in columns:
                values, misfits = carried(chunk.columns[name], kind)
                table = table.append_column(name, values.take(table["article"]))
                if misfits:
                    stats.setdefault("values_of_another_type", {})[name] = misfits
            yield (
                self._record(unit, number, last=last, table=table, input_digest=chunk.input_digest, stats=stats),
                table,
            )

    def _record(
        self, unit: Unit, number: int, *, last: bool, table: pa.Table, input_digest: str, stats: dict[str, Any]
    ) -> PartRecord:
        return self.store.record(
            unit.number, number, last=last, rows=table.num_rows, input_digest=input_digest, stats=stats
        )


@functools.lru_cache(maxsize=1)
def _vocabulary(path: str, fingerprint: str) -> Vocabulary:
    """Load the vocabulary once for each worker process.

    Raises:
        InputError: if it is another one than the driver saw.
    """
    vocabulary = Vocabulary.load(path)
    if vocabulary.fingerprint != fingerprint:
        raise InputError(
            f"{storage.parent(path)} changed while the job ran; run the command again when the model is at rest"
        )
    return vocabulary
