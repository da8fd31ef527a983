"""Measures of sentence vectors: each against a plain computation of the same thing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.evaluation import classification, clustering, retrieval, similarity
from lstm_embed.evaluation.baselines import Bm25, NearestSentence, Tokens, averaging_baselines
from lstm_embed.evaluation.corpora import EmbeddedCorpus, Rows, Sentences, shipped_sentences, token_set_sentences
from lstm_embed.evaluation.decoding import Answer, Decode, decoding, most_frequent_word
from tests.synthetic import vocabulary_of, write_token_set

VOCABULARY = vocabulary_of(["the", "cat", "sat"], [20, 3, 2])
WORDS = slice(FIRST_LEARNED, FIRST_LEARNED + 3)
TOKENS = Tokens(VOCABULARY, "default")


# Averages of word vectors


def test_averaging_baselines_are_what_their_formulas_say() -> None:
    vectors = np.zeros((len(VOCABULARY), 2), np.float32)
    vectors[WORDS] = [[1, 0], [0, 2], [3, 3]]
    p = np.array([20, 3, 2]) / 25
    baselines = averaging_baselines(TOKENS, vectors, ["the cat", "cat sat"])
    sentence = ["The cat, the cat sat; o!"]
    share = np.array([2, 2, 1]) / 7  # of all pieces: "o" is the mark of a word's begin and a byte
    np.testing.assert_allclose(baselines["mean"](sentence)[0], share @ vectors[WORDS], rtol=1e-5)
    sif = 1e-4 / (1e-4 + p)
    np.testing.assert_allclose(baselines["sif"](sentence)[0], (share * sif) @ vectors[WORDS], rtol=1e-5)
    units = vectors[WORDS] / np.linalg.norm(vectors[WORDS], axis=1, keepdims=True)
    log = (np.log(1 / p) - np.log(1 / p).min()) / np.log(1 / p).max()
    np.testing.assert_allclose(baselines["log_unit"](sentence)[0], (share * log) @ units, rtol=1e-5)
    reference = baselines["sif"](["the cat", "cat sat"])
    first = np.linalg.svd(reference)[2][0]
    expected = baselines["sif"](sentence)[0] - (baselines["sif"](sentence)[0] @ first) * first
    np.testing.assert_allclose(baselines["sif_minus_first"](sentence)[0], expected, atol=1e-8)


def test_a_text_without_words_has_the_zero_vector() -> None:
    baselines = averaging_baselines(TOKENS, np.ones((len(VOCABULARY), 3), np.float32), ["the cat"])
    for name, embed in baselines.items():
        assert not embed(["", "… !"]).any(), name


# Similarity


@given(st.integers(0, 2**31), st.integers(3, 60), st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_resampled_rank_correlations_are_those_of_the_resampled_pairs(seed: int, num: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    gold, predicted = rng.integers(0, levels, num).astype(float), rng.normal(size=num).round(1)
    found = similarity.resampled_spearman(gold, predicted, 3, seed)
    again = np.random.default_rng(seed)
    for value in found:
        chosen = again.integers(0, num, num)
        x, y = gold[chosen], predicted[chosen]
        constant = np.ptp(x) == 0 or np.ptp(y) == 0
        assert value == pytest.approx(0.0 if constant else 100 * stats.spearmanr(x, y).statistic, abs=1e-6)


def test_similarity_scores_each_set_and_all_of_them() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    table = {word: rng.normal(size=4).astype(np.float32) for word in words}

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([table[text] for text in texts])

    sets = [
        similarity.Pairs(name=name, gold=rng.normal(size=30), left=words[:30], right=words[30:]) for name in ("a", "b")
    ]
    found = similarity.similarity(sets, {"model": embed, "other": lambda t: -(embed(t) ** 3)}, bootstrap=50)
    left, right = embed(words[:30]), embed(words[30:])
    cosine = (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
    a = found["methods"]["model"]["sets"]["a"]
    assert a["spearman"] == pytest.approx(100 * stats.spearmanr(sets[0].gold, cosine).statistic)
    assert a["pearson"] == pytest.approx(100 * stats.pearsonr(sets[0].gold, cosine).statistic, abs=1e-4)
    assert a["spearman_interval"][0] < a["spearman"] < a["spearman_interval"][1]
    both = stats.spearmanr(np.concatenate([s.gold for s in sets]), np.tile(cosine, 2)).statistic
    assert found["methods"]["model"]["all"]["spearman"] == pytest.approx(100 * both)
    assert set(found["gain"]) == {"other"}


def test_a_wrong_line_of_a_pair_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text("1.5\tone\ttwo\n\nhigh\tone\ttwo\n")
    with pytest.raises(InputError, match=r"pairs\.tsv:3 begins with 'high'"):
        similarity.read_pairs(str(path))
    path.write_text("1.5\tone\n")
    with pytest.raises(InputError, match=r"pairs\.tsv:1 has 2 columns; expected 3"):
        similarity.read_pairs(str(path))


def test_documents_that_ship_with_gensim_are_judged_by_words_in_common() -> None:
    split = similarity_split()
    rng = np.random.default_rng(0)
    vectors: dict[str, np.ndarray] = {}

    def embed(texts: Sequence[str]) -> np.ndarray:
        def one(words: list[str]) -> np.ndarray:
            return sum((vectors.setdefault(w, rng.normal(size=1024)) for w in words if len(w) > 6), np.zeros(1024))

        return np.array([one(words) for words in tokenize(texts).to_pylist()], np.float32)

    found = similarity.document_similarity({"words": embed}, split)["words"]
    assert found["pairs"] == 50 * 49 // 2
    assert found["pearson"] > 20


def similarity_split():
    from lstm_embed.corpus.text import sentence_splitter

    return sentence_splitter("sentencex", "en")


# Classification and clustering


def blobs(rng: np.random.Generator, num: int) -> tuple[list[str], np.ndarray]:
    labels = rng.integers(0, 3, num)
    places = np.eye(3)[labels] * 3 + rng.normal(size=(num, 3))
    return [",".join(map(str, place)) for place in places], labels


def numbers(texts: Sequence[str]) -> np.ndarray:
    return np.array([[float(x) for x in text.split(",")] for text in texts], np.float32)


def test_softmax_regression_finds_the_minimum_of_its_loss() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 5)).astype(np.float32), rng.integers(0, 3, 200)
    model = classification.fit_softmax(x, y, 3, 0.1)

    def loss(weights: np.ndarray, bias: np.ndarray) -> float:
        logits = x @ weights + bias
        return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(200), y]).mean() + 0.05 * (weights**2).sum())

    best = loss(model.weights_dk, model.bias_k)
    for _ in range(20):
        assert best <= loss(model.weights_dk + rng.normal(size=(5, 3)) * 0.01, model.bias_k + rng.normal(size=3) * 0.01)


def test_classification_uses_a_given_split_or_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, num in (("set.train", 300), ("set.test", 100), ("whole", 200)):
        texts, labels = blobs(rng, num)
        lines = [f"class{label}\t{text}\n" for label, text in zip(labels, texts, strict=True)]
        (tmp_path / f"{name}.tsv").write_text("".join(lines))
    sets = classification.read_sets([str(tmp_path / "set.train.tsv"), str(tmp_path / "whole.tsv")])
    assert [(s.name, len(s.texts), s.test is not None) for s in sets] == [("set", 300, True), ("whole", 200, False)]
    found = classification.classification(sets, {"model": numbers, "blind": lambda t: numbers(t) * 0}, folds=4)
    assert found["methods"]["model"]["mean"] > 90
    assert found["methods"]["blind"]["mean"] < 50
    assert found["methods"]["model"]["sets"]["whole"]["folds"] == 4
    clusters = clustering.clustering(sets, {"model": numbers})
    assert clusters["methods"]["model"]["set"] > 50


def test_a_classifier_sees_features_of_any_scale() -> None:
    rng = np.random.default_rng(0)
    places, labels = blobs(rng, 300)
    scales = np.array([1e-4, 1.0, 1e4], np.float32)
    constant = np.full((300, 1), 0.1, np.float32)

    def accuracy(x: np.ndarray) -> float:
        x = np.hstack([x, constant])
        return classification.train_and_test(x[:200], labels[:200], x[200:], labels[200:], 3, np.random.default_rng(0))

    assert accuracy(numbers(places) * scales) == pytest.approx(accuracy(numbers(places)), abs=0.02)
    assert accuracy(numbers(places) * scales) > 0.9


def test_half_of_a_train_and_test_pair_is_not_enough(tmp_path: Path) -> None:
    (tmp_path / "x.train.tsv").write_text("a\tone\nb\ttwo\n")
    with pytest.raises(FileNotFoundError, match=r"x\.test\.tsv"):
        classification.read_sets([str(tmp_path / "x.train.tsv")])


@pytest.mark.parametrize(
    ("labels", "clusters", "expected"),
    [
        ([0, 0, 1, 1], [1, 1, 0, 0], 1.0),
        ([0, 0, 1, 1], [0, 1, 0, 1], 0.0),
        ([0, 0, 1, 1], [0, 1, 2, 3], 2 / 3),
        ([0, 0, 0], [0, 0, 0], 1.0),
    ],
)
def test_v_measure_of_small_cases(labels: list[int], clusters: list[int], expected: float) -> None:
    assert clustering.v_measure(labels, clusters) == pytest.approx(expected)


# Retrieval


def write_embeddings(
    path: Path, keys: Sequence[str | None], vectors: np.ndarray, rows_a_part: int, **columns: list
) -> str:
    parts = []
    for number, start in enumerate(range(0, len(keys), rows_a_part)):
        some = slice(start, start + rows_a_part)
        flat = pa.array(vectors[some].astype(np.float16).ravel())
        table = pa.table(
            {
                "article_id": pa.array(keys[some], pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
                **{name: values[some] for name, values in columns.items()},
            }
        )
        (path / "parts").mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path / "parts" / f"part-{number:08d}-0000.parquet")
        parts.append({"name": f"part-{number:08d}-0000.parquet", "rows": len(table)})
    manifest = {"format": 1, "kind": "embeddings", "fingerprint": "e", "model": "m", "rows": len(keys), "parts": parts}
    storage.write_json(str(path / "manifest.json"), manifest)
    return str(path)


def plain_rank(query: int, keys: Sequence[str | None], vectors: np.ndarray) -> float:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = units @ units[query]
    same = np.array([key == keys[query] for key in keys])
    mine = same.copy()
    mine[query] = False
    best = scores[mine].max()
    return 1 + (scores[~same] > best).sum()


def test_streamed_retrieval_ranks_like_a_plain_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"a{i // 3}" for i in range(90)]
    vectors = rng.normal(size=(90, 8)).astype(np.float16).astype(np.float32)
    corpus = EmbeddedCorpus(write_embeddings(tmp_path, keys, vectors, 33))
    queries, titles = retrieval.choose_queries(corpus.chunks(), 1000)
    np.testing.assert_array_equal(queries.rows, np.arange(90))
    assert titles.titles == []
    found = retrieval.retrieve_embedded(corpus)["sentence"]
    expected = np.array([plain_rank(i, keys, vectors) for i in range(90)])
    assert found["mrr"] == pytest.approx(100 * (1 / expected).mean())
    assert found["recall@10"] == pytest.approx(100 * (expected <= 10).mean())
    assert (found["queries"], found["rows"]) == (90, 90)
    assert retrieval.article_retrieval(corpus.path)["mrr"] == found["mrr"]


def test_in_memory_and_streamed_retrieval_agree(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    keys = [f"a{i // 4}" for i in range(80)]
    texts = [f"text {i}" for i in range(80)]
    titles = [f"title {i // 4}" for i in range(80)]
    texts[8] = "Title 2"  # nothing but its article's title: must not answer the query for it
    vectors = rng.normal(size=(80, 8)).astype(np.float16).astype(np.float32)

    def embed(wanted: Sequence[str]) -> np.ndarray:
        def one(text: str) -> np.ndarray:
            return vectors[texts.index(text)] if text in texts else vectors[int(text.split()[1]) * 4]

        return np.array([one(text) for text in wanted])

    corpus = EmbeddedCorpus(write_embeddings(tmp_path, keys, vectors, 40, title=titles, text=texts))
    streamed = retrieval.retrieve_embedded(corpus, embed_titles=embed)
    rows = next(iter(corpus.chunks()))
    memory = Sentences(texts=texts, titles=titles, keys=np.concatenate([r.keys for r in corpus.chunks()]))
    held = retrieval.retrieve_in_memory(memory, {"model": embed})
    assert rows.is_title().sum() == 1
    for task in ("sentence", "title"):
        assert held[task]["model"]["mrr"] == pytest.approx(streamed[task]["mrr"])
        assert held[task]["model"]["queries"] == streamed[task]["queries"]
    # Every title has the vector of its article's first row, but for the row that only repeats the title.
    assert 95 <= held["title"]["model"]["recall@1"] <= 100


def test_equal_scores_count_half() -> None:
    keys = np.array([1, 1, 2, 3], np.uint64)
    queries = retrieval.Queries(keys=keys[:1], rows=np.array([0]), titles=[])
    scores = np.zeros((1, 4), np.float32)
    assert retrieval.ranks(queries, lambda: iter([(0, keys, scores)])) == [2.0]


def test_chosen_queries_are_the_same_whatever_the_chunks() -> None:
    keys = np.repeat(np.arange(1, 301, dtype=np.uint64), 2)

    def rows(start: int, end: int) -> Rows:
        titles = [f"title {key}" for key in keys[start:end]]
        return Rows(first=start, keys=keys[start:end], titles=titles, texts=None, vectors=None)

    whole = retrieval.choose_queries(iter([rows(0, 600)]), 50)
    pieces = retrieval.choose_queries(iter([rows(a, a + 100) for a in range(0, 600, 100)]), 50)
    np.testing.assert_array_equal(whole[0].rows, pieces[0].rows)
    assert whole[1].titles == pieces[1].titles
    assert len(whole[0].rows) == len(whole[1].titles) == 50


def test_a_cap_keeps_whole_articles_of_an_embedded_corpus(tmp_path: Path) -> None:
    keys = [f"a{i // 5}" for i in range(1000)]
    path = write_embeddings(tmp_path, keys, np.random.default_rng(0).normal(size=(1000, 2)), 300)
    rows = np.concatenate([rows.keys for rows in EmbeddedCorpus(path, 400).chunks()])
    assert 250 < len(rows) < 550
    assert (np.unique(rows, return_counts=True)[1] == 5).all()


def test_rows_without_an_article_are_articles_of_their_own(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path, [None] * 10, np.eye(10), 10)
    assert retrieval.article_retrieval(path) == {"queries": 0, "rows": 0, "mrr": None} | {
        f"recall@{k}": None for k in (1, 10, 100)
    }


def test_bm25_finds_the_sentence_with_the_rare_word() -> None:
    pytest.importorskip("bm25s")
    texts = ["the cat sat on the mat", "the dog sat", "a mat is a mat", "zebras run"]
    scores = Bm25(texts, TOKENS).scores(["Where do zebras sit?", "unheard words", ""])
    assert scores.shape == (3, 4)
    assert scores[0].argmax() == 3
    assert not scores[1:].any()


# Decoding


def test_decoding_counts_whole_sentences_and_words_in_place_by_length() -> None:
    answers: dict[str, Answer] = {
        "The cat sat.": (["the", "cat", "sat"], True),
        "cat the the": (["the", "cat", "the"], False),
        "the " * 9: (["the"] * 9 + ["cat"], True),
        "the cat " * 32 + "sat": (["the", "cat"] * 32, True),
        "sat " * 70: (["sat"] * 64, False),
        "…": ([], False),
        "": ([], False),
    }
    methods: dict[str, Decode] = {
        "made": lambda texts: [answers[text] for text in texts],
        "the": most_frequent_word(TOKENS, 64),
    }
    found = decoding(list(answers), TOKENS, methods)
    assert found["rows"] == {
        "all": {"sentences": 3, "words": 15, "read": 100.0},
        "1-8": {"sentences": 2, "words": 6, "read": 100.0},
        "9-16": {"sentences": 1, "words": 9, "read": 100.0},
        "cut off": {"sentences": 2, "words": 128, "read": pytest.approx(100 * 128 / 135)},
    }
    made, frequent = found["methods"]["made"], found["methods"]["the"]
    assert made["all"] == pytest.approx(
        {"exact": 100 / 3, "in_place": 100 * 13 / 15, "proven": 200 / 3, "proven_right": 50.0}
    )
    assert made["1-8"] == pytest.approx({"exact": 50, "in_place": 100 * 4 / 6, "proven": 50, "proven_right": 100})
    assert made["cut off"] == {"exact": 100.0, "in_place": 100.0, "proven": 50.0, "proven_right": 100.0}
    assert frequent["9-16"] == {"exact": 100.0, "in_place": 100.0, "proven": None, "proven_right": None}
    assert [len(example["words"]) for example in found["examples"]] == [3, 3, 9]
    assert found["examples"][1]["made"]["made"] == {"words": ["the", "cat", "the"], "proven": False}


def test_without_a_sentence_that_is_read_there_is_nothing_to_show() -> None:
    found = decoding(["", "…"], TOKENS, {"the": most_frequent_word(TOKENS, 64)})
    assert found == {"rows": {}, "methods": {"the": {}}, "examples": []}


def test_the_nearest_training_sentence_answers() -> None:
    nearest = NearestSentence(["east", "north"], np.array([[5.0, 0.1], [0.0, 1.0]], np.float32))
    assert nearest(np.array([[1.0, 0.5], [0.1, 9.0]], np.float32)) == ["east", "north"]


# Corpora


def test_sentences_of_a_token_set_are_of_the_asked_articles_and_spread_over_its_parts(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path), num_articles=100, holdout_every=10)
    held, trained = (token_set_sentences(tokens, 60, held_out=h) for h in (True, False))
    assert 30 <= len(held.texts) <= 60
    assert len(trained.texts) == 60
    assert set(held.titles) <= {f"title {n}" for n in range(5, 100, 10)}
    assert not set(trained.titles) & set(held.titles)
    # Made without text: the words stand for it.
    assert all(f"▁{word}" in tokens.vocabulary.pieces for word in held.texts[0].split())


def test_news_texts_that_ship_with_gensim_come_in_sentences() -> None:
    sentences = shipped_sentences(similarity_split())
    assert len(np.unique(sentences.keys)) == 300
    assert len(sentences.texts) > 2000
