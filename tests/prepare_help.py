"""A small corpus of every kind of file, and preparing it without Ray."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stages_help import units_here

from lstm_embed.base import storage
from lstm_embed.base.progress import Summary
from lstm_embed.corpus import prepare
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.ledger import PartRecord, Unit
from lstm_embed.ledger import owner as owner_module
from lstm_embed.stages.units import UnitFunction

WORDS = [f"{a}{b}" for a in ("ka", "lo", "mi", "tür", "жа") for b in ("ra", "ne", "so", "тик", "q")]


def sentence(rng: random.Random) -> str:
    words = [rng.choice(WORDS) if rng.random() < 0.9 else str(rng.randrange(99)) for _ in range(rng.randint(1, 8))]
    return " ".join(words).capitalize() + rng.choice([".", "!", "?"])


def article(rng: random.Random, number: int) -> dict[str, str]:
    lines = [" ".join(sentence(rng) for _ in range(rng.randint(1, 6))) for _ in range(rng.randint(1, 5))]
    return {"id": str(number), "url": "u", "title": f"Title {number}", "text": "\n".join(lines)}


def json_lines(first: int, number: int) -> bytes:
    rng = random.Random(first)
    return b"".join(json.dumps(article(rng, first + n)).encode() + b"\n" for n in range(number))


def fill(folder: Path) -> None:
    """Write a small tree of every kind of file."""
    (folder / "AA").mkdir(parents=True, exist_ok=True)
    (folder / "AA" / "wiki_00").write_bytes(json_lines(0, 24))
    (folder / "AA" / "wiki_01.bz2").write_bytes(bz2.compress(json_lines(100, 12)))
    (folder / "AA" / "wiki_02.gz").write_bytes(gzip.compress(json_lines(200, 12)))
    rows = [json.loads(line) for line in json_lines(300, 16).splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet", row_group_size=8)
    docs = [article(random.Random(n), n) for n in range(400, 408)]
    (folder / "docs.txt").write_text(
        "".join(f'<doc id="{d["id"]}" title="{d["title"]}">\n{d["text"]}\n</doc>\n' for d in docs)
    )


def backwards(units: Sequence[Unit], function: UnitFunction, **_: Any) -> Iterator[list[PartRecord]]:
    """Run units in this process, last one first."""
    return units_here(units[::-1], function)


def config(tmp_path: Path | str, **values: Any) -> PrepareConfig:
    defaults = {"unit_bytes": 4000, "part_rows": 50, "num_pieces": 700, "holdout_every": 4}
    given = {"input": (f"{tmp_path}/in",), "output": f"{tmp_path}/out", **defaults, **values}
    return PrepareConfig(**given)


def run(tmp_path: Path | str, **values: Any) -> Summary:
    return prepare.prepare(config(tmp_path, **values))


def tokens_of(tmp_path: Path | str) -> TokenSet:
    return TokenSet.open(f"{tmp_path}/out")


def rows_of(tmp_path: Path | str) -> list[dict[str, Any]]:
    found = tokens_of(tmp_path)
    return [row for part in range(len(found.parts)) for row in found.read_part(part).to_pylist()]


def snapshot(tmp_path: Path | str) -> dict[str, bytes]:
    output = storage.resolve(f"{tmp_path}/out")
    files = {file.path[len(output) + 1 :]: storage.read_bytes(file.path) for file in storage.list_files(output)}
    # Those hold the time, or stay where a job was killed at its last step.
    timed = ("job.json", "progress.json", "owner/", "log/")
    return {name: data for name, data in files.items() if not name.startswith(timed)}


def stamps(tmp_path: Path | str) -> dict[str, str]:
    return {storage.name(file.path): file.stamp for file in storage.list_files(f"{tmp_path}/out/parts")}


def by_article(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    texts: dict[str, list[str]] = {}
    for row in rows:
        texts.setdefault(row["article_id"], []).append(row["text"])
    return texts


def source(tmp_path: Path) -> dict[str, str]:
    """Return all articles' texts by id, read without the library's own readers of lines and units."""
    texts = {}
    for name, opener in (("wiki_00", open), ("wiki_01.bz2", bz2.open), ("wiki_02.gz", gzip.open)):
        with opener(tmp_path / "in" / "AA" / name, "rb") as file:
            texts |= {row["id"]: row["text"] for row in map(json.loads, file)}
    texts |= {row["id"]: row["text"] for row in pq.read_table(tmp_path / "in" / "rows.parquet").to_pylist()}
    return texts | {(d := article(random.Random(n), n))["id"]: d["text"] for n in range(400, 408)}


def check_ids(tmp_path: Path) -> None:
    """Check that every sentence's ids are those of its pieces, and make its words again."""
    vocabulary, rows = tokens_of(tmp_path).vocabulary, rows_of(tmp_path)
    tokens = tokenize([row["text"] for row in rows])
    assert [row["ids"] for row in rows] == vocabulary.id_lists(tokens).to_pylist()
    assert [vocabulary.words(row["ids"]) for row in rows] == tokens.to_pylist()


class Killed(BaseException):
    """Stands for SIGKILL."""


def die_at(patch: pytest.MonkeyPatch, step: int) -> list[str]:
    done: list[str] = []

    def act(real: Callable[..., Any], path: str, *arguments: Any) -> Any:
        done.append(path)
        if len(done) > step:
            raise Killed
        return real(path, *arguments)

    for name in ("write_bytes", "remove", "remove_dir"):
        patch.setattr(storage, name, functools.partial(act, getattr(storage, name)))
    patch.setattr(owner_module, "_this_process", lambda: {"host": owner_module._host(), "pid": 0, "birth": "never"})
    return done
