"""Articles that were erased from an output folder: remembered by salted hashes of their ids, and left out from then on.

`erased.jsonl` has one line an article: the hash, its salt, and when it was erased. While parts are being rewritten the
folder's manifest is kept as `erasing.json`; no other job touches a folder that holds one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import StringConstraints

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import parse_json

ERASED = "erased.jsonl"
ERASING = "erasing.json"
_Hex = Annotated[str, StringConstraints(pattern="^([0-9a-f]{2}){16}$")]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the list of erased articles."""

    id_hash: _Hex
    salt: _Hex
    time: str

    @classmethod
    def parse(cls, line: str, where: str) -> Entry:
        """Return what a line says.

        Raises:
            InputError: if it is damaged.
        """
        return parse_json(
            line, cls, where, advice="put the file back from a copy; without it erased articles would return"
        )


@dataclass(frozen=True)
class Erased:
    """The erased articles of a folder. Small and picklable."""

    digests: tuple[tuple[str, frozenset[str]], ...] = ()
    """For each salt the hashes made with it."""

    @classmethod
    def load(cls, output: str) -> Erased:
        """Read what was erased from a folder; nothing if it has no such list."""
        by_salt: dict[str, set[str]] = {}
        for line in read_lines(output):
            entry = Entry.parse(line, storage.join(output, ERASED))
            by_salt.setdefault(entry.salt, set()).add(entry.id_hash)
        return cls(tuple((salt, frozenset(hashes)) for salt, hashes in by_salt.items()))

    def __contains__(self, article_id: object) -> bool:
        return isinstance(article_id, str) and any(digest(article_id, salt) in known for salt, known in self.digests)

    def marks(self, ids: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Tell for each article id whether its article was erased; null ids never are."""
        if not self.digests:
            return np.zeros(len(ids), np.bool_)
        distinct = pc.unique(ids)
        gone = pa.array([value for value in distinct.to_pylist() if value in self], ids.type)
        marks: npt.NDArray[np.bool_] = np.asarray(pc.is_in(ids, value_set=gone), np.bool_)
        return marks

    def without(self, table: pa.Table) -> tuple[pa.Table, int]:
        """Return a part's table without erased articles, and how many those were (rows of equal `article` are one)."""
        marks = self.marks(table["article_id"])
        if not marks.any():
            return table, 0
        gone = len(pc.unique(table["article"].filter(pa.array(marks))))
        return table.filter(pa.array(~marks)), gone


def digest(article_id: str, salt: str) -> str:
    """Return the salted hash of an article's id."""
    return hashlib.blake2b(article_id.encode(), digest_size=16, key=bytes.fromhex(salt)).hexdigest()


def read_lines(output: str) -> list[str]:
    """Return the lines of a folder's list of erased articles."""
    path = storage.join(output, ERASED)
    # What is not ASCII is told where the lines are parsed.
    return storage.read_bytes(path).decode("ascii", "replace").splitlines() if storage.exists(path) else []


def write_lines(output: str, lines: Iterable[str]) -> None:
    """Write a folder's list of erased articles, whole or not at all."""
    storage.write_bytes(storage.join(output, ERASED), "".join(f"{line}\n" for line in lines).encode("ascii"))


def refuse_unfinished(output: str) -> None:
    """Refuse a folder in which an erasure was interrupted.

    Raises:
        InputError: with what to do.
    """
    if storage.exists(storage.join(output, ERASING)):
        raise InputError(
            f"articles are being erased from {output}, or an erasure was interrupted; finish it first: "
            f"python jobs/erase.py {output}"
        )
