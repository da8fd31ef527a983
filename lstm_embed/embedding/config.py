"""Settings of embed, search, group and decode. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass

from lstm_embed.corpus.config import MEGABYTE, at_least, within
from lstm_embed.corpus.languages import check_language
from lstm_embed.model.config import EMBEDDINGS

LEVELS = ("sentence", "row", "article")
DTYPES = ("float32", "float16")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
EMPTY = ("zero", "drop")
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


def workers_range(value: str) -> tuple[int, int]:
    """Return the least and the most workers that "4" or "1:8" stands for ("0" for as many as fit).

    Raises:
        ValueError: for anything else.
    """
    least, _, most = value.partition(":")
    try:
        low, high = int(least), int(most or least)
    except ValueError:
        low, high = -1, -1
    if not 0 <= low <= high or (most and low == 0):
        raise ValueError(
            f"num_workers is {value!r}; expected a number such as 4, a range such as 1:8, or 0 (--num-workers)"
        )
    return low, high


def split_column(column: str) -> tuple[str, str]:
    """Return name and type of a column to carry along; the type is empty if `column` names none."""
    name, _, kind = column.rpartition(":")
    return (name, kind) if name and kind in COLUMN_TYPES else (column, "")


def one_of(config: object, field: str, allowed: tuple[str, ...]) -> None:
    """Raise ValueError if a field of a config is not among the allowed words."""
    value = getattr(config, field)
    if value not in allowed:
        raise ValueError(f"{field} is {value!r}; expected one of {', '.join(allowed)} (--{field.replace('_', '-')})")


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embed a corpus: one vector a sentence, row or article, written to parquet."""

    model: str
    """Model folder; local or s3://."""
    input: tuple[str, ...]
    """Articles as for prepare (files, folders, globs), or one token set made with the model's vocabulary."""
    output: str
    """Folder for the vectors; local or s3://. Vectors give their sentences back (jobs/decode.py): guard them like the text."""
    embedding: str = ""
    """What vectors consist of: meaning (similarity, search, grouping; no LSTM runs), joined (meaning, order, lengths), exact
    (joined and positions: gives sentences back word for word) or order; empty for what the model says."""
    level: str = "sentence"
    """What gets a vector: sentence, row (a record's whole text as one sentence), article (mean of its sentences')."""
    dtype: str = "float32"
    """Type of the stored numbers: float32 or float16 (half the size; cosines change by about 1e-3)."""
    normalize: bool = False
    """Scale every vector to length 1."""
    text: bool = True
    """Store each row's text beside its vector."""
    columns: tuple[str, ...] = ()
    """Further columns of the input to carry along (not from a token set): NAME or NAME:TYPE, the type one of string, bool,
    int64, double, timestamp, date, list<string>, list<int64>, list<double>; without it, as the first records have it."""
    empty: str = "zero"
    """Rows without a word: zero (a vector of zeros) or drop; both are counted."""
    reuse: str = ""
    """Earlier output of embed: articles whose text is the same keep their vectors from there, and only the others are
    computed. (What this output folder itself held is reused in any case.)"""
    precision: str = "fp32"
    """Arithmetic of the model: fp32, bf16, fp16 (GPU only) or auto (bf16 on GPUs, and for large models on CPUs
    that are fast at it)."""
    num_workers: str = "0"
    """Model workers: a number, a range that grows with the cluster (1:8), or 0 for as many as fit now."""
    gpu: bool = False
    """Give every worker a GPU."""
    batch_tokens: int = 16_384
    """Tokens of one batch through the model; on a GPU take 16 times as many."""
    text_column: str = "text"
    """Name of the column or JSON key that holds the text."""
    id_column: str = "id"
    """Name of the column or JSON key that holds the article's id."""
    title_column: str = "title"
    """Name of the column or JSON key that holds the title."""
    language: str = ""
    """Code of the text's language, as for prepare: it decides how sentences are split; empty for the model's."""
    unit_bytes: int = 16 * MEGABYTE
    """Bytes of text that one reading task takes (less for a small corpus)."""
    part_rows: int = 65_536
    """Vectors after which a new part begins (an article is never cut)."""
    row_group_rows: int = 8_192
    """Vectors of a parquet row group."""
    max_line_bytes: int = 32 * MEGABYTE
    """Longest line that is read; longer ones are quarantined."""
    max_bad_fraction: float = 0.01
    """Share of input records that may be rejected before the job fails, 0 to 1."""
    quarantine_text: bool = False
    """Write the first bytes of what was rejected to the quarantine; it is your text."""
    prune: bool = False
    """Remove the vectors of input files that are no longer there."""

    def __post_init__(self) -> None:
        if not self.input:
            raise ValueError("input is empty; expected at least one file, folder or glob (--input)")
        if self.language:
            check_language(self.language)
        if self.embedding:
            one_of(self, "embedding", EMBEDDINGS)
        one_of(self, "level", LEVELS)
        one_of(self, "dtype", DTYPES)
        one_of(self, "precision", PRECISIONS)
        one_of(self, "empty", EMPTY)
        workers_range(self.num_workers)
        if self.precision == "fp16" and not self.gpu:
            raise ValueError("precision is 'fp16'; expected fp32, bf16 or auto without --gpu (--precision)")
        at_least(self, "batch_tokens", 64)
        at_least(self, "unit_bytes", 1)
        within(self, "part_rows", 1, 10_000_000)
        at_least(self, "row_group_rows", 1)
        at_least(self, "max_line_bytes", 1)
        within(self, "max_bad_fraction", 0, 1)
        names = [split_column(column)[0] for column in self.columns]
        if clash := sorted(_OWN_COLUMNS & set(names)):
            raise ValueError(
                f"columns names {', '.join(clash)}, which outputs of embed and decode have anyway (--columns)"
            )
        if len(set(names)) < len(names) or "" in names:
            raise ValueError(f"columns is {' '.join(self.columns)!r}; expected different names (--columns)")


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Find the embedded sentences nearest to a query, exactly."""

    model: str
    """Model folder that made the vectors."""
    embeddings: str
    """Folder that embed wrote."""
    query: tuple[str, ...] = ()
    """Query texts."""
    queries: str = ""
    """File with one query a line; local or s3://, plain or compressed."""
    top_k: int = 10
    """Hits a query, 1 or more."""
    json: bool = False
    """Print JSON lines instead of a table."""

    def __post_init__(self) -> None:
        within(self, "top_k", 1, 100_000)
        if not self.query and not self.queries:
            raise ValueError("no query; expected --query TEXT or --queries FILE")


@dataclass(frozen=True, kw_only=True)
class GroupConfig:
    """Group the sentences of embedding parts by meaning: k-means over unit vectors."""

    embeddings: str
    """Folder that embed wrote."""
    output: str
    """Folder for the groups; local or s3://."""
    clusters: int = 100
    """Number of groups, 2 or more."""
    fit_rows: int = 1_000_000
    """Rows, drawn at random, that decide where the groups lie; a small corpus is drawn from up to ten times."""
    seed: int = 0
    """Start of all chance."""
    model: str = ""
    """Model folder that made the vectors: its words name the groups. Empty for where embed found it; if it is no longer there,
    the groups stay without words."""
    words: int = 10
    """Words listed of each group, those its centre leans to, 0 or more."""
    nearest: int = 5
    """Sentences nearest to the centre listed of each group, 0 or more."""
    near_duplicates: float = 0.0
    """List pairs of a group's sentences whose cosine is at least this, above 0 to 1; 0 for none. Takes local disk for all
    vectors, and time that grows with the square of the groups' sizes."""
    max_pairs: int = 1_000_000
    """Most pairs listed, 1 or more."""

    def __post_init__(self) -> None:
        within(self, "clusters", 2, 1_000_000)
        at_least(self, "fit_rows", 1)
        within(self, "words", 0, 1000)
        within(self, "nearest", 0, 1000)
        within(self, "near_duplicates", 0, 1)
        at_least(self, "max_pairs", 1)


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Give vectors their text back: what each row of a folder of embeddings says, and whether that is proven."""

    embeddings: str
    """Folder that embed wrote."""
    output: str = ""
    """Folder for the text; local or s3://. It holds what the sentences say: guard it like the text, and so the vectors."""
    model: str = ""
    """Model folder that made the vectors; empty for where embed found it."""
    limit: int = 0
    """Decode the first so many rows only, print them and write nothing; 0 for all rows into --output."""
    num_workers: str = "0"
    """Workers: a number, a range that grows with the cluster (1:8), or 0 for as many as fit now."""
    part_rows: int = 8_192
    """Rows of a part, of which a worker that dies loses one."""

    def __post_init__(self) -> None:
        within(self, "limit", 0, 1_000_000)
        if not self.output and not self.limit:
            raise ValueError("no output; expected --output FOLDER, or --limit N to print the first rows")
        workers_range(self.num_workers)
        within(self, "part_rows", 1, 1_000_000)
