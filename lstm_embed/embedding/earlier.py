"""Which earlier parts may lend their vectors: those made with the same model and settings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.embedding.vectors import KIND
from lstm_embed.ledger import PartStore, Work
from lstm_embed.ledger.erased import read_lines, refuse_unfinished, write_lines
from lstm_embed.ledger.manifest import UnitManifest, listed_parts, read_manifest
from lstm_embed.ledger.parts import PartInfo, parse_name, read_record
from lstm_embed.ledger.plan import READERS, differences


class _Manifest(UnitManifest):
    settings: dict[str, Any]


_TEXT_RULE = ("language", "split", "profile", "max_tokens", "drop_repeated")


@dataclass(frozen=True)
class Earlier:
    """An earlier output whose vectors may be reused."""

    path: str
    parts: list[PartInfo]
    """Its parts; none if it was made otherwise."""
    message: str
    """What the user is told of it."""

    @classmethod
    def open(cls, path: str, settings: dict[str, Any]) -> Earlier:
        """Look at an earlier output.

        Args:
            path: The folder given to `--reuse`.
            settings: What decides the content of the job that wants to reuse it.

        Raises:
            FileNotFoundError: if there is no such folder.
            InputError: if it is unfinished, or something else.
        """
        path = storage.resolve(path)
        refuse_unfinished(path)
        manifest = read_manifest(path, kind=KIND, declared=_Manifest)
        made, wanted = deciding(manifest["settings"]), deciding(settings)
        if made != wanted:
            return cls(
                path, [], f"{path} was made otherwise ({differences(made, wanted)}); every vector is computed anew"
            )
        return cls(path, listed_parts(path, manifest), f"vectors of unchanged articles are copied from {path}")

    def inherit_erased(self, output: str) -> None:
        """Leave out of `output` too what was erased from the earlier output."""
        own = read_lines(output)
        new = [line for line in read_lines(self.path) if line not in set(own)]
        if new and self.path != output:
            write_lines(output, [*own, *new])


def deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """Return those settings of an output of embed that decide what vector an article's sentence has."""
    try:
        vectors, text = settings["vectors"], settings["source"]["text"]
        return {
            "content_format": settings["content_format"],
            "model": settings["model"],
            "embedding": settings.get("embedding"),
            "precision": settings["precision"],
            **{name: vectors[name] for name in ("level", "dtype", "normalize")},
            **{name: text.get(name) for name in _TEXT_RULE},
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"settings of an output of embed lack {error}; it was made by another version") from None


def leftovers(store: PartStore, work: Work) -> list[PartInfo]:
    """Return the parts in a job's own output whose input changed, moved or is gone, in order.

    These are the parts of units that left the plan (they stay until the folder is finished), and of complete units whose
    files are no longer there.
    """
    gone = set(work.vanished)
    kept = {unit.number for unit in work.units if not any(span.path in gone for span in unit.spans)}
    kept |= {unit.number for unit in work.pending}
    paths = [
        file.path
        for file in storage.list_files(store.folder)
        if (named := parse_name(storage.name(file.path))) and named[0] not in kept
    ]
    with ThreadPoolExecutor(READERS) as pool:
        records = list(pool.map(read_record, paths))
    return [
        PartInfo.at(path, record.identity)
        for path, record in zip(paths, records, strict=True)
        if record is not None and record.fingerprint == store.fingerprint
    ]
