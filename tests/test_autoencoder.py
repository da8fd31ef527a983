from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lstm_embed.errors import InputError
from lstm_embed.model.autoencoder import Autoencoder
from lstm_embed.model.batch import collate, running_rows
from lstm_embed.model.config import ModelConfig, original
from lstm_embed.model.group import Group, NegativeSampler, drop_words, make_group
from lstm_embed.model.lstm import Lstm
from lstm_embed.model.spelling import spelling_sums

VOCABULARY_SIZE = 40
WORD_SIZE = 8
COUNTS = np.concatenate([[0, 9], 1000 // np.arange(1, VOCABULARY_SIZE - 1)])
VECTORS = np.random.default_rng(0).normal(size=(VOCABULARY_SIZE, WORD_SIZE)).astype(np.float32)
# The word vectors as they are, so that what is computed of them can be computed here once more.
SMALL = ModelConfig(hidden_size=5, code_size=12, num_negatives=10, word_whitening=0.0, spelling_size=16)
WORDS = ["<pad>", "<unk>", *(f"{stem}{end}" for stem in ("walk", "tea", "r", "öl", "中") for end in ("", "s", "ed"))]
WORDS += [f"w{number}" for number in range(VOCABULARY_SIZE - len(WORDS))]
SMALL_ORIGINAL = dataclasses.replace(original(), hidden_size=6, max_tokens=9, train_max_tokens=9)
SENTENCES = [[3, 5, 7, 9, 2], [4, 6, 2], [30, 2, 8, 1, 6, 5, 11], [12], [13, 14, 15, 2], [2, 16, 17, 18]]
PARTNERS = [1, 0, 4, -1, 2, -1]
ARTICLES = [0, 0, 1, 2, 1, 0]


def make_model(config: ModelConfig = SMALL, seed: int = 0, move: float = 0.0) -> Autoencoder:
    """Make a small model; `move` adds noise to all trained weights, as training would."""
    model = Autoencoder(config, VECTORS, COUNTS, words=WORDS, seed=seed)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad and move:
                parameter.add_(move * torch.randn(parameter.shape, generator=generator))
    return model


def small_group(
    noise: float = 0.0, seed: int = 0, sentences: list[list[int]] = SENTENCES, num_negatives: int = 10
) -> Group:
    return make_group(
        [np.array(sentence) for sentence in sentences],
        PARTNERS,
        ARTICLES,
        noise=noise,
        num_negatives=num_negatives,
        sampler=NegativeSampler(COUNTS),
        rng=np.random.default_rng(seed),
    )


def padded(sentences: list[list[int]], width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.array([len(sentence) for sentence in sentences])
    ids = np.zeros((len(sentences), max(width, *lengths, 1)), np.int64)
    for row, sentence in zip(ids, sentences, strict=True):
        row[: len(sentence)] = sentence
    return ids, lengths


@contextmanager
def library_lstm() -> Iterator[None]:
    """Compute with `nn.LSTM`, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Lstm, "recurs", property(lambda self: False))
        yield


def gradients(model: Autoencoder) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# The LSTM


@pytest.mark.parametrize("lengths", [[5, 5, 3, 2, 1, 0], [1, 4, 0, 5, 2, 2], [1], [3, 3, 3]])
@pytest.mark.parametrize("kind", ["table", "constant", "both"])
def test_the_own_recurrence_equals_torch_in_values_and_gradients(lengths: list[int], kind: str) -> None:
    torch.manual_seed(0)
    rows, steps = len(lengths), max(lengths)
    table = torch.randn(9, 4, requires_grad=True)
    constant = torch.randn(rows, 3, requires_grad=True)
    read: dict[str, Any] = {}
    if kind != "constant":
        read |= {"table_UI": table, "position_TR": torch.randint(0, 9, (steps, rows))}
    if kind != "table":
        read |= {"constant_RI": constant}
    lstm = Lstm({"table": 4, "constant": 3, "both": 7}[kind], 5)
    inside = (torch.arange(steps)[:, None] < torch.tensor(lengths))[:, :, None]
    weights = torch.randn(steps, rows, 5)

    def run() -> tuple[Tensor, tuple[Tensor, ...]]:
        states = lstm(running_rows(np.array(lengths), steps), **read) * inside
        trained = [p for p in lstm.parameters() if p.requires_grad]
        used = [t for t in (table, constant) if any(t is value for value in read.values())]
        return states, torch.autograd.grad((states * weights).square().sum(), [*trained, *used])

    own, own_gradients = run()
    with library_lstm():
        library, library_gradients = run()
    torch.testing.assert_close(own, library, rtol=1e-5, atol=1e-6)
    for a, b in zip(own_gradients, library_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_running_rows_hold_all_unfinished_ones_at_each_step() -> None:
    assert running_rows(np.array([3, 3, 1, 2]), 3) == (4, 4, 2)
    assert running_rows(np.array([0, 0]), 1) == (2,)


@pytest.mark.parametrize("config", [SMALL, SMALL_ORIGINAL], ids=["small", "original"])
def test_a_gpu_path_through_nn_lstm_gives_the_same_loss_and_gradients(config: ModelConfig) -> None:
    found = []
    for use_library in (False, True):
        model = make_model(config, move=0.1)
        if use_library:
            with library_lstm():
                losses = model.loss(small_group(noise=0.3))
                losses.total.backward()
        else:
            losses = model.loss(small_group(noise=0.3))
            losses.total.backward()
        found.append((losses.total, gradients(model)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-3, atol=1e-6)


def test_training_in_bfloat16_stays_near_float32() -> None:
    group = small_group(noise=0.3)
    exact = make_model(move=0.1)
    exact.loss(group).total.backward()
    rough = make_model(move=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = rough.loss(group).total
    loss.backward()
    assert abs(loss.item() - exact.loss(group).total.item()) < 0.05
    for name, gradient in gradients(exact).items():
        if gradient.norm() > 1e-4:
            assert torch.cosine_similarity(gradient.flatten(), gradients(rough)[name].flatten(), dim=0) > 0.98, name


# The original Keras system, written out step by step in numpy


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def keras_lstm(inputs: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return all states of one sentence, (steps, units); the gates stand in the order i, f, c, o."""
    units = recurrent.shape[0]
    state, cell, states = np.zeros(units), np.zeros(units), []
    for x in inputs:
        i, f, c, o = np.split(x @ kernel + state @ recurrent + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(c)
        state = sigmoid(o) * np.tanh(cell)
        states.append(state)
    return np.array(states)


def keras_weights(lstm: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    kernel, recurrent, bias, unused = (weight.detach().double().numpy() for weight in lstm.weights)
    assert not unused.any()
    return kernel.T, recurrent.T, bias


def keras_system(model: Autoencoder, sentence: list[int], positions: int) -> tuple[np.ndarray, float]:
    """Return the code of a sentence and its mean squared error, all positions of the padded sentence counted."""
    vectors = np.where(np.arange(VOCABULARY_SIZE)[:, None] < 2, 0.0, VECTORS.astype(np.float64))
    inputs = np.zeros((positions, WORD_SIZE))
    inputs[positions - len(sentence) :] = vectors[sentence]
    forward = keras_lstm(inputs, *keras_weights(model.forward_lstm))
    backward = keras_lstm(inputs[::-1], *keras_weights(model.backward_lstm))
    code = np.concatenate([forward[-1], backward[-1]])
    assert model.decoder is not None
    decoded = keras_lstm(np.tile(code, (positions, 1)), *keras_weights(model.decoder.lstm))
    dense, bias = (p.detach().double().numpy() for p in model.decoder.output.parameters())
    return code, float(np.mean((np.tanh(decoded @ dense.T + bias) - inputs) ** 2))


@pytest.mark.parametrize("positions", [9, 64])
def test_original_computes_the_function_and_loss_of_the_keras_system(positions: int) -> None:
    config = dataclasses.replace(original(), hidden_size=6, max_tokens=positions, train_max_tokens=positions)
    model = make_model(config, move=0.2)
    expected = [keras_system(model, sentence, positions) for sentence in SENTENCES]
    np.testing.assert_allclose(model.embed(*padded(SENTENCES)).detach(), [code for code, _ in expected], atol=1e-6)
    losses = model.loss(small_group())
    assert losses.total.item() == pytest.approx(np.mean([loss for _, loss in expected]), rel=1e-5)
    assert losses.total.item() == losses.reconstruction.item()


def test_original_with_masked_padding_leaves_out_the_padding_and_nothing_else() -> None:
    model = make_model(dataclasses.replace(SMALL_ORIGINAL, mask_padding=True), move=0.2)
    sentences = [[3, 5, 7, 9, 2], [4, 6, 2], [12]]
    expected = [keras_system(model, sentence, len(sentence)) for sentence in sentences]
    np.testing.assert_allclose(model.embed(*padded(sentences)).detach(), [code for code, _ in expected], atol=1e-6)
    loss = np.average([loss for _, loss in expected], weights=[5, 3, 1])
    group = make_group([np.array(s) for s in sentences], [-1, -1, -1], [0, 1, 2])
    assert model.loss(group).total.item() == pytest.approx(loss, rel=1e-5)


def test_a_sentence_that_fills_all_positions_is_the_same_with_padding_and_without() -> None:
    full = [[3, 5, 7, 9, 2, 4, 6, 8, 10]]
    with_padding = make_model(SMALL_ORIGINAL).embed(*padded(full))
    without = make_model(dataclasses.replace(SMALL_ORIGINAL, mask_padding=True)).embed(*padded(full))
    torch.testing.assert_close(with_padding, without)


def test_original_starts_like_keras_does() -> None:
    lstm = make_model(SMALL_ORIGINAL).forward_lstm
    assert lstm is not None
    kernel, recurrent, bias = keras_weights(lstm)
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(6), atol=1e-5)
    assert np.abs(kernel).max() <= np.sqrt(6 / (WORD_SIZE + 24))
    np.testing.assert_array_equal(bias, np.repeat([0.0, 1.0, 0.0, 0.0], 6))


# Encoding


def word_mean(sentence: list[int], dropped: tuple[int, ...] = ()) -> np.ndarray:
    """Return the mean of unit vectors by a/(a+p), as the recipe says."""
    p = COUNTS / COUNTS.sum()
    weights = 5e-3 / (5e-3 + p) * (np.arange(VOCABULARY_SIZE) > 1)
    units = 3.0 * VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    kept = [word for position, word in enumerate(sentence) if position not in dropped]
    return np.sum([weights[word] * units[word] for word in kept], axis=0) / len(sentence)


def test_an_untrained_code_is_the_rotated_word_mean() -> None:
    model = make_model()
    encoded = model.encode(*padded(SENTENCES))
    expected = np.array([word_mean(sentence) for sentence in SENTENCES])
    np.testing.assert_allclose(encoded.words_Rd, expected, atol=1e-5)
    assert model.from_words is not None
    rotation = model.from_words.weight.detach().numpy()
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(WORD_SIZE), atol=1e-5)
    np.testing.assert_allclose(encoded.code_RD.detach(), expected @ rotation.T, atol=1e-5)


def test_whitened_word_vectors_have_no_mean_and_one_variance_in_all_directions() -> None:
    vectors = VECTORS * np.linspace(1, 9, WORD_SIZE, dtype=np.float32) + 4
    vectors[7] = 0  # a word whose vector an imported file did not have
    known = [row for row in range(2, VOCABULARY_SIZE) if row != 7]

    def of(power: float) -> np.ndarray:
        config = dataclasses.replace(SMALL, word_whitening=power, word_scale=0.0)
        made = Autoencoder(config, vectors, COUNTS).word_vectors.detach().numpy().astype(np.float64)
        assert not made[[0, 1, 7]].any()
        return made[known]

    white, half = of(1.0), of(0.5)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(WORD_SIZE), atol=1e-5)
    # Halfway, the covariance is the square root of what it was.
    root = half.T @ half / len(half)
    np.testing.assert_allclose(root @ root, np.cov(vectors[known].T, bias=True), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(of(0.0), vectors[known])


def test_word_vectors_that_all_lie_on_a_line_are_whitened_along_it_only() -> None:
    vectors = np.outer(np.arange(VOCABULARY_SIZE), np.ones(WORD_SIZE)).astype(np.float32)
    model = Autoencoder(dataclasses.replace(SMALL, word_whitening=1.0, word_scale=0.0), vectors, COUNTS)
    made = model.word_vectors.detach().numpy()[2:]
    assert np.isfinite(made).all()
    np.testing.assert_allclose(made, made[:, :1] * np.ones(WORD_SIZE), atol=1e-5)
    np.testing.assert_allclose((made**2).sum(1).mean(), 1, atol=1e-5)


def test_the_joined_embedding_is_unit_vectors_of_word_mean_code_and_spelling() -> None:
    model = make_model(move=0.3)
    vectors = model.embed(*padded(SENTENCES)).detach().numpy()
    means = np.array([word_mean(sentence) for sentence in SENTENCES])
    np.testing.assert_allclose(vectors[:, :WORD_SIZE], means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors[:, WORD_SIZE : WORD_SIZE + 12], axis=1), 1.0, atol=1e-5)
    sums = spelling_sums(WORDS, 16).astype(np.float64)
    p = COUNTS / COUNTS.sum()
    spelling = np.zeros((len(SENTENCES), 16))
    for row, sentence in zip(spelling, SENTENCES, strict=True):
        for word in sentence:
            if word > 1:  # the unknown word has no spelling
                row += 3e-4 / (3e-4 + p[word]) * sums[word] / np.linalg.norm(sums[word])
    spelling /= np.linalg.norm(spelling, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors[:, WORD_SIZE + 12 :], spelling, atol=1e-5)
    assert vectors.shape[1] == model.embedding_dimension == WORD_SIZE + 12 + 16


def test_words_that_are_written_alike_have_like_spelling() -> None:
    words = ["walk", "walked", "talk", "sea", "a", "", "氣候變化", "氣候", "x" * 500]
    sums = spelling_sums(words, 512).astype(np.float64)
    assert np.array_equal(sums[:2], spelling_sums(words[:2], 512))
    units = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1)
    near = units @ units.T
    # Of walk's n-grams <wa wal alk lk> <wal walk alk> the word walked has five, talk has alk lk> alk>.
    assert near[0, 1] > near[0, 2] > 0.25 > abs(near[0, 3])
    assert near[6, 7] > 0.15
    assert np.abs(sums[8]).max() == 127  # not wrapped around
    assert spelling_sums([], 16).shape == (0, 16)
    # As it was when models were made with it: their exports and their next versions must read words the same way.
    assert spelling_sums(["walk"], 16)[0].tolist() == [5, -5, 3, 3, -5, 5, -1, -1, -1, 5, -3, 5, 1, -1, 3, -5]


def test_a_dropped_word_has_neither_vector_nor_weight_but_keeps_its_place() -> None:
    ids, lengths = padded([[3, 5, 7, 9, 2]])
    keep = np.array([[True, False, True, False, True]])
    encoded = make_model().encode(ids, lengths, keep)
    np.testing.assert_allclose(encoded.words_Rd[0], word_mean([3, 5, 7, 9, 2], dropped=(1, 3)), atol=1e-5)


CONFIGS = {
    "weighted": SMALL,
    "mean": dataclasses.replace(SMALL, pooling="mean"),
    "max": dataclasses.replace(SMALL, pooling="max"),
    "last": dataclasses.replace(SMALL, pooling="last"),
    "no skip path": dataclasses.replace(SMALL, skip_path=False),
    "no LSTM": dataclasses.replace(SMALL, lstm_path=False),
    "original": SMALL_ORIGINAL,
    "original masked": dataclasses.replace(SMALL_ORIGINAL, mask_padding=True),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_vector_depends_on_its_sentence_alone(config: ModelConfig) -> None:
    model = make_model(config, move=0.3)
    together = model.embed(*padded(SENTENCES, width=9)).detach()
    for row in range(len(SENTENCES)):
        torch.testing.assert_close(model.embed(*padded([SENTENCES[row]]))[0].detach(), together[row], atol=2e-6, rtol=0)
    turned = model.embed(*padded(SENTENCES[::-1])).detach()
    torch.testing.assert_close(turned.flip(0), together, atol=2e-6, rtol=0)
    with library_lstm():
        torch.testing.assert_close(model.embed(*padded(SENTENCES)).detach(), together, atol=2e-6, rtol=0)


def test_the_transfer_output_is_the_joined_one_and_the_largest_states() -> None:
    model = make_model(move=0.3)
    joined = model.embed(*padded(SENTENCES)).detach()
    model.config = dataclasses.replace(model.config, output="transfer")
    found = model.embed(*padded(SENTENCES)).detach()
    assert found.shape == (len(SENTENCES), model.embedding_dimension)
    torch.testing.assert_close(found[:, : joined.shape[1]], joined)
    most = found[:, joined.shape[1] :]
    pooled = dataclasses.replace(SMALL, pooling="max", skip_path=False, code_size=0, output="code")
    other = Autoencoder(pooled, model.word_vectors, COUNTS)
    other.load_state_dict({**other.state_dict(), **_lstms_of(model)})
    torch.testing.assert_close(most, F.normalize(other.embed(*padded(SENTENCES)).detach(), dim=1))


def _lstms_of(model: Autoencoder) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if name.startswith(("forward_", "backward_"))}


@pytest.mark.parametrize("output", ["joined", "transfer", "code", "words"])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_sentence_without_known_words_is_a_zero_vector(config: ModelConfig, output: Any) -> None:
    if not config.lstm_path and output == "transfer":
        output = "joined"  # there are no states to join
    model = make_model(dataclasses.replace(config, output=output), move=0.3)
    vectors = model.embed(*padded([[], [1, 1], [1, 3], [5]]))
    assert torch.equal(vectors[:2], torch.zeros(2, model.embedding_dimension))
    assert torch.isfinite(vectors).all()
    assert (vectors[2:].norm(dim=1) > 0).all()
    assert torch.equal(model.embed(*padded([[]])), torch.zeros(1, model.embedding_dimension))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_gradients_stay_finite_with_empty_sentences_and_sentences_of_one_word(config: ModelConfig) -> None:
    model = make_model(config, move=0.1)
    losses = model.loss(small_group(sentences=[[], [1], [5], [3, 4], [2], [1, 1, 6]]))
    losses.total.backward()
    assert torch.isfinite(losses.total)
    assert all(torch.isfinite(gradient).all() for gradient in gradients(model).values())
    assert losses.num_sentences == 5


def test_gradients_flow_from_the_embedding_to_every_part_of_the_encoder() -> None:
    model = make_model(dataclasses.replace(SMALL, freeze_word_vectors=False), move=0.1)
    model.embed(*padded(SENTENCES)).square().mul(torch.arange(model.embedding_dimension)).sum().backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad and not name.startswith("decoder")}
    assert {name for name, gradient in gradients(model).items() if gradient.abs().sum() > 0} == trained


def test_the_seed_decides_the_start_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = make_model(seed=1), make_model(seed=1), make_model(seed=2)
    assert torch.equal(torch.rand(1), expected)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert first.forward_lstm is not None
    assert other.forward_lstm is not None
    assert not torch.equal(first.forward_lstm.weights[0], other.forward_lstm.weights[0])


def test_vectors_that_do_not_belong_to_the_counts_are_refused() -> None:
    with pytest.raises(InputError, match="39 counts"):
        Autoencoder(SMALL, VECTORS, COUNTS[1:])


# Losses


def test_the_contrast_is_symmetrical_and_leaves_out_sentences_of_the_same_article() -> None:
    config = dataclasses.replace(SMALL, decoder="none", temperature=0.3)
    model = make_model(config, move=0.3)
    code = model.encode(*padded(SENTENCES)).code_RD.detach().double().numpy()
    unit = code / np.linalg.norm(code, axis=1, keepdims=True)
    similarity = np.exp(unit @ unit.T / 0.3)

    def expected(same_article: bool) -> float:
        terms = []
        for anchor, partner in enumerate(PARTNERS):
            if partner >= 0:
                others = [
                    row
                    for row in range(len(SENTENCES))
                    if row != anchor and (row == partner or same_article or ARTICLES[row] != ARTICLES[anchor])
                ]
                terms.append(-np.log(similarity[anchor, partner] / similarity[anchor, others].sum()))
        return float(np.mean(terms))

    assert model.loss(small_group()).total.item() == pytest.approx(expected(False), rel=1e-4)
    model.config = dataclasses.replace(config, same_article_negatives=True)
    assert model.loss(small_group()).total.item() == pytest.approx(expected(True), rel=1e-4)


@pytest.mark.parametrize("hidden_size", [5, 11])
def test_the_reconstruction_is_a_weighted_softmax_over_the_candidates(hidden_size: int) -> None:
    config = dataclasses.replace(SMALL, contrast_weight=0.0, decoder_weight=1.0, decoder_hidden_size=hidden_size)
    model = make_model(config, move=0.3)
    group = small_group()
    code = model.encode(*padded(SENTENCES)).code_RD.detach().double().numpy()
    assert model.decoder is not None
    dense, bias = (p.detach().double().numpy() for p in model.decoder.output.parameters())
    units = VECTORS[group.candidates_C].astype(np.float64)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    p = COUNTS / COUNTS.sum()
    total = weight_sum = right = num = 0.0
    for row, sentence in enumerate(SENTENCES):
        states = keras_lstm(np.tile(code[row], (len(sentence), 1)), *keras_weights(model.decoder.lstm))
        logits = 10 * (states @ dense.T + bias) @ units.T
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        for position, word in enumerate(sentence):
            if word >= 2:
                target = int(np.flatnonzero(group.candidates_C == word)[0])
                weight = 1e-4 / (1e-4 + p[word])
                total -= weight * log_p[position, target]
                weight_sum += weight
                right += logits[position].argmax() == target
                num += 1
    losses = model.loss(group)
    assert losses.total.item() == pytest.approx(total / weight_sum, rel=1e-4)
    assert losses.accuracy is not None
    assert losses.accuracy.item() == pytest.approx(right / num)


def test_groups_in_one_pass_are_the_mean_of_single_passes_weighted_by_their_sentences() -> None:
    groups = [
        small_group(noise=0.3),
        small_group(noise=0.3, seed=1, sentences=[[3, 4], [20, 21, 22], [], [23], [24, 25, 7, 7, 7, 8, 9, 10], [5, 2]]),
        make_group([np.array([31, 32]), np.array([33])], [1, 0], [0, 0]),
        make_group([np.array([1, 1]), np.array([1])], [1, 0], [0, 0]),
    ]
    together, apart = make_model(move=0.2), make_model(move=0.2)
    losses = together.loss(groups)
    losses.total.backward()
    assert losses.num_sentences == 6 + 5 + 2 + 2
    assert losses.num_tokens == sum(group.num_tokens for group in groups)
    single = [apart.loss(group) for group in groups]
    total = sum(one.total * one.num_sentences for one in single) / losses.num_sentences
    total.backward()
    torch.testing.assert_close(losses.total, total, rtol=1e-5, atol=1e-6)
    for name, gradient in gradients(together).items():
        torch.testing.assert_close(gradient, gradients(apart)[name], rtol=1e-3, atol=1e-6)
    accuracy = sum((one.accuracy or 0.0) * one.num_sentences for one in single) / losses.num_sentences
    torch.testing.assert_close(losses.accuracy, accuracy)


def test_padded_groups_in_one_pass_equal_single_passes_too() -> None:
    groups = [small_group(), make_group([np.array([31, 32]), np.array([33])], [1, 0], [0, 0])]
    model = make_model(SMALL_ORIGINAL)
    single = [model.loss(group) for group in groups]
    torch.testing.assert_close(
        model.loss(groups).total, (6 * single[0].total + 2 * single[1].total) / 8, rtol=1e-5, atol=1e-7
    )


def test_the_same_group_gives_the_same_bits() -> None:
    found = []
    for _ in range(2):
        model = make_model(move=0.2)
        losses = model.loss(small_group(noise=0.3))
        losses.total.backward()
        found.append((losses.total, gradients(model)))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(gradient, found[1][1][name]) for name, gradient in found[0][1].items())


def test_a_group_without_partners_or_words_has_no_loss() -> None:
    losses = make_model().loss(make_group([np.array([], np.int64), np.array([1])], [-1, -1], [0, 1]))
    assert losses.total.item() == 0.0
    assert losses.num_sentences == 1


DECODERS = [
    {"decoder": decoder, "reconstruction": reconstruction}
    for decoder in ("repeat", "teacher", "bag")
    for reconstruction in ("softmax", "mse", "cosine")
]


@pytest.mark.parametrize("change", DECODERS, ids=lambda change: " ".join(change.values()))
def test_training_lowers_the_loss_and_brings_the_words_back(change: dict[str, Any]) -> None:
    config = dataclasses.replace(SMALL, hidden_size=16, decoder_weight=1.0, target_constant=0.0, **change)
    model = make_model(config)
    group = small_group(num_negatives=1000)
    before = model.eval().loss(group)
    assert before.accuracy is not None
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        model.train().loss(group).total.backward()
        optimizer.step()
    after = model.eval().loss(group)
    assert after.accuracy is not None
    assert after.total < 0.7 * before.total
    assert after.accuracy > before.accuracy
    with torch.no_grad():
        words = model.decode(model.encode(*padded(SENTENCES)).code_RD, 3)
    assert words.shape == (6, 3)
    assert words.min() >= 2
    if config.decoder != "bag":
        assert words[4].tolist() == SENTENCES[4][:3]


def test_a_model_without_a_decoder_says_that_it_cannot_decode() -> None:
    with pytest.raises(InputError, match="--decoder none"):
        make_model(dataclasses.replace(SMALL, decoder="none")).decode(torch.zeros(1, 12), 3)


# Groups


def test_candidates_are_the_words_of_the_group_and_the_drawn_ones() -> None:
    group = small_group()
    words = {word for sentence in SENTENCES for word in sentence if word >= 2}
    assert words <= set(group.candidates_C)
    assert len(words) < len(group.candidates_C) <= len(words) + 10
    assert group.candidates_C.min() >= 2
    assert (np.diff(group.candidates_C) > 0).all()


def test_a_group_whose_candidates_miss_a_word_is_a_bug() -> None:
    group = small_group()
    with pytest.raises(AssertionError, match="candidates"):
        collate([dataclasses.replace(group, candidates_C=group.candidates_C[1:])])


def test_noise_drops_its_share_of_words_and_never_the_last_known_one() -> None:
    ids = np.random.default_rng(1).integers(2, VOCABULARY_SIZE, (2000, 10))
    keep = drop_words(ids, 0.3, np.random.default_rng(0))
    assert abs(keep.mean() - 0.7) < 0.01
    lonely = np.array([[1, 7, 0, 0]] * 500)
    assert drop_words(lonely, 0.9, np.random.default_rng(0))[:, 1].all()


def test_negatives_follow_the_flattened_word_frequencies() -> None:
    drawn = NegativeSampler(COUNTS).draw(200_000, np.random.default_rng(0))
    expected = COUNTS[2:] ** 0.75 / (COUNTS[2:] ** 0.75).sum()
    np.testing.assert_allclose(np.bincount(drawn, minlength=VOCABULARY_SIZE)[2:] / 200_000, expected, atol=0.005)
