import re

import pytest

from lstm_embed.corpus.config import TextConfig
from lstm_embed.corpus.languages import LANGUAGES, check_language
from lstm_embed.embedding.config import EmbedConfig


@pytest.mark.parametrize("code", ["en", "simple", "ko", "zh-yue"])
def test_a_code_of_the_list_is_taken(code: str) -> None:
    check_language(code)
    assert TextConfig(language=code).language == code


@pytest.mark.parametrize(
    ("code", "nearest"),
    [
        ("kr", "ko (Korean)"),
        ("Korean", "ko (Korean)"),
        ("EN", "en (English)"),
        ("en-us", "en (English)"),
        ("zh_CN", "zh (Chinese)"),
        ("frr2", "frr (North Frisian)"),
        ("", "en (English)"),
        ("???", "en (English)"),
    ],
)
def test_another_code_is_refused_with_the_nearest_languages(code: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=re.escape(nearest)) as refused:
        TextConfig(language=code)
    assert "--language" in str(refused.value)
    if code:
        with pytest.raises(ValueError, match=re.escape(nearest)):
            EmbedConfig(model="m", input=("a",), output="o", language=code)


def test_help_lists_every_language(text_of_help: str) -> None:
    listed = text_of_help.split("Supported:", 1)[1].split(".", 1)[0]
    assert [code.strip() for code in listed.split(",")] == list(LANGUAGES)


@pytest.fixture
def text_of_help() -> str:
    import inspect

    # The help of a field is the string below it.
    return " ".join(inspect.getsource(TextConfig).split())
