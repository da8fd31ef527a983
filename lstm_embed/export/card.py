"""The model card: what a model is, what it was made of, what it scores, and how it is used."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lstm_embed.base.text import printable
from lstm_embed.model.config import EMBEDDINGS, PARTS, ModelConfig
from lstm_embed.model.folder import LoadedModel
from lstm_embed.model.sentence_model import SentenceModel

_SENTENCE_TRANSFORMERS = """
```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("PATH_OF_THIS_FOLDER", trust_remote_code=True)
vectors = model.encode(["Tea is a drink.", "Coffee is one too."])
print(model.similarity(vectors, vectors))
```

`trust_remote_code` is needed because the encoder is no combination of that library's own modules. The code it runs is one
file of this folder, `lstm_embedding.py`; read it first. It imports torch, safetensors and tokenizers, nothing else. Any
version of sentence-transformers from 3.4 on will do.
"""
_ONNX = """
`model.onnx` takes `ids` (batch, length) and `lengths` (batch), both int64, and gives `vectors` (batch, dimension), float32.
Sizes are free, a length may be 0, and what stands behind a sentence's length is ignored. `tokenizer.json` turns text into ids
with the `tokenizers` library (Python, Rust), and in JavaScript with `@huggingface/tokenizers` or `@huggingface/transformers`;
`lstm_embedding.json` tells the sizes.

```python
import numpy as np
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("tokenizer.json")
session = onnxruntime.InferenceSession("model.onnx")
found = tokenizer.encode_batch(["Tea is a drink.", "Coffee is one too."])
ids = np.array([encoding.ids for encoding in found], np.int64)
lengths = np.array([sum(encoding.attention_mask) for encoding in found], np.int64)
vectors = session.run(None, {"ids": ids, "lengths": lengths})[0]
```
"""
_TITLE = "Sentence vectors of {} dimensions, made by an LSTM autoencoder. Exported by lstm_embed."
_METHODS = {
    "model": "this model",
    "mean": "mean of its word vectors",
    "sif": "SIF",
    "sif_minus_first": "SIF without first component",
    "log_unit": "mean by log(1/p)",
    "bm25": "BM25",
    **{name: f"its `{name}`" for name in EMBEDDINGS},
}
_USES = {
    "meaning": "similarity, search, grouping",
    "joined": "the same, and classifiers; decoding by the LSTM",
    "exact": "the same, and decoding word for word",
    "order": "the order of given words",
}
"""What each embedding is good for."""
_PARTS = """
- *meaning*: which words, whatever their order: unit sums of weighted vectors of their pieces and of the n-grams of letters in
  these, multiplied by a matrix that neighbouring sentences of the corpus taught.
- *order*: in which order they stand: the code of an LSTM autoencoder, whose decoder puts the words back into it.
- *lengths*: of the sums behind the meaning, as small multiples of their logarithms.
- *positions*: the order in closed form: what stands for each piece is turned by its place, and all are added up; the last
  number tells the length of the sum.
"""
_ORIGINAL = "The last states of the BiLSTM of an autoencoder, whose decoder names the words again."
_LIMITS = """## Limits

- It knows the languages and the topics of its corpus. A text without a word or number gets the zero vector.
- Sentences of the same words get similar vectors: their order, and a negation, count little.
- What is biased in the corpus is biased in the vectors.
- Most models that build on pretrained ones score higher on English benchmarks.
- The licence of the corpus may bind the model; it is not known to this card."""
_GUARD = """## Guard the vectors like the text

Vectors made by this model give {} Store, share and erase them as you would the text itself."""
_GIVEN_BACK = (
    "their sentences back to whoever has the model: from `exact` word for word, from `joined` most words in their places, from "
    "`meaning` many of the words."
)
_GIVEN_BACK_BY_ORIGINAL = "words of their sentences back to whoever has the model."


def model_card(
    model: LoadedModel, fmt: str, name: str, scores: Mapping[str, Any] | None = None, precision: float | None = None
) -> str:
    """Return the text of README.md, with front matter for the Hugging Face hub.

    Args:
        model: What was exported.
        fmt: "sentence-transformers" or "onnx".
        name: The model's name.
        scores: Content of an evaluation's results.json.
        precision: Largest difference from this package's vectors that was seen.
    """
    usage = _SENTENCE_TRANSFORMERS if fmt == "sentence-transformers" else _ONNX
    sections = [
        _front_matter(model, fmt),
        f"# {_plain(name)}\n\n" + _TITLE.format(model.model.embedding_dimension()),
        "## Use\n" + usage.rstrip(),
        _same_text(precision),
        "## What a vector holds\n\n" + _holds(model),
        _GUARD.format(_GIVEN_BACK if isinstance(model.model.config, ModelConfig) else _GIVEN_BACK_BY_ORIGINAL),
        "## What the model is\n\n" + _facts(model),
        "## Training data\n\n" + _data(model),
        "## Scores\n\n" + (_scores(scores) if scores else "None were given when this card was written."),
        _LIMITS,
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(model: LoadedModel, fmt: str) -> str:
    language = model.tokenizer.get("language")
    lines = ["---"]
    if language:
        # Quoted, or YAML reads Norwegian as False.
        lines += ["language:", f"- {json.dumps(language)}"]
    if fmt == "sentence-transformers":
        lines += ["library_name: sentence-transformers"]
    lines += ["pipeline_tag: sentence-similarity", "tags:"]
    tags = ["sentence-similarity", "feature-extraction", "lstm", "lstm_embed", fmt]
    return "\n".join([*lines, *(f"- {tag}" for tag in tags), "---"])


def _same_text(precision: float | None) -> str:
    if precision is None:
        return ""
    return (
        "The same text gets the same vector as from lstm_embed in fp32: when it was exported, the largest difference of any "
        f"number was {precision:.0e}. Characters that Unicode took up after 2018 may be cut into words otherwise."
    )


def _holds(model: LoadedModel) -> str:
    made = model.model
    if not isinstance(made, SentenceModel):
        return _ORIGINAL
    rows = []
    for name, use in _USES.items():
        parts = [f"{part} {place.stop - place.start}" for part, place in made.places(name).items()]
        here = ", here" * (name == model.embedding)
        rows.append((f"`{name}`{here}", str(made.embedding_dimension(name)), ", ".join(parts), use))
    return (
        f"This folder makes `{model.embedding}`, one of the embeddings of its model.\n\n"
        + _table(("embedding", "numbers", "in this order", "good for"), rows)
        + "\n"
        + _PARTS.rstrip()
    )


def _facts(model: LoadedModel) -> str:
    config = model.model.config
    pieces = f"{len(model.vocabulary):,} pieces of words, vectors of {model.model.word_vectors.shape[1]} dimensions"
    rows = [
        ("vector", f"`{model.embedding}`, {model.model.embedding_dimension()} dimensions"),
        ("similarity", "cosine"),
        ("tokens (pieces of words) of a text that are read", f"{config.max_tokens}; the rest is cut off"),
        ("vocabulary", pieces),
        ("tokenizer", f"profile `{model.tokenizer['profile']}`"),
        ("LSTM", f"BiLSTM, {config.hidden_size} units a direction" if "order" in PARTS[model.embedding] else "none"),
        ("fingerprint of the model", f"`{model.fingerprint}`"),
    ]
    recipe = json.dumps(config.to_dict(), indent=2)
    return (
        _table(("", ""), rows)
        + f"\n\n<details><summary>All settings of the recipe</summary>\n\n```json\n{recipe}\n```\n\n</details>"
    )


def _data(model: LoadedModel) -> str:
    about = model.provenance
    corpus = {name: value for name, value in (about.get("corpus") or {}).items() if value}
    rows = [(name, f"{value:,}") for name, value in corpus.items()]
    counted = int(model.vocabulary.counts.sum())
    rows += [] if "tokens" in corpus else [("tokens", f"{counted:,}")]
    for title, key in (("epochs", "epochs"), ("step of the weights", "step"), ("held-out loss", "validation_loss")):
        value = about.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            rows.append((title, f"{value:,}" if isinstance(value, int) else f"{value:.4g}"))
    rows += [
        (f"fingerprint of the {title}", f"`{about[key]}`")
        for title, key in (("token set", "tokens"), ("word vectors", "vectors"))
        if about.get(key)
    ]
    return "No labels; no pretrained model either, unless the word vectors were imported.\n\n" + _table(("", ""), rows)


def _scores(scores: Mapping[str, Any]) -> str:
    headline: Mapping[str, Mapping[str, float | None]] = scores["headline"]
    methods = list(dict.fromkeys(method for column in headline.values() for method in column))
    rows = [(measure, *(_figure(column.get(method)) for method in methods)) for measure, column in headline.items()]
    names = [_METHODS.get(method, method.replace("_", " ")) for method in methods]
    parts = ["Measured by lstm_embed, with simple methods in the same run.", _table(("", *names), rows)]
    similarity = ((scores.get("similarity") or {}).get("methods") or {}).get("model")
    if similarity:
        sets = [(name, _figure(f["spearman"]), _figure(f["pearson"])) for name, f in similarity["sets"].items()]
        parts += ["Similarity, each set (x100):", _table(("set", "Spearman", "Pearson"), sets)]
    return "\n\n".join(parts)


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) <= 1 else f"{value:.1f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(cell) for cell in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """Return text from data as one line that is neither markup nor the end of a table's cell."""
    return html.escape(printable(text), quote=False).replace("|", "\\|")
