"""Settings of an evaluation. Imports neither torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from lstm_embed.base.settings import Range, Words, settings
from lstm_embed.model.config import Embedding


@settings()
class EvaluationConfig:
    """Score a model and simple baselines, and write all figures as JSON and as one page to look at.

    Without labelled files it scores what needs none: document similarities that ship with gensim, retrieval, decoding.
    """

    model: Words
    """Model folder; local or s3://."""
    output: Words
    """Folder for results.json and report.html; local or s3://."""
    embedding: Literal["", Embedding] = ""
    """What is measured (see embed); by default what --embeddings hold, else what the model names."""
    sts: tuple[str, ...] = ()
    """Files of sentence pairs: score TAB sentence TAB sentence, a line each, no header."""
    classification: tuple[str, ...] = ()
    """Files of labelled sentences: label TAB text, a line each, no header. X.train.tsv and X.test.tsv belong together (name
    either or both); other files are cross-validated."""
    embeddings: str = ""
    """Folder of embeddings made with the model, for retrieval over a whole corpus. With their text the baselines are
    measured on it too."""
    tokens: str = ""
    """Folder of the token set the model was trained on: its held-out articles serve for decoding, and for retrieval
    where no embeddings are given."""
    vectors: str = ""
    """Folder of the word vectors the model was trained with, for the averaging baselines; without it they use the model's
    own, whose lengths most presets have made equal."""
    original: str = ""
    """Folder of a second model to measure beside the first, such as one of the preset `original`."""
    metrics: str = ""
    """metrics.jsonl of the training run, for its curves; looked for beside the model folder if not given."""
    compare: tuple[str, ...] = ()
    """Folders (or results.json files) of other evaluations, drawn side by side: the rows of an ablation."""
    folds: Annotated[int, Range(2, 1000)] = 10
    """Parts a classification file is cut into for cross-validation, 2 or more."""
    bootstrap: Annotated[int, Range(0)] = 300
    """Resamplings behind a 95 % interval; 0 for none."""
    num_queries: Annotated[int, Range(1)] = 1_000
    """Sentences, and titles, whose article is looked for, 1 or more."""
    max_rows: Annotated[int, Range(0)] = 200_000
    """Rows of the embeddings among which they are looked for, as whole articles; 0 for all. Texts that are encoded here (no
    embeddings, the baselines, the second model) are limited to a tenth of it."""
    num_decoded: Annotated[int, Range(0)] = 1_000
    """Held-out sentences that are encoded and decoded again; 0 for none."""
    gpu: bool = False
    """Encode on the GPU."""
    seed: Annotated[int, Range(0)] = 0
    """Decides samples, folds and resamplings; 0 or more."""
