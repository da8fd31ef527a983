"""Fingerprints, provenance, and folders that are complete once their manifest is there."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import time
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the folder formats; raised by hand when a change makes old folders unreadable."""


def fingerprint(value: Any) -> str:
    """Return the hash of a JSON-like value: what decides some content, and nothing else.

    The hash is the first 32 hex digits of the SHA-256 of the value's JSON with sorted keys.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def provenance() -> dict[str, str]:
    """Return where and with what this process runs: recorded beside outputs, never compared."""
    versions = {}
    for package in ("lstm_embed", "ray", "torch", "gensim", "pyarrow", "sentencex"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": platform.node(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        **versions,
    }


def seal(directory: str, *, kind: str, fingerprint: str, content: dict[str, Any] | None = None) -> dict[str, Any]:
    """Write the manifest of a finished folder, last: its kind, fingerprint and the SHA-256 of every file in it.

    Returns:
        The manifest as written.
    """
    directory = storage.resolve(directory)
    files = {
        file.path[len(directory) + 1 :]: {"bytes": file.size, "sha256": storage.digest(file.path)}
        for file in storage.list_files(directory)
        if storage.name(file.path) != MANIFEST
    }
    manifest = {
        "format": FORMAT,
        "kind": kind,
        "fingerprint": fingerprint,
        "content": content or {},
        "files": files,
    }
    storage.write_json(storage.join(directory, MANIFEST), manifest)
    return manifest


def read_manifest(directory: str, *, kind: str) -> dict[str, Any]:
    """Return the manifest of a finished folder.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if the folder is unfinished or holds something else.
    """
    directory = storage.resolve(directory)
    path = storage.join(directory, MANIFEST)
    if not storage.exists(path):
        if not storage.exists(directory):
            raise FileNotFoundError(f"no folder at {directory}; expected a finished {_words(kind)} folder")
        raise InputError(
            f"{directory} is not a finished {_words(kind)} folder: it holds no {MANIFEST}; "
            f"run the job that makes it again, it continues where it stopped"
        )
    try:
        manifest = storage.read_json(path)
        found_kind, found_format = manifest["kind"], manifest["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({error}); run the job that makes it again") from None
    if found_kind != kind:
        raise InputError(f"{directory} is a {_words(found_kind)} folder; expected a {_words(kind)} folder")
    if found_format != FORMAT:
        raise InputError(f"{directory} has folder format {found_format}; this version reads format {FORMAT}")
    return dict(manifest)


def open_sealed(directory: str, *, kind: str, verify: bool = True) -> dict[str, Any]:
    """Return the manifest of a sealed folder after checking its files.

    Args:
        directory: The folder.
        kind: What it must be.
        verify: Compare the SHA-256 of every file; otherwise only sizes.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, of another kind, or a file is missing or damaged.
    """
    directory = storage.resolve(directory)
    manifest = read_manifest(directory, kind=kind)
    for file, expected in manifest["files"].items():
        path = storage.join(directory, file)
        if not storage.exists(path):
            raise InputError(f"{path} is missing from a finished {_words(kind)} folder; make the folder again")
        size = storage.info(path).size
        if size != expected["bytes"] or (verify and storage.digest(path) != expected["sha256"]):
            raise InputError(
                f"{path} is damaged: its {size} bytes are not the {expected['bytes']} bytes that were sealed; "
                "copy or make the folder again"
            )
    return manifest


def _words(kind: str) -> str:
    return kind.replace("_", " ")
