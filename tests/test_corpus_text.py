"""Sentences and tokens: exact offsets, and one documented rule for every script."""

from __future__ import annotations

import re
import time
import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.corpus import characters
from lstm_embed.corpus import text as text_module
from lstm_embed.corpus.text import sentence_splitter, split_sentences, tokenize

any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def tokens(sentence: str, profile: str = "default") -> list[str]:
    return list(tokenize([sentence], profile).to_pylist()[0])


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Dr. Müller's 3rd café, don't!", "dr muller's 3 rd cafe don't"),
        ("rock'n'roll o'b'c'd 'quoted' d'Alembert's", "rock'n roll o'b c'd quoted d'alembert s"),
        ("ain’t ’90s it＇s", "ain't 90 s it's"),
        ("x2 1,000.5 2nd B2B", "x 2 1 000 5 2 nd b 2 b"),
        ("<b>_bold_</b> a-b/c @you #tag", "b bold b a b c you tag"),
        ("ΟΔΟΣ οδός Ἀθῆναι", "οδοσ οδοσ αθηναι"),
        ("Йод Ёлка Николи́на ѝ ќе її", "йод ёлка николина ѝ ќе її"),
        ("العَرَبِيَّة كتـــاب أحمد آل", "العربية كتاب أحمد آل"),
        ("שָׁלוֹם עולם", "שלום עולם"),
        ("हिन्दी में काम", "हिन्दी में काम"),
        ("বাংলা তামিழ் தமிழ்", "বাংলা তামিழ் தமிழ்"),
        ("한국어 문장", "한국어 문장"),
        ("漢字かなカナ2つ、x漢字。", "漢字かなカナ 2 つ x漢字"),
        ("ＦＵＬＬ ﬁne ½ Ⅳ ①", "full fine 1 2 iv 1"),
        ("สวัสดี ครับ", "สวัสดี ครับ"),
        ("ខ្មែរ မြန်မာ ລາວ", "ខ្មែរ မြန်မာ ລາວ"),
        ("I ❤️ NY 1️⃣ 😀 co\u00adop می\u200cخواهم", "i ny 1 coop میخواهم"),
        ("ÅNGSTRÖM straße İstanbul Ł", "angstrom straße istanbul ł"),
        ("Հայերեն ქართული አማርኛ", "հայերեն ქართული አማርኛ"),
        ("", ""),
        ("  … — !? ", ""),
        ("\ud800broken\udfff pair \ud83d\ude00 end", "broken pair end"),
    ],
)
def test_words_of_every_script_follow_the_documented_rule(sentence: str, expected: str) -> None:
    assert " ".join(tokens(sentence)) == expected


def test_cyrillic_accents_do_not_touch_letters_that_carry_marks() -> None:
    assert tokens("Ѓорѓи Ќосе й ў ї ё́") == ["ѓорѓи", "ќосе", "й", "ў", "ї", "ё"]


def original(sentence: str) -> list[str]:
    """The rule of the Keras system, written from its description."""
    stripped = "".join(c for c in unicodedata.normalize("NFD", sentence.lower()) if unicodedata.category(c) != "Mn")
    return re.findall(r"[a-z0-9]+|[?.!,()]", stripped)


@settings(max_examples=200, deadline=None)
@given(st.lists(any_text | st.text("aA1é?.!,() '\n_ßİıſK", max_size=30), max_size=5))
def test_the_original_profile_gives_the_tokens_of_the_original_rule(sentences: list[str]) -> None:
    assert tokenize(sentences, "original").to_pylist() == [original(sentence) for sentence in sentences]


def default(sentence: str) -> list[str]:
    """The default rule in plain Python, for the characters of `SAMPLE`."""
    found = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", sentence).lower())
    nonspacing = "".join({c for c in found if unicodedata.category(c) == "Mn"} | {"\u0300"})
    found = re.sub(f"([a-zßα-ω])[{nonspacing}]+", r"\1", found)
    found = re.sub("([аеиоуыэюяіє]\u0308?)\u0301", r"\1", found)
    found = re.sub("[\u05b0-\u05bc\u0640\u064b-\u0652\u00ad\u200c\u200d\ufe0f\u20e3]+", "", found).replace("ς", "σ")
    found = unicodedata.normalize("NFC", re.sub("[‘’ʼ]", "'", found))
    word = "".join({c for c in found if unicodedata.category(c)[0] in "LM"})
    word = f"[{re.escape(word)}]" if word else "(?!)"
    digit = "".join({c for c in found if unicodedata.category(c)[0] == "N"})
    digit = f"[{digit}]" if digit else "(?!)"
    return re.findall(f"{word}+(?:'{word}+)?|{digit}+", found)


SAMPLE = (
    "abzAZ09éÉßñÅ''’ .,-_\n\tжЙёЁая\u0301\u0308αΣςάאבּ\u05b0سكـ\u064eहिन्दीกขาเ1２Ａ字漢かカ한글😀\u00ad\u200d❤\ufe0f"
)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.text(SAMPLE, max_size=25) | st.text("ab' é字", max_size=12), max_size=6))
def test_the_default_profile_gives_the_tokens_of_a_plain_implementation(sentences: list[str]) -> None:
    # A mark at the very start of a sentence has no letter to be part of.
    sentences = [f"x{sentence}" for sentence in sentences]
    assert tokenize(sentences).to_pylist() == [default(sentence) for sentence in sentences]


@settings(max_examples=80, deadline=None)
@given(st.lists(any_text, max_size=8), st.integers(1, 60))
def test_a_text_has_the_same_tokens_alone_in_a_column_and_in_slices_of_any_size(
    sentences: list[str], size: int
) -> None:
    together = tokenize(sentences).to_pylist()
    assert together == [tokens(sentence) for sentence in sentences]
    column = pa.chunked_array([pa.array(["begin", *sentences[:2]]), pa.array(sentences[2:], pa.string())])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(characters, "_SLICE_BYTES", size)
        assert tokenize(column.slice(1)).to_pylist() == together
        assert tokenize(pa.array(["begin", *sentences]).slice(1)).to_pylist() == together


@settings(max_examples=200, deadline=None)
@given(any_text)
def test_tokens_hold_no_white_space_or_punctuation_and_give_themselves_again(sentence: str) -> None:
    found = tokens(sentence)
    for token in found:
        assert token
        assert all(
            unicodedata.category(c)[0] in "LMN" or unicodedata.category(c) == "Cn" for c in token.replace("'", "")
        )
    assert tokens(" ".join(found)) == found


def test_nulls_are_empty_texts_and_unknown_profiles_are_refused() -> None:
    assert tokenize(pa.array(["a b", None])).to_pylist() == [["a", "b"], []]
    assert tokenize([]).to_pylist() == []
    assert tokenize(pa.array(["x y"], pa.large_string())).to_pylist() == [["x", "y"]]
    with pytest.raises(ValueError, match="--profile is 'spacy'; expected one of default, original"):
        tokenize(["x"], "spacy")


paragraphs = st.lists(
    st.sampled_from(
        [
            "Dr. Who ran. ",
            "It is 5' 3\" tall. ",
            "Ok? ",
            "\n",
            "  ",
            "Да. Нет! ",
            "你好。再见。",
            "e.g. x ",
            "\r\n",
            "😀. ",
        ]
    ),
    max_size=20,
).map("".join)


@settings(max_examples=200, deadline=None)
@given(any_text | paragraphs, st.sampled_from(["en", "de", "bg", "ja", "hi", "ar"]))
def test_sentences_are_ascending_stripped_and_leave_out_nothing_but_white_space(whole: str, language: str) -> None:
    behind = 0
    for start, end in split_sentences(whole, language):
        assert behind <= start < end <= len(whole)
        assert not whole[behind:start].strip()
        assert whole[start:end] == whole[start:end].strip()
        assert "\n" not in whole[start:end]
        behind = end
    assert not whole[behind:].strip()


def test_sentences_end_where_a_reader_would_end_them() -> None:
    whole = "Dr. Smith met Mr. Bean. They left!\nA new line\n\n  Is it 3.5 km?  Yes. "
    assert [whole[start:end] for start, end in split_sentences(whole)] == [
        "Dr. Smith met Mr. Bean.",
        "They left!",
        "A new line",
        "Is it 3.5 km?",
        "Yes.",
    ]


def test_long_runs_without_white_space_take_no_quadratic_time() -> None:
    whole = "你好世界。「再见。」" * 30_000
    started = time.process_time()
    spans = split_sentences(whole, "zh")
    assert time.process_time() - started < 20  # it took minutes
    assert "".join(whole[start:end] for start, end in spans) == whole
    assert whole[slice(*spans[0])] == "你好世界。"
    assert len(split_sentences("x" * 100_000)) == 50
    line = "A sentence of some words. " * 1000
    assert len(split_sentences(line)) == 1000


def test_a_row_can_be_one_sentence_and_nothing_that_is_named_is_called() -> None:
    assert sentence_splitter("none")("  One. Two.\nThree \n") == [(2, 17)]
    assert sentence_splitter("none")(" \n") == []
    for name in ("spacy", "os.system", f"{__name__}.original", "..", ""):
        with pytest.raises(ValueError, match=r"--split is .*; expected sentencex or none"):
            sentence_splitter(name)


# Text for which the libraries below take time that grows with its square.
SLOW_SENTENCES = ["' ", "“ ", "“a", "‘ ", "« ", "‹ ", "„ ", "` ", "'", "「", "“A. ", "'a' ", "《 ", "字。「"]
SLOW_TOKENS = ["\u0301\u0323", "\u0f71\u0f72\u0f74", "\u302a\u0591", "\uff9e\u0301", "\u0345\u0301"]


@pytest.mark.parametrize("piece", SLOW_SENTENCES)
def test_the_splitter_below_never_sees_more_than_it_can_bear(piece: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sentencex

    seen: list[str] = []

    def segment(language: str, text: str) -> list[str]:
        seen.append(text)
        return [text]

    monkeypatch.setattr(sentencex, "segment", segment)
    work = []
    for size in (100_000, 200_000):
        seen.clear()
        whole = piece * (size // len(piece))
        split_sentences(whole)
        assert "".join(seen) == whole
        work.append(sum(len(text) * (1 + len(re.findall(text_module._QUOTE, text))) for text in seen))
        assert all(len(run) <= 2000 for text in seen for run in text.split())
    assert work[1] < 2.2 * work[0]
    assert work[1] < 600 * 200_000


@pytest.mark.parametrize("piece", SLOW_TOKENS)
@pytest.mark.parametrize("profile", ["default", "original"])
def test_no_character_keeps_more_marks_than_can_be_put_in_order(
    piece: str, profile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = text_module._with_few_marks

    def looked_at(column: pa.Array) -> pa.Array:
        seen.extend(real(column).to_pylist())
        return real(column)

    monkeypatch.setattr(text_module, "_with_few_marks", looked_at)
    few, many = "ж" + piece * 30, "ж" + piece * 100_000
    assert tokenize([f"{few} end", f"{many} end", few], profile).to_pylist()[1][-1] == "end"
    assert len(seen[1]) < 80
    assert (seen[0], seen[2]) == (f"{few} end", few)


def test_a_long_line_with_many_quotations_is_cut_behind_sentences() -> None:
    line = " ".join(f'He said “yes, no. {n}” to ‘her’ and it’s "fine".' for n in range(400))
    sentences = [line[start:end] for start, end in split_sentences(line)]
    assert sum(sentence.endswith('"fine".') for sentence in sentences) > 390
    assert " ".join(sentences) == line


def test_text_needs_neither_ray_nor_torch() -> None:
    import subprocess
    import sys

    code = "import sys, lstm_embed.corpus.text as t; t.tokenize(['a']); print({'ray', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    assert text_module.PROFILES == ("default", "original")
