"""The prepared corpus as later stages see it.

A token set is a folder of parquet parts (one row a sentence), a vocabulary and a manifest. All sentences of an article lie
in one part, one after the other. Every `holdout_every`-th article is held out of training, so that every run on a token set
is validated on the same articles.
"""

from __future__ import annotations

from typing import Annotated, Any, NotRequired

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pydantic
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Range
from lstm_embed.corpus.config import MAX_MIN_TOKENS
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.ledger.manifest import UnitManifest, listed_parts, read_manifest
from lstm_embed.ledger.parts import PartInfo, open_part

KIND = "token_set"
FORMAT = 3
"""Version of the parts' content; raised by hand when the same text would give other tokens or sentences."""
VOCABULARY = "vocabulary.parquet"

SCHEMA = pa.schema(
    [
        pa.field("article", pa.int32(), nullable=False),
        pa.field("article_id", pa.string()),
        pa.field("title", pa.string()),
        pa.field("article_hash", pa.binary(16), nullable=False),
        pa.field("sentence", pa.int32(), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("end", pa.int32(), nullable=False),
        pa.field("ids", pa.list_(pa.field("element", pa.int32(), nullable=False)), nullable=False),
        pa.field("text", pa.string()),
    ]
)
"""Of the parts: `article` counts the articles of the part, `sentence` the sentences of the article, `start` and `end` are
character offsets into the article's text, `article_hash` is the BLAKE2b of that text (UTF-8, 16 bytes), the same in all
rows of the article. `text` is absent where the user asked for that."""


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class _Settings(TypedDict):
    text: dict[str, Any]
    content_format: NotRequired[int]


class _Manifest(UnitManifest):
    settings: _Settings
    holdout_every: Annotated[int, Range(1)]
    vocabulary: str


class TokenSet:
    """A finished token set.

    Args:
        path: Its folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is not a finished token set.
    """

    def __init__(self, path: str) -> None:
        self.path = storage.resolve(path)
        manifest = read_manifest(self.path, kind=KIND, declared=_Manifest)
        made_by = manifest["settings"].get("content_format", 1)
        if made_by != FORMAT:
            version = {1: "0.1", 2: "0.2"}.get(made_by, "of another version")
            raise InputError(
                f"{self.path} is a token set of lstm_embed {version}; use it with that version, or prepare the corpus anew "
                "with this version"
            )
        self.fingerprint: str = manifest["fingerprint"]
        self.settings = dict(manifest["settings"])
        self.tokenizer: dict[str, Any] = manifest["settings"]["text"]
        """How text became tokens: `profile`, `language`, `split`, …"""
        self.holdout_every: int = manifest["holdout_every"]
        self.vocabulary_fingerprint: str = manifest["vocabulary"]
        self.num_rows: int = manifest["rows"]
        self.totals: dict[str, Any] = manifest["totals"]
        self.num_tokens: int = self.totals.get("tokens", 0)
        self.parts = listed_parts(self.path, manifest)
        self._vocabulary: Vocabulary | None = None

    @classmethod
    def open(cls, path: str) -> TokenSet:
        """Open a finished token set; see the class."""
        return cls(path)

    @property
    def vocabulary(self) -> Vocabulary:
        """The words the ids stand for (read at the first use)."""
        if self._vocabulary is None:
            vocabulary = Vocabulary.load(storage.join(self.path, VOCABULARY))
            if vocabulary.fingerprint != self.vocabulary_fingerprint:
                raise InputError(
                    f"the vocabulary of {self.path} is not the one its parts were made with; prepare it again"
                )
            self._vocabulary = vocabulary
        return self._vocabulary

    def as_files(self) -> list[storage.FileInfo]:
        """Return the parts as input of a stage."""
        return [part.as_file for part in self.parts]

    def read_part(self, index: int, columns: list[str] | None = None) -> pa.Table:
        """Return the rows of one part in corpus order, or some of their columns."""
        return read_part(self.parts[index], columns)


def read_part(part: PartInfo | str, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of one part of a token set, or some of their columns.

    Raises:
        FileNotFoundError: if it is not there.
        InputError: if the file is damaged, or not the part that is meant.
    """
    needed = pa.schema([SCHEMA.field(name) for name in columns or SCHEMA.names if columns or name != "text"])
    with open_part(part, "prepare", needed) as file:
        return file.read(columns)


def is_held_out(article: npt.NDArray[np.int32], holdout_every: int) -> npt.NDArray[np.bool_]:
    """Tell for each article number of a part whether the article is kept for validation."""
    return article % holdout_every == holdout_every // 2


def rows_of(
    article: npt.NDArray[np.int32],
    num_tokens: npt.NDArray[np.int32],
    *,
    min_tokens: int,
    holdout_every: int,
    held_out: bool = False,
) -> npt.NDArray[np.int64]:
    """Return the rows of a part that are trained on, or held out, ascending.

    Args:
        article: Article number of each of the n sentences, ascending.
        num_tokens: Number of tokens of each.
        min_tokens: Least number of tokens of a sentence.
        holdout_every: Of the token set.
        held_out: Return the sentences of the held-out articles instead of the others.
    """
    return np.flatnonzero((num_tokens >= min_tokens) & (is_held_out(article, holdout_every) == held_out))


def count_rows(
    article: npt.NDArray[np.int32], num_tokens: npt.NDArray[np.int32], holdout_every: int
) -> dict[str, list[int]]:
    """Count a part's sentences for each least length 1 to `MAX_MIN_TOKENS`: the numbers a batch plan is computed from.

    Returns:
        Lists named "train" and "held_out"; entry m - 1 is for `min_tokens` m.
    """
    return {
        name: [
            len(rows_of(article, num_tokens, min_tokens=least, holdout_every=holdout_every, held_out=held_out))
            for least in range(1, MAX_MIN_TOKENS + 1)
        ]
        for name, held_out in (("train", False), ("held_out", True))
    }
