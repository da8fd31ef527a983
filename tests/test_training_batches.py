"""The batch plan and its loader: what every step trains on, whoever computes it and wherever it starts."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import write_token_set

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.training import batches
from lstm_embed.training.batches import BatchPlan, owned_micro_batches, read_buffer
from lstm_embed.training.config import TrainingConfig
from lstm_embed.training.loader import Loader, MicroBatch, Step


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return write_token_set(str(tmp_path_factory.mktemp("tokens")), num_articles=40, num_parts=7)


def make_plan(tokens: TokenSet, **changes: Any) -> BatchPlan:
    values = {"micro_batch_sentences": 8, "micro_batches_per_step": 4, "buffer_sentences": 75, "seed": 3, **changes}
    return BatchPlan.of(tokens, TrainingConfig(tokens="-", vectors="-", storage="-", run_name="x", **values))


def make_loader(
    tokens: TokenSet, plan: BatchPlan, rank: int = 0, world_size: int = 1, **changes: Any
) -> Loader[list[MicroBatch]]:
    lengths = {"min_tokens": 4, "max_tokens": 16}
    return Loader(tokens, plan, **lengths, rank=rank, world_size=world_size, transform=list, **changes)


def signature(batch: MicroBatch) -> tuple[bytes, ...]:
    return tuple(np.ascontiguousarray(a).tobytes() for a in (batch.ids_BT, batch.lengths_B))


def by_number(step: Step[list[MicroBatch]]) -> dict[int, tuple[bytes, ...]]:
    return {n: signature(batch) for n, batch in zip(step.owned, step.work, strict=True)}


def sentences_of(batch: MicroBatch) -> Iterator[tuple[int, ...]]:
    for ids, length in zip(batch.ids_BT.tolist(), batch.lengths_B.tolist(), strict=True):
        yield tuple(ids[:length])


def sentences(tokens: TokenSet, part: int, *, held_out: bool = False, max_tokens: int = 10_000) -> list[list[int]]:
    """Return the words of the sentences of a part that are trained on, or held out."""
    rows = tokens.read_part(part, ["article", "ids"]).to_pylist()
    every = tokens.holdout_every
    return [
        row["ids"][:max_tokens]
        for row in rows
        if len(row["ids"]) >= 4 and (row["article"] % every == every // 2) == held_out
    ]


def read_epoch(tokens: TokenSet, plan: BatchPlan, epoch: int) -> Iterator[tuple[int, list[list[tuple[int, int]]]]]:
    """Yield each step's buffer and micro-batches, their sentences as (part, number among those of the part)."""
    for number, parts in enumerate(plan.epoch(epoch).parts):
        chosen = [tokens.parts[n] for n in parts]
        every = tokens.holdout_every
        buffer = read_buffer(chosen, min_tokens=4, holdout_every=every, held_out=False)
        where = [(int(part), n) for part in parts for n in range(len(sentences(tokens, part)))]
        assert len(where) == len(buffer.lengths)
        for step in plan.cut(epoch, number, buffer.lengths):
            yield number, [[where[row] for row in rows] for rows in step]


@pytest.mark.parametrize("epoch", [0, 1])
def test_each_eligible_sentence_is_trained_on_once_an_epoch(tokens: TokenSet, epoch: int) -> None:
    seen = Counter(
        where for _, step in read_epoch(tokens, make_plan(tokens), epoch) for batch in step for where in batch
    )
    assert set(seen.values()) == {1}
    assert set(seen) == {(part, n) for part in range(7) for n in range(len(sentences(tokens, part)))}


def test_steps_are_as_large_as_asked_and_their_numbers_are_arithmetic(tokens: TokenSet) -> None:
    plan = make_plan(tokens)
    for epoch in (0, 1, 2):
        steps = list(read_epoch(tokens, plan, epoch))
        assert len(steps) == plan.steps_in_epoch(epoch)
        assert plan.first_step(epoch + 1) - plan.first_step(epoch) == len(steps)
        for at, (buffer, cut) in enumerate(steps):
            assert 1 <= len(cut) <= 4
            assert all(1 <= len(batch) <= 8 for batch in cut)
            found = plan.locate(plan.first_step(epoch) + at)
            assert (found.epoch, found.step_in_epoch, found.buffer) == (epoch, at, buffer)


def test_epochs_and_seeds_give_other_orders_and_the_same_seed_the_same(tokens: TokenSet) -> None:
    def order(seed: int, epoch: int) -> list[Any]:
        return list(read_epoch(tokens, make_plan(tokens, seed=seed), epoch))

    assert order(3, 0) == order(3, 0)
    assert order(3, 0) != order(3, 1)
    assert order(3, 0) != order(4, 0)


def test_a_buffer_takes_few_parts_and_all_parts_are_read_once(tokens: TokenSet) -> None:
    epoch = make_plan(tokens).epoch(0)
    largest = max(part.stats["holdout"]["train"][3] for part in tokens.parts)
    assert len(epoch.parts) > 2
    assert all(number < 75 + largest for number in epoch.num_sentences)
    assert sorted(np.concatenate(epoch.parts).tolist()) == list(range(len(tokens.parts)))


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 400), min_size=1, max_size=40).filter(any),
    sizes=st.fixed_dictionaries(
        {
            "micro_batch_sentences": st.integers(1, 40),
            "micro_batches_per_step": st.integers(1, 9),
            "buffer_sentences": st.integers(1, 1500),
            "seed": st.integers(0, 2**63 - 1),
        }
    ),
    where=st.floats(0, 1),
    world_size=st.integers(1, 9),
)
def test_plans_of_any_size_cover_their_sentences_and_share_them_without_overlap(
    counts: list[int], sizes: dict[str, int], where: float, world_size: int
) -> None:
    plan = BatchPlan(counts, **sizes)
    epoch = plan.epoch(1)
    assert sorted(np.concatenate(epoch.parts).tolist()) == [n for n, count in enumerate(counts) if count]
    assert int(epoch.num_sentences.sum()) == sum(counts)
    lengths = np.random.default_rng(0).integers(4, 30, int(epoch.num_sentences[0]))
    steps = plan.cut(1, 0, lengths)
    assert len(steps) == epoch.first_step[1]
    cut = [row for step in steps for batch in step for row in batch.tolist()]
    assert sorted(cut) == list(range(len(lengths)))
    for step in steps:
        assert 1 <= len(step) <= sizes["micro_batches_per_step"]
        assert all(1 <= len(batch) <= sizes["micro_batch_sentences"] for batch in step)
        shares = [list(owned_micro_batches(len(step), rank, world_size)) for rank in range(world_size)]
        assert sorted(n for share in shares for n in share) == list(range(len(step)))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    step = int(where * (plan.first_step(3) - 1))
    at = plan.locate(step)
    assert plan.first_step(at.epoch) + at.step_in_epoch == step
    assert plan.epoch(at.epoch).first_step[at.buffer] + at.index == at.step_in_epoch
    # A plan that was asked about late steps first answers alike.
    assert BatchPlan(counts, **sizes).locate(step) == at


@settings(max_examples=12, deadline=None)
@given(world_size=st.integers(1, 5), start=st.integers(0, 40), threads=st.integers(1, 3))
def test_workers_share_the_micro_batches_of_a_run_that_resumes_anywhere(
    tokens: TokenSet, world_size: int, start: int, threads: int
) -> None:
    whole = {s.step: s for s in make_loader(tokens, make_plan(tokens)).steps(0, 44)}
    shares = [
        list(make_loader(tokens, make_plan(tokens), rank, world_size, threads=threads).steps(start, start + 4))
        for rank in range(world_size)
    ]
    for together in zip(*shares, strict=True):
        step = whole[together[0].step]
        found = [by_number(share) for share in together]
        assert sum(map(len, found)) == step.num_micro_batches
        assert {n: batch for share in found for n, batch in share.items()} == by_number(step)
        facts = {(s.step, s.epoch, s.num_micro_batches, s.num_sentences, s.num_tokens) for s in together}
        assert facts == {(step.step, step.epoch, step.num_micro_batches, step.num_sentences, step.num_tokens)}
    assert [share.step for share in shares[0]] == list(range(start, start + 4))


def test_the_loader_makes_the_micro_batches_of_the_plan_across_epochs(tokens: TokenSet) -> None:
    plan = make_plan(tokens)
    expected = [sentences(tokens, part, max_tokens=16) for part in range(7)]
    loaded = make_loader(tokens, plan).steps(0, plan.first_step(2))
    for epoch in (0, 1):
        for (_, planned), step in zip(
            read_epoch(tokens, plan, epoch), islice(loaded, plan.steps_in_epoch(epoch)), strict=True
        ):
            assert step.epoch == epoch
            assert step.num_micro_batches == len(planned)
            assert step.num_sentences == sum(batch.num_sentences for batch in step.work)
            assert step.num_tokens == sum(batch.num_tokens for batch in step.work)
            for rows, batch in zip(planned, step.work, strict=True):
                assert list(sentences_of(batch)) == [tuple(expected[part][n]) for part, n in rows]
                assert not batch.ids_BT[np.arange(batch.ids_BT.shape[1]) >= batch.lengths_B[:, None]].any()
                assert batch.num_sentences == np.count_nonzero(batch.lengths_B)
    assert next(loaded, None) is None


def test_sentences_of_like_length_go_together(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path), num_articles=600, num_parts=4)
    plan = make_plan(tokens, buffer_sentences=50_000)
    steps = make_loader(tokens, plan).steps(0, 40)
    apart = [batch.lengths_B.max() - batch.lengths_B.min() for step in steps for batch in step.work]
    assert np.mean(apart) < 1.0


def test_validation_is_on_held_out_sentences_the_same_for_every_run_and_worker(tokens: TokenSet) -> None:
    number, found = make_loader(tokens, make_plan(tokens)).validation(10_000)
    assert number == len(found) > 1
    other = [make_loader(tokens, make_plan(tokens, seed=9), rank, 3).validation(10_000) for rank in range(3)]
    assert {count for count, _ in other} == {number}
    shared = {n: signature(batch) for _, share in other for n, (batch,) in share}
    assert shared == {n: signature(batch) for n, (batch,) in found}
    expected = Counter(tuple(one) for part in range(7) for one in sentences(tokens, part, held_out=True, max_tokens=16))
    assert Counter(sentence for _, (batch,) in found for sentence in sentences_of(batch)) == expected


def test_few_validation_sentences_read_few_parts(tokens: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_part = batches.read_part
    monkeypatch.setattr(batches, "read_part", lambda path, columns: read.append(path) or read_part(path, columns))
    _, found = make_loader(tokens, make_plan(tokens)).validation(12)
    assert sum(len(batch.lengths_B) for _, (batch,) in found) == 12
    assert len(read) < 4
    assert make_loader(tokens, make_plan(tokens)).validation(0) == (0, [])


def test_a_part_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path), num_parts=2)
    os.replace(tokens.parts[0].path, tokens.parts[1].path)
    with pytest.raises((InputError, FileNotFoundError)):
        list(make_loader(tokens, make_plan(tokens)).steps(0, 30))


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(InputError, match="no sentence to train on"):
        BatchPlan([0], seed=0, micro_batch_sentences=2, micro_batches_per_step=1, buffer_sentences=10)


def test_an_abandoned_loader_ends_its_threads(tokens: TokenSet) -> None:
    before = threading.active_count()
    steps = make_loader(tokens, make_plan(tokens), threads=2).steps(0, 1000)
    next(steps)
    assert threading.active_count() > before
    steps.close()
    assert threading.active_count() == before


def test_a_token_set_in_an_object_store_gives_the_same_micro_batches(s3: str, tmp_path: Path) -> None:
    local = write_token_set(str(tmp_path / "tokens"), num_articles=40, num_parts=7)
    for file in storage.list_files(local.path):
        storage.copy_file(file.path, storage.join(s3, file.path[len(local.path) + 1 :]))
    remote = TokenSet.open(s3)
    plan = make_plan(remote)
    steps = make_loader(remote, plan).steps(0, plan.first_step(2))
    expected = make_loader(local, make_plan(local)).steps(0, plan.first_step(2))
    assert [by_number(step) for step in steps] == [by_number(step) for step in expected]
