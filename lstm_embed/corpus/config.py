"""Settings of extract and prepare. Imports neither torch nor Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

MEGABYTE = 1_000_000


def at_least(config: object, field: str, least: float) -> None:
    """Raise ValueError if a field of a config is below `least`, naming field, value, range and flag."""
    value = getattr(config, field)
    if not value >= least:
        raise ValueError(f"{field} is {value}; expected at least {least:g} (--{field.replace('_', '-')})")


def within(config: object, field: str, least: float, most: float) -> None:
    """Raise ValueError if a field of a config is not in [least, most], naming field, value, range and flag."""
    value = getattr(config, field)
    if not least <= value <= most:
        raise ValueError(f"{field} is {value}; expected {least:g} to {most:g} (--{field.replace('_', '-')})")


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Turn a MediaWiki dump into articles: JSON lines as wikiextractor writes them."""

    input: str
    """The dump: pages-articles(-multistream).xml, plain or .bz2, .gz, .zst, .xz; local or s3://."""
    output: str
    """Folder for the articles (gzip files of JSON lines under parts/); local or s3://."""
    unit_bytes: int = 32 * MEGABYTE
    """Bytes of a multistream dump, as stored, that one task reads."""
    part_bytes: int = 64 * MEGABYTE
    """Bytes of JSON at which a new output file begins."""
    max_bad_fraction: float = 0.01
    """Share of pages that may be rejected before the job fails, 0 to 1."""
    quarantine_text: bool = False
    """Write the first bytes of what was rejected to the quarantine; it is the dump's text."""
    prune: bool = False
    """Remove the articles of dumps that are no longer there."""

    def __post_init__(self) -> None:
        at_least(self, "unit_bytes", 1)
        at_least(self, "part_bytes", 1)
        within(self, "max_bad_fraction", 0, 1)


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How articles become sentences and tokens."""

    text_column: str = "text"
    """Name of the column or JSON key that holds the text."""
    id_column: str = "id"
    """Name of the column or JSON key that holds the article's id; articles without one are kept."""
    title_column: str = "title"
    """Name of the column or JSON key that holds the title; articles without one are kept."""
    language: str = "en"
    """ISO 639 code of the text's language, for the sentence splitter."""
    split: str = "sentencex"
    """Sentence splitter: sentencex, none (one vector a row), or the dotted name of a function text -> [(start, end)] that
    all workers can import."""
    profile: str = "default"
    """Token rule: default (words and numbers of all scripts) or original (the Keras system's rule)."""
    max_tokens: int = 512
    """Tokens (pieces of words) of a sentence that are kept, 1 to 65535; longer sentences are cut off and counted."""
    drop_repeated: bool = True
    """Drop sentences that an article repeats word by word (boilerplate)."""
    max_line_bytes: int = 32 * MEGABYTE
    """Longest line that is read; longer ones are quarantined."""

    def __post_init__(self) -> None:
        if self.profile not in ("default", "original"):
            raise ValueError(f"profile is {self.profile!r}; expected default or original (--profile)")
        if not re.fullmatch(r"[a-z]{2,3}(-[a-z]+)*|simple", self.language):
            raise ValueError(f"language is {self.language!r}; expected a code such as en, bg or zh-yue (--language)")
        within(self, "max_tokens", 1, 65535)
        at_least(self, "max_line_bytes", 1)
        for field in ("text_column", "id_column", "title_column", "split"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty; expected a name (--{field.replace('_', '-')})")


def text_settings(config: TextConfig) -> dict[str, Any]:
    """Return the part of a config that decides how text becomes tokens."""
    return {field.name: getattr(config, field.name) for field in fields(TextConfig)}


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(TextConfig):
    """Turn articles into a token set: sentences, token ids and a vocabulary."""

    input: tuple[str, ...]
    """Files, folders or globs of articles: wikiextractor JSON or <doc> files, JSON lines, parquet; local or s3://."""
    output: str
    """Folder for the token set; local or s3://."""
    drop_repeated_corpus: bool = False
    """Drop sentences that occurred before anywhere in the corpus, word by word; the first occurrence stays."""
    text: bool = True
    """Keep each sentence's text beside its token ids."""
    num_pieces: int = 32_000
    """Most pieces that words are cut into, 512 or more, the bytes counted, which stand for characters that are rarer than one
    in 2,000. A small corpus gives fewer."""
    whole_word_count: int = 0
    """Occurrences from which a word gets an id of its own and is not cut; 0 cuts as it comes, which makes the better vectors.
    Set it for word vectors that are imported, which are of whole words: 5, say."""
    vocabulary: str = ""
    """Use this vocabulary (a token set's folder or a vocabulary.parquet) instead of learning one."""
    rebuild_vocabulary: bool = False
    """Learn a vocabulary anew of all input (or take the one given) and make every part again; else an output folder's
    vocabulary stays what it was when the folder was first finished."""
    holdout_every: int = 50
    """Every n-th article is kept out of training, for validation; 2 or more."""
    unit_bytes: int = 64 * MEGABYTE
    """Bytes of text that one task reads (less for a small corpus)."""
    part_rows: int = 65_536
    """Sentences after which a new part begins (an article is never cut)."""
    max_bad_fraction: float = 0.01
    """Share of input records that may be rejected before the job fails, 0 to 1."""
    quarantine_text: bool = False
    """Write the first bytes of what was rejected to the quarantine; it is your text."""
    prune: bool = False
    """Remove the sentences of input files that are no longer there."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.input:
            raise ValueError("input is empty; expected at least one file, folder or glob (--input)")
        within(self, "num_pieces", 512, 10_000_000)
        at_least(self, "whole_word_count", 0)
        at_least(self, "holdout_every", 2)
        at_least(self, "unit_bytes", 1)
        within(self, "part_rows", 1, 10_000_000)
        within(self, "max_bad_fraction", 0, 1)


REMOVED = {
    "min-count": "every word counts, cut into pieces; --whole-word-count is how frequent one must be to stay whole",
    "max-vocabulary": "--num-pieces stands in its place",
}
"""What stands in the place of flags that earlier versions had."""
