"""Erasing articles from an output folder: token set, vectors or decoded text.

Just the parts that hold the articles are rewritten. From the first step to the last the folder says that it is unfinished:
its manifest is kept aside as `erasing.json`, together with what is being erased, so that an erasure that was interrupted is
finished by running it again, with or without the ids. Articles are found by salted hashes of their ids; the ids themselves
are written nowhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import TypedDict

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.base.settings import Range, parse_json, read_json
from lstm_embed.corpus import token_set
from lstm_embed.corpus.tasks import PARQUET, recounted
from lstm_embed.embedding import decode, vectors
from lstm_embed.ledger import PartStore, fingerprint
from lstm_embed.ledger.erased import ERASING, Entry, Erased, digest, read_lines, write_lines
from lstm_embed.ledger.manifest import (
    JOB,
    MANIFEST,
    FolderConfig,
    UnitManifest,
    listed_parts,
    parse_manifest,
    read_folder_config,
    words,
)
from lstm_embed.ledger.owner import Owner, owned
from lstm_embed.ledger.parts import PartInfo, open_part, parse_name, read_record, record_of
from lstm_embed.ledger.plan import add_counts

_READERS = 8
_Positive = Annotated[int, Range(1, 2**31 - 1)]


class _Text(TypedDict):
    id_column: str


class _Source(TypedDict):
    text: _Text


class _Vectors(TypedDict):
    row_group_rows: _Positive


class _TokenSetSettings(TypedDict):
    text: _Text
    holdout_every: _Positive


class _TokenSetJob(TypedDict):
    settings: _TokenSetSettings


class _EmbeddingsSettings(TypedDict):
    source: _Source
    vectors: _Vectors


class _EmbeddingsJob(TypedDict):
    settings: _EmbeddingsSettings


_JOBS: dict[str, tuple[str, Any]] = {
    token_set.KIND: ("prepare", _TokenSetJob),
    vectors.KIND: ("embed", _EmbeddingsJob),
    decode.KIND: ("decode", FolderConfig),
}
"""What articles are erased from: the job that makes such a folder, and what its settings say."""


def erase(output: str, article_ids: Sequence[str], report: Reporter = SILENT) -> Summary:
    """Remove articles from parts, quarantine excerpts and caches of a folder, and remember that they are gone.

    Args:
        output: A token set, a folder of vectors or of decoded text; later runs into it leave these articles out.
        article_ids: Ids of the articles as the folder's column `article_id` has them; none to finish an interrupted run.
        report: Told of the parts looked at.

    Raises:
        FileNotFoundError: if there is no such folder.
        InputError: if it holds something else, there is nothing to erase, or a part is damaged.
        OutputBusy: if a job writes the folder.
    """
    started = time.monotonic()
    output = storage.resolve(output)
    settings = _settings(output)
    if not article_ids and not storage.exists(storage.join(output, ERASING)):
        raise InputError(f"no article id given (--article-id, --ids), and no erasure of {output} was interrupted")
    with owned(output) as owner:
        manifest = _begin(output, settings["kind"], article_ids)
        erased = Erased.load(output)
        work = _Parts(output, settings, erased)
        found = work.rewrite(owner, report)
        excerpts = _clean_quarantine(output, settings, erased)
        storage.remove_dir(storage.join(output, "staging"))
        storage.remove_temporaries(output)
        owner.check()
        complete = manifest is None or _write_manifest(output, manifest)
        storage.remove(storage.join(output, ERASING))
    facts = {"articles erased": found["articles"], "parts rewritten": found["parts"], "excerpts removed": excerpts}
    return Summary(
        stage="erase",
        output=output,
        rows=found["rows"],
        row_name="rows removed",
        seconds=time.monotonic() - started,
        facts=facts,
        notes=()
        if complete
        else (f"parts of {output} are missing; run {_JOBS[settings['kind']][0]} to make them again",),
    )


def _settings(output: str) -> dict[str, Any]:
    path = storage.join(output, JOB)
    if not storage.exists(path):
        if not storage.exists(output):
            raise FileNotFoundError(f"no folder at {output}")
        raise InputError(f"{output} is no output folder of prepare, embed or decode: it has no {JOB}")
    kind = read_folder_config(path)["settings"]["kind"]
    if kind not in _JOBS:
        raise InputError(
            f"{output} holds {words(kind)}; articles are erased from token sets, embeddings and decoded text"
        )
    return {**read_json(path, _JOBS[kind][1])["settings"], "kind": kind}


class _State(TypedDict):
    """What is kept aside while articles are erased: the manifest, if there was one, and the new lines of the list."""

    manifest: dict[str, Any] | None
    lines: list[str]


def _begin(output: str, kind: str, article_ids: Sequence[str]) -> dict[str, Any] | None:
    """Set the manifest aside and enter the ids into the list of what was erased; return the manifest, if there is one."""
    aside, manifest_path = storage.join(output, ERASING), storage.join(output, MANIFEST)
    state: _State = {"manifest": None, "lines": []}
    if storage.exists(aside):
        state = read_json(aside, _State, advice="put it back from a copy")
    elif storage.exists(manifest_path):
        state["manifest"] = read_json(manifest_path, dict[str, Any])
    if state["manifest"] is not None:
        # It is checked, and kept as it stands, with whatever it says besides.
        manifest = parse_manifest(storage.to_json(state["manifest"]), manifest_path, kind=kind, declared=UnitManifest)
        if not storage.exists(aside):
            _refuse_other_parts(output, manifest, _JOBS[kind][0])
    lines = read_lines(output)
    state["lines"] += _new_lines([*lines, *state["lines"]], article_ids)
    storage.write_json(aside, state)
    storage.remove(manifest_path)
    write_lines(output, dict.fromkeys([*lines, *state["lines"]]))
    return state["manifest"]


def _refuse_other_parts(output: str, manifest: UnitManifest, made_by: str) -> None:
    """Refuse parts that are not those of the manifest; the new manifest would list them as if they were.

    Raises:
        InputError: with the first one that is another.
    """
    there = {storage.name(file.path) for file in storage.list_files(storage.join(output, "parts"))}

    def check(part: PartInfo) -> None:
        with open_part(part, made_by):
            pass

    with ThreadPoolExecutor(_READERS) as pool:
        list(pool.map(check, [part for part in listed_parts(output, manifest) if part.name in there]))


def _new_lines(lines: Sequence[str], article_ids: Sequence[str]) -> list[str]:
    """Return lines for those articles that are not in the list yet."""
    entries = [Entry.parse(line, "the list of erased articles") for line in lines]
    salt = entries[0].salt if entries else secrets.token_hex(16)
    known = {entry.id_hash for entry in entries if entry.salt == salt}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    hashes = dict.fromkeys(digest(article_id, salt) for article_id in article_ids)
    return [json.dumps({"id_hash": h, "salt": salt, "time": now}) for h in hashes if h not in known]


class _Parts:
    """The parts of one folder, of which articles are erased."""

    def __init__(self, output: str, settings: dict[str, Any], erased: Erased) -> None:
        self._output = output
        self._settings = settings
        self._erased = erased

    def rewrite(self, owner: Owner, report: Reporter) -> dict[str, int]:
        """Rewrite the parts that hold erased articles, also parts of units that left the plan; return what was found."""
        found = {"parts": 0, "rows": 0}
        articles: set[str] = set()
        # Looks again after rewriting, until it finds none.
        while paths := self._holding(report):
            for path in paths:
                owner.check()
                rows, ids = self._rewrite(path)
                found["parts"] += 1
                found["rows"] += rows
                articles.update(ids)
        return found | {"articles": len(articles)}

    def _holding(self, report: Reporter) -> list[str]:
        """Return the parts that hold articles which were erased."""
        files = storage.list_files(storage.join(self._output, "parts"))
        paths = [file.path for file in files if parse_name(storage.name(file.path))]
        found = []
        with ThreadPoolExecutor(_READERS) as pool:
            for number, (path, holds) in enumerate(zip(paths, pool.map(self._holds, paths), strict=True), 1):
                found += [path] if holds else []
                report.progress("erase", number, len(paths), "parts", holding=len(found))
        return found

    def _holds(self, path: str) -> bool:
        with self._open(path) as file:
            return bool(self._erased.marks(file.read(["article_id"])["article_id"]).any())

    def _open(self, path: str) -> AbstractContextManager[pq.ParquetFile]:
        # Not the job that makes it again: as long as an erasure is unfinished, no other job touches the folder.
        return open_part(path, "erase", pa.schema({"article_id": pa.string()}))

    def _rewrite(self, path: str) -> tuple[int, list[str]]:
        """Rewrite one part; return how many rows are gone, and the ids of the articles."""
        with self._open(path) as file:
            record, table = record_of(file.metadata, storage.name(path)), file.read()
        marks = self._erased.marks(table["article_id"])
        gone, left = table.filter(pa.array(marks)), table.filter(pa.array(~marks))
        ids = sorted(pc.unique(gone["article_id"]).to_pylist())
        # A part's identity follows its content, so what was made of a token set's part is made anew.
        secret = [record.input_digest, *(digest(id_, salt) for salt, _ in self._erased.digests[:1] for id_ in ids)]
        stats = {**record.stats, "erased": record.stats.get("erased", 0) + len(ids)}
        options = self._options(left)
        if self._settings["kind"] == token_set.KIND:
            stats = recounted(stats, left, self._settings["holdout_every"])
        elif self._settings["kind"] == decode.KIND:
            stats = decode.recounted(stats, left)
        elif "without_words" in stats:
            erased_vectors = vectors.to_matrix(gone["embedding"].combine_chunks())
            stats["without_words"] -= int((~np.any(erased_vectors, axis=1)).sum())
        new = replace(
            record,
            rows=left.num_rows,
            stats=stats,
            input_digest=hashlib.sha256("\n".join(secret).encode()).hexdigest(),
        )
        store = PartStore(self._output, record.fingerprint)
        assert store.path(record.unit, record.part) == path
        store.write_table(new, left, **options)
        return gone.num_rows, ids

    def _options(self, table: pa.Table) -> dict[str, Any]:
        if self._settings["kind"] == token_set.KIND:
            return PARQUET
        if self._settings["kind"] == decode.KIND:
            return {}
        return vectors.parquet_options(table, self._settings["vectors"]["row_group_rows"])


def _clean_quarantine(output: str, settings: dict[str, Any], erased: Erased) -> int:
    """Remove the excerpts that may be of an erased article: all that do not begin with the id of another one."""
    if settings["kind"] == decode.KIND:
        return 0  # it reads vectors and rejects none
    source = settings.get("source", settings)
    other_article = _begins_with_id(source["text"]["id_column"])
    removed = 0
    for file in storage.list_files(storage.join(output, "quarantine")):
        lines = storage.read_bytes(file.path).splitlines()
        entries = [parse_json(line, dict[str, Any], f"a line of {file.path}") for line in lines]
        kept = len(entries)
        for entry in entries:
            if "excerpt" in entry and ((id_ := other_article(str(entry["excerpt"]))) is None or id_ in erased):
                del entry["excerpt"]
                kept -= 1
        if kept < len(entries):
            removed += len(entries) - kept
            storage.write_bytes(file.path, "".join(json.dumps(entry) + "\n" for entry in entries).encode("ascii"))
    return removed


def _begins_with_id(id_column: str) -> Callable[[str], str | None]:
    """Return a function that tells the id an excerpt begins with: of a JSON line, a `<doc>` or a parquet row."""
    name = re.escape(json.dumps(id_column))
    pattern = re.compile(rf'\s*\{{\s*{name}\s*:\s*("(?:[^"\\]|\\.)*"|-?\d+)|<doc id="([^"]*)"|([^\0]*)\0')

    def find(excerpt: str) -> str | None:
        match = pattern.match(excerpt)
        if match is None:
            return None
        if match[1] is not None:
            try:
                return str(json.loads(match[1]))
            except ValueError:
                return None
        return match[2] if match[2] is not None else match[3]

    return find


def _write_manifest(output: str, old: dict[str, Any]) -> bool:
    """Write the manifest of the parts as they are now; return whether all those that it has to list are there."""
    sizes = {storage.name(file.path): file.size for file in storage.list_files(storage.join(output, "parts"))}
    names = [part["name"] for part in old["parts"]]
    if not set(names) <= set(sizes):
        return False
    with ThreadPoolExecutor(_READERS) as pool:
        records = [
            record
            for record in pool.map(read_record, [storage.join(output, "parts", name) for name in names])
            if record
        ]
    entries = [
        {"name": name, **asdict(record), "bytes": sizes[name]} for name, record in zip(names, records, strict=True)
    ]
    totals: dict[str, Any] = {}
    for record in records:
        add_counts(totals, record.stats)
    if [entry["input_digest"] for entry in entries] == [part["input_digest"] for part in old["parts"]]:
        storage.write_json(storage.join(output, MANIFEST), old)
        return True
    identity = [[entry["name"], entry["fingerprint"], entry["input_digest"]] for entry in entries]
    manifest = {
        **old,
        "fingerprint": fingerprint([old["fingerprint"], identity]),
        "rows": sum(entry["rows"] for entry in entries),
        "totals": totals,
        "parts": entries,
    }
    storage.write_json(storage.join(output, MANIFEST), json.loads(json.dumps(manifest)))
    return True
