"""Settings of an evaluation. Imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lstm_embed.corpus.config import at_least, within


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Score a model and simple baselines, and write all figures as JSON and as one page to look at.

    Without labelled files it scores what needs none: document similarities that ship with gensim, retrieval, decoding.
    """

    model: str
    """Model folder; local or s3://."""
    output: str
    """Folder for results.json and report.html; local or s3://."""
    embedding: Literal["", "meaning", "joined", "exact", "order"] = ""
    """What is measured: meaning, joined, exact or order; by default what --embeddings hold, else what the model names."""
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
    folds: int = 10
    """Parts a classification file is cut into for cross-validation, 2 or more."""
    bootstrap: int = 300
    """Resamplings behind a 95 % interval; 0 for none."""
    num_queries: int = 1_000
    """Sentences, and titles, whose article is looked for, 1 or more."""
    max_rows: int = 200_000
    """Rows of the embeddings among which they are looked for, as whole articles; 0 for all. Texts that are encoded here (no
    embeddings, the baselines, the second model) are limited to a tenth of it."""
    num_decoded: int = 1_000
    """Held-out sentences that are encoded and decoded again; 0 for none."""
    gpu: bool = False
    """Encode on the GPU."""
    seed: int = 0
    """Decides samples, folds and resamplings; 0 or more."""

    def __post_init__(self) -> None:
        for field in ("model", "output"):
            if not getattr(self, field):
                raise ValueError(f"{field} is empty; expected a folder (--{field})")
        within(self, "folds", 2, 1000)
        for field in ("bootstrap", "max_rows", "num_decoded", "seed"):
            at_least(self, field, 0)
        at_least(self, "num_queries", 1)


REMOVED = {"num-reconstructed": "--num-decoded stands in its place"}
"""Flags that earlier versions had, and what to do instead."""
