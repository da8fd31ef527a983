"""The token set as gensim reads it: lists of pieces, streamed part by part."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lstm_embed.base.progress import SILENT, Reporter
from lstm_embed.corpus.token_set import TokenSet, is_held_out

STAGE = "word_vectors"
_CHUNK_ROWS = 4_096
_REPORT_SECONDS = 0.5


class Sentences:
    """Sentences as lists of pieces, anew at every iteration; gensim iterates in a thread of its own.

    Args:
        tokens: The token set; held-out articles and sentences of one piece are left out.
        max_sentences: Most of its rows to use, taken evenly; 0 for all.
    """

    def __init__(self, tokens: TokenSet, max_sentences: int) -> None:
        self._tokens = tokens
        self._share = min(1.0, max_sentences / max(tokens.num_rows, 1)) if max_sentences else 1.0
        self._pieces = np.array(tokens.vocabulary.pieces, dtype=object)
        # Close enough: it only sets the pace at which the learning rate falls.
        self.expected_words = max(1, round(tokens.num_tokens * self._share * (1 - 1 / tokens.holdout_every)))
        self.error: Exception | None = None
        self._epoch, self._epochs = 0, 1
        self._report: Reporter = SILENT

    def begin(self, epoch: int, epochs: int, report: Reporter) -> None:
        """Set what the next iteration reports."""
        self._epoch, self._epochs, self._report = epoch, epochs, report

    def __iter__(self) -> Iterator[list[str]]:
        try:
            yield from self._lists()
        except Exception as error:
            # gensim waits for ever for an iterator that raised in its thread, so the iterator ends and keeps the error.
            self.error = error

    def _lists(self) -> Iterator[list[str]]:
        row, words, told = 0, 0, 0.0
        for number in range(len(self._tokens.parts)):
            table = self._tokens.read_part(number, ["article", "ids"])
            article = table["article"].combine_chunks().to_numpy()
            lists = table["ids"].combine_chunks()
            wanted = ~is_held_out(article, self._tokens.holdout_every) & _evenly(row, len(table), self._share)
            row += len(table)
            for start in range(0, len(table), _CHUNK_ROWS):
                chunk = lists[start : start + _CHUNK_ROWS].filter(pa.array(wanted[start : start + _CHUNK_ROWS]))
                text = self._pieces[chunk.flatten().to_numpy()].tolist()
                ends = np.cumsum(chunk.value_lengths().to_numpy()).tolist()
                for begin, end in itertools.pairwise([0, *ends]):
                    if end - begin > 1:
                        yield text[begin:end]
                words += len(text)
                if time.monotonic() - told > _REPORT_SECONDS:
                    told = time.monotonic()
                    done = self._epoch * self.expected_words + min(words, self.expected_words)
                    self._report.progress(
                        STAGE, done, self._epochs * self.expected_words, "words", epoch=float(self._epoch + 1)
                    )


def _evenly(first_row: int, num_rows: int, share: float) -> npt.NDArray[np.bool_]:
    """Choose a share of the corpus' rows, spread evenly, whatever the parts."""
    steps = np.floor(np.arange(first_row, first_row + num_rows + 1) * share)
    chosen: npt.NDArray[np.bool_] = np.diff(steps) > 0
    return chosen
