"""What is a file of the input: files, folders and globs as a user gives them, found on disks and in object stores."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.readers import FORMATS
from lstm_embed.corpus.readers.source import file_suffix
from lstm_embed.ledger.sealed import read_manifest

_SUFFIXES = {suffix for form in FORMATS for suffix in form.SUFFIXES}


def find_files(inputs: Sequence[str]) -> list[storage.FileInfo]:
    """Return the usable files of a list of files, folders and globs, sorted by path, each once.

    Raises:
        FileNotFoundError: if a path or glob matches nothing.
        InputError: if a folder holds nothing usable, or all files are empty; the message says what there is.
    """
    return discover(inputs)[0]


def discover(inputs: Sequence[str]) -> tuple[list[storage.FileInfo], list[str]]:
    """Return what `find_files` does, and the paths of files that were passed over for their names.

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
    return [found[path] for path in sorted(found)], sorted(ignored - set(found))


def _matches(path: str) -> tuple[list[storage.FileInfo], list[storage.FileInfo]]:
    """Return the files that one given path stands for, and those in its folders that have other names."""
    if storage.is_dir(path):
        if storage.exists(storage.join(path, "job.json")):
            names = {part["name"] for part in read_manifest(path, kind="articles")["parts"]}
            parts = storage.list_files(storage.join(path, "parts"))
            return [file for file in parts if storage.name(file.path) in names], []
        return _usable(path, storage.list_files(path))
    if storage.exists(path):
        return [storage.info(path)], []
    if not any(sign in path for sign in "*?["):
        raise FileNotFoundError(f"no file or folder at {path}")
    base = path[: min(path.index(sign) for sign in "*?[" if sign in path)].rpartition("/")[0] or "/"
    pattern = _glob_pattern(path)
    hits = [(file, match) for file in storage.list_files(base) if (match := pattern.fullmatch(file.path))]
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
    usable = [file for file in files if _is_usable(file)]
    if not any(file.size for file in usable):
        examples = ", ".join(storage.name(file.path) for file in files[:3]) or "nothing"
        what = "only empty files" if usable else "no usable file"
        raise InputError(
            f"{path} holds {what}: found {len(files)} files ({examples}); expected wikiextractor output "
            f"(wiki_00), .jsonl, .json or .parquet, plain or {', '.join(storage.CODEC_SUFFIXES)}"
        )
    return usable, [file for file in files if not _is_usable(file)]


def _is_usable(file: storage.FileInfo) -> bool:
    return file_suffix(file.path) in _SUFFIXES
