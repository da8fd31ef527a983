"""Measures of sentence vectors: each against a plain computation of the same thing."""

from __future__ import annotations

import dataclasses
import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.evaluation import classification, labelled, retrieval, similarity
from lstm_embed.evaluation.baselines import Tokens, averaging_baselines
from lstm_embed.evaluation.corpora import EmbeddedCorpus, Sentences, shipped_sentences, token_set_sentences
from lstm_embed.evaluation.decoding import Answer, Decode, decoding, most_frequent_word, nearest_sentence
from lstm_embed.ledger import PartStore
from tests.synthetic import vocabulary_of, write_manifest, write_token_set

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


def test_similarity_scores_each_set_and_all_of_them() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(60)]
    table = {word: rng.normal(size=4).astype(np.float32) for word in words}

    def embed(texts: Sequence[str]) -> np.ndarray:
        return np.array([table[text] for text in texts])

    sets = [
        labelled.Pairs(name=name, gold=rng.normal(size=30), left=words[:30], right=words[30:]) for name in ("a", "b")
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"1.5\tone\ttwo\n\nhigh\tone\ttwo\n", r"pairs\.tsv:3 begins with 'high'; expected a score, a finite number"),
        (b"nan\tone\ttwo\n", r"pairs\.tsv:1 begins with 'nan'; expected a score, a finite number"),
        (
            b"1.5\tone\n",
            r"pairs\.tsv:1 has 2 of 3 columns; expected a score, a sentence and a sentence, separated by tabs",
        ),
        (b"1.5\tone\t \n", r"pairs\.tsv:1 has 2 of 3 columns"),
        (b"1\tone\ttwo\n1\tcaf\xe9\ttwo\n", r"pairs\.tsv:2 is not UTF-8"),
        (b"\n", r"pairs\.tsv has no lines; expected a score"),
    ],
)
def test_a_wrong_line_of_a_pair_file_is_named(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=words):
        labelled.read_pairs(str(path))


def test_a_damaged_labelled_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress(b"1.5\tone\ttwo\n" * 1000)[:-20])
    with pytest.raises(InputError, match=r"pairs\.tsv\.gz is damaged"):
        labelled.read_pairs(str(path))
    path.write_bytes(gzip.compress(b"1.5\tone\ttwo\n"))
    assert labelled.read_pairs(str(path)).name == "pairs"


def test_a_similarity_of_nothing_but_equal_scores_is_zero() -> None:
    assert similarity.spearman(np.ones(4), np.arange(4.0)) == similarity.pearson(np.arange(4.0), np.ones(4)) == 0.0


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


def write_blobs(path: Path, rng: np.random.Generator, num: int) -> None:
    texts, labels = blobs(rng, num)
    path.write_text("".join(f"class{label}\t{text}\n" for label, text in zip(labels, texts, strict=True)))


def test_classification_uses_a_given_split_or_folds(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for name, num in (("set.train", 300), ("set.test", 100), ("whole", 200)):
        write_blobs(tmp_path / f"{name}.tsv", rng, num)
    sets = labelled.read_sets([str(tmp_path / "set.train.tsv"), str(tmp_path / "whole.tsv")])
    assert [(s.name, len(s.texts), s.test is not None) for s in sets] == [("set", 300, True), ("whole", 200, False)]
    scales = np.array([1e-4, 1.0, 1e4], np.float32)
    methods = {"model": numbers, "scaled": lambda t: numbers(t) * scales, "blind": lambda t: numbers(t) * 0}
    found = classification.classification(sets, methods, folds=4)
    assert found is not None
    assert found["methods"]["model"]["mean"] > 90
    assert found["methods"]["scaled"]["mean"] == pytest.approx(found["methods"]["model"]["mean"], abs=2)
    assert found["methods"]["blind"]["mean"] < 50
    assert found["methods"]["model"]["sets"]["whole"]["folds"] == 4
    clusters = classification.clustering(sets, methods)
    assert clusters is not None
    assert clusters["methods"]["model"]["set"] > 50
    assert clusters["methods"]["blind"]["set"] == pytest.approx(0)


def test_rare_labels_are_measured_beside_frequent_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    write_blobs(tmp_path / "x.tsv", rng, 60)
    (tmp_path / "x.tsv").open("a").write("once\t9,9,9\n")
    found = classification.accuracy(labelled.read_sets([str(tmp_path / "x.tsv")])[0], numbers, folds=100)
    assert 80 < found["accuracy"] < 100
    assert found["rows"] == 61


def test_a_set_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.train.tsv").write_text("a\tone\nb\ttwo\n")
    with pytest.raises(FileNotFoundError, match=r"x\.test\.tsv"):
        labelled.read_sets([str(tmp_path / "x.train.tsv")])
    (tmp_path / "x.tsv").write_text("a\tone\n" * 20 + "b\ttwo\n" * 9)
    with pytest.raises(InputError, match=r"x\.tsv has fewer than two labels with 10 sentences"):
        labelled.read_sets([str(tmp_path / "x.tsv")])


# Retrieval


def write_embeddings(
    path: Path, keys: Sequence[str | None], vectors: np.ndarray, rows_a_part: int, **columns: list
) -> str:
    store, records = PartStore(str(path), "f"), []
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
        records.append(store.record(number, 0, last=True, rows=len(table), input_digest=""))
        store.write_table(records[-1], table)
    write_manifest(str(path), "embeddings", records, model="m")
    return str(path)


def plain_rank(query: int, keys: Sequence[str | None], vectors: np.ndarray) -> float:
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = units @ units[query]
    same = np.array([key == keys[query] for key in keys])
    mine = same.copy()
    mine[query] = False
    best = scores[mine].max()
    return 1 + (scores[~same] > best).sum()


def no_titles(texts: Sequence[str]) -> np.ndarray:
    assert not texts
    return np.zeros((0, 8), np.float32)


def test_retrieval_ranks_like_a_plain_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"a{i // 3}" for i in range(90)]
    vectors = rng.normal(size=(90, 8)).astype(np.float16).astype(np.float32)
    corpus = EmbeddedCorpus(write_embeddings(tmp_path, keys, vectors, 33))
    assert sorted(query.row for query in retrieval.choose_queries(corpus.chunks(), 1000)) == list(range(90))
    found = retrieval.retrieve(corpus, no_titles, bootstrap=100)["sentence"]
    expected = np.array([plain_rank(i, keys, vectors) for i in range(90)])
    assert found["mrr"] == pytest.approx(100 * (1 / expected).mean())
    assert found["recall@10"] == pytest.approx(100 * (expected <= 10).mean())
    assert (found["queries"], found["rows"]) == (90, 90)
    assert found["mrr_interval"][0] < found["mrr"] < found["mrr_interval"][1]


def test_titles_find_their_articles_stored_or_in_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    keys = [f"a{i // 4}" for i in range(80)]
    texts = [f"text {i}" for i in range(80)]
    titles = [f"title {i // 4}" for i in range(80)]
    texts[8] = "Title 2"  # nothing but its article's title: must not answer the query for it
    vectors = rng.normal(size=(80, 8)).astype(np.float16).astype(np.float32)

    def embed(wanted: Sequence[str]) -> np.ndarray:
        return np.array([vectors[int(text.split()[1]) * 4] for text in wanted])

    corpus = EmbeddedCorpus(write_embeddings(tmp_path, keys, vectors, 40, title=titles, text=texts))
    memory = dataclasses.replace(corpus.sentences(), vectors=vectors)
    assert memory.are_titles().sum() == 1
    stored, held = retrieval.retrieve(corpus, embed), retrieval.retrieve(memory, embed)
    assert {task: figures["queries"] for task, figures in stored.items()} == {"sentence": 79, "title": 20}
    for task in ("sentence", "title"):
        assert held[task]["mrr"] == pytest.approx(stored[task]["mrr"])
    # Every title has the vector of its article's first row, but for the row that only repeats the title.
    assert 95 <= held["title"]["recall@1"] < 100


def test_equal_scores_count_half() -> None:
    corpus = Sentences(texts=["a"] * 4, titles=[""] * 4, keys=np.array([1, 1, 2, 3], np.uint64))
    query = retrieval.Query(key=1, row=0, text="a")
    found, num_rows = retrieval.ranks([query], lambda: [(corpus, np.zeros((1, 4), np.float32))])
    assert found == [2.0]
    assert num_rows == 4


def test_so_many_queries_are_chosen_as_were_asked_for() -> None:
    keys = np.repeat(np.arange(1, 301, dtype=np.uint64), 2)
    corpus = Sentences(texts=["a"] * 600, titles=[f"title {key}" for key in keys], keys=keys)
    chosen = retrieval.choose_queries(corpus.chunks(), 50)
    assert [query.row < 0 for query in chosen].count(True) == 50
    assert len({query.row for query in chosen if query.row >= 0}) == 50
    assert (
        chosen == retrieval.choose_queries(corpus.chunks(), 50) != retrieval.choose_queries(corpus.chunks(), 50, seed=1)
    )


def test_a_cap_keeps_whole_articles_of_an_embedded_corpus(tmp_path: Path) -> None:
    keys = [f"a{i // 5}" for i in range(1000)]
    path = write_embeddings(tmp_path, keys, np.random.default_rng(0).normal(size=(1000, 2)), 300)
    found = EmbeddedCorpus(path, 400).sentences()
    assert 250 < len(found.texts) < 550
    assert (np.unique(found.keys, return_counts=True)[1] == 5).all()


def test_rows_without_an_article_are_articles_of_their_own(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path, [None] * 10, np.eye(10), 10)
    assert retrieval.retrieve(EmbeddedCorpus(path), no_titles) == {}


def test_bm25_finds_the_article_with_the_same_rare_word() -> None:
    texts = ["a zebra", "zebra ran", "the cat sat", "the cat", "dog", "one dog", "", "unheard"]
    corpus = Sentences(texts=texts, titles=[""] * 8, keys=np.repeat(np.arange(4, dtype=np.uint64), 2))
    found = retrieval.retrieve_bm25(corpus, TOKENS)["sentence"]
    # Six find their article first; the last two have no word in common with any other row, so that all rows are equal.
    assert found["recall@1"] == pytest.approx(100 * 6 / 8)
    assert found["queries"] == found["rows"] == 8


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
    places = {"the cat": [5.0, 0.1], "cat sat": [0.0, 1.0], "east": [1.0, 0.5], "north": [0.1, 9.0]}
    decode = nearest_sentence(
        ["the cat", "cat sat"], lambda texts: np.array([places[t] for t in texts], np.float32), TOKENS
    )
    assert decode(["north", "east"]) == [(["cat", "sat"], None), (["the", "cat"], None)]


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
