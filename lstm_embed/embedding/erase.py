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
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.base.progress import SILENT, Reporter, Summary
from lstm_embed.corpus import token_set
from lstm_embed.corpus.tasks import PARQUET, recounted
from lstm_embed.embedding import decode, vectors
from lstm_embed.ledger import PartRecord, PartStore, fingerprint
from lstm_embed.ledger.erased import ERASING, Erased, digest, read_lines, write_lines
from lstm_embed.ledger.owner import Owner, owned
from lstm_embed.ledger.parts import parse_name, read_record
from lstm_embed.ledger.plan import add_counts
from lstm_embed.ledger.sealed import MANIFEST

_READERS = 8


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
        manifest = _begin(output, article_ids)
        erased = Erased.load(output)
        work = _Parts(output, settings, erased)
        found = work.rewrite(owner, report)
        excerpts = _clean_quarantine(output, settings, erased)
        storage.remove_dir(storage.join(output, "staging"))
        storage.remove_temporaries(output)
        owner.check()
        if manifest:
            _write_manifest(output, manifest)
        storage.remove(storage.join(output, ERASING))
    facts = {"articles erased": found["articles"], "parts rewritten": found["parts"], "excerpts removed": excerpts}
    return Summary(
        stage="erase",
        output=output,
        rows=found["rows"],
        row_name="rows removed",
        seconds=time.monotonic() - started,
        facts=facts,
    )


def _settings(output: str) -> dict[str, Any]:
    path = storage.join(output, "job.json")
    if not storage.exists(storage.join(output, "job.json")):
        if not storage.exists(output):
            raise FileNotFoundError(f"no folder at {output}")
        raise InputError(f"{output} is no output folder of prepare, embed or decode: it has no job.json")
    settings = dict(storage.read_json(path)["settings"])
    if settings["kind"] not in (token_set.KIND, vectors.KIND, decode.KIND):
        raise InputError(
            f"{output} holds {settings['kind'].replace('_', ' ')}; articles are erased from token sets, embeddings and "
            "decoded text"
        )
    return settings


def _begin(output: str, article_ids: Sequence[str]) -> dict[str, Any] | None:
    """Set the manifest aside and enter the ids into the list of what was erased; return the manifest, if there is one."""
    aside, manifest_path = storage.join(output, ERASING), storage.join(output, MANIFEST)
    state: dict[str, Any] = {"manifest": None, "lines": []}
    if storage.exists(aside):
        state = storage.read_json(aside)
    elif storage.exists(manifest_path):
        state["manifest"] = storage.read_json(manifest_path)
    lines = read_lines(output)
    state["lines"] += _new_lines([*lines, *state["lines"]], article_ids)
    storage.write_json(aside, state)
    storage.remove(manifest_path)
    write_lines(output, dict.fromkeys([*lines, *state["lines"]]))
    return state["manifest"]


def _new_lines(lines: Sequence[str], article_ids: Sequence[str]) -> list[str]:
    """Return lines for those articles that are not in the list yet."""
    entries = [json.loads(line) for line in lines]
    salt = entries[0]["salt"] if entries else secrets.token_hex(16)
    known = {entry["id_hash"] for entry in entries if entry["salt"] == salt}
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
        folder = storage.join(self._output, "parts")
        paths = [file.path for file in storage.list_files(folder) if parse_name(storage.name(file.path))]
        found = {"parts": 0, "rows": 0}
        articles: set[str] = set()
        with ThreadPoolExecutor(_READERS) as pool:
            for number, (path, holds) in enumerate(zip(paths, pool.map(self._holds, paths), strict=True), 1):
                if holds:
                    owner.check()
                    rows, ids = self._rewrite(path)
                    found["parts"] += 1
                    found["rows"] += rows
                    articles.update(ids)
                report.progress("erase", number, len(paths), "parts", rewritten=found["parts"])
        return found | {"articles": len(articles)}

    def _holds(self, path: str) -> bool:
        return bool(self._erased.marks(_read(path, ["article_id"])["article_id"]).any())

    def _rewrite(self, path: str) -> tuple[int, list[str]]:
        """Rewrite one part; return how many rows are gone, and the ids of the articles."""
        record, table = read_record(path), _read(path)
        if record is None:
            raise _damaged(path, "its footer does not say what it is")
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
        PartStore(self._output, record.fingerprint).write_table(new, left, **options)
        return gone.num_rows, ids

    def _options(self, table: pa.Table) -> dict[str, Any]:
        if self._settings["kind"] == token_set.KIND:
            return PARQUET
        if self._settings["kind"] == decode.KIND:
            return {}
        return vectors.parquet_options(table, self._settings["vectors"]["row_group_rows"])


def _read(path: str, columns: list[str] | None = None) -> pa.Table:
    with storage.open_input(path) as file:
        try:
            return pq.read_table(file, columns=columns, page_checksum_verification=True)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, str(error)) from None


def _damaged(path: str, why: str) -> InputError:
    return InputError(
        f"{path} is damaged ({' '.join(why.split())}), so what it holds cannot be told; remove the file, then erase again"
    )


def _clean_quarantine(output: str, settings: dict[str, Any], erased: Erased) -> int:
    """Remove the excerpts that may be of an erased article: all that do not begin with the id of another one."""
    if settings["kind"] == decode.KIND:
        return 0  # it reads vectors and rejects none
    source = settings.get("source", settings)
    other_article = _begins_with_id(source["text"]["id_column"])
    removed = 0
    for file in storage.list_files(storage.join(output, "quarantine")):
        lines = storage.read_bytes(file.path).decode("ascii").splitlines()
        entries = [json.loads(line) for line in lines]
        kept = len(entries)
        for entry in entries:
            if "excerpt" in entry and ((id_ := other_article(entry["excerpt"])) is None or id_ in erased):
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


def _write_manifest(output: str, old: dict[str, Any]) -> None:
    """Write the manifest of the parts as they are now."""
    sizes = {storage.name(file.path): file.size for file in storage.list_files(storage.join(output, "parts"))}
    totals: dict[str, Any] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        records = list(pool.map(_record, [storage.join(output, "parts", part["name"]) for part in old["parts"]]))
    entries = [
        {"name": part["name"], **asdict(record), "bytes": sizes[part["name"]]}
        for part, record in zip(old["parts"], records, strict=True)
    ]
    for record in records:
        add_counts(totals, record.stats)
    if [entry["input_digest"] for entry in entries] == [part["input_digest"] for part in old["parts"]]:
        storage.write_json(storage.join(output, MANIFEST), old)
        return
    identity = [[entry["name"], entry["fingerprint"], entry["input_digest"]] for entry in entries]
    manifest = {
        **old,
        "fingerprint": fingerprint([old["fingerprint"], identity]),
        "rows": sum(entry["rows"] for entry in entries),
        "totals": totals,
        "parts": entries,
    }
    storage.write_json(storage.join(output, MANIFEST), json.loads(json.dumps(manifest)))


def _record(path: str) -> PartRecord:
    record = read_record(path)
    if record is None:
        raise _damaged(path, "its footer does not say what it is")
    return record
