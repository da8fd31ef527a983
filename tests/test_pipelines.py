"""Vectors in other people's pipelines: scikit-learn, torch, Ray Data; and the README's examples of them, run as written."""

from __future__ import annotations

import copy
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from embedding_help import VOCABULARY, WORDS, make_text, save_model
from torch.nn.functional import cross_entropy

from lstm_embed import EmbedBatch, SentenceEncoder, SentenceModule, SentenceVectorizer
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.model.config import EMBEDDINGS, ModelConfig, OriginalConfig
from lstm_embed.model.folder import load_model
from lstm_embed.model.recipes import class_of

from conftest import ROOT

CLASSES = ("HUM", "LOC", "NUM")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("pipelines") / "model")


def make_texts(number: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [make_text(rng, 1) for _ in range(number)]


def make_labelled(number: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return labels, and texts whose words tell the label."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, len(CLASSES), number)
    texts = [" ".join(rng.choice(WORDS[60 + 10 * n :][:10], int(rng.integers(3, 9)))) for n in numbers]
    return [CLASSES[n] for n in numbers], texts


# scikit-learn


def test_the_vectorizer_is_a_well_behaved_estimator(model: str) -> None:
    from sklearn.utils import estimator_checks as checks

    vectorizer = SentenceVectorizer(model)
    name = "SentenceVectorizer"
    # `check_estimator` leaves these out for an estimator of texts, though they need no numbers.
    checks.check_estimator_cloneable(name, vectorizer)
    checks.check_parameters_default_constructible(name, vectorizer)
    checks.check_no_attributes_set_in_init(name, vectorizer)
    checks.check_get_params_invariance(name, vectorizer)
    checks.check_set_params(name, vectorizer)
    checks.check_estimator_repr(name, vectorizer)
    checks.check_mixin_order(name, vectorizer)
    checks.check_valid_tag_types(name, vectorizer)
    checks.check_estimator(vectorizer, on_skip=None)


def test_the_vectorizer_gives_the_encoders_vectors_from_any_kind_of_column(model: str) -> None:
    texts = make_texts(12)
    expected = SentenceEncoder.load(model, embedding="exact").encode(texts)
    vectorizer = SentenceVectorizer(model, embedding="exact")
    for column in (texts, tuple(texts), np.array(texts), pd.Series(texts), pd.DataFrame({"text": texts})):
        np.testing.assert_array_equal(vectorizer.fit_transform(column), expected)
    np.testing.assert_array_equal(vectorizer.fit_transform(iter(texts)), expected)
    assert list(vectorizer.get_feature_names_out())[:2] == ["sentencevectorizer0", "sentencevectorizer1"]
    framed = vectorizer.set_output(transform="pandas").transform(pd.Series(texts, index=range(5, 17)))
    assert framed.shape == expected.shape
    lengths = np.linalg.norm(SentenceVectorizer(model, normalize=True).fit_transform([WORDS[5], "…"]), axis=1)
    np.testing.assert_allclose(lengths, [1, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("one text", "X is of type str; expected texts: a list"),
        (np.zeros((3, 2)), "X is of type ndarray"),
        (["a", None], r"X\[1\] is of type NoneType"),
    ],
)
def test_the_vectorizer_refuses_what_is_no_list_of_texts(model: str, texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SentenceVectorizer(model).fit_transform(texts)
    with pytest.raises(InputError, match="model is empty"):
        SentenceVectorizer().fit(["a"])


def test_a_pickled_pipeline_holds_a_path_and_refuses_another_model_there(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    path = save_model(tmp_path / "model")
    labels, texts = make_labelled(60)
    pipeline = make_pipeline(SentenceVectorizer(path), LogisticRegression(max_iter=500)).fit(texts, labels)
    data = pickle.dumps(pipeline)
    assert len(data) < 20_000
    code = "import pickle, sys; print(*pickle.load(sys.stdin.buffer).predict(sys.argv[1:]), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code, *texts], input=data, capture_output=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.decode().split() == pipeline.predict(texts).tolist()
    save_model(tmp_path / "model", seed=1)
    with pytest.raises(FingerprintMismatch, match="put that model back, or fit again"):
        pickle.loads(data).predict(texts)


# torch


def test_the_module_gives_the_encoders_vectors(model: str) -> None:
    texts = ["", "… !", *make_texts(12), "unheard of лес", " ".join(WORDS)]
    for embedding in EMBEDDINGS:
        module = SentenceModule.load(model, embedding=embedding)
        ids = module.ids(texts)
        assert ids.shape[1] == 24
        found = module(torch.nn.functional.pad(ids, (0, 5)))
        assert found.shape == (len(texts), module.embedding_dimension)
        expected = SentenceEncoder.load(model, embedding=embedding).encode(texts)
        np.testing.assert_allclose(found.detach().numpy(), expected, atol=1e-5)
        assert not found[:2].any()
    assert module(torch.zeros(2, 0, dtype=torch.long)).shape == (2, module.embedding_dimension)
    assert module.ids([]).shape == (0, 1)
    with pytest.raises(InputError, match="expected texts: a list"):
        module.ids("one text")
    for ids in (torch.zeros(3, dtype=torch.long), torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, 2), [[1]]):
        with pytest.raises(InputError, match="no matrix of whole numbers"):
            module(ids)


@pytest.mark.parametrize("config", [ModelConfig(hidden_size=8, order_size=12), OriginalConfig(hidden_size=8)])
def test_gradients_flow_into_the_bilstm_and_its_projection_and_nothing_else(config: Any) -> None:
    vectors = np.random.default_rng(0).normal(size=(len(VOCABULARY), 10))
    make: Any = class_of(config).start
    module = SentenceModule(
        make(config, vectors, VOCABULARY.counts, VOCABULARY.pieces), VOCABULARY, {"profile": "default"}
    )
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    wanted = {name.rsplit(".cell", 1)[0] for name in trained}
    part = "model.order." if isinstance(config, ModelConfig) else "model."
    assert {name for name in wanted if "lstm" in name} == {f"{part}forward_lstm", f"{part}backward_lstm"}
    assert {name for name in wanted if "lstm" not in name} <= {f"{part}to_code.weight", f"{part}to_code.bias"}
    module(module.ids(make_texts(20))).square().mul(torch.arange(module.embedding_dimension)).sum().backward()
    assert {name for name, parameter in module.named_parameters() if parameter.grad is not None} == trained
    assert all(parameter.grad.any() for parameter in module.parameters() if parameter.grad is not None)


def test_a_fine_tuned_model_is_saved_as_a_model_folder_of_its_own(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SentenceModule.load(model)
    classifier = torch.nn.Sequential(module, torch.nn.Linear(module.embedding_dimension, 3))
    labels, texts = make_labelled(90)
    ids, targets = module.ids(texts), torch.tensor([CLASSES.index(label) for label in labels])
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = cross_entropy(classifier(ids), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    before = SentenceEncoder.load(model)
    module.encoder().save(str(tmp_path / "tuned"))
    assert module.training
    tuned = SentenceEncoder.load(str(tmp_path / "tuned"))
    assert tuned.fingerprint != before.fingerprint
    assert tuned.provenance["fine_tuned_from"] == before.fingerprint
    np.testing.assert_allclose(tuned.encode(texts), module(ids).detach().numpy(), atol=1e-5)
    assert np.abs(tuned.encode(texts) - before.encode(texts)).max() > 0.01
    # All but the encoder of the order is what it was.
    fixed, now = (load_model(path).model.state_dict() for path in (model, str(tmp_path / "tuned")))
    changed = {name for name in fixed if not torch.equal(fixed[name], now[name])}
    assert {".".join(name.split(".")[:2]) for name in changed} == {
        "order.forward_lstm",
        "order.backward_lstm",
        "order.to_code",
    }
    size = SentenceEncoder.load(model, embedding="meaning").embedding_dimension
    np.testing.assert_array_equal(tuned.encode(texts)[:, :size], before.encode(texts)[:, :size])


def test_the_module_is_copied_and_its_weights_are_kept_like_those_of_any_other(model: str, tmp_path: Path) -> None:
    module = SentenceModule.load(model)
    other = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    ids = module.ids(make_texts(5))
    assert torch.equal(module(ids), other(ids))


# Ray Data


def test_a_batch_of_either_kind_gets_a_column_of_vectors(model: str) -> None:
    texts = make_texts(7)
    expected = SentenceEncoder.load(model, embedding="order").encode(texts, normalize_embeddings=True)
    embed = EmbedBatch(model, text_column="body", output_column="vector", embedding="order", normalize=True)
    table = pa.table({"n": range(7), "body": texts})
    for body in (table["body"], table["body"].cast(pa.large_string()), table["body"].dictionary_encode()):
        found = embed(table.set_column(1, "body", body))
        assert found.column_names == ["n", "body", "vector"]
        assert found.schema.field("vector").type == pa.list_(pa.float32(), expected.shape[1])
        np.testing.assert_array_equal(np.stack(found["vector"].to_numpy()), expected)
    found = embed({"n": np.arange(7), "body": np.array(texts, dtype=object)})
    np.testing.assert_array_equal(found["vector"], expected)
    empty = embed(table.slice(0, 0))
    assert empty.schema.field("vector").type == pa.list_(pa.float32(), expected.shape[1])
    missing = embed(pa.table({"body": pa.array([WORDS[5], None])}))
    assert np.stack(missing["vector"].to_numpy()).any(axis=1).tolist() == [True, False]
    half = EmbedBatch(model, dtype="float16")(pa.table({"text": texts}))
    assert half.schema.field("embedding").type.value_type == pa.float16()


def test_a_batch_without_texts_is_refused_with_its_columns(model: str) -> None:
    embed = EmbedBatch(model)
    for batch, message in (
        (pa.table({"body": ["a"]}), "the columns are body; expected one text column 'text'"),
        (pa.table({"text": ["a"], "embedding": [1]}), "and no 'embedding'"),
        (pa.Table.from_arrays([["a"], ["b"]], ["text", "text"]), "the columns are text, text; expected one"),
        (pa.table({"text": [1]}), r"sentences\[0\] is of type int"),
        (pd.DataFrame({"text": ["a"]}), "the batch is a DataFrame; expected batch_format='pyarrow' or 'numpy'"),
    ):
        with pytest.raises(InputError, match=message):
            embed(batch)


# The README's examples


def readme_example(library: str) -> str:
    """Return the Python block of jobs/README.md's section on pipelines that imports a library first."""
    section = (ROOT / "jobs" / "README.md").read_text(encoding="utf-8").split("## Pipelines")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return next(block for block in blocks if re.match(rf"(from|import) {library}\b", block))


@pytest.fixture
def user_folder(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name: a model, labelled texts, articles."""
    import pyarrow.parquet as pq

    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "model").symlink_to(model)
    for name, number in (("train", 600), ("test", 60)):
        labels, texts = make_labelled(number, seed=number)
        lines = "".join(f"{label}\t{text}\n" for label, text in zip(labels, texts, strict=True))
        (tmp_path / f"TREC.{name}.tsv").write_text(lines, encoding="utf-8")
    pq.write_table(pa.table({"id": range(30), "text": make_texts(30)}), tmp_path / "articles.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_readmes_classifiers_run_as_written_and_learn(user_folder: Path) -> None:
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(compile(readme_example("sklearn"), "jobs/README.md", "exec"), names)
    assert names["search"].score(names["test_texts"], names["test_labels"]) > 0.8
    exec(compile(readme_example("torch"), "jobs/README.md", "exec"), names)
    assert names["accuracy"] > 0.8


def test_the_readmes_ray_pipeline_runs_as_written(user_folder: Path, ray_cluster: None) -> None:
    import pyarrow.parquet as pq

    # The session's Ray was started in another folder, which is where its workers look for relative paths.
    example = re.sub(r'"(runs/first/model|articles\.parquet|vectors)"', rf'"{user_folder}/\1"', readme_example("ray"))
    exec(compile(example, "jobs/README.md", "exec"), {})
    made = pq.read_table(user_folder / "vectors")
    assert made.num_rows == 30
    assert made.schema.field("embedding").type == pa.list_(pa.float32(), 48 + 64 + 12 + 2)
