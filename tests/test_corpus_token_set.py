"""Token sets as later stages see them: whole, verified, and with every sentence trained on or held out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import vocabulary_of

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus import prepare
from lstm_embed.corpus.config import MAX_MIN_TOKENS, PrepareConfig
from lstm_embed.corpus.token_set import SCHEMA, TokenSet, count_rows, is_held_out, rows_of


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(0, 9), max_size=7), max_size=12),
    min_tokens=st.integers(1, MAX_MIN_TOKENS),
    holdout_every=st.integers(2, 5),
)
def test_every_long_enough_sentence_is_trained_on_or_held_out(
    lengths: list[list[int]], min_tokens: int, holdout_every: int
) -> None:
    article = np.array([number for number, found in enumerate(lengths) for _ in found], np.int32)
    num_tokens = np.array([length for found in lengths for length in found], np.int32)
    counted = count_rows(article, num_tokens, holdout_every)
    for name, held_out in (("train", False), ("held_out", True)):
        found = rows_of(
            article, num_tokens, min_tokens=min_tokens, holdout_every=holdout_every, held_out=held_out
        ).tolist()
        assert found == [
            row
            for row, (number, length) in enumerate(zip(article, num_tokens, strict=True))
            if length >= min_tokens and (number % holdout_every == holdout_every // 2) == held_out
        ]
        assert counted[name][min_tokens - 1] == len(found)


def test_every_nth_article_is_held_out() -> None:
    assert np.flatnonzero(is_held_out(np.arange(160, dtype=np.int32), 50)).tolist() == [25, 75, 125]


@pytest.fixture
def made(tmp_path: Path, here: None) -> str:
    """Return the folder of a small token set."""
    (tmp_path / "in").write_text("".join(json.dumps({"id": n, "text": f"One {n}. Two two."}) + "\n" for n in range(9)))
    prepare.prepare(PrepareConfig(input=(f"{tmp_path}/in",), output=f"{tmp_path}/out", part_rows=8))
    return f"{tmp_path}/out"


def test_an_open_token_set_tells_what_it_holds(made: str) -> None:
    found = TokenSet.open(made)
    ids = [ids for part in range(3) for ids in found.read_part(part, ["ids"])["ids"].to_pylist()]
    num_pieces = sum(map(len, ids))
    assert (found.num_rows, found.num_tokens, len(found.parts)) == (18, num_pieces, 3)
    assert sum(part.rows for part in found.parts) == 18
    assert found.tokenizer["profile"] == "default"
    assert found.read_part(0).schema.remove_metadata() == SCHEMA
    assert found.read_part(1, ["ids"]).column_names == ["ids"]
    assert len({part.identity for part in found.parts}) == 3
    assert set(found.parts[0].stats["holdout"]) == {"train", "held_out"}
    words = [found.vocabulary.words(one) for one in ids]
    assert words == [sentence for n in range(9) for sentence in (["one", str(n)], ["two", "two"])]


def test_damage_is_noticed_when_it_is_read_and_prepare_mends_what_is_cut_off(made: str, tmp_path: Path) -> None:
    part = Path(TokenSet.open(made).parts[1].path)
    whole = part.read_bytes()
    middle = bytearray(whole)
    middle[len(whole) // 3] ^= 0xFF
    part.write_bytes(bytes(middle))
    with pytest.raises(
        InputError, match=r"part-00000000-0001.parquet is damaged.*remove the file and run prepare again"
    ):
        TokenSet.open(made).read_part(1)
    part.unlink()
    with pytest.raises(FileNotFoundError):
        TokenSet.open(made).read_part(1)
    prepare.prepare(PrepareConfig(input=(f"{tmp_path}/in",), output=made, part_rows=8))
    assert part.read_bytes() == whole


def test_folders_that_are_no_finished_token_set_are_refused(made: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a finished token set folder"):
        TokenSet.open(f"{tmp_path}/nothing")
    vocabulary_of(["x"]).save(f"{made}/vocabulary.parquet")
    with pytest.raises(InputError, match="is not the one its parts were made with"):
        _ = TokenSet.open(made).vocabulary
    storage.remove(f"{made}/manifest.json")
    with pytest.raises(InputError, match="is not a finished token set folder"):
        TokenSet.open(made)


@pytest.mark.parametrize(("made_by", "version"), [(1, "0.1"), (2, "0.2"), (99, "of another version")])
def test_a_token_set_of_another_version_is_refused_with_what_reads_it(made: str, made_by: int, version: str) -> None:
    manifest = json.loads(Path(made, "manifest.json").read_text())
    manifest["settings"]["content_format"] = made_by
    Path(made, "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError) as refused:
        TokenSet.open(made)
    assert f"out is a token set of lstm_embed {version}; use it with that version, or prepare" in str(refused.value)
    assert "\n" not in str(refused.value)
