"""Output folders that are made in one go (word vectors, evaluations) and closed with `seal`.

The folder says from the start what it is made with (`config.json`), so that a run that was stopped is taken up only by the
same settings, and nobody's other files are mixed with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.ledger.manifest import FORMAT, MANIFEST, read_folder_config, words
from lstm_embed.ledger.origin import provenance
from lstm_embed.ledger.owner import Owner, owned
from lstm_embed.ledger.plan import differences
from lstm_embed.ledger.sealed import open_sealed

CONFIG = "config.json"


def finished(output: str, *, kind: str, settings: dict[str, Any], advice: str = "") -> dict[str, Any] | None:
    """Return the manifest if the folder is finished, None if it is new or was left unfinished. Writes nothing.

    Args:
        output: The folder.
        kind: What it holds or shall hold, such as "word_vectors".
        settings: Everything that decides the content.
        advice: What else the user may do if the folder was made with other settings.

    Raises:
        FingerprintMismatch: if it was made with other settings; the message names the differences.
        InputError: if it holds something else.
    """
    output = storage.resolve(output)
    wanted = {"kind": kind, "format": FORMAT, **settings}
    if storage.exists(storage.join(output, CONFIG)):
        made = read_folder_config(storage.join(output, CONFIG))["settings"]
        if made["kind"] != kind:
            raise InputError(f"{output} holds something else than {words(kind)}; choose another output folder")
        if made != wanted:
            raise FingerprintMismatch(
                f"{output} was made with other settings: {differences(made, wanted)}; "
                f"use the same settings, or another output folder{advice}"
            )
    elif strangers := storage.list_files(output, recursive=False):
        raise InputError(
            f"{output} holds files of something else (such as {storage.name(strangers[0].path)}); "
            "choose an empty or new output folder"
        )
    if not storage.exists(storage.join(output, MANIFEST)):
        return None
    return open_sealed(output, kind=kind, verify=False)


@contextlib.contextmanager
def making(
    output: str, *, kind: str, settings: dict[str, Any], config: dict[str, Any], made_by: dict[str, Any] | None = None
) -> Iterator[Owner]:
    """Own the folder while its files are written; seal it after this block, when the owner's mark is gone.

    Args:
        output: The folder.
        kind: What it will hold.
        settings: Everything that decides the content.
        config: What the user asked for.
        made_by: Said of its making, if that shall not be where and with what this process runs.

    Raises:
        OutputBusy: if another job writes the folder.
    """
    output = storage.resolve(output)
    with owned(output) as owner:
        storage.remove_temporaries(output)
        path = storage.join(output, CONFIG)
        if not storage.exists(path):
            wanted = {"kind": kind, "format": FORMAT, **settings}
            made_by = provenance() if made_by is None else made_by
            storage.write_json(path, {"settings": wanted, "config": config, "made_by": made_by})
        yield owner
