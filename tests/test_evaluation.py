"""A whole evaluation of a small model: what it writes, what it refuses, and that the page is safe and self-contained."""

from __future__ import annotations

import dataclasses
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.evaluation.charts import bar_chart, line_chart, scatter
from lstm_embed.evaluation.config import EvaluationConfig
from lstm_embed.evaluation.evaluate import evaluate
from lstm_embed.evaluation.report import render
from lstm_embed.evaluation.results import plain, read_results, training_curves
from lstm_embed.words.scores import shipped_file
from tests.synthetic import write_token_set
from tests.test_evaluation_measures import write_embeddings

QUICK: dict[str, Any] = {"bootstrap": 20, "num_queries": 50, "num_decoded": 40, "folds": 2}
HOSTILE = "<script>alert('x')</script> & \"quotes\" \x00 \ud800"


def make_model(path: Path, vocabulary: Vocabulary, profile: str = "default") -> str:
    from lstm_embed.model.config import ModelConfig
    from lstm_embed.model.folder import save_model
    from lstm_embed.model.sentence_model import SentenceModel

    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), 64)).astype(np.float32)
    config = ModelConfig(hidden_size=6, order_size=16, decoder_hidden_size=8, position_size=64, spelling_size=64)
    model = SentenceModel.start(config, vectors, vocabulary.counts, vocabulary.pieces)
    save_model(str(path), model, vocabulary, {"profile": profile, "language": "en"})
    return str(path)


@pytest.fixture(scope="module")
def english_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that was never trained, with the words of the news texts that ship with gensim."""
    counted = pc.value_counts(tokenize(Path(shipped_file("lee_background.cor")).read_text().splitlines()).flatten())
    words, counts = counted.field("values").to_pylist(), counted.field("counts").to_numpy()
    frequent = [word for word, count in zip(words, counts, strict=True) if count >= 3]
    vocabulary = Vocabulary.learn(words, counts, num_pieces=1000, whole=frequent)
    return make_model(tmp_path_factory.mktemp("runs") / "small" / "model", vocabulary)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("sets")
    lines = Path(shipped_file("lee_background.cor")).read_text().splitlines()
    rng = np.random.default_rng(0)
    (folder / "pairs.tsv").write_text(
        "".join(f"{rng.normal():.2f}\t{lines[i][:80]}\t{lines[i + 1][:80]}\n" for i in range(60))
    )
    (folder / "kinds.tsv").write_text("".join(f"{'ab'[i % 2]}\t{lines[i][:90]}\n" for i in range(60)))
    return {"sts": (str(folder / "pairs.tsv"),), "classification": (str(folder / "kinds.tsv"),)}


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def results_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "results.json").read_text())


class Page(HTMLParser):
    """Collects what a browser would fetch or run, and which tags are left open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        links = [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        self.fetched += [link for link in links if not link.startswith("#")]  # "#…" is a place of the page itself

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in ("meta", "br"):
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_without_any_labels_it_scores_what_ships_with_gensim(english_model: str, tmp_path: Path) -> None:
    config = EvaluationConfig(model=english_model, output=str(tmp_path / "ev"), **QUICK)
    summary = evaluate(config)
    results = results_of(tmp_path / "ev")
    assert results["document_similarity"]["model"]["pairs"] == 1225
    figures = results["retrieval"][0]["tasks"]["sentence"]
    assert {"model", "meaning", "mean", "sif", "sif_minus_first", "log_unit"} <= set(figures)
    assert figures["model"]["queries"] == 50
    assert results["similarity"] is results["classification"] is None
    assert set(results["decoding"]["methods"]) == {"exact", "joined", "most_frequent_word"}
    assert summary.facts["news texts, Pearson"] == results["headline"]["news texts, Pearson"]["model"]
    before = files_of(tmp_path / "ev")
    assert evaluate(config).already_done
    assert files_of(tmp_path / "ev") == before
    with pytest.raises(FingerprintMismatch, match="num_queries was 50 and is now 51"):
        evaluate(dataclasses.replace(config, num_queries=51))


def test_labelled_files_a_second_model_and_other_evaluations_stand_beside_each_other(
    english_model: str, sets: dict[str, Any], tmp_path: Path
) -> None:
    run = Path(english_model).parent
    lines = [{"train/step": step, "train/loss": 9 - step / 10, "val/loss": 8.5} for step in range(1, 20)]
    (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"train/st')
    first = EvaluationConfig(model=english_model, output=str(tmp_path / "first"), **QUICK, **sets)
    evaluate(first)
    evaluate(
        dataclasses.replace(
            first, output=str(tmp_path / "second"), original=english_model, compare=(str(tmp_path / "first"),)
        )
    )
    results = results_of(tmp_path / "second")
    similar = results["similarity"]["methods"]
    assert similar["original"] == similar["model"]
    assert similar["model"]["sets"]["pairs"]["pairs"] == 60
    classified = results["classification"]["methods"]
    assert classified["mean"]["sets"]["kinds"]["folds"] == 2
    assert list(classified)[:2] == ["model", "original"]
    assert classified["original"] == classified["model"]
    assert 0 <= results["clustering"]["methods"]["model"]["kinds"] <= 100
    assert len(results["comparison"]) == 2
    assert results["curves"]["loss"]["train"][0] == [1.0, 8.9]
    page = Page((tmp_path / "second" / "report.html").read_text())
    assert page.fetched == []
    assert page.tags.isdisjoint({"script", "link", "iframe", "img", "object"})
    assert page.open == []


def test_embeddings_with_text_are_searched_stored_and_with_the_baselines(english_model: str, tmp_path: Path) -> None:
    from lstm_embed.model.encoder import SentenceEncoder

    documents = Path(shipped_file("lee_background.cor")).read_text().splitlines()[:40]
    texts = [piece for document in documents for piece in document.split(". ") if len(piece.split()) > 3]
    keys = [str(n) for n, document in enumerate(documents) for p in document.split(". ") if len(p.split()) > 3]
    encoder = SentenceEncoder.load(english_model)
    titles = [" ".join(documents[int(key)].split()[:4]) for key in keys]
    path = write_embeddings(tmp_path / "e", keys, encoder.encode(texts), 100, text=texts, title=titles)
    config = EvaluationConfig(model=english_model, output=str(tmp_path / "ev"), embeddings=path, **QUICK)
    with pytest.raises(FingerprintMismatch, match="was made by the model m"):
        evaluate(config)
    manifest = json.loads((tmp_path / "e" / "manifest.json").read_text())
    (tmp_path / "e" / "manifest.json").write_text(json.dumps({**manifest, "model": encoder.fingerprint}))
    evaluate(dataclasses.replace(config, output=str(tmp_path / "ev2")))
    stored, sample = results_of(tmp_path / "ev2")["retrieval"]
    for task in ("sentence", "title"):
        assert stored["tasks"][task]["model"]["mrr"] == pytest.approx(sample["tasks"][task]["model"]["mrr"], abs=1.5)
        assert "mean" in sample["tasks"][task]


def test_a_token_set_gives_held_out_sentences_and_must_be_the_models(english_model: str, tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path / "tokens"), num_articles=60)
    config = EvaluationConfig(model=english_model, output=str(tmp_path / "no"), tokens=tokens.path, **QUICK)
    with pytest.raises(FingerprintMismatch, match="has the vocabulary"):
        evaluate(config)
    # Its words are a letter and digits, which the default profile takes apart.
    model = make_model(tmp_path / "model", tokens.vocabulary, profile="original")
    evaluate(dataclasses.replace(config, model=model, output=str(tmp_path / "ev")))
    results = results_of(tmp_path / "ev")
    assert results["retrieval"][0]["name"] == "held-out articles"
    decoded = results["decoding"]["methods"]
    assert set(decoded) == {"exact", "joined", "most_frequent_word", "nearest_sentence"}
    assert len(results["decoding"]["examples"]) == 12
    assert decoded["exact"]["all"]["exact"] > 90
    assert decoded["exact"]["all"]["proven_right"] == 100
    headline = results["headline"]["sentences decoded word for word, %"]
    assert headline["model"] == decoded["joined"]["all"]["exact"] < headline["exact"]
    page = Page((tmp_path / "ev" / "report.html").read_text())
    assert {"del", "ins"} <= page.tags
    assert page.open == []


def test_a_wrong_file_is_refused_before_anything_is_computed(english_model: str, tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_text("no score\tone\ttwo\n")
    config = EvaluationConfig(model=english_model, output=str(tmp_path / "ev"), sts=(str(tmp_path / "bad.tsv"),))
    with pytest.raises(ValueError, match=r"bad\.tsv:1"):
        evaluate(config)
    with pytest.raises(FileNotFoundError):
        evaluate(dataclasses.replace(config, sts=(str(tmp_path / "none.tsv"),)))
    (tmp_path / "results.json").write_text('{"headline": {}}')
    with pytest.raises(
        InputError, match=r"results\.json is damaged, .* expected what an evaluation found \(--compare\)"
    ):
        evaluate(dataclasses.replace(config, sts=(), compare=(str(tmp_path),)))
    assert not (tmp_path / "ev").exists()


# The page


def test_text_from_outside_cannot_become_markup() -> None:
    figures = {"spearman": 1.0, "spearman_interval": [0.5, 1.0], "pearson": 2.0}
    ranks = {
        "queries": 1,
        "rows": 2,
        "mrr": 3.0,
        "mrr_interval": None,
        "recall@1": 0.0,
        "recall@10": 1.0,
        "recall@100": 2.0,
    }
    results = {
        "model": {"name": HOSTILE, "path": HOSTILE, "fingerprint": HOSTILE, "dimension": 3},
        "headline": {HOSTILE: {HOSTILE: 1.0}},
        "similarity": {
            "methods": {HOSTILE: {"sets": {HOSTILE: figures}, "all": figures, "mean_spearman": 1.0}},
            "gain": {HOSTILE: {"spearman": 1.0, "interval": [0.0, 2.0]}},
            "points": {HOSTILE: {"gold": [1.0, 2.0], "predicted": [0.5, 0.25]}},
        },
        "document_similarity": {HOSTILE: figures},
        "classification": {"methods": {HOSTILE: {"sets": {HOSTILE: {"accuracy": 1.0}}, "mean": 1.0}}},
        "clustering": {"methods": {HOSTILE: {HOSTILE: 1.0}}},
        "retrieval": [{"name": HOSTILE, "tasks": {"sentence": {HOSTILE: ranks}, "title": {}}}],
        "map": [{"x": 0.0, "y": 1.0, "article": HOSTILE, "text": HOSTILE}] * 3,
        "neighbours": [{"text": HOSTILE, "nearest": [(HOSTILE, 0.5)]}],
        "decoding": {
            "rows": {HOSTILE: {"sentences": 1, "words": 2, "read": 100.0}},
            "methods": {HOSTILE: {HOSTILE: {"exact": 1.0, "in_place": 1.0, "proven": 1.0, "proven_right": None}}},
            "examples": [{"words": [HOSTILE, "b"], "made": {HOSTILE: {"words": [HOSTILE, HOSTILE], "proven": False}}}],
        },
        "curves": {HOSTILE: {HOSTILE: [(1.0, 2.0), (2.0, 3.0)]}},
        "comparison": {"a": {HOSTILE: 1.0}, HOSTILE: {HOSTILE: 2.0}},
        "notes": [HOSTILE],
        "settings": {HOSTILE: HOSTILE},
        "made_by": {},
    }
    text = render(plain(results))
    text.encode("utf-8")
    assert "\x00" not in text
    page = Page(text)
    assert page.open == []
    assert page.fetched == []
    assert "script" not in page.tags
    assert text.count("&lt;script") > 20
    # The same figures give the same bytes.
    assert render(plain(results)) == text


def test_letters_of_all_scripts_stay_as_they_are() -> None:
    letters = "Ünïcode \u00a0 Ђ 漢字 ไทย 🎈 $x_1$"
    assert plain({letters: [letters]}) == {letters: [letters]}
    assert f">{letters}<" in bar_chart({letters: 1.0}, "v")


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [None, 1.0], [-1e9, 1e9], [1e-12, 2e-12]])
def test_charts_draw_any_numbers(values: list[float | None]) -> None:
    points = [(float(i), value) for i, value in enumerate(values)]
    finite = [value for value in values if value is not None]
    for picture in (
        line_chart({"a": points, "b": []}, "x", "y"),
        scatter(finite, finite, "x", "y"),
        bar_chart({str(value): value for value in finite}, "v"),
    ):
        assert "nan" not in picture
        assert Page(picture).open == []


def test_curves_pass_over_lines_that_are_still_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"train/step": 1, "train/loss": 2.0, "note": "x"}\nnot json\n[1]\n{"train/step": 2, "val/loss": 1.5'
    )
    assert training_curves(str(path)) == {"loss": {"train": [(1.0, 2.0)]}}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"model": {"name": "m", "fingerprint": "f", "embedding": "joined"}, "headline": {"MRR": 3}}',
        '{"model": {"name": "m", "fingerprint": "f", "embedding": "joined"}, "headline": {"MRR": {"model": "high"}}}',
        '{"model": {"name": ["m"], "fingerprint": "f", "embedding": "joined"}, "headline": {}}',
    ],
)
def test_a_file_that_is_no_result_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(
        InputError, match=r"results\.json is damaged, .* expected what an evaluation found \(--compare\)"
    ):
        read_results(str(tmp_path), "--compare")
