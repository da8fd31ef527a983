"""How words are cut into pieces: learned from their counts, and done.

A unigram model (Kudo 2018, "Subword regularization") has a piece's probability; a word is cut where the product is largest.
Learning and cutting are sentencepiece's. Its model is made here of plain lists of pieces and scores, so that nothing of its
own format is ever read. Scores are whole multiples of 1/64: sums of them are exact, and every implementation of the model
cuts alike, whatever its numbers.

A piece that begins a word is marked with `MARK`. What no piece covers is cut into the bytes of its UTF-8 form, each a piece of
its own, so nothing is unknown.
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lstm_embed.base.errors import InputError

MARK = "▁"
"""Stands before the first letter of a word."""
PAD_PIECE = "<pad>"
BYTE_PIECES = tuple(f"<0x{byte:02X}>" for byte in range(256))
SPECIAL_PIECES = (PAD_PIECE, *BYTE_PIECES)
"""What every vocabulary begins with."""

_QUANTUM = 1.0 / 64.0
_COVERAGE = 0.9995
"""Share of the text's characters that are pieces of their own; the others are cut into bytes (the library's default)."""
_SEEDS = 150_000
_LONGEST_WORD = 1_000_000_000
"""Bytes: every word is learned from, however long; a run of a script without spaces may be a whole article."""
_THREADS = 16
"""Sums depend on how they are shared out, so this is no number of the machine's."""
_NORMAL, _UNKNOWN, _BYTE = 1, 2, 6

Scores = npt.NDArray[np.float32]


def learn_pieces(words: Sequence[str], weights: Iterable[int], num_pieces: int) -> tuple[list[str], Scores]:
    """Learn pieces from words and how often they occur.

    Args:
        words: Distinct words, at least one.
        weights: Their counts; learning takes time and memory with their sum.
        num_pieces: Most pieces, `SPECIAL_PIECES` counted; few or short words give fewer.

    Returns:
        The pieces, without the special ones, and their scores: logarithms of probabilities.

    Raises:
        InputError: if the characters of the words alone are more than `num_pieces`.
    """
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{weight}" for word, weight in zip(words, weights, strict=True)),
            input_format="tsv",
            model_writer=model,
            model_type="unigram",
            vocab_size=num_pieces,
            hard_vocab_limit=False,
            character_coverage=_COVERAGE,
            normalization_rule_name="identity",
            byte_fallback=True,
            required_chars=MARK,
            max_sentence_length=_LONGEST_WORD,
            seed_sentencepiece_size=_SEEDS,
            num_threads=_THREADS,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        if "smaller than required_chars" not in str(error):
            raise
        raise InputError(
            f"{num_pieces:,} pieces are too few for the text: each of its frequent characters is a piece, and so is each byte; "
            "allow more (--num-pieces)"
        ) from None
    learned = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    chosen = range(len(SPECIAL_PIECES), learned.vocab_size())
    scores = np.array([learned.get_score(number) for number in chosen], np.float64)
    # Below zero, so that a cut into more pieces is never as good as one into fewer for nothing.
    rounded = np.minimum(np.round(scores / _QUANTUM), -1) * _QUANTUM
    return [learned.id_to_piece(number) for number in chosen], rounded.astype(np.float32)


class Cutter:
    """Cuts words into pieces.

    Args:
        pieces: Pieces by id, distinct, beginning with `SPECIAL_PIECES`.
        scores: Their scores; those of the special ones do not matter.

    Raises:
        InputError: if pieces cannot make a model.
    """

    def __init__(self, pieces: Sequence[str], scores: Scores) -> None:
        import sentencepiece

        try:
            self._model: Any = sentencepiece.SentencePieceProcessor(model_proto=_model_proto(pieces, scores))
        except RuntimeError as error:
            raise InputError(f"a vocabulary of {len(pieces)} pieces cannot cut words: {error}") from None

    def cut(self, words: Sequence[str]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """Return the ids of all words' pieces, one word after the other, and the number of each word's."""
        lists = self._model.encode(list(words), out_type=int, num_threads=1)
        lengths = np.fromiter(map(len, lists), np.int32, len(lists))
        return np.fromiter(itertools.chain.from_iterable(lists), np.int32, int(lengths.sum())), lengths

    def second_cuts(self, words: Sequence[str]) -> list[list[int]]:
        """Return the ids of the next best cut of each word; none where there is but one."""
        return [[*self._model.nbest_encode(word, nbest_size=2, out_type=int), []][1] for word in words]


def whole_word_scores(words: Sequence[str], pieces: Sequence[str], scores: Scores) -> Scores:
    """Return the scores that keep words whole among pieces, and change as little else as can be.

    A whole word is better than its best cut by one step of the scores a letter. So no shorter word with pieces behind it is as
    good as the word itself, and a rarer word is cut as without them, but for a whole word that its first pieces make.

    Args:
        words: Words that are to stay whole.
        pieces: Pieces by id, as `Cutter` takes them.
        scores: Their scores.
    """
    ids, lengths = Cutter(pieces, scores).cut(words)
    # A byte has no score of its own: what it makes part of is worse than any piece.
    worth = np.where(np.arange(len(pieces)) < len(SPECIAL_PIECES), scores.min(initial=-1.0) - 16.0, scores)
    ends = np.cumsum(lengths)
    best = np.add.reduceat(worth[ids].astype(np.float64), ends - lengths) if len(words) else np.zeros(0)
    letters = np.array([len(word) for word in words])
    return np.minimum(best + letters * _QUANTUM, -_QUANTUM).astype(np.float32)


def _model_proto(pieces: Sequence[str], scores: Scores) -> bytes:
    """Return the model in sentencepiece's format (Protocol Buffers; `sentencepiece_model.proto` of its sources)."""
    kinds = [_UNKNOWN] + [_BYTE] * len(BYTE_PIECES) + [_NORMAL] * (len(pieces) - len(SPECIAL_PIECES))
    parts = []
    for piece, score, kind in zip(pieces, scores.tolist(), kinds, strict=True):
        parts.append(_field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + _number(3, kind)))
    # A unigram model with bytes, whose unknown piece is 0 and that has no other special ones.
    parts.append(_field(2, _number(3, 1) + _number(35, 1) + _number(40, 0)))
    # Text is taken as it is, with the mark of a word's begin before it.
    parts.append(_field(3, _number(3, 1) + _number(4, 0) + _number(5, 1)))
    return b"".join(parts)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
