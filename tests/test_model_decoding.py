"""Vectors back to sentences: what comes back, what is proven, and that anything has an answer."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_help import batch_of, moved
from synthetic import vocabulary_of

from lstm_embed.base.errors import InputError
from lstm_embed.corpus.vocabulary import FIRST_LEARNED
from lstm_embed.model.config import ModelConfig
from lstm_embed.model.encoder import SentenceEncoder
from lstm_embed.model.sentence_model import SentenceModel

NUM_WORDS, WORD_SIZE = 400, 48
WORDS = [f"{a}{b}{c}" for a in "bdfgklmn" for b in ("a", "ei", "o", "u", "yo") for c in ("", *"bdfgklmnp")]
VOCABULARY = vocabulary_of(WORDS, 40_000 // np.arange(1, NUM_WORDS + 1))
FIRST = FIRST_LEARNED
"""Id of the first of `WORDS`."""
CONFIG = ModelConfig(
    hidden_size=16, order_size=24, decoder_hidden_size=16, spelling_size=64, position_size=96, max_tokens=24
)
NO_VECTOR = FIRST + 5
"""A word whose vector an imported file did not have."""


@functools.lru_cache
def encoder(embedding: Any = "exact", **changes: Any) -> SentenceEncoder:
    vectors = np.random.default_rng(0).normal(size=(len(VOCABULARY), WORD_SIZE))
    vectors[NO_VECTOR] = 0.0
    config = dataclasses.replace(CONFIG, embedding=embedding, **changes)
    model = moved(SentenceModel.start(config, vectors, VOCABULARY.counts, VOCABULARY.pieces), 0.2)
    return SentenceEncoder(model, VOCABULARY, {"profile": "default"})


def make_sentences(number: int, longest: int = 14, seed: int = 0) -> list[list[int]]:
    """Return sentences, frequent words more often, some words twice and more."""
    rng = np.random.default_rng(seed)
    weights = VOCABULARY.counts[FIRST : FIRST + NUM_WORDS] / VOCABULARY.counts.sum()
    lengths = rng.integers(1, longest + 1, number)
    return [(FIRST + rng.choice(NUM_WORDS, length, p=weights)).tolist() for length in lengths]


def text_of(ids: Sequence[int]) -> str:
    return " ".join(VOCABULARY.words(ids))


def normalized(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


SENTENCES = make_sentences(60)


# A sentence word for word


@pytest.mark.parametrize("changes", [{}, {"spelling_size": 0}, {"neighbour_strength": 0.0}], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_exact_gives_sentences_back_word_for_word_and_proves_it(dtype: str, changes: dict[str, Any]) -> None:
    one, sentences = encoder(**changes), SENTENCES
    if changes.get("spelling_size") == 0:
        # Fewer numbers say fewer words, and nothing of a word without a vector.
        sentences = [ids for ids in make_sentences(60, longest=6) if NO_VECTOR not in ids]
    found = one.decode(one.encode_ids(sentences, dtype=dtype))
    assert [made.text for made in found] == [text_of(ids) for ids in sentences]
    assert all(made.proven for made in found)
    assert [made.words for made in found] == [tuple(VOCABULARY.words(ids)) for ids in sentences]


@pytest.mark.parametrize("embedding", ["joined", "exact"])
def test_only_the_order_is_made_in_bfloat16_and_what_it_makes_decodes_as_well(embedding: str) -> None:
    full = encoder(embedding)
    half = SentenceEncoder(full.model, VOCABULARY, {"profile": "default"}, precision="bf16")
    vectors, rough = full.encode_ids(SENTENCES), half.encode_ids(SENTENCES)
    assert (normalized(vectors) * normalized(rough)).sum(1).min() > 0.998
    for part, place in full.model.places().items():
        assert np.array_equal(vectors[:, place], rough[:, place]) == (part != "order")
    found = half.decode(rough)
    assert all(made.text == text_of(ids) for ids, made in zip(SENTENCES, found, strict=True) if made.proven)
    assert sum(made.proven for made in found) > 0.9 * sum(made.proven for made in full.decode(vectors))
    if embedding == "exact":
        assert [made.text for made in found] == [text_of(ids) for ids in SENTENCES]
        assert full.decode(rough) == found  # also on a processor without bfloat16


def test_vectors_that_were_scaled_rounded_or_stored_decode_too(tmp_path: Path) -> None:
    one = encoder()
    vectors = one.encode_ids(SENTENCES)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float16).ravel()), vectors.shape[1])
    pq.write_table(pa.table({"embedding": lists}), tmp_path / "vectors.parquet")
    stored = pq.read_table(tmp_path / "vectors.parquet")["embedding"].combine_chunks().flatten().to_numpy()
    for form in (
        normalized(vectors),
        normalized(vectors).astype(np.float16),
        vectors * np.float32(7e4),
        vectors * np.float32(3e-9),
        vectors.astype(np.float64) * 1e200,
        stored.reshape(vectors.shape),
        # As a library that works in single precision reads half of it.
        stored.reshape(vectors.shape).astype(np.float32),
        torch.from_numpy(vectors),
        vectors.tolist(),
    ):
        found = one.decode(form)
        assert [made.text for made in found] == [text_of(ids) for ids in SENTENCES]
        assert all(made.proven for made in found)


def test_a_sentence_gets_the_same_answer_whatever_else_is_asked_for_with_it() -> None:
    one = encoder()
    vectors = one.encode_ids(SENTENCES)
    told: list[tuple[int, int]] = []
    many = np.tile(vectors, (2, 1))
    found = one.decode(many, show_progress_bar=lambda done, total: told.append((done, total)))
    assert told == [(64, 120), (120, 120)]
    assert found[:60] == found[60:] == one.decode(vectors[::-1])[::-1]
    assert one.decode(vectors[3]) == found[3:4]
    assert one.decode(vectors[:0]) == []


def test_a_text_comes_back_as_the_model_read_it() -> None:
    one = encoder()
    words = make_sentences(1, seed=5)[0]
    long = [FIRST + n % 9 for n in range(40)]
    # Words that the vocabulary has no piece for, whole or in letters or bytes.
    unheard = "zonk лес"
    texts = [text_of(words), f"¡{text_of(words).upper()}!", text_of(long), unheard, "", "…", text_of([NO_VECTOR])]
    found = one.reconstruct(texts)
    assert found == one.decode(one.encode(texts))
    assert [made.text for made in found] == [
        text_of(words),
        text_of(words),
        text_of(long[:24]),
        unheard,
        "",
        "",
        text_of([NO_VECTOR]),
    ]
    assert [made.proven for made in found] == [True, True, True, True, False, False, True]
    assert one.reconstruct(texts[0]) == found[:1]


# What is proven is right


def test_vectors_that_are_no_sentences_are_never_proven() -> None:
    one = encoder()
    vectors = one.encode_ids([ids for ids in SENTENCES if len(ids) > 1][:20])
    lengths, positions = [WORD_SIZE + 64 + 24, WORD_SIZE + 64 + 25], slice(-97, -1)
    rng = np.random.default_rng(0)

    def changed(columns: Any, values: Any) -> np.ndarray:
        found = vectors.copy()
        found[:, columns] = values
        return found

    for number, disturbed in enumerate(
        (
            vectors + rng.normal(size=vectors.shape) * 1e-3,
            vectors * (1 + 1e-3 * rng.choice([-1, 1], vectors.shape)),
            changed(lengths, vectors[:, lengths] * 1.02),
            changed(lengths, vectors[::-1][:, lengths]),
            changed(positions, -vectors[:, positions]),
            changed(positions, vectors[::-1, positions]),
            changed(-1, vectors[:, -1] * 1.02),
            changed(-1, vectors[:, -1] * 1.001).astype(np.float64) * 1e200,
            changed(3, vectors[:, 3] + 1e-3),
            -vectors,
            vectors + np.roll(vectors, 1, axis=0),
            (0.9 * vectors + 0.1 * np.roll(vectors, 1, axis=0)).astype(np.float16),
            rng.normal(size=vectors.shape),
        )
    ):
        found = one.decode(disturbed)
        assert not any(made.proven for made in found), number
        assert all(made.text for made in found), number


def test_what_is_disturbed_a_little_still_says_its_words() -> None:
    one = encoder()
    vectors = one.encode_ids(SENTENCES)
    found = one.decode(vectors + np.random.default_rng(0).normal(size=vectors.shape) * 4e-6)
    right = [made.text == text_of(ids) for made, ids in zip(found, SENTENCES, strict=True)]
    assert np.mean(right) > 0.9
    assert not any(made.proven for made in found)
    # The order says nothing that the positions do not.
    order = slice(WORD_SIZE + 64, WORD_SIZE + 64 + 24)
    vectors[:, order] = 0
    assert all(made.proven for made in one.decode(vectors))


@settings(max_examples=60, deadline=None)
@given(
    sentences=st.lists(st.lists(st.integers(FIRST, FIRST + 38), min_size=1, max_size=24), min_size=1, max_size=4),
    embedding=st.sampled_from(["exact", "joined"]),
    dtype=st.sampled_from([np.float16, np.float32]),
    noise=st.sampled_from([0.0, 0.0, 1e-5, 1e-4, 1e-2]),
)
def test_whatever_is_proven_is_right(sentences: list[list[int]], embedding: str, dtype: Any, noise: float) -> None:
    one = encoder(embedding)
    vectors = one.encode_ids(sentences)
    vectors += noise * np.random.default_rng(0).normal(size=vectors.shape).astype(np.float32)
    for ids, made in zip(sentences, one.decode(vectors.astype(dtype)), strict=True):
        assert made.text == text_of(ids) or not made.proven


# By the LSTM alone


def test_joined_gives_the_words_back_and_short_sentences_in_order() -> None:
    one = encoder("joined")
    found = one.decode(one.encode_ids(SENTENCES, dtype="float16", normalize_embeddings=True))
    for ids, made in zip(SENTENCES, found, strict=True):
        assert Counter(made.words) == Counter(VOCABULARY.words(ids))
        # An LSTM without training: all orders of three words are looked at.
        assert len(ids) > 3 or made.text == text_of(ids)
    short = [made.proven for ids, made in zip(SENTENCES, found, strict=True) if len(ids) < 4]
    assert sum(short) > 0.7 * len(short)


def test_an_order_that_another_one_comes_near_is_not_proven() -> None:
    one = copy.deepcopy(encoder("joined"))
    with torch.no_grad():
        one.model.order.to_code.weight.zero_()  # all orders have one code
    sentences = [[FIRST + n for n in ids] for ids in ([3, 7], [3, 7, 18, 7], [2], [4, 4, 4])]
    found = one.decode(one.encode_ids(sentences))
    assert [sorted(made.words) for made in found] == [sorted(text_of(ids).split()) for ids in sentences]
    assert [made.proven for made in found] == [False, False, True, True]


def test_a_trained_order_is_read_back_and_proven() -> None:
    one = copy.deepcopy(encoder("joined"))
    sentences = make_sentences(4, seed=3)
    model, batch = one.model, batch_of(sentences)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(batch).total.backward()
        optimizer.step()
    found = one.decode(one.encode_ids(sentences, dtype="float16"))
    assert [made.text for made in found] == [text_of(ids) for ids in sentences]
    assert sum(made.proven for made in found) >= 3


# Any vector has an answer


def test_meaning_means_of_vectors_and_noise_say_the_words_they_lean_to() -> None:
    sentences = [ids for ids in SENTENCES if len(set(ids)) < 4]
    assert len(sentences) > 5
    for embedding in ("meaning", "joined", "exact"):
        one = encoder(embedding)
        vectors = one.encode_ids(sentences)
        means = (normalized(vectors)[:-1] + normalized(vectors)[1:]) / 2
        for made, left, right in zip(one.decode(means), sentences, sentences[1:], strict=False):
            assert not made.proven
            assert len(made.words) == len(set(made.words)) >= 1
            assert made.words[0] in VOCABULARY.words((*left, *right))
        noise = np.random.default_rng(0).normal(size=(20, one.embedding_dimension))
        for made in one.decode(noise):
            assert made.words
            assert not made.proven
    for made, ids in zip(encoder("meaning").reconstruct([text_of(ids) for ids in sentences]), sentences, strict=True):
        assert made.words[0] in VOCABULARY.words(ids)
        assert not made.proven
    assert encoder("meaning").reconstruct(text_of([NO_VECTOR]))[0].words == (WORDS[NO_VECTOR - FIRST],)


def test_a_zero_vector_is_an_empty_text() -> None:
    for embedding in ("meaning", "joined", "exact"):
        one = encoder(embedding)
        (made,) = one.decode(np.zeros((1, one.embedding_dimension)))
        assert (made.text, made.words, made.proven) == ("", (), False)


def test_what_cannot_be_decoded_is_refused_with_what_to_give() -> None:
    with pytest.raises(InputError, match=r"not the words; decode vectors of meaning, joined or exact \(--embedding\)"):
        encoder("order").decode(np.ones((1, 24)))
    joined = encoder("joined").encode_ids(SENTENCES[:2])
    with pytest.raises(
        InputError, match="the vectors have 138 numbers; the embedding exact of this model has 235 numbers; load the"
    ):
        encoder("exact").decode(joined)
    with pytest.raises(InputError, match="shape"):
        encoder("joined").decode(joined[None])
    with pytest.raises(InputError, match="not finite"):
        encoder("joined").decode(np.where(np.arange(138) == 5, np.nan, joined))
