"""Articles as every format gives them, and the checks that every record goes through."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, NamedTuple

from lstm_embed.ledger import Rejected

EXCERPT_BYTES = 500
_NO_CHARACTER = re.compile("[\0\ud800-\udfff]")
"""What no text can hold: NUL ends a text in many programs, and half a surrogate pair has no bytes in UTF-8."""
_REPLACEMENT = "\ufffd"


class Article(NamedTuple):
    """One document of the input."""

    id: str | None
    title: str | None
    text: str
    text_hash: bytes
    """BLAKE2b of the text's UTF-8, 16 bytes."""
    raw: bytes
    """The bytes it was made from; hashed into the part's record."""
    columns: dict[str, Any]
    """Further columns the user asked to carry along."""
    num_replaced: int = 0
    """Characters that no text can hold, in whose place U+FFFD stands."""


def rejected(path: str, offset: int, reason: str, piece: bytes, *, size: int = -1, rest: bool = False) -> Rejected:
    """Return the note on a piece of input that cannot be used.

    Args:
        path: Of the file.
        offset: Where the piece begins.
        reason: Why it cannot be used.
        piece: Its bytes, or the first of them.
        size: Bytes it weighs, if not those of `piece`.
        rest: The piece is the file, or all that is left of it.
    """
    size = len(piece) if size < 0 else size
    return Rejected(
        path, offset, reason, hashlib.sha256(piece).hexdigest(), piece[:EXCERPT_BYTES], size=size, rest_of_file=rest
    )


def make_article(
    path: str, offset: int, raw: bytes, id_: Any, title: Any, text: Any, columns: dict[str, Any]
) -> Article | Rejected:
    """Return the article of one record, or why it is none.

    Args:
        path: Of the file.
        offset: Where the record begins.
        raw: Its bytes.
        id_: Its id, as the format gives it.
        title: Its title.
        text: Its text.
        columns: Further columns.
    """
    if text is None:
        return rejected(path, offset, "no text", raw)
    if isinstance(text, bytes):  # a column of strings that does not say so
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return rejected(path, offset, "invalid UTF-8", raw)
    if not isinstance(text, str):
        return rejected(path, offset, "text is not a string", raw)
    if isinstance(id_, list | dict) or isinstance(title, list | dict):
        return rejected(path, offset, "id or title is not a string or number", raw)
    # An id that is no text, as of 16 bytes, must stay one of its own.
    name, heading = _name(bytes_as_text(id_) if isinstance(id_, bytes) else id_), _name(title)
    num_replaced = 0
    try:
        if "\0" in text or "\0" in (name or "") or "\0" in (heading or ""):
            raise ValueError("NUL")
        encoded, _, _ = text.encode(), (name or "").encode(), (heading or "").encode()
    except ValueError:  # also half a surrogate pair
        num_replaced = sum(len(_NO_CHARACTER.findall(value or "")) for value in (text, name, heading))
        text, name, heading = (value and _NO_CHARACTER.sub(_REPLACEMENT, value) for value in (text, name, heading))
        encoded = text.encode()
    return Article(name, heading, text, hashlib.blake2b(encoded, digest_size=16).digest(), raw, columns, num_replaced)


def bytes_as_text(value: bytes) -> str:
    """Return bytes as the text they are, else their hexadecimal digits."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _name(value: Any) -> str | None:
    """Return an id or title as text: a whole number that came as a float without its ".0", what is not a number not at all."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        if value.is_integer() and abs(value) < 1 << 53:
            return str(int(value))
    return str(value)
