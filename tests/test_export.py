"""Exported models give the vectors of the model they were made of, from raw text, in the tools they are made for."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy
import torch
import yaml
from gensim.test.utils import datapath

from lstm_embed.base.errors import FingerprintMismatch, InputError, LstmEmbedError
from lstm_embed.corpus.text import sentence_splitter, tokenize
from lstm_embed.corpus.vocabulary import Vocabulary
from lstm_embed.export import export as exporting
from lstm_embed.export.config import ExportConfig
from lstm_embed.export.export import export
from lstm_embed.export.standalone import LstmEmbedding
from lstm_embed.model.config import EMBEDDINGS, AnyConfig, ModelConfig, OriginalConfig
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.recipes import Model, class_of

SPLIT = sentence_splitter("sentencex", "en")
ODD_TEXTS = [
    "",
    "   ",
    "?! ...",
    "zzgq xqwv",
    "the " * 5000,
    "Müller’s ΟΔΥΣΣΕΎΣ İstanbul",
    "Съешь ещё этих мя́гких булок",
    "北京是中国的首都。ひらがな",
    "ภาษาไทยไม่มีช่องว่าง",
    "السَّلَامُ عَلَيْكُمْ שָׁלוֹם",
    "한국어 문장입니다",
    "<pad> <unk> pad",
    "the zzgq of xqwv and " * 20,
]
SIZES: dict[str, Any] = {"hidden_size": 24, "order_size": 20, "decoder_hidden_size": 16, "position_size": 32}
MODELS: dict[str, AnyConfig] = {
    "default": ModelConfig(**SIZES, spelling_size=64),
    "short": ModelConfig(**SIZES, spelling_size=0, embedding="exact", max_tokens=5),
    "original": OriginalConfig(hidden_size=20),
}
CASES = [*(("default", embedding) for embedding in EMBEDDINGS), ("short", ""), ("original", "")]


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Return sentences of news texts that ship with gensim."""
    with open(datapath("lee_background.cor"), encoding="latin-1") as file:
        texts = [line.strip() for line in file][:25]
    return [text[start:end] for text in texts for start, end in SPLIT(text)]


def save_model(path: Path, sentences: list[str], name: str = "default") -> SentenceEncoder:
    """Write a model with random weights over the words of some sentences."""
    config = MODELS[name]
    profile = "original" if name == "original" else "default"
    tokens = [token for row in tokenize([*sentences[:150], *ODD_TEXTS[5:11]], profile).to_pylist() for token in row]
    words = sorted(set(tokens))
    vocabulary = Vocabulary.learn(words, np.array([tokens.count(word) for word in words]), num_pieces=1500)
    vectors = np.random.default_rng(0).normal(size=(len(vocabulary), 16))
    start: Any = class_of(config).start
    model = start(config, vectors, vocabulary.counts, vocabulary.pieces)
    generator = torch.Generator().manual_seed(0)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    with torch.no_grad():
        for weights in [*trained, *map(model.get_buffer, model.kept_buffers)]:
            weights.add_(0.2 * torch.randn(weights.shape, generator=generator))
    encoder = SentenceEncoder(model, vocabulary, {"profile": profile, "language": "en"})
    encoder.save(str(path))
    return encoder


def export_to(model: Path, fmt: Any, output: Path, **changes: Any) -> Any:
    return export(ExportConfig(model=str(model), format=fmt, output=str(output), **changes))


def load(path: Path | str) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), trust_remote_code=True, device="cpu")


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)


@pytest.mark.parametrize(("name", "embedding"), CASES)
def test_sentence_transformers_gives_the_vectors_of_the_model_from_raw_text(
    name: str, embedding: str, tmp_path: Path, sentences: list[str]
) -> None:
    save_model(tmp_path / "model", sentences, name)
    encoder = SentenceEncoder.load(str(tmp_path / "model"), embedding=embedding)
    folder = tmp_path / f"{name}_{embedding}"
    summary = export_to(tmp_path / "model", "sentence-transformers", folder, embedding=embedding)
    assert not summary.already_done
    assert summary.facts["dimension"] == encoder.embedding_dimension
    texts = [*sentences, *ODD_TEXTS]
    model = load(folder)
    found = model.encode(texts, batch_size=16)
    assert found.dtype == np.float32
    assert found.shape == (len(texts), model[0].get_embedding_dimension())
    assert np.abs(found - encoder.encode(texts)).max() < 1e-5
    assert np.abs(found - model.encode(texts, batch_size=3)).max() < 1e-6
    assert len(np.unique(found.round(4), axis=0)) > len(sentences) // 2


def test_sentence_transformers_normalizes_compares_saves_and_loads_again(tmp_path: Path, sentences: list[str]) -> None:
    encoder = save_model(tmp_path / "model", sentences)
    export_to(tmp_path / "model", "sentence-transformers", tmp_path / "first")
    model = load(tmp_path / "first")
    texts = [*sentences[:20], "one \ud800 surrogate"]
    vectors = model.encode(texts, normalize_embeddings=True)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert np.allclose(model.similarity(vectors, vectors).numpy(), encoder.similarity(vectors, vectors), atol=1e-6)
    assert np.allclose(model.encode(texts), encoder.encode(texts), atol=1e-5)
    assert np.allclose(model.encode("of the", prompt="king "), encoder.encode("king of the"), atol=1e-5)
    assert model.encode(sentences[0]).shape == (encoder.embedding_dimension,)
    assert model.max_seq_length == encoder.max_tokens
    model.max_seq_length = 3
    short = [row[:3] for row in encoder.tokenize(texts).to_pylist()]
    assert np.allclose(model.encode(texts), encoder.encode_ids(short), atol=1e-5)
    again = tmp_path / "again"
    model.save(str(again))
    assert np.allclose(load(again).encode(texts), encoder.encode(texts), atol=1e-5)
    assert (again / "README.md").read_text() == (tmp_path / "first" / "README.md").read_text()


def test_vectors_of_an_exported_model_give_their_sentences_back(tmp_path: Path, sentences: list[str]) -> None:
    save_model(tmp_path / "model", sentences)
    export_to(tmp_path / "model", "sentence-transformers", tmp_path / "out", embedding="exact")
    encoder = SentenceEncoder.load(str(tmp_path / "model"), embedding="exact")
    words = [row[:3] for row in tokenize(sentences[:30]).to_pylist()]
    found = encoder.decode(load(tmp_path / "out").encode([" ".join(row) for row in words]))
    assert [list(decoded.words) for decoded in found] == words
    assert sum(decoded.proven for decoded in found) > 20


def test_an_exported_folder_needs_nothing_of_this_package_and_names_no_machine(
    tmp_path: Path, sentences: list[str]
) -> None:
    save_model(tmp_path / "model", sentences)
    export_to(tmp_path / "model", "sentence-transformers", tmp_path / "out")
    code = (tmp_path / "out" / "lstm_embedding.py").read_text()
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", code, re.MULTILINE))
    allowed = {"__future__", "json", "os", "collections", "dataclasses", "typing", "safetensors", "torch", "tokenizers"}
    assert imported <= allowed
    for file in (tmp_path / "out").glob("*.*"):
        if file.suffix != ".safetensors":
            assert str(tmp_path) not in file.read_text()
            assert '"host"' not in file.read_text()


@pytest.mark.parametrize(("name", "embedding"), CASES)
def test_onnx_gives_the_vectors_of_the_model_for_any_batch_length_and_padding(
    name: str, embedding: str, tmp_path: Path, sentences: list[str]
) -> None:
    save_model(tmp_path / "model", sentences, name)
    encoder = SentenceEncoder.load(str(tmp_path / "model"), embedding=embedding)
    export_to(tmp_path / "model", "onnx", tmp_path / "out", embedding=embedding)
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch, length in ((1, 1), (1, 40), (5, 0), (7, 90), (33, 12)):
        lengths = rng.integers(0, length + 1, batch)
        lengths[0] = length
        # Behind the end of a sentence stand other ids.
        ids = rng.integers(1, len(encoder.vocabulary), (batch, length))
        found = session.run(None, {"ids": ids, "lengths": lengths})[0]
        wanted = encoder.encode_ids([row[:count] for row, count in zip(ids, lengths, strict=True)])
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).max() < 1e-5
        assert not found[lengths == 0].any()


def test_the_usage_in_the_card_of_onnx_gives_the_vectors_of_the_model(
    tmp_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = save_model(tmp_path / "model", sentences)
    export_to(tmp_path / "model", "onnx", tmp_path / "out")
    (code,) = re.findall(r"^```python\n(.*?)^```", (tmp_path / "out" / "README.md").read_text(), re.M | re.S)
    monkeypatch.chdir(tmp_path / "out")
    for texts in (["Tea is a drink.", "Coffee is one too."], [*sentences[:9], *ODD_TEXTS], [""]):
        names: dict[str, Any] = {}
        exec(code.replace('["Tea is a drink.", "Coffee is one too."]', repr(texts)), names)
        assert np.abs(names["vectors"] - encoder.encode(texts)).max() < 1e-5


@pytest.mark.parametrize(
    ("embedding", "parts"),
    [
        ("meaning", {"word_weights", "spelling", "spelling_weights", "neighbours"}),
        ("order", {"forward_lstm", "backward_lstm", "to_code"}),
        (
            "exact",
            {"word_weights", "spelling", "spelling_weights", "neighbours", "forward_lstm", "backward_lstm", "to_code"},
        ),
    ],
)
def test_only_what_the_embedding_needs_is_written_and_only_the_lstm_is_trained_further(
    embedding: str, parts: set[str], tmp_path: Path, sentences: list[str]
) -> None:
    save_model(tmp_path / "model", sentences)
    export_to(tmp_path / "model", "sentence-transformers", tmp_path / "out", embedding=embedding)
    positions = {"phases", "turns"} if embedding == "exact" else set()
    written = safetensors.numpy.load_file(tmp_path / "out" / "model.safetensors")
    assert {name.partition(".")[0] for name in written} == {"word_vectors", *parts, *positions}
    if positions:
        assert written["phases"].dtype == np.uint8
    encoder = LstmEmbedding.load(str(tmp_path / "out")).encoder.train()
    names = {name.partition(".")[0] for name, _ in encoder.named_parameters()}
    assert names == parts & {"forward_lstm", "backward_lstm", "to_code"}
    if names:
        encoder(torch.tensor([[2, 3, 4], [5, 0, 0]]), torch.tensor([3, 1])).sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.parameters())


SCORES = {
    "headline": {
        "similarity, mean Spearman": {"model": 66.54321, "meaning": 64.1, "mean": 49.7, "sif": None},
        "sentences decoded word for word, %": {"model": 61.2, "exact": 99.8, "most_frequent_word": 0.0},
        "MRR <script>": {"model": 0.75},
    },
    "similarity": {"methods": {"model": {"sets": {"stsb-dev": {"spearman": 71.26, "pearson": 70.0}}}}},
}


def test_the_card_has_front_matter_training_data_and_scores_and_no_markup_from_data(
    tmp_path: Path, sentences: list[str]
) -> None:
    encoder = save_model(tmp_path / "model", sentences)
    encoder.provenance = {
        "run_name": "first",
        "tokens": "abc123",
        "corpus": {"articles": 12345, "sentences": 67890, "tokens": 1},
        "validation_loss": None,
    }
    encoder.save(str(tmp_path / "model"))
    scores = tmp_path / "scores" / "results.json"
    scores.parent.mkdir()
    scores.write_text(
        json.dumps(SCORES | {"model": {"name": "first", "fingerprint": encoder.fingerprint, "embedding": "joined"}})
    )
    export_to(tmp_path / "model", "sentence-transformers", tmp_path / "out", scores=str(scores.parent))
    card = (tmp_path / "out" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "language": ["en"],
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["sentence-similarity", "feature-extraction", "lstm", "lstm_embed", "sentence-transformers"],
    }
    for expected in ("# first", "12,345", "67,890", "abc123", encoder.fingerprint, "66.5", "49.7", "0.750", "71.3"):
        assert expected in body
    assert "&lt;script&gt;" in body
    assert "<script>" not in body
    for told in ("give their sentences back", "| `joined`, here | 102 |", "| `exact` | 135 |", "99.8", "its `exact`"):
        assert told in body
    assert "None" not in body


def test_scores_of_another_model_and_files_that_are_none_are_refused(tmp_path: Path, sentences: list[str]) -> None:
    fingerprint = save_model(tmp_path / "model", sentences).fingerprint
    file = tmp_path / "results.json"
    file.write_text(json.dumps(SCORES | {"model": {"name": "first", "fingerprint": "other", "embedding": "joined"}}))
    with pytest.raises(FingerprintMismatch, match="other"):
        export_to(tmp_path / "model", "onnx", tmp_path / "out", scores=str(file))
    file.write_text(json.dumps(SCORES | {"model": {"name": "first", "fingerprint": fingerprint, "embedding": "exact"}}))
    with pytest.raises(FingerprintMismatch, match="of the embedding exact; the one to export is joined"):
        export_to(tmp_path / "model", "onnx", tmp_path / "out", scores=str(file))
    for content in ("{", "[]", '{"model": 3}'):
        file.write_text(content)
        with pytest.raises(InputError, match="expected what an evaluation found"):
            export_to(tmp_path / "model", "onnx", tmp_path / "out", scores=str(file))
    assert not (tmp_path / "out").exists()


def test_a_finished_export_is_left_alone_and_no_other_folder_is_written_over(
    tmp_path: Path, sentences: list[str]
) -> None:
    save_model(tmp_path / "model", sentences)
    export_to(tmp_path / "model", "onnx", tmp_path / "out")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    assert export_to(tmp_path / "model", "onnx", tmp_path / "out").already_done
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(FingerprintMismatch, match="other settings"):
        export_to(tmp_path / "model", "sentence-transformers", tmp_path / "out")
    with pytest.raises(FingerprintMismatch, match="embedding"):
        export_to(tmp_path / "model", "onnx", tmp_path / "out", embedding="meaning")
    with pytest.raises(InputError, match="choose another output folder"):
        export_to(tmp_path / "model", "onnx", tmp_path / "model")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"thesis\.txt"):
        export_to(tmp_path / "model", "onnx", foreign)
    # Stopped before the end, it is taken up by the same command.
    (tmp_path / "out" / "manifest.json").unlink()
    (tmp_path / "out" / "model.onnx").unlink()
    assert not export_to(tmp_path / "model", "onnx", tmp_path / "out").already_done
    assert (tmp_path / "out" / "model.onnx").exists()


def test_an_exported_model_that_gives_other_vectors_is_not_written(
    tmp_path: Path, sentences: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "model", sentences)
    right = exporting.standalone_encoder

    def wrong(model: Model) -> Any:
        encoder = right(model)
        with torch.no_grad():
            encoder.neighbours.add_(1e-3)
        return encoder

    monkeypatch.setattr(exporting, "standalone_encoder", wrong)
    with pytest.raises(LstmEmbedError, match="other vectors"):
        export_to(tmp_path / "model", "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()
