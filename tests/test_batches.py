"""The batch plan and its loader: what every step trains on, whoever computes it and wherever it starts."""

from __future__ import annotations

import os
import threading
import time
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

from lstm_embed import storage
from lstm_embed.corpus.token_set import PartInfo, TokenSet, neighbour_items
from lstm_embed.errors import InputError
from lstm_embed.model.group import Group
from lstm_embed.training.batches import BatchPlan, owned_groups, read_buffer
from lstm_embed.training.loader import GroupRules, Loader, PartCache, Step

RULES = GroupRules(min_tokens=4, max_tokens=16, noise=0.3, num_negatives=20)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return write_token_set(str(tmp_path_factory.mktemp("tokens")), num_articles=40, num_parts=7)


def make_plan(tokens: TokenSet, **changes: Any) -> BatchPlan:
    values = {"min_tokens": 4, "seed": 3, "group_size": 16, "groups_per_step": 4, "buffer_sentences": 150, **changes}
    return BatchPlan.of(tokens, **values)


def make_loader(
    tokens: TokenSet, plan: BatchPlan, rank: int = 0, world_size: int = 1, **changes: Any
) -> Loader[list[Group]]:
    cache = changes.pop("cache", PartCache("", 0))
    return Loader(tokens, plan, RULES, cache, rank=rank, world_size=world_size, transform=list, **changes)


def signature(group: Group) -> tuple[bytes, ...]:
    return tuple(
        np.ascontiguousarray(a).tobytes()
        for a in (group.ids_BT, group.lengths_B, group.keep_BT, group.partner_B, group.article_B, group.candidates_C)
    )


def groups_by_number(step: Step[list[Group]]) -> dict[int, tuple[bytes, ...]]:
    return {n: signature(group) for n, group in zip(step.owned, step.work, strict=True)}


def read_epoch(tokens: TokenSet, plan: BatchPlan, epoch: int) -> Iterator[tuple[int, list[list[tuple[int, int, int]]]]]:
    """Yield each step's groups as (part, row, row of the neighbour or -1)."""
    for number, parts in enumerate(plan.epoch(epoch).parts):
        chosen = [tokens.parts[n] for n in parts]
        buffer = read_buffer(
            chosen,
            [part.path for part in chosen],
            min_tokens=4,
            holdout_every=tokens.holdout_every,
            parity=epoch % 2,
            held_out=False,
        )
        offsets = np.cumsum([0, *(part.rows for part in chosen)])
        for step in plan.cut(epoch, number, buffer.lengths):
            groups = []
            for group in step:
                first, second = buffer.first[group], buffer.second[group]
                owner = np.searchsorted(offsets, first, side="right") - 1
                base = offsets[owner]
                second = np.where(second >= 0, second - base, -1)
                groups.append(list(zip(parts[owner].tolist(), (first - base).tolist(), second.tolist(), strict=True)))
            yield number, groups


@pytest.mark.parametrize("epoch", [0, 1])
def test_each_eligible_sentence_is_trained_on_once_an_epoch(tokens: TokenSet, epoch: int) -> None:
    seen: Counter[tuple[int, int]] = Counter()
    for _, groups in read_epoch(tokens, make_plan(tokens), epoch):
        for group in groups:
            for part, first, second in group:
                seen.update([(part, first)] if second < 0 else [(part, first), (part, second)])
    expected = set()
    for number in range(len(tokens.parts)):
        table = tokens.read_part(number, ["article", "ids"])
        lengths = table["ids"].combine_chunks().value_lengths().to_numpy()
        article = table["article"].to_numpy()
        held_out = article % tokens.holdout_every == tokens.holdout_every // 2
        expected |= {(number, int(row)) for row in np.flatnonzero((lengths >= 4) & ~held_out)}
    assert set(seen) == expected
    assert set(seen.values()) == {1}


def test_the_two_sentences_of_an_item_are_neighbours_and_odd_epochs_pair_them_the_other_way(tokens: TokenSet) -> None:
    pairs = []
    for epoch in (0, 1):
        items = {
            item for _, groups in read_epoch(tokens, make_plan(tokens), epoch) for group in groups for item in group
        }
        pairs.append({item for item in items if item[2] >= 0})
    assert pairs[0]
    assert pairs[1]
    assert not pairs[0] & pairs[1]
    for part, first, second in pairs[0] | pairs[1]:
        article = tokens.read_part(part, ["article"])["article"].to_numpy()
        assert article[first] == article[second]
        assert second > first


def test_steps_are_as_large_as_asked_and_their_numbers_are_arithmetic(tokens: TokenSet) -> None:
    plan = make_plan(tokens)
    for epoch in (0, 1, 2):
        steps = list(read_epoch(tokens, plan, epoch))
        assert len(steps) == plan.steps_in_epoch(epoch)
        assert plan.first_step(epoch + 1) - plan.first_step(epoch) == len(steps)
        for at, (buffer, groups) in enumerate(steps):
            assert 1 <= len(groups) <= 4
            assert all(1 <= len(group) <= 8 for group in groups)
            found = plan.locate(plan.first_step(epoch) + at)
            assert (found.epoch, found.step_in_epoch, found.buffer) == (epoch, at, buffer)


def test_epochs_and_seeds_give_other_orders_and_the_same_seed_the_same(tokens: TokenSet) -> None:
    def order(seed: int, epoch: int) -> list[Any]:
        return list(read_epoch(tokens, make_plan(tokens, seed=seed), epoch))

    assert order(3, 0) == order(3, 0)
    assert order(3, 0) != order(3, 2)
    assert order(3, 0) != order(4, 0)


def test_a_buffer_takes_few_parts_and_all_parts_are_read_once(tokens: TokenSet) -> None:
    epoch = make_plan(tokens).epoch(0)
    largest = max(part.stats["items"]["train_0"][3] for part in tokens.parts)
    assert len(epoch.parts) > 2
    assert all(items < 75 + largest for items in epoch.num_items)
    assert sorted(np.concatenate(epoch.parts).tolist()) == list(range(len(tokens.parts)))


@settings(max_examples=60, deadline=None)
@given(
    items=st.lists(st.integers(0, 400), min_size=1, max_size=40).filter(any),
    group_size=st.integers(1, 40).map(lambda n: 2 * n),
    groups_per_step=st.integers(1, 9),
    buffer_sentences=st.integers(1, 3000),
    seed=st.integers(0, 2**63 - 1),
    where=st.floats(0, 1),
    world_size=st.integers(1, 9),
)
def test_plans_of_any_size_cover_their_items_and_share_them_without_overlap(
    items: list[int],
    group_size: int,
    groups_per_step: int,
    buffer_sentences: int,
    seed: int,
    where: float,
    world_size: int,
) -> None:
    plan = BatchPlan(
        (items, items),
        seed=seed,
        group_size=group_size,
        groups_per_step=groups_per_step,
        buffer_sentences=buffer_sentences,
    )
    epoch = plan.epoch(1)
    assert sorted(np.concatenate(epoch.parts).tolist()) == [n for n, count in enumerate(items) if count]
    assert int(epoch.num_items.sum()) == sum(items)
    lengths = np.random.default_rng(0).integers(4, 30, int(epoch.num_items[0]))
    steps = plan.cut(1, 0, lengths)
    assert len(steps) == epoch.first_step[1]
    cut = [item for step in steps for group in step for item in group.tolist()]
    assert sorted(cut) == list(range(len(lengths)))
    for step in steps:
        assert 1 <= len(step) <= groups_per_step
        assert all(1 <= len(group) <= group_size // 2 for group in step)
        shares = [list(owned_groups(len(step), rank, world_size)) for rank in range(world_size)]
        assert sorted(n for share in shares for n in share) == list(range(len(step)))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
    step = int(where * (plan.first_step(3) - 1))
    at = plan.locate(step)
    assert plan.first_step(at.epoch) + at.step_in_epoch == step
    assert plan.epoch(at.epoch).first_step[at.buffer] + at.index == at.step_in_epoch
    # A plan that was asked about late steps first answers alike.
    fresh = BatchPlan(
        (items, items),
        seed=seed,
        group_size=group_size,
        groups_per_step=groups_per_step,
        buffer_sentences=buffer_sentences,
    )
    assert fresh.locate(step) == at


@settings(max_examples=12, deadline=None)
@given(world_size=st.integers(1, 5), start=st.integers(0, 40), threads=st.integers(1, 3))
def test_workers_share_the_groups_of_a_run_that_resumes_anywhere(
    tokens: TokenSet, world_size: int, start: int, threads: int
) -> None:
    whole = {s.step: s for s in make_loader(tokens, make_plan(tokens)).steps(0, 44)}
    shares = [
        list(make_loader(tokens, make_plan(tokens), rank, world_size, threads=threads).steps(start, start + 4))
        for rank in range(world_size)
    ]
    for together in zip(*shares, strict=True):
        step = whole[together[0].step]
        found = [groups_by_number(share) for share in together]
        assert sum(map(len, found)) == step.num_groups
        assert {n: group for share in found for n, group in share.items()} == groups_by_number(step)
        facts = {(s.step, s.epoch, s.num_groups, s.num_sentences, s.num_tokens) for s in together}
        assert facts == {(step.step, step.epoch, step.num_groups, step.num_sentences, step.num_tokens)}
    assert [share.step for share in shares[0]] == list(range(start, start + 4))


def test_the_loader_makes_the_groups_of_the_plan_across_epochs(tokens: TokenSet) -> None:
    plan = make_plan(tokens)
    loaded = make_loader(tokens, plan).steps(0, plan.first_step(2))
    for epoch in (0, 1):
        for (_, groups), step in zip(
            read_epoch(tokens, plan, epoch), islice(loaded, plan.steps_in_epoch(epoch)), strict=True
        ):
            assert step.epoch == epoch
            assert step.num_groups == len(groups)
            assert step.num_sentences == sum(g.num_sentences for g in step.work)
            assert step.num_tokens == sum(g.num_tokens for g in step.work)
            for planned, group in zip(groups, step.work, strict=True):
                rows = [(p, row) for p, row, _ in planned] + [(p, row) for p, _, row in planned if row >= 0]
                for (part, row), ids, length in zip(rows, group.ids_BT, group.lengths_B, strict=True):
                    expected = tokens.read_part(part, ["ids"])["ids"][row].as_py()[:16]
                    assert ids[:length].tolist() == expected
    assert next(loaded, None) is None


def test_groups_keep_what_the_model_relies_on(tokens: TokenSet) -> None:
    dropped = total = 0
    for step in make_loader(tokens, make_plan(tokens)).steps(0, 8):
        for group in step.work:
            known = group.ids_BT >= 2
            assert not (group.ids_BT == 0)[np.arange(group.ids_BT.shape[1]) < group.lengths_B[:, None]].any()
            assert np.array_equal(group.candidates_C, np.unique(group.candidates_C))
            assert set(np.unique(group.ids_BT[known])) <= set(group.candidates_C.tolist())
            has = group.partner_B >= 0
            assert np.array_equal(group.partner_B[group.partner_B[has]], np.flatnonzero(has))
            assert np.array_equal(group.article_B[group.partner_B[has]], group.article_B[has])
            assert (known & group.keep_BT).any(axis=1)[known.any(axis=1)].all()
            dropped += int((known & ~group.keep_BT).sum())
            total += int(known.sum())
    assert 0.2 < dropped / total < 0.4


def test_sentences_of_like_length_go_together(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path), num_articles=600, num_parts=4)
    plan = make_plan(tokens, buffer_sentences=100_000)
    longest = [
        group.lengths_B.max() - _longest_of_items(group).min()
        for step in make_loader(tokens, plan).steps(0, 40)
        for group in step.work
    ]
    assert np.mean(longest) < 1.0


def _longest_of_items(group: Group) -> np.ndarray:
    partner = np.where(group.partner_B >= 0, group.partner_B, np.arange(len(group.partner_B)))
    return np.maximum(group.lengths_B, group.lengths_B[partner])


def test_validation_is_on_held_out_sentences_the_same_for_every_run_and_worker(tokens: TokenSet) -> None:
    number, groups = make_loader(tokens, make_plan(tokens)).validation(10_000)
    assert number == len(groups) > 1
    other = [make_loader(tokens, make_plan(tokens, seed=9), rank, 3).validation(10_000) for rank in range(3)]
    assert {count for count, _ in other} == {number}
    shared = {n: signature(group) for _, share in other for n, (group,) in share}
    assert shared == {n: signature(group) for n, (group,) in groups}
    expected: Counter[tuple[int, ...]] = Counter()
    for part in range(len(tokens.parts)):
        table = tokens.read_part(part, ["article", "ids"])
        lists = table["ids"].to_pylist()
        lengths = np.array([len(ids) for ids in lists])
        items = neighbour_items(
            table["article"].to_numpy(),
            lengths,
            min_tokens=4,
            parity=0,
            holdout_every=tokens.holdout_every,
            held_out=True,
        )
        expected.update(tuple(lists[row][:16]) for rows in items for row in rows if row >= 0)
    assert Counter(sentence for _, (group,) in groups for sentence in _sentences(group)) == expected
    assert all(group.keep_BT.all() for _, (group,) in groups)


def _sentences(group: Group) -> Iterator[tuple[int, ...]]:
    for ids, length in zip(group.ids_BT.tolist(), group.lengths_B.tolist(), strict=True):
        yield tuple(ids[:length])


def test_few_validation_sentences_read_few_parts(tokens: TokenSet) -> None:
    _, groups = make_loader(tokens, make_plan(tokens)).validation(12)
    assert 6 <= sum(group.num_sentences for _, (group,) in groups) <= 12
    assert make_loader(tokens, make_plan(tokens)).validation(0) == (0, [])


def test_a_part_that_is_not_what_the_manifest_says_is_refused(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path), num_parts=2)
    os.replace(tokens.parts[0].path, tokens.parts[1].path)
    with pytest.raises((InputError, FileNotFoundError)):
        list(make_loader(tokens, make_plan(tokens)).steps(0, 30))


def test_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(InputError, match="no sentence to train on"):
        BatchPlan(([0], [0]), seed=0, group_size=2, groups_per_step=1, buffer_sentences=10)


def test_an_abandoned_loader_ends_its_threads(tokens: TokenSet) -> None:
    before = threading.active_count()
    steps = make_loader(tokens, make_plan(tokens), threads=2).steps(0, 1000)
    next(steps)
    assert threading.active_count() > before
    steps.close()
    assert threading.active_count() == before


def test_remote_parts_are_fetched_as_they_are_needed_into_a_cache_of_bounded_size(s3: str, tmp_path: Path) -> None:
    local = write_token_set(str(tmp_path / "tokens"), num_articles=40, num_parts=7)
    for file in storage.list_files(local.path):
        storage.copy_file(file.path, storage.join(s3, file.path[len(local.path) + 1 :]))
    remote = TokenSet.open(s3)
    size = max(storage.info(part.path).size for part in local.parts)
    folder = tmp_path / "cache"

    def copies() -> list[Path]:
        return [path for path in folder.glob("*.parquet") if not path.name.startswith(".")]

    plan = make_plan(remote)
    steps = make_loader(remote, plan, cache=PartCache(str(folder), 3 * size)).steps(0, plan.first_step(2))
    next(steps)
    assert 1 <= len(copies()) <= 6
    expected = list(make_loader(local, make_plan(local)).steps(0, plan.first_step(2)))
    for step, same in zip(steps, expected[1:], strict=True):
        assert groups_by_number(step) == groups_by_number(same)
        assert len(copies()) <= 4 + max(len(parts) for parts in plan.epoch(0).parts)
    assert sum(path.stat().st_size for path in copies()) <= 3 * size


def test_the_cache_never_deletes_a_part_that_is_being_read(s3: str, tmp_path: Path) -> None:
    local = write_token_set(str(tmp_path / "tokens"), num_parts=4)
    for file in storage.list_files(local.path):
        storage.copy_file(file.path, storage.join(s3, file.path[len(local.path) + 1 :]))
    parts = TokenSet.open(s3).parts
    cache = PartCache(str(tmp_path / "cache"), 0)
    with cache.open(parts[:2]) as held, cache.open(parts[2:3]):
        assert all(os.path.exists(path) for path in held)
    with cache.open(parts[3:]):
        assert not any(os.path.exists(path) for path in held)


def test_workers_that_need_the_same_parts_in_other_orders_do_not_wait_for_each_other(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = write_token_set(str(tmp_path / "tokens"), num_parts=4)
    for file in storage.list_files(local.path):
        storage.copy_file(file.path, storage.join(s3, file.path[len(local.path) + 1 :]))
    parts = TokenSet.open(s3).parts
    copy = storage.copy_file

    def slowly(source: str, target: str) -> None:
        time.sleep(0.02)  # so that all come to the second part while the others hold their first
        copy(source, target)

    monkeypatch.setattr(storage, "copy_file", slowly)
    failures: list[str] = []

    def work(order: list[PartInfo]) -> None:
        for _ in range(10):
            with PartCache(str(tmp_path / "cache"), 0).open(order) as paths:
                failures.extend(path for path in paths if not os.path.exists(path))

    threads = [threading.Thread(target=work, args=(parts[n:] + parts[:n],), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures
