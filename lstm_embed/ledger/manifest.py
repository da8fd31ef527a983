"""What a folder says of itself: from the start what it is made with, and in the end its manifest.

Everything is declared and checked before it is used; keys that a later version adds are let pass. Other rooms declare what
the manifests of their folders hold besides by inheriting from `UnitManifest` or
`SealedFiles`.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypeVar, cast, overload

import pydantic
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import Words, parse_json, read_json
from lstm_embed.base.text import printable
from lstm_embed.ledger.parts import Count, Counts, PartInfo, UnitNumber, parse_name

JOB = "job.json"
"""Says what a folder with units is made with."""
MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the folder formats; raised by hand when a change makes old folders unreadable."""

Kind = TypeVar("Kind")


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class Settings(TypedDict):
    """Everything but the input that decides the content of a folder."""

    kind: Words


class FolderConfig(TypedDict):
    """What a folder is made with: `job.json`, or `config.json` where it is made in one go."""

    settings: Settings
    config: NotRequired[dict[str, Any]]
    """What the user asked for."""


@pydantic.with_config(pydantic.ConfigDict(extra="allow"))
class Manifest(TypedDict):
    """What every manifest holds."""

    format: int
    kind: str
    fingerprint: Words


class PartEntry(TypedDict):
    """A part in a manifest."""

    name: str
    unit: UnitNumber
    part: Count
    last: bool
    fingerprint: str
    rows: Count
    input_digest: str
    stats: Counts
    bytes: NotRequired[Count]


class UnitManifest(Manifest):
    """The manifest of a folder whose units became parts."""

    units: list[UnitNumber]
    rows: Count
    totals: Counts
    parts: list[PartEntry]


class SealedFile(TypedDict):
    """A file of a sealed folder."""

    bytes: Count
    sha256: str


class SealedFiles(Manifest):
    """The manifest of a folder that is complete once it is there; heirs declare its `content`."""

    files: dict[str, SealedFile]


class SealedManifest(SealedFiles):
    """The manifest of a sealed folder of any kind."""

    content: dict[str, Any]


def read_folder_config(path: str) -> FolderConfig:
    """Return what a `job.json` or `config.json` says.

    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it is damaged.
    """
    return read_json(path, FolderConfig, advice="put it back from a copy, or choose another output folder")


@overload
def read_manifest(directory: str, *, kind: str) -> dict[str, Any]: ...


@overload
def read_manifest(directory: str, *, kind: str, declared: type[Kind]) -> Kind: ...


def read_manifest(directory: str, *, kind: str, declared: Any = UnitManifest) -> Any:
    """Return the manifest of a finished folder.

    Args:
        directory: The folder.
        kind: What it must hold, such as "token_set".
        declared: What its manifest must say.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if the folder is unfinished, holds something else, or its manifest is damaged.
    """
    directory = storage.resolve(directory)
    path = storage.join(directory, MANIFEST)
    if not storage.exists(path):
        if not storage.exists(directory):
            raise FileNotFoundError(f"no folder at {directory}; expected a finished {words(kind)} folder")
        raise InputError(
            f"{directory} is not a finished {words(kind)} folder: it holds no {MANIFEST}; "
            f"run the job that makes it again, it continues where it stopped"
        )
    return parse_manifest(storage.read_bytes(path), path, kind=kind, declared=declared)


def parse_manifest(data: bytes, path: str, *, kind: str, declared: type[Kind]) -> Kind:
    """Return what the bytes of a manifest say; see `read_manifest`.

    Raises:
        InputError: if it is of something else, or damaged.
    """
    advice = "run the job that makes it again"
    found = parse_json(data, Manifest, path, advice=advice)
    if found["kind"] != kind:
        raise InputError(f"{storage.parent(path)} is a {words(found['kind'])} folder; expected a {words(kind)} folder")
    if found["format"] != FORMAT:
        raise InputError(
            f"{storage.parent(path)} has folder format {found['format']}; this version reads format {FORMAT}"
        )
    manifest: Any = parse_json(data, declared, path, advice=advice)
    if wrong := _wrong_parts(manifest) if "parts" in manifest else "":
        raise InputError(f"{path} is damaged, or not what it should be: {wrong}; {advice}")
    return cast("Kind", manifest)


def _wrong_parts(manifest: UnitManifest) -> str:
    """Return what is wrong with the list of parts: each must be there once, under its name; empty if nothing is."""
    chains: dict[int, list[PartEntry]] = {}
    for entry in manifest["parts"]:
        if parse_name(entry["name"]) != (entry["unit"], entry["part"]):
            return f"part {entry['part']} of unit {entry['unit']} has the name {entry['name']!r}"
        chains.setdefault(entry["unit"], []).append(entry)
    for unit, chain in chains.items():
        numbers = [(entry["part"], entry["last"]) for entry in chain]
        if numbers != [(n, n == len(chain) - 1) for n in range(len(chain))]:
            return f"the parts of unit {unit} are {[entry['part'] for entry in chain]}; expected each once, to the last"
    if list(chains) != manifest["units"]:
        return "its parts are not those of its units"
    rows = sum(entry["rows"] for entry in manifest["parts"])
    return "" if rows == manifest["rows"] else f"rows is {manifest['rows']}; its parts have {rows}"


def listed_parts(directory: str, manifest: UnitManifest) -> list[PartInfo]:
    """Return the parts of a finished folder as its manifest lists them."""
    return [
        PartInfo(
            name=entry["name"],
            path=storage.join(directory, "parts", entry["name"]),
            identity=f"{entry['fingerprint']}-{entry['input_digest']}",
            rows=entry["rows"],
            bytes=entry.get("bytes"),
            stats=entry["stats"],
        )
        for entry in manifest["parts"]
    ]


def words(kind: str) -> str:
    """Return a kind as it stands in messages."""
    return printable(kind.replace("_", " "), 60)
