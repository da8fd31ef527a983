"""Text that comes from data, made safe for a line of a terminal or a log."""

from __future__ import annotations

import re

_LINE_ENDS = re.compile("[\t-\r\x1c-\x1f\x85\u2028\u2029]+")
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f"  # controls; every escape sequence of a terminal begins with one of them
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # change the direction of the text around them
    "\u200b\u2060-\u2065\u206a-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # are not seen
    "\ud800-\udfff]"  # cannot be encoded
)


def printable(text: object, max_characters: int | None = None) -> str:
    r"""Return text from data (a title, a path, a query) as one line that a terminal shows and does not obey.

    Tabs and line ends become a space; control characters, escapes, marks that turn the writing direction, invisible
    characters and lone surrogates become U+FFFD. Joiners, which some scripts need, stay.

    Args:
        text: The text, or anything else by its `str`.
        max_characters: Most characters of the line; one that is cut ends with an ellipsis.
    """
    line = str(text)
    if max_characters is not None and len(line) > max_characters:
        line = line[: max_characters - 1] + "…"
    return _UNSAFE.sub("\ufffd", _LINE_ENDS.sub(" ", line))
