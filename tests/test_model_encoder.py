from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from model_help import moved
from synthetic import vocabulary_of

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, Vocabulary
from lstm_embed.model.config import EMBEDDINGS, AnyConfig, ModelConfig, original
from lstm_embed.model.encoder import SentenceEncoder, resolve_precision
from lstm_embed.model.folder import load_model, open_model, save_model
from lstm_embed.model.recipes import class_of

WORDS = [f"w{chr(97 + number // 26)}{chr(97 + number % 26)}" for number in range(300)]
VOCABULARY = vocabulary_of(WORDS, 30_000 // np.arange(1, 301))
FIRST = FIRST_LEARNED
"""Id of the first of `WORDS`."""
TOKENIZER = {"profile": "default", "language": "en"}
# Bits are the same where the units fill the registers of any processor.
DEFAULT = ModelConfig(hidden_size=16, order_size=24, decoder_hidden_size=20, position_size=32)
CONFIGS = {
    **{embedding: dataclasses.replace(DEFAULT, embedding=embedding) for embedding in EMBEDDINGS},
    "original": dataclasses.replace(original(), hidden_size=16),
}


def make_encoder(config: AnyConfig = DEFAULT, **more: Any) -> SentenceEncoder:
    vectors = np.random.default_rng(0).normal(size=(len(VOCABULARY), 12))
    start: Any = class_of(config).start
    return SentenceEncoder(
        moved(start(config, vectors, VOCABULARY.counts, VOCABULARY.pieces), 0.2), VOCABULARY, dict(TOKENIZER), **more
    )


def make_sentences(num: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lengths = np.minimum(rng.geometric(0.06, num), 100)
    return [" ".join(rng.choice([*WORDS, "unheard", "лес"], length)) for length in lengths]


def one_by_one(encoder: SentenceEncoder, sentences: list[str]) -> np.ndarray:
    """Encode each sentence alone, through the model itself."""
    rows = []
    for sentence in sentences:
        words = tokenize([sentence]).flatten()
        ids = VOCABULARY.cut(words)[0][: encoder.max_tokens].astype(np.int64)
        rows.append(encoder.model.embed(ids[None, :], [len(ids)])[0].detach().numpy())
    return np.array(rows)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_same_text_gets_the_same_bits_whatever_the_batch_and_the_order(config: AnyConfig, precision: str) -> None:
    encoder = make_encoder(config, precision=precision)
    sentences = make_sentences(60)
    expected = encoder.encode(sentences)
    near = 1e-5 if precision == "fp32" else 1e-2
    np.testing.assert_allclose(expected, one_by_one(encoder, sentences), atol=near)
    for batch_size in (1, 7, 256):
        assert np.array_equal(encoder.encode(sentences, batch_size=batch_size), expected)
    assert np.array_equal(encoder.encode(sentences[::-1])[::-1], expected)
    assert all(np.array_equal(encoder.encode(sentences[n]), expected[n]) for n in range(60))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_many_small_word_tables_change_nothing(config: AnyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = make_encoder(config)
    sentences = make_sentences(60)
    expected = encoder.encode(sentences)
    monkeypatch.setattr("lstm_embed.model.encoder._TABLE_BYTES", 2048)
    monkeypatch.setattr("lstm_embed.model.encoder._SENTENCES_AT_ONCE", 25)
    told: list[tuple[int, int]] = []
    found = encoder.encode(sentences, show_progress_bar=lambda done, total: told.append((done, total)))
    assert np.array_equal(found, expected)
    assert told == [(25, 60), (50, 60), (60, 60)]


def test_encoding_twice_gives_the_same_bits() -> None:
    sentences = make_sentences(50)
    assert np.array_equal(make_encoder().encode(sentences), make_encoder().encode(sentences))


def test_texts_without_words_are_zero_vectors() -> None:
    encoder = make_encoder()
    vectors = encoder.encode(["", "   ", "…\n", "!?", WORDS[3]], normalize_embeddings=True)
    assert not vectors[:4].any()
    assert np.linalg.norm(vectors[4]) == pytest.approx(1.0)
    assert encoder.encode([]).shape == (0, encoder.embedding_dimension)
    assert not encoder.encode("").any()


def test_words_past_the_limit_are_cut_off() -> None:
    encoder = make_encoder()
    words = list(np.random.default_rng(3).choice(WORDS, 200))
    assert np.array_equal(encoder.encode(" ".join(words)), encoder.encode(" ".join(words[: encoder.max_tokens])))
    assert not np.array_equal(
        encoder.encode(" ".join(words)), encoder.encode(" ".join(words[: encoder.max_tokens - 1]))
    )


def test_the_shapes_and_types_are_those_users_of_sentence_transformers_expect() -> None:
    encoder = make_encoder()
    dimension = encoder.get_sentence_embedding_dimension()
    assert encoder.encode("waa wab").shape == (dimension,)
    assert encoder.encode(["waa wab"]).shape == (1, dimension)
    assert encoder.encode(["waa wab"]).dtype == np.float32
    half = encoder.encode(make_sentences(9), dtype="float16", normalize_embeddings=True)
    assert half.dtype == np.float16
    np.testing.assert_allclose(np.linalg.norm(half.astype(np.float32), axis=1), 1.0, atol=2e-3)
    tensor = encoder.encode(["waa", "wab"], convert_to_tensor=True)
    assert torch.equal(tensor, torch.from_numpy(encoder.encode(("waa", "wab"))))


def test_nothing_is_printed_unless_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    encoder = make_encoder()
    encoder.encode(make_sentences(5))
    assert capfd.readouterr() == ("", "")
    encoder.encode(make_sentences(5), show_progress_bar=True)
    assert "5 of 5 sentences" in capfd.readouterr().err


def test_one_text_has_one_vector_and_a_column_of_texts_a_matrix() -> None:
    encoder = make_encoder()
    texts = ["waa wab", "", "wba\0wac", "w\ud83daa", "лес"]  # with a NUL and a lone surrogate
    expected = np.stack([encoder.encode(text) for text in texts])
    assert np.array_equal(encoder.encode(text for text in texts), expected)
    assert expected.any(axis=1).tolist() == [True, False, True, True, True]
    assert len(encoder.decode(expected)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sentences": ["waa", None]}, r"sentences\[1\] is of type NoneType"),
        ({"sentences": {"text": ["waa"]}}, "sentences is of type dict"),
        ({"sentences": ["waa"], "dtype": "float64"}, "float64"),
        ({"sentences": ["waa"], "batch_size": 0}, "batch_size is 0; expected a whole number from 1"),
        ({"sentences": ["waa"], "batch_size": -1}, "batch_size is -1"),
        ({"sentences": ["waa"], "batch_size": 1.5}, "batch_size is 1.5"),
        ({"sentences": ["waa"], "batch_size": "3"}, "batch_size is '3'"),
        ({"sentences": [], "dtype": torch.float32}, "dtype is torch.float32"),
        ({"sentences": [], "dtype": np.dtype("float32")}, "dtype is dtype"),
    ],
)
def test_what_is_no_text_or_no_option_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_encoder().encode(**arguments)


def test_ids_and_text_give_the_same_vectors() -> None:
    encoder = make_encoder()
    sentences = make_sentences(40)
    ids = encoder.tokenize(sentences)
    expected = encoder.encode(sentences)
    lists = pa.concat_arrays([pa.array([[FIRST, FIRST + 1]], ids.type), ids]).slice(1)
    for given in (ids, lists, pa.chunked_array([ids[:7], ids[7:]]), [np.array(one) for one in ids.to_pylist()]):
        assert np.array_equal(encoder.encode_ids(given, batch_tokens=100), expected)
    missing = encoder.encode_ids(pa.array([[FIRST, FIRST + 1], None, [], [1]], pa.list_(pa.int32())))
    assert missing.any(axis=1).tolist() == [True, False, False, True]


def test_ids_of_another_vocabulary_are_refused() -> None:
    with pytest.raises(InputError, match=f"ids from 1 to {len(VOCABULARY) - 1};"):
        make_encoder().encode_ids([[3, len(VOCABULARY)]])


@pytest.mark.parametrize("ids", [None, 5, [1, 2], [["a"]], [[1.5]], [[[1]]], [[2**70]]])
def test_what_is_no_list_of_ids_is_refused(ids: Any) -> None:
    with pytest.raises(InputError, match="token ids"):
        make_encoder().encode_ids(ids)
    with pytest.raises(InputError, match="embedding is 'x'; expected one of meaning, joined, exact, order"):
        make_encoder().encode_ids([[1]], embedding="x")


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e300])
def test_similarity_knows_no_size(scale: float) -> None:
    encoder = make_encoder()
    vectors = encoder.encode(["waa wab wac", "wba", ""]).astype(np.float64)
    expected = encoder.similarity(vectors, vectors)
    np.testing.assert_allclose(encoder.similarity(vectors * scale, vectors), expected, atol=1e-6)


def test_similarity_is_the_cosine_and_zero_with_a_zero_vector() -> None:
    encoder = make_encoder()
    vectors = encoder.encode(["waa wab wac", "wba", ""])
    similarity = encoder.similarity(vectors, vectors)
    assert similarity.shape == (3, 3)
    np.testing.assert_allclose(np.diag(similarity), [1.0, 1.0, 0.0], atol=1e-6)
    with pytest.raises(InputError, match="the vectors have 3 and 2 numbers"):
        encoder.similarity(vectors[:, :3], vectors[:, :2])
    many = np.random.default_rng(0).normal(size=(300, 37))
    assert encoder.similarity(many, many).max() == 1.0
    a, b = vectors[0], vectors[1]
    assert encoder.similarity(a, b)[0, 0] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), abs=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_saved_model_comes_back_bit_for_bit(tmp_path: Path, config: AnyConfig) -> None:
    encoder = make_encoder(config)
    encoder.save(str(tmp_path / "model"))
    loaded = SentenceEncoder.load(str(tmp_path / "model"))
    sentences = make_sentences(30)
    assert np.array_equal(loaded.encode(sentences), encoder.encode(sentences))
    assert loaded.config == config
    assert loaded.fingerprint == encoder.fingerprint
    assert loaded.tokenizer == TOKENIZER
    loaded.save(str(tmp_path / "copy"))
    names = sorted(os.listdir(tmp_path / "copy"))
    assert names == ["config.json", "manifest.json", "model.safetensors", "vocabulary.parquet"]
    for name in ("model.safetensors", "vocabulary.parquet"):
        assert (tmp_path / "copy" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_model_is_saved_to_and_loaded_from_an_object_store(s3: str) -> None:
    encoder = make_encoder()
    encoder.save(f"{s3}/model")
    loaded = SentenceEncoder.load(f"{s3}/model")
    assert np.array_equal(loaded.encode("waa wab"), encoder.encode("waa wab"))
    assert loaded.fingerprint == encoder.fingerprint


def test_the_fingerprint_follows_the_weights_and_not_the_provenance(tmp_path: Path) -> None:
    model = make_encoder().model
    first = save_model(str(tmp_path / "a"), model, VOCABULARY, TOKENIZER, {"note": "first"})
    again = save_model(str(tmp_path / "a"), model, VOCABULARY, TOKENIZER, {"note": "second"})
    assert first == again
    assert load_model(str(tmp_path / "a")).provenance["note"] == "second"
    with torch.no_grad():
        next(iter(model.parameters()))[5, 5] += 1e-3
    assert save_model(str(tmp_path / "a"), model, VOCABULARY, TOKENIZER) != first
    with pytest.raises(InputError, match="vocabulary has 262 pieces"):
        save_model(str(tmp_path / "b"), model, vocabulary_of(["one"]), TOKENIZER)


def test_a_model_is_loaded_with_another_embedding_under_the_same_fingerprint(tmp_path: Path) -> None:
    joined = make_encoder()
    joined.save(str(tmp_path / "model"))
    sentences = make_sentences(9)
    vectors = joined.encode(sentences)
    for embedding in EMBEDDINGS:
        encoder = SentenceEncoder.load(str(tmp_path / "model"), embedding=embedding)
        assert encoder.embedding == encoder.config.embedding == embedding
        assert encoder.fingerprint == joined.fingerprint
        assert np.array_equal(
            encoder.encode(sentences), joined.encode_ids(joined.tokenize(sentences), embedding=embedding)
        )
        # The folder it is saved to says what it was loaded with.
        encoder.save(str(tmp_path / embedding))
        again = SentenceEncoder.load(str(tmp_path / embedding))
        assert (again.embedding, again.fingerprint) == (embedding, joined.fingerprint)
    size = 12 + 256
    assert np.array_equal(SentenceEncoder.load(str(tmp_path / "meaning")).encode(sentences), vectors[:, :size])
    assert np.array_equal(
        SentenceEncoder.load(str(tmp_path / "exact")).encode(sentences)[:, : vectors.shape[1]], vectors
    )
    with pytest.raises(InputError, match="embedding is 'both'; expected one of meaning, joined, exact, order"):
        SentenceEncoder.load(str(tmp_path / "model"), embedding="both")


def test_the_original_has_one_embedding(tmp_path: Path) -> None:
    make_encoder(CONFIGS["original"]).save(str(tmp_path / "model"))
    assert SentenceEncoder.load(str(tmp_path / "model"), embedding="order").embedding == "order"
    with pytest.raises(InputError, match="is the original system and has only order"):
        SentenceEncoder.load(str(tmp_path / "model"), embedding="joined")


@pytest.mark.parametrize(("made_by", "version"), [(None, "0.1"), (2, "0.2")])
def test_a_model_of_an_earlier_version_is_refused_with_what_reads_it(
    tmp_path: Path, made_by: int | None, version: str
) -> None:
    make_encoder().save(str(tmp_path / "model"))
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    del manifest["content"]["format"]
    if made_by:
        manifest["content"]["format"] = made_by
    (tmp_path / "model" / "manifest.json").write_text(json.dumps(manifest))
    for read in (SentenceEncoder.load, load_model, open_model):
        with pytest.raises(InputError) as refused:
            read(str(tmp_path / "model"))
        assert f"model is a model of lstm_embed {version}; use it with that version, or train" in str(refused.value)
        assert "\n" not in str(refused.value)


def test_an_unfinished_or_damaged_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_encoder().save(str(folder))
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match=r"model\.safetensors is damaged"):
        SentenceEncoder.load(str(folder))
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="not a finished model folder"):
        SentenceEncoder.load(str(folder))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        SentenceEncoder.load(str(tmp_path / "nowhere"))


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    make_encoder().save(str(folder))
    size = (folder / "vocabulary.parquet").stat().st_size
    Vocabulary(VOCABULARY.piece_array, VOCABULARY.counts[::-1], VOCABULARY.scores).save(
        str(folder / "vocabulary.parquet")
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"]["vocabulary.parquet"]["bytes"] == size
    manifest["files"]["vocabulary.parquet"]["bytes"] = (folder / "vocabulary.parquet").stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"vocabulary\.parquet has fingerprint"):
        SentenceEncoder.load(str(folder))


def test_bfloat16_stays_near_full_precision_and_saves_full_weights(tmp_path: Path) -> None:
    exact = make_encoder()
    rough = make_encoder(precision="bf16")
    sentences = make_sentences(20)
    a, b = exact.encode(sentences, normalize_embeddings=True), rough.encode(sentences, normalize_embeddings=True)
    assert (a * b).sum(axis=1).min() > 0.998
    order = exact.model.places()["order"]
    assert not np.array_equal(a[:, order], b[:, order])
    rough.save(str(tmp_path / "model"))
    assert np.array_equal(SentenceEncoder.load(str(tmp_path / "model")).encode(sentences), exact.encode(sentences))


def test_a_precision_is_resolved_or_refused_before_any_work() -> None:
    assert resolve_precision("fp32", "cpu") == "fp32"
    assert resolve_precision("auto", "cpu", hidden_size=512) in ("fp32", "bf16")
    assert resolve_precision("auto", "cpu", hidden_size=128) == "fp32"
    with pytest.raises(InputError, match="fp16 is for GPUs"):
        resolve_precision("fp16", "cpu")
    with pytest.raises(InputError, match="--precision"):
        resolve_precision("int8", "cpu")
    for device in ("nowhere", "xpu", "", None):
        with pytest.raises(InputError, match="does not run on"):
            resolve_precision("fp32", device)  # type: ignore[arg-type]
    assert make_encoder(device=torch.device("cpu")).encode("waa").any()
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no GPU"):
            SentenceEncoder.load("nowhere", device="cuda")


def test_encoding_needs_neither_ray_nor_gensim(tmp_path: Path) -> None:
    make_encoder().save(str(tmp_path / "model"))
    code = (
        "import sys; from lstm_embed.model.encoder import SentenceEncoder; "
        f"SentenceEncoder.load({str(tmp_path / 'model')!r}).encode('waa wab'); "
        "assert not {'ray', 'gensim', 'wandb', 'sentencex', 'smart_open', 'scipy.optimize'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
