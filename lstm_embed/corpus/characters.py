"""Cutting columns of text into tokens by the class of each character, in a few passes over whole buffers.

A token is a run of letters (with one apostrophe inside), a run of digits, or a single sign where that is the rule; everything
else separates. Characters are classed byte by byte: an ASCII byte by a table, a longer UTF-8 sequence by its code
point, for all of its bytes. So the tokens' bytes can be taken out of the column as they are, and nothing is a Python object.
"""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SEPARATOR, LETTER, DIGIT, APOSTROPHE, SINGLE = range(5)
"""Classes. A `SINGLE` is a token of its own."""

_SLICE_BYTES = 1 << 20
"""Bytes worked on at once, so that the passes find them in the processor's cache."""
_TABLE_SIZE = 0x40000
"""Code points with a class of their own; there are no letters further up, and the last one is none."""

Bytes = npt.NDArray[np.uint8]


def ascii_table(letters: str, digits: str = "", apostrophes: str = "", singles: str = "") -> bytes:
    """Return the table of `bytes.translate` that classes ASCII bytes; all other bytes are separators."""
    table = bytearray(256)
    for signs, kind in ((letters, LETTER), (digits, DIGIT), (apostrophes, APOSTROPHE), (singles, SINGLE)):
        for sign in signs:
            table[ord(sign)] = kind
    return bytes(table)


@functools.cache
def unicode_table() -> Bytes:
    """Return the class of every code point: letters with marks, or digits."""
    points = np.r_[0:0xD800, 0xE000:_TABLE_SIZE]
    characters = pa.array([chr(point) for point in points], pa.string())

    def match(pattern: str) -> npt.NDArray[np.bool_]:
        found = np.zeros(_TABLE_SIZE, bool)
        found[points] = pc.match_substring_regex(characters, pattern=pattern).to_numpy(zero_copy_only=False)
        return found

    table = np.zeros(_TABLE_SIZE, np.uint8)
    table[match(r"[\p{L}\p{M}]")] = LETTER
    table[match(r"\p{N}")] = DIGIT
    table.flags.writeable = False
    return table


def cut(column: pa.StringArray, classes: bytes, *, unicode: bool) -> pa.ListArray:
    """Return the tokens of each text.

    Args:
        column: n strings without nulls, normalised and in lower case.
        classes: Of ASCII bytes, from `ascii_table`.
        unicode: Class other characters by `unicode_table`; otherwise they separate.

    Returns:
        n lists of strings.
    """
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    if not len(column) or offsets[0] == offsets[-1]:
        return _lists(np.zeros(len(column) + 1, np.int32), b"", np.zeros(1, np.int32))
    text = memoryview(column.buffers()[2])
    slices = []
    first = 0
    while first < len(column):
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _SLICE_BYTES, "right")) - 1)
        raw = bytes(text[offsets[first] : offsets[last]])
        slices.append(_cut_slice(raw, offsets[first : last + 1] - offsets[first], classes, unicode))
        first = last
    return slices[0] if len(slices) == 1 else pa.concat_arrays(slices)


def _cut_slice(raw: bytes, rows: npt.NDArray[np.int32], classes: bytes, unicode: bool) -> pa.ListArray:
    """Cut texts that lie one behind the other in `raw`, each beginning at one of `rows` (whose last one is the end)."""
    data: Bytes = np.frombuffer(raw, np.uint8)
    kind: Bytes = np.frombuffer(bytearray(raw.translate(classes)), np.uint8)
    if unicode:
        _class_sequences(data, kind)
    begins = np.zeros(len(data) + 1, bool)
    begins[rows] = True
    _settle_apostrophes(kind, begins)
    kept = kind != SEPARATOR
    starts = begins[:-1].copy()
    starts[1:] |= kind[1:] != kind[:-1]
    starts &= kept
    starts |= kind == SINGLE
    ends = kept.copy()
    ends[:-1] &= ~kept[1:] | starts[1:]
    first = np.flatnonzero(starts)
    lengths = np.flatnonzero(ends) - first + 1
    token_offsets = np.zeros(len(first) + 1, np.int32)
    np.cumsum(lengths, out=token_offsets[1:])
    return _lists(np.searchsorted(first, rows).astype(np.int32), data[kept].tobytes(), token_offsets)


def _lists(list_offsets: npt.NDArray[np.int32], tokens: bytes, offsets: npt.NDArray[np.int32]) -> pa.ListArray:
    values = pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(tokens))
    return pa.ListArray.from_arrays(pa.array(list_offsets), values)


def _class_sequences(data: Bytes, kind: Bytes) -> None:
    """Class all bytes of characters beyond ASCII in place."""
    leads = np.flatnonzero(data >= 0xC0)
    if not len(leads):
        return
    # Behind the last sequence there may be no byte left; what is read there is not used.
    follow = [data[np.minimum(leads + n, len(data) - 1)].astype(np.int32) & 0x3F for n in (1, 2, 3)]
    lead = data[leads].astype(np.int32)
    three, four = lead >= 0xE0, lead >= 0xF0
    point = (lead & 0x1F) << 6 | follow[0]
    point = np.where(three, (lead & 0x0F) << 12 | follow[0] << 6 | follow[1], point)
    point = np.where(four, (lead & 0x07) << 18 | follow[0] << 12 | follow[1] << 6 | follow[2], point)
    found = unicode_table()[np.minimum(point, _TABLE_SIZE - 1)]
    kind[leads] = found
    kind[leads + 1] = found
    kind[leads[three] + 2] = found[three]
    kind[leads[four] + 3] = found[four]


def _settle_apostrophes(kind: Bytes, begins: npt.NDArray[np.bool_]) -> None:
    """Make each apostrophe a letter, if it stands between letters and is the first one of its word, or a separator."""
    signs = np.flatnonzero(kind == APOSTROPHE)
    kind[signs] = SEPARATOR
    signs = signs[(signs > 0) & (signs < len(kind) - 1)]
    inner = (kind[signs - 1] == LETTER) & (kind[signs + 1] == LETTER) & ~begins[signs] & ~begins[signs + 1]
    signs = signs[inner]
    if len(signs) > 1:
        # Nothing but letters lies between a sign and the one before: then every second one ends a word.
        barrier = (kind != LETTER) | begins[:-1]
        between = np.stack([signs[:-1] + 1, signs[1:]], axis=1).ravel()
        chained = np.concatenate([[False], ~np.logical_or.reduceat(barrier, between)[::2]])
        number = np.arange(len(signs))
        chain_start = np.maximum.accumulate(np.where(chained, 0, number))
        signs = signs[(number - chain_start) % 2 == 0]
    kind[signs] = LETTER
