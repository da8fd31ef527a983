"""Labelled files, read line by line: tab-separated, without header or quoting, plain or compressed.

What is wrong in one is refused with its line, before anything is computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lstm_embed.base import codecs, storage
from lstm_embed.base.errors import InputError, LstmEmbedError

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.str_]

LEAST_SENTENCES = 10
"""Sentences that at least two labels must have, so that each part of a set holds both."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """A similarity set: its name, and for each pair the gold score and the two sentences."""

    name: str
    gold: Floats
    left: list[str]
    right: list[str]


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Labelled sentences.

    Attributes:
        name: Name of the set.
        texts: Sentences of the training part, or of the whole set.
        labels: Label of each of `texts`.
        test: Sentences and labels of the test part; None where no split is given.
    """

    name: str
    texts: list[str]
    labels: Labels
    test: tuple[list[str], Labels] | None


def read_pairs(path: str) -> Pairs:
    """Read a file of lines `score TAB sentence TAB sentence`; further columns are ignored.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if a line is not of that form.
    """
    rows = _read(path, "a score, a sentence and a sentence", 3)
    return Pairs(
        name=_stem(path),
        gold=np.array([_score(path, number, score) for number, (score, _, _) in rows]),
        left=[left for _, (_, left, _) in rows],
        right=[right for _, (_, _, right) in rows],
    )


def _score(path: str, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{path}:{number} begins with {text[:40]!r}; expected a score, a finite number (--sts)")
    return value


def read_sets(paths: Sequence[str]) -> list[Labelled]:
    """Read files of lines `label TAB text`, joining `X.train.tsv` with the `X.test.tsv` beside it.

    Raises:
        FileNotFoundError: if a file or the other half of a pair is missing.
        InputError: if a line is not of that form, or fewer than two labels have `LEAST_SENTENCES` sentences.
    """
    sets: dict[str, Labelled] = {}
    for path in map(storage.resolve, paths):
        name, _, half = _stem(path).rpartition(".")
        if half not in ("train", "test"):
            sets[_stem(path)] = _labelled(_stem(path), path)
        elif name not in sets:
            folder, file = storage.parent(path), storage.name(path)
            train, test = (storage.join(folder, file.replace(f".{half}.", f".{h}.")) for h in ("train", "test"))
            sets[name] = _labelled(name, train, test)
    return list(sets.values())


def _labelled(name: str, path: str, test_path: str = "") -> Labelled:
    texts, labels = _read_labels(path)
    test = _read_labels(test_path) if test_path else None
    if sum(np.unique(labels, return_counts=True)[1] >= LEAST_SENTENCES) < 2:
        raise InputError(
            f"{path} has fewer than two labels with {LEAST_SENTENCES} sentences; expected at least two, since a classifier "
            "is fitted on a part of them (--classification)"
        )
    return Labelled(name=name, texts=texts, labels=labels, test=test)


def _read_labels(path: str) -> tuple[list[str], Labels]:
    rows = _read(path, "a label and a sentence", 2)
    return [text for _, (_, text) in rows], np.array([label for _, (label, _) in rows])


def _read(path: str, expected: str, num_columns: int) -> list[tuple[int, list[str]]]:
    """Return number and columns of each line that is not blank."""
    rows = []
    for number, line in enumerate(_lines(path), 1):
        try:
            fields = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r").split("\t")
        except UnicodeDecodeError:
            raise InputError(f"{path}:{number} is not UTF-8; expected {expected}, as UTF-8 text") from None
        filled = sum(bool(field.strip()) for field in fields[:num_columns])
        if filled == num_columns:
            rows.append((number, fields[:num_columns]))
        elif any(map(str.strip, fields)):
            raise InputError(
                f"{path}:{number} has {filled} of {num_columns} columns; expected {expected}, separated by tabs"
            )
    if not rows:
        raise InputError(f"{path} has no lines; expected {expected} in each, separated by tabs")
    return rows


def _lines(path: str) -> list[bytes]:
    with storage.open_stream(storage.resolve(path)) as stream:
        try:
            return stream.read().split(b"\n")
        except LstmEmbedError:
            raise
        except Exception as error:  # every codec has errors of its own
            raise InputError(f"{path} is damaged ({error}); expected a whole file, plain or compressed") from None


def _stem(path: str) -> str:
    """Return the name of a file without codec and .tsv."""
    name = storage.name(path)
    return name.removesuffix(codecs.codec(name) or "").removesuffix(".tsv").removesuffix(".txt")
