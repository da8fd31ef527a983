"""Text from data in lines of a terminal."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from lstm_embed.base.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Tea — чай, 茶, قهوة", "Tea — чай, 茶, قهوة"),
        ("می‌خواهم 👩‍🔬", "می‌خواهم 👩‍🔬"),
        ("one\r\ntwo\tthree\u2028four", "one two three four"),
        ("\x1b[31mred\x1b]0;title\x07", "\ufffd[31mred\ufffd]0;title\ufffd"),
        ("\x9b31mred", "\ufffd31mred"),
        ("abc\u202etxt.exe", "abc\ufffdtxt.exe"),
        ("half \ud83d", "half \ufffd"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_no_character_ends_a_line_or_turns_the_writing() -> None:
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    shown = printable(every)
    assert len(shown.splitlines()) == 1
    shown.encode("utf-8")
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cs", "Zl", "Zp"}
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not {unicodedata.bidirectional(c) for c in shown} & turning


def test_a_long_text_is_cut_with_an_ellipsis() -> None:
    assert printable("abcdef", 6) == "abcdef"
    assert printable("abcdefg", 6) == "abcde…"
    assert printable("a\nb" * 1000, 5) == "a ba…"
