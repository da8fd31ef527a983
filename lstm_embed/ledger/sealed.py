"""Folders that are complete once their manifest is there, with the hash of every file."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.ledger.manifest import FORMAT, MANIFEST, SealedManifest, read_manifest, words

Kind = TypeVar("Kind")


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


@overload
def open_sealed(directory: str, *, kind: str, verify: bool = True) -> dict[str, Any]: ...


@overload
def open_sealed(directory: str, *, kind: str, declared: type[Kind], verify: bool = True) -> Kind: ...


def open_sealed(directory: str, *, kind: str, declared: Any = SealedManifest, verify: bool = True) -> Any:
    """Return the manifest of a sealed folder after checking its files.

    Args:
        directory: The folder.
        kind: What it must be.
        declared: What its manifest must say, an heir of `SealedFiles`.
        verify: Whether the SHA-256 of every file is compared, and not only its size.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it is unfinished, of another kind, or a file is missing or damaged.
    """
    directory = storage.resolve(directory)
    manifest = read_manifest(directory, kind=kind, declared=declared)
    for file, expected in manifest["files"].items():
        if any(step in ("", ".", "..") for step in file.split("/")):
            raise InputError(f"the {MANIFEST} of {directory} names the file {file!r}, which is not inside the folder")
        path = storage.join(directory, file)
        try:
            size = storage.info(path).size
        except FileNotFoundError:
            raise InputError(f"{path} is missing from a finished {words(kind)} folder; make the folder again") from None
        if size != expected["bytes"] or (verify and storage.digest(path) != expected["sha256"]):
            raise InputError(
                f"{path} is damaged: its {size} bytes are not the {expected['bytes']} bytes that were sealed; "
                "copy or make the folder again"
            )
    return manifest
