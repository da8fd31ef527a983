"""What neighbouring sentences teach: the closed form beside scipy's, and what of a token set it is made from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_help import SMALL, make_model, padded
from synthetic import write_token_set

from lstm_embed.corpus.token_set import TokenSet, is_held_out
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.model.config import ModelConfig
from lstm_embed.model.neighbours import NeighbourStatistics, evenly, unit_halves
from lstm_embed.model.sentence_model import SentenceModel
from lstm_embed.training.neighbours import teach_neighbours

SIZE = 12


def pairs(number: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs of vectors of length 1 or so, whose first numbers have more in common than the last."""
    rng = np.random.default_rng(seed)
    share = np.linspace(0.9, 0, SIZE)
    common, left, right = rng.normal(size=(3, number, SIZE)) / SIZE**0.5
    return tuple(share**0.5 * common + (1 - share) ** 0.5 * own + 0.1 for own in (left, right))  # type: ignore[return-value]


def metric(left: np.ndarray, right: np.ndarray, strength: float = 2.0, pieces: int = 1) -> np.ndarray:
    statistics = NeighbourStatistics(left.shape[1])
    for a, b in zip(np.array_split(left, pieces), np.array_split(right, pieces), strict=True):
        statistics.add(torch.from_numpy(a), torch.from_numpy(b))
    return statistics.metric(strength).numpy()


def test_the_metric_is_a_linear_discriminant_of_neighbours() -> None:
    left, right = pairs(5000)
    both = np.concatenate([left, right])
    covariance = np.cov(both.T, bias=True)
    centred = left - both.mean(0), right - both.mean(0)
    across = (centred[0].T @ centred[1] + centred[1].T @ centred[0]) / (2 * len(left))
    shares, directions = scipy.linalg.eigh(across, covariance)
    learned = directions * np.clip(shares, 0, 0.99)
    learned /= np.sqrt(np.trace(learned.T @ covariance @ learned))
    trust = 5000 / (5000 + 20 * SIZE)
    expected = scipy.linalg.sqrtm(np.eye(SIZE) + 2.0 * trust * learned @ learned.T)
    for pieces in (1, 7):
        np.testing.assert_allclose(metric(left, right, pieces=pieces), expected, atol=1e-9)
    # A pair has no first and second.
    np.testing.assert_allclose(metric(right, left), expected, atol=1e-9)


def test_what_neighbours_share_counts_more_and_can_be_undone() -> None:
    found = metric(*pairs(5000))
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    lengths = np.linalg.norm(found, axis=0)
    assert lengths[0] > lengths[5] > lengths[-1] > 0.99
    assert np.linalg.cond(found) < 4


def test_few_pairs_shrink_it_to_the_identity_and_a_strength_of_zero_leaves_it_out() -> None:
    away = [np.linalg.norm(metric(*pairs(number)) - np.eye(SIZE)) for number in (2, 20, 200, 20_000)]
    assert away == sorted(away)
    assert away[0] < 0.1 < 0.3 < away[-1]
    assert np.array_equal(metric(*pairs(0)), np.eye(SIZE))
    assert np.array_equal(metric(*pairs(5000), strength=0), np.eye(SIZE))
    # Sentences that are all alike, or nothing, teach nothing.
    assert np.array_equal(metric(np.zeros((9, SIZE)), np.zeros((9, SIZE))), np.eye(SIZE))
    assert np.isfinite(metric(np.ones((9, SIZE)), np.ones((9, SIZE)))).all()


def test_the_halves_are_sums_of_words_and_of_spelling_of_length_one() -> None:
    model = make_model(move=0.3)
    sentences = [[3, 5, 7, 7], [1, 4, 1], []]
    found = unit_halves(model, *padded(sentences)).numpy()
    assert found.dtype == np.float64
    expected = model.embed(*padded(sentences), "meaning").double().numpy() @ np.linalg.inv(
        model.neighbours.double().numpy()
    )
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found[:2], axis=1), 2**0.5, rtol=1e-12)


@given(total=st.integers(0, 300), wanted=st.integers(1, 100))
def test_what_is_taken_evenly_is_all_or_spread_over_all(total: int, wanted: int) -> None:
    found = evenly(total, wanted)
    assert len(found) == min(total, wanted)
    gaps = np.diff(np.append(found, total))
    assert found.tolist() == sorted(set(found.tolist()))
    if total:
        assert found[0] == 0
        assert gaps.max() - gaps.min() <= 1


# From a token set


@pytest.fixture
def tokens(tmp_path: Path) -> TokenSet:
    return write_token_set(str(tmp_path), num_articles=150, num_parts=3)


def taught(tokens: TokenSet, config: ModelConfig = SMALL, min_tokens: int = 4) -> tuple[SentenceModel, int]:
    vocabulary = tokens.vocabulary
    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), 24))
    model = SentenceModel.start(config, vectors, vocabulary.counts, vocabulary.pieces)
    return model, teach_neighbours(model, tokens, min_tokens)


def test_neighbours_of_a_token_set_come_nearer_to_each_other(tokens: TokenSet) -> None:
    model, num_pairs = taught(tokens)
    assert num_pairs == sum(len(first) for _, first in neighbours(tokens))

    def apart(embed: torch.Tensor) -> float:
        """Return by how much neighbours are more alike than others."""
        lists, first = neighbours(tokens)[0]
        vectors = torch.nn.functional.normalize(
            unit_halves(model, *padded([one[: SMALL.max_tokens] for one in lists])) @ embed, dim=1
        )
        cosines = vectors @ vectors.t()
        return float(cosines[first, first + 1].mean() - cosines.mean())

    assert apart(model.neighbours.double()) > 1.3 * apart(torch.eye(40, dtype=torch.float64)) > 0


def neighbours(tokens: TokenSet, min_tokens: int = 4) -> list[tuple[list[list[int]], np.ndarray]]:
    """Return for each part its sentences that are trained on, and which of them have the next one beside them."""
    found = []
    for number in range(len(tokens.parts)):
        rows = tokens.read_part(number, ["article", "ids"]).to_pylist()
        rows = [
            row
            for row in rows
            if len(row["ids"]) >= min_tokens and not is_held_out(np.int32(row["article"]), tokens.holdout_every)
        ]
        article = np.array([row["article"] for row in rows])
        found.append(([row["ids"] for row in rows], np.flatnonzero(article[1:] == article[:-1])))
    return found


def test_held_out_articles_are_not_looked_at(tokens: TokenSet) -> None:
    def scramble(held_out: bool) -> None:
        """Give the articles that are held out, or the others, other words."""
        rng = np.random.default_rng(1)
        for part in tokens.parts:
            table = pq.read_table(part.path)
            article = table["article"].to_numpy()
            ids = [
                rng.integers(FIRST_LEARNED, FIRST_LEARNED + 200, len(old)).tolist()
                if is_held_out(number, tokens.holdout_every) == held_out
                else old
                for number, old in zip(article, table["ids"].to_pylist(), strict=True)
            ]
            column = table.schema.get_field_index("ids")
            table = table.set_column(column, table.schema.field("ids"), pa.array(ids, table.schema.field("ids").type))
            pq.write_table(table, part.path)

    before, _ = taught(tokens)
    scramble(held_out=True)
    assert torch.equal(taught(tokens)[0].neighbours, before.neighbours)
    scramble(held_out=False)
    assert not torch.equal(taught(tokens)[0].neighbours, before.neighbours)


def test_the_metric_is_the_same_on_any_number_of_threads(tokens: TokenSet) -> None:
    found = []
    for threads in (1, 3, 1):
        torch.set_num_threads(threads)
        found.append(taught(tokens)[0].neighbours)
        assert torch.get_num_threads() == threads
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_pairs_are_taken_evenly_from_large_token_sets(tokens: TokenSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lstm_embed.training.neighbours.MOST_PAIRS", 60)
    monkeypatch.setattr("lstm_embed.training.neighbours._PAIRS_AT_ONCE", 7)
    model, num_pairs = taught(tokens)
    assert num_pairs == 60
    statistics = NeighbourStatistics(40)
    for lists, first in neighbours(tokens):
        chosen = first[evenly(len(first), 20)]
        sides = [unit_halves(model, *padded([lists[row + side] for row in chosen])) for side in (0, 1)]
        statistics.add(sides[0], sides[1])
    torch.testing.assert_close(model.neighbours, statistics.metric(2.0).float(), atol=1e-6, rtol=0)


def test_articles_of_one_sentence_teach_nothing(tmp_path: Path) -> None:
    model, num_pairs = taught(write_token_set(str(tmp_path), max_sentences=1))
    assert num_pairs == 0
    assert torch.equal(model.neighbours, torch.eye(40))
