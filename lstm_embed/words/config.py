"""Settings of word vectors. Imports neither gensim, torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from lstm_embed.corpus.config import at_least, within

Algorithm = Literal["word2vec", "fasttext"]
Architecture = Literal["skip-gram", "cbow"]
Format = Literal["auto", "text", "word2vec-binary", "fasttext-binary", "gensim"]


@dataclass(frozen=True, kw_only=True)
class WordVectorsConfig:
    """Train word vectors on a token set with gensim, or take them from a file.

    Training continues at the last finished epoch when the same command is run again. gensim gives the same vectors for the
    same seed with one worker only; with more, two runs differ a little.
    """

    tokens: str
    """Folder of the token set; its vocabulary decides which words get a vector. Held-out articles are not trained on."""
    output: str
    """Folder for the word vectors; local or s3://."""
    algorithm: Algorithm = "word2vec"
    """word2vec, or fasttext, which also learns vectors of the words' character n-grams (about four times slower; its loss is
    measured on 2000 sentences after each epoch, as gensim does not count it)."""
    architecture: Architecture = "skip-gram"
    """skip-gram, or cbow, which trains faster and makes worse sentence vectors."""
    dimension: int = 300
    """Numbers in a word vector, 1 or more (of imported vectors: what the file has)."""
    window: int = 5
    """Most words between a word and one it is trained to predict, 1 or more."""
    negative: int = 5
    """Random words each predicted word is told from, 1 or more."""
    sample: float = 1e-4
    """Words more frequent than this share of all tokens are left out at random; 0 keeps every word."""
    epochs: int = 5
    """Passes over the sentences, 1 or more."""
    alpha: float = 0.025
    """Learning rate at the start; it falls linearly to `min_alpha`."""
    min_alpha: float = 1e-4
    """Learning rate at the end."""
    subword_min: int = 3
    """fasttext: characters of the shortest n-gram, 1 or more."""
    subword_max: int = 6
    """fasttext: characters of the longest n-gram."""
    subword_buckets: int = 500_000
    """fasttext: rows of the n-gram table, which n-grams share by their hash (fastText itself takes 2000000); each row costs
    as much memory as a word."""
    max_sentences: int = 0
    """Most sentences to train on, taken evenly from the whole corpus; 0 for all."""
    workers: int = 0
    """Threads; 0 for one a CPU. With more than one the result is not reproducible."""
    seed: int = 0
    """Seed of the first vectors, the sampling and the negatives, 0 or more."""
    continue_from: str = ""
    """Folder of earlier word vectors to go on from, usually of a smaller or older token set: pieces it has start with its
    vectors, new ones at random (fasttext: with their n-grams)."""
    import_from: str = ""
    """File of finished vectors to take instead of training: word2vec text or binary, GloVe text, fastText .vec or .bin,
    compressed or not; local or s3://; or the folder of word vectors made for another token set. Words are looked up as they
    are, then in the form the token rule gives them. Prepare the text with --whole-word-count, so that its words are whole; one
    without a vector has the mean of its pieces' (fastText .bin, and a folder made by fasttext: is composed from n-grams)."""
    import_format: Format = "auto"
    """Format of `import_from`. gensim's own files are read only if `gensim` is named here: they are pickles, and a pickle
    runs the code that is in it, so name only files you trust."""
    keep_state: bool = True
    """Keep what `continue_from` needs (about twice the size of the vectors; fasttext: also the n-grams)."""

    def __post_init__(self) -> None:
        for field, choices in (
            ("algorithm", get_args(Algorithm)),
            ("architecture", get_args(Architecture)),
            ("import_format", get_args(Format)),
        ):
            if getattr(self, field) not in choices:
                raise ValueError(
                    f"{field} is {getattr(self, field)!r}; expected {' or '.join(choices)} (--{field.replace('_', '-')})"
                )
        for field in ("dimension", "window", "negative", "epochs", "subword_min", "subword_buckets"):
            at_least(self, field, 1)
        for field in ("max_sentences", "workers", "seed"):
            at_least(self, field, 0)
        within(self, "sample", 0, 1)
        within(self, "alpha", 1e-9, 1)
        within(self, "min_alpha", 0, self.alpha)
        at_least(self, "subword_max", self.subword_min)
        if self.import_from and self.continue_from:
            raise ValueError("import_from and continue_from are both set; expected one of them (--import-from)")

    def training_settings(self) -> dict[str, Any]:
        """Return what decides the trained vectors, apart from the token set and earlier vectors."""
        names = [
            "algorithm",
            "architecture",
            "dimension",
            "window",
            "negative",
            "sample",
            "epochs",
            "alpha",
            "min_alpha",
        ]
        if self.algorithm == "fasttext":
            names += ["subword_min", "subword_max", "subword_buckets"]
        return {name: getattr(self, name) for name in [*names, "max_sentences", "seed"]}
