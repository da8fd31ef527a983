"""Settings of embed, search, group and decode. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

import annotated_types
import pydantic

from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import DECIDES, Range, Words, settings
from lstm_embed.corpus.languages import check_language
from lstm_embed.model.config import Embedding
from lstm_embed.stages.config import MEGABYTE, InputConfig, NumWorkers, Precision, StageConfig, WandbConfig

COLUMN_TYPES = (
    "string",
    "bool",
    "int64",
    "double",
    "timestamp",
    "date",
    "list<string>",
    "list<int64>",
    "list<double>",
)
_OWN_COLUMNS = {"article", "article_id", "title", "article_hash", "sentence", "start", "end", "num_sentences"}
_OWN_COLUMNS |= {"text", "ids", "tokens", "embedding", "decoded", "proven"}


def split_column(column: str) -> tuple[str, str]:
    """Return name and type of a column to carry along; the type is empty if `column` names none."""
    name, _, kind = column.rpartition(":")
    return (name, kind) if name and kind in COLUMN_TYPES else (column, "")


def _language(code: str) -> str:
    return code and check_language(code)


@settings()
class EmbedConfig(InputConfig, WandbConfig):
    """Embed a corpus: one vector a sentence, row or article, written to parquet."""

    model: Words
    """Model folder; local or s3://."""
    input: Annotated[tuple[str, ...], annotated_types.MinLen(1)]
    """Articles as for prepare (files, folders, globs), or one token set made with the model's vocabulary."""
    output: Words
    """Folder for the vectors; local or s3://. Vectors give their sentences back (jobs/decode.py): guard them like the text."""
    embedding: Literal["", Embedding] = ""
    """What vectors consist of: meaning (similarity, search, grouping; no LSTM runs), joined (meaning, order, lengths), exact
    (joined and positions: gives sentences back word for word) or order; empty for what the model says."""
    level: Literal["sentence", "row", "article"] = "sentence"
    """What gets a vector: sentence, row (a record's whole text as one sentence), article (mean of its sentences')."""
    dtype: Literal["float32", "float16"] = "float32"
    """Type of the stored numbers: float32 or float16 (half the size; cosines change by about 1e-3)."""
    normalize: bool = False
    """Scale every vector to length 1."""
    text: bool = True
    """Store each row's text beside its vector."""
    columns: tuple[str, ...] = ()
    """Further columns of the input to carry along (not from a token set): NAME or NAME:TYPE, the type one of string, bool,
    int64, double, timestamp, date, list<string>, list<int64>, list<double>; without it, as the first records have it."""
    empty: Literal["zero", "drop"] = "zero"
    """Rows without a word: zero (a vector of zeros) or drop; both are counted."""
    reuse: str = ""
    """Earlier output of embed: articles whose text is the same keep their vectors from there, and only the others are
    computed. (What this output folder itself held is reused in any case.)"""
    precision: Precision = "fp32"
    """Arithmetic of the LSTM: fp32, bf16, fp16 (GPU only) or auto: what the output folder was begun in; for a new one bf16 on
    GPUs, and on CPUs if a short measurement on this machine finds it 1.5 times as fast as fp32, which is so for large models
    (on AMD's Zen 4: 1.9 times for 512 units a direction, 1.3 to 1.4 for the default 128)."""
    num_workers: NumWorkers = "0"
    """Model workers: a number, a range that grows with the cluster (1:8), or 0 for as many as fit now."""
    gpu: bool = False
    """Give every worker a GPU."""
    batch_tokens: Annotated[int, Range(64)] = 16_384
    """Tokens of one batch through the model; on a GPU take 16 times as many."""
    text_column: str = "text"
    """Name of the column or JSON key that holds the text."""
    id_column: str = "id"
    """Name of the column or JSON key that holds the article's id."""
    title_column: str = "title"
    """Name of the column or JSON key that holds the title."""
    language: Annotated[str, pydantic.AfterValidator(_language)] = ""
    """Code of the text's language, as for prepare: it decides how sentences are split; empty for the model's."""
    unit_bytes: Annotated[int, Range(1_000)] = 16 * MEGABYTE
    """Bytes of text that one reading task takes (less for a small corpus), 1,000 or more."""
    part_rows: Annotated[int, Range(1, 10_000_000)] = 65_536
    """Vectors after which a new part begins (an article is never cut)."""
    row_group_rows: Annotated[int, Range(1)] = 8_192
    """Vectors of a parquet row group."""
    max_line_bytes: Annotated[int, Range(1)] = 32 * MEGABYTE
    """Longest line that is read; longer ones are quarantined."""

    def __post_init__(self) -> None:
        if self.precision == "fp16" and not self.gpu:
            raise InputError("precision is 'fp16'; expected fp32, bf16 or auto without --gpu (--precision)")
        names = [split_column(column)[0] for column in self.columns]
        if clash := sorted(_OWN_COLUMNS & set(names)):
            raise InputError(
                f"columns names {', '.join(clash)}, which outputs of embed and decode have anyway (--columns)"
            )
        if len(set(names)) < len(names) or "" in names:
            raise InputError(f"columns is {' '.join(self.columns)!r}; expected different names (--columns)")


@settings()
class SearchConfig:
    """Find the embedded sentences nearest to a query, exactly."""

    model: Words
    """Model folder that made the vectors."""
    embeddings: Words
    """Folder that embed wrote."""
    query: tuple[str, ...] = ()
    """Query texts."""
    queries: str = ""
    """File with one query a line; local or s3://, plain or compressed."""
    top_k: Annotated[int, Range(1, 100_000)] = 10
    """Hits a query, 1 or more."""
    json: bool = False
    """Print JSON lines instead of a table."""

    def __post_init__(self) -> None:
        if not self.query and not self.queries:
            raise InputError("no query; expected --query TEXT or --queries FILE")


@settings()
class GroupConfig(StageConfig):
    """Group the sentences of embedding parts by meaning: k-means over unit vectors."""

    embeddings: Words
    """Folder that embed wrote."""
    output: Words
    """Folder for the groups; local or s3://."""
    clusters: Annotated[int, Range(2, 1_000_000), DECIDES] = 100
    """Number of groups, 2 or more."""
    fit_rows: Annotated[int, Range(1), DECIDES] = 1_000_000
    """Rows, drawn at random, that decide where the groups lie; a small corpus is drawn from up to ten times."""
    seed: Annotated[int, Range(0), DECIDES] = 0
    """Start of all chance."""
    model: str = ""
    """Model folder that made the vectors: its words name the groups. Empty for where embed found it; if it is no longer there,
    the groups stay without words."""
    words: Annotated[int, Range(0, 1000), DECIDES] = 10
    """Words listed of each group, those its centre leans to, 0 or more."""
    nearest: Annotated[int, Range(0, 1000), DECIDES] = 5
    """Sentences nearest to the centre listed of each group, 0 or more."""


@settings()
class DecodeConfig(StageConfig):
    """Give vectors their text back: what each row of a folder of embeddings says, and whether that is proven."""

    embeddings: Words
    """Folder that embed wrote."""
    output: str = ""
    """Folder for the text; local or s3://. It holds what the sentences say: guard it like the text, and so the vectors."""
    model: str = ""
    """Model folder that made the vectors; empty for where embed found it."""
    limit: Annotated[int, Range(0, 1_000_000)] = 0
    """Decode the first so many rows only, print them and write nothing; 0 for all rows into --output."""
    num_workers: NumWorkers = "0"
    """Workers: a number, a range that grows with the cluster (1:8), or 0 for as many as fit now."""
    part_rows: Annotated[int, Range(1, 1_000_000), DECIDES] = 8_192
    """Rows of a part, of which a worker that dies loses one."""

    def __post_init__(self) -> None:
        if not self.output and not self.limit:
            raise InputError("no output; expected --output FOLDER, or --limit N to print the first rows")
