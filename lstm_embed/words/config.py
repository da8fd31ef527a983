"""Settings of word vectors. Imports neither gensim, torch nor Ray."""

from __future__ import annotations

from typing import Annotated, Literal

from lstm_embed.base.errors import InputError
from lstm_embed.base.settings import DECIDES, Range, Words, settings

Architecture = Literal["skip-gram", "cbow"]
Format = Literal["auto", "text", "word2vec-binary", "fasttext-binary", "gensim"]


@settings()
class WordVectorsConfig:
    """Train word vectors on a token set with gensim, or take them from a file.

    Training continues at the last finished epoch when the same command is run again. gensim gives the same vectors for the
    same seed with one worker only; with more, two runs differ a little.
    """

    tokens: Words
    """Folder of the token set; its vocabulary decides which words get a vector. Held-out articles are not trained on."""
    output: Words
    """Folder for the word vectors; local or s3://."""
    architecture: Annotated[Architecture, DECIDES] = "skip-gram"
    """skip-gram, or cbow, which trains faster and makes worse sentence vectors."""
    dimension: Annotated[int, Range(1, 65_536), DECIDES] = 300
    """Numbers in a word vector, 1 or more (of imported vectors: what the file has)."""
    window: Annotated[int, Range(1), DECIDES] = 5
    """Most words between a word and one it is trained to predict, 1 or more."""
    negative: Annotated[int, Range(1), DECIDES] = 5
    """Random words each predicted word is told from, 1 or more."""
    sample: Annotated[float, Range(0, 1), DECIDES] = 1e-4
    """Words more frequent than this share of all tokens are left out at random; 0 keeps every word."""
    epochs: Annotated[int, Range(1), DECIDES] = 5
    """Passes over the sentences, 1 or more."""
    alpha: Annotated[float, Range(1e-9, 1), DECIDES] = 0.025
    """Learning rate at the start; it falls linearly to `min_alpha`."""
    min_alpha: Annotated[float, Range(0), DECIDES] = 1e-4
    """Learning rate at the end."""
    max_sentences: Annotated[int, Range(0), DECIDES] = 1_000_000
    """Most sentences to train on, taken evenly from the whole corpus; 0 for all. gensim trains on one machine, and more
    sentences bring nothing that was measured: Simple English Wikipedia scores 69.5 with 150,000 of them and 69.6 with all
    1,370,000."""
    workers: Annotated[int, Range(0)] = 0
    """Threads; 0 for one a CPU. With more than one the result is not reproducible."""
    seed: Annotated[int, Range(0, 2**32 - 1), DECIDES] = 0
    """Seed of the first vectors, the sampling and the negatives, 0 or more."""
    continue_from: str = ""
    """Folder of earlier word vectors to go on from, usually of a smaller or older token set: pieces it has start with its
    vectors, new ones at random."""
    import_from: str = ""
    """File of finished vectors to take instead of training: word2vec text or binary, GloVe text, fastText .vec or .bin,
    compressed or not; local or s3://; or the folder of word vectors made for another token set. Words are looked up as they
    are, then in the form the token rule gives them. Prepare the text with --whole-word-count, so that its words are whole; one
    without a vector has the mean of its pieces' (fastText .bin: is composed from its n-grams)."""
    import_format: Format = "auto"
    """Format of `import_from`. gensim's own files are read only if `gensim` is named here: they are pickles, and a pickle
    runs the code that is in it, so name only files you trust."""
    keep_state: bool = True
    """Keep what `continue_from` needs (about twice the size of the vectors)."""

    def __post_init__(self) -> None:
        if self.min_alpha > self.alpha:
            raise InputError(f"min_alpha is {self.min_alpha}; expected at most alpha, {self.alpha} (--min-alpha)")
        if self.import_from and self.continue_from:
            raise InputError("import_from and continue_from are both set; expected one of them (--import-from)")
