"""What is a file of the input: files, folders and globs as a user gives them, found on disks and in object stores."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from lstm_embed.base import codecs, storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.readers import FORMATS
from lstm_embed.corpus.readers.source import file_suffix
from lstm_embed.ledger.manifest import UnitManifest, read_manifest

_SUFFIXES = {suffix for form in FORMATS for suffix in form.SUFFIXES}


class Found(NamedTuple):
    """What files and folders hold."""

    files: list[storage.FileInfo]
    """The usable files, sorted by path, each once."""
    passed_over: list[str]
    """Files whose names say that they hold no articles."""
    repeated: list[str]
    """Further names of files that are among the others."""

    def facts(self) -> dict[str, str]:
        """Return what a user should know of the files that are not read."""
        facts = {
            "files_passed_over_for_their_names": self.passed_over,
            "further_names_of_the_same_files": self.repeated,
        }
        return {name: f"{len(paths):,} (such as {paths[0]})" for name, paths in facts.items() if paths}


def find_files(inputs: Sequence[str]) -> list[storage.FileInfo]:
    """Return the usable files of a list of files, folders and globs, sorted by path, each once.

    Raises:
        FileNotFoundError: if a path or glob matches nothing.
        InputError: if a folder holds nothing usable, or all files are empty; the message says what there is.
    """
    return discover(inputs).files


def discover(inputs: Sequence[str]) -> Found:
    """Return what `find_files` does, and what was passed over.

    Raises:
        FileNotFoundError, InputError: as `find_files`.
    """
    found: dict[str, storage.FileInfo] = {}
    ignored: set[str] = set()
    for given in inputs:
        files, others = _matches(storage.resolve(given))
        found |= {file.path: file for file in files}
        ignored |= {file.path for file in others}
    if not any(file.size for file in found.values()):
        raise InputError(f"{next(iter(found))} is empty (0 bytes){' like all other input' if len(found) > 1 else ''}")
    repeated = _repeated(found)
    files = [found[path] for path in sorted(set(found) - repeated)]
    return Found(files, sorted(ignored - set(found)), sorted(repeated))


def refuse_output_inside(inputs: Sequence[str], output: str) -> None:
    """Refuse an output folder whose files would be read as input.

    Raises:
        InputError: if it is one.
    """
    for given in inputs:
        path = storage.resolve(given)
        pattern = _glob_pattern(path if storage.is_remote(path) else os.path.realpath(path))
        if pattern.fullmatch(output if storage.is_remote(output) else os.path.realpath(output)):
            raise InputError(
                f"the input holds the output: --output {output} lies in --input {path}; choose an output folder outside of it"
            )


def _repeated(files: dict[str, storage.FileInfo]) -> set[str]:
    """Return the paths of local files that are among the others under another name, which is theirs rather than a link's."""
    names: dict[tuple[int, int], list[str]] = {}
    for path in files:
        if not storage.is_remote(path):
            state = os.stat(path)
            names.setdefault((state.st_dev, state.st_ino), []).append(path)
    repeated: set[str] = set()
    for paths in names.values():
        if len(paths) > 1:
            repeated |= {*paths} - {min(paths, key=lambda path: (os.path.realpath(path) != path, path))}
    return repeated


def _matches(path: str) -> tuple[list[storage.FileInfo], list[storage.FileInfo]]:
    """Return the files that one given path stands for, and those in its folders that have other names."""
    if storage.is_dir(path):
        if storage.exists(storage.join(path, "job.json")):
            names = {part["name"] for part in read_manifest(path, kind="articles", declared=UnitManifest)["parts"]}
            parts = storage.list_files(storage.join(path, "parts"))
            return [file for file in parts if storage.name(file.path) in names], []
        return _usable(path, storage.list_files(path))
    if storage.exists(path):
        return [storage.info(path)], []
    if not any(sign in path for sign in "*?["):
        raise FileNotFoundError(f"no file or folder at {path}")
    base = path[: min(path.index(sign) for sign in "*?[" if sign in path)].rpartition("/")[0] or "/"
    pattern = _glob_pattern(path)
    hits = [
        (file, match)
        for file in storage.list_files(base)
        if (match := pattern.fullmatch(file.path)) and ("/_" in path[len(base) :] or not _is_hidden(base, file))
    ]
    if not hits:
        raise FileNotFoundError(f"no file or folder matches {path}; looked below {base}")
    files = [file for file, match in hits if not match["below"]]
    others: list[storage.FileInfo] = []
    for folder in sorted({file.path[: match.start("below")] for file, match in hits if match["below"]}):
        inside, passed_over = _matches(folder)
        files += inside
        others += passed_over
    return files, others


def _glob_pattern(path: str) -> re.Pattern[str]:
    """Translate a glob as a shell reads it; a folder that matches stands for all files below it."""
    pieces = re.split(r"(\*\*/|\*|\?|\[!?[^]]+\])", path)
    signs = {"**/": "(?:.*/)?", "*": "[^/]*", "?": "[^/]"}
    translated = [
        signs.get(piece)
        or (f"[{'^' if piece[1] == '!' else ''}{piece[1:].lstrip('!')}" if at % 2 else re.escape(piece))
        for at, piece in enumerate(pieces)
    ]
    return re.compile("".join(translated) + "(?P<below>/.*)?", re.S)


def _usable(path: str, files: list[storage.FileInfo]) -> tuple[list[storage.FileInfo], list[storage.FileInfo]]:
    usable = [file for file in files if file_suffix(file.path) in _SUFFIXES and not _is_hidden(path, file)]
    if not any(file.size for file in usable):
        examples = ", ".join(storage.name(file.path) for file in files[:3]) or "nothing"
        what = "only empty files" if usable else "no usable file"
        raise InputError(
            f"{path} holds {what}: found {len(files)} files ({examples}); expected wikiextractor output (wiki_00), .jsonl, "
            f".json, .txt or .parquet, plain or {', '.join(codecs.SUFFIXES)}, and no names that begin with _ or ."
        )
    kept = {file.path for file in usable}
    return usable, [file for file in files if file.path not in kept]


def _is_hidden(folder: str, file: storage.FileInfo) -> bool:
    """Tell whether a file or a folder around it has a name that says it is no data, as Spark's `_SUCCESS` and `_metadata`."""
    return any(name.startswith(("_", ".")) for name in file.path[len(folder) :].split("/"))
