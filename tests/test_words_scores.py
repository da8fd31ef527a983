"""Scores of word vectors: correlated word pairs, nearest words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.words.scores import shipped_file, similar_words, unit_rows, word_pair_correlation
from tests.synthetic import vocabulary_of, write_token_set


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return write_token_set(str(tmp_path_factory.mktemp("tokens")), num_words=80, num_articles=80)


def test_word_pairs_are_correlated_over_those_that_are_known() -> None:
    words = ["tiger", "cat", "book", "paper", "computer", "keyboard", "king", "cabbage"]
    vocabulary = vocabulary_of(words)
    # tiger-cat 7.35, book-paper 7.46, computer-keyboard 7.62, king-cabbage 0.23: cosines in the same order.
    angle = {
        "tiger": 0.0,
        "cat": 0.5,
        "book": 0.0,
        "paper": 0.4,
        "computer": 0.0,
        "keyboard": 0.3,
        "king": 0.0,
        "cabbage": 1.5,
    }
    vectors = np.zeros((len(vocabulary), 2), np.float32)
    for word, a in angle.items():
        vectors[vocabulary.id(f"▁{word}")] = np.cos(a), np.sin(a)
    result = word_pair_correlation(vectors, vocabulary, "wordsim353")
    assert result["pairs"] == 4 + 1  # "tiger tiger" is in the set too
    assert result["spearman"] == 100.0
    assert word_pair_correlation(vectors * 0, vocabulary, "simlex999")["spearman"] is None


def test_the_vector_of_a_word_that_is_cut_is_the_sum_of_its_pieces() -> None:
    lines = Path(shipped_file("wordsim353.tsv")).read_text(encoding="utf-8").splitlines()
    pairs = [line.lower().split("\t")[:2] for line in lines if line and not line.startswith("#")]
    words = sorted({word for pair in pairs for word in pair})
    cut = vocabulary_of([word for word in words if len(word) < 5])
    # Letters have vectors too, some words of pieces without a vector have none.
    vectors = np.random.default_rng(0).normal(size=(len(cut), 4)).astype(np.float32)
    vectors[cut.ids([piece for piece in cut.pieces if set(piece) & set("hkz")])] = 0
    whole = vocabulary_of(words)
    sums = np.zeros((len(whole), 4), np.float32)
    for word in words:
        (ids,) = cut.id_lists(pa.array([[word]])).to_pylist()
        sums[whole.id(f"▁{word}")] = np.sum([vectors[number] for number in ids], axis=0)
    found, expected = (
        word_pair_correlation(one, vocabulary, "wordsim353") for one, vocabulary in ((vectors, cut), (sums, whole))
    )
    assert 0.5 < expected["coverage"] < 1
    assert found == pytest.approx(expected, abs=0.02)


def test_similar_words_are_the_nearest_whole_words(tokens: TokenSet) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(tokens.vocabulary), 4)).astype(np.float32)
    found = similar_words(vectors, tokens.vocabulary)
    assert len(found) == 12
    own = slice(FIRST_LEARNED, FIRST_LEARNED + 80)
    units, words = unit_rows(vectors[own]), [piece[1:] for piece in tokens.vocabulary.pieces[own]]
    for word, nearest in found.items():
        order = np.argsort(-(units @ units[words.index(word)]))[1:7]
        assert [other for other, _ in nearest] == [words[row] for row in order]
