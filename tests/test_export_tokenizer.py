"""The exported tokenizer gives the ids of the library for any text, in Python and JavaScript, and gives the words back."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import subprocess
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from lstm_embed.corpus.pieces import MARK, SPECIAL_PIECES, whole_word_scores
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, Vocabulary
from lstm_embed.export.tokenizer import tokenizer_json

PROFILES = ("default", "original")
LANGUAGES = {
    "English": "All human beings are born free and equal in dignity and rights. They don't all act in brotherhood; 12 do.",
    "Korean": "모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다. 인간은 이성과 양심을 부여받았다.",
    "Japanese": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。コーヒーを飲む。",
    "Chinese": "人人生而自由，在尊严和权利上一律平等。他们赋有理性和良心，并应以兄弟关系的精神相对待。",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
    "Hindi": "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता और समानता प्राप्त है।",
    "Arabic": "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميرًا.",
    "Turkish": "Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar. İSTANBUL ışık.",
    "Vietnamese": "Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm và quyền lợi.",
    "Russian": "Все люди рождаются свободными и равными в своём достоинстве и правах. Съешь ещё мя́гких булок.",
    "Greek": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα. ΟΔΥΣΣΕΎΣ",
    "Hebrew": "כל בני האדם נולדו בני חורין ושווים בערכם ובזכויותיהם. שָׁלוֹם",
}
ODD_TEXTS = [
    "",
    " ?! ...",
    "<pad> <0x71> <unk> q Ġq ▁q ▁ \u2581",
    "a" * 3000,
    "ꀀ" * 500 + "中" * 500,
    "one\x00two\tthree\u200dfour\ufeff five",
    "Ⅷ ½ ﬁ ㌔ ｶﾞ",
]
RARE = "ѫѭ ᚠᚢᚦ ꀀꀁꀂ"
"""Words of characters that get no piece of their own."""
# Of the year 2002, without those for private use: all libraries know them.
OLD_CHARACTERS = [
    chr(point) for point in range(0x30000) if unicodedata.ucd_3_2_0.category(chr(point)) not in ("Cn", "Co", "Cs")
]
# With few of the thousands of Chinese characters and Korean syllables.
OLD_SIGNS = [sign for sign in OLD_CHARACTERS if not "\u3400" <= sign <= "\ud7a3" and sign < "\U00020000"]
CORPUS_SIGNS = sorted(set("".join(LANGUAGES.values())))


@functools.cache
def vocabulary(profile: str, whole: bool) -> Vocabulary:
    """Return pieces of all languages; some of the words are whole, or none."""
    rows = tokenize([*list(LANGUAGES.values()) * 100, RARE], profile).to_pylist()
    counted = Counter(word for row in rows for word in row)
    words = sorted(counted)
    chosen = sorted({*words[::7], *rows[-1]}) if whole else []
    return Vocabulary.learn(words, np.array([counted[word] for word in words]), num_pieces=1500, whole=chosen)


@functools.cache
def exported(profile: str, whole: bool) -> Any:
    return without_padding(vocabulary(profile, whole), profile)


def without_padding(pieces: Vocabulary, profile: str = "default") -> Any:
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(pieces, profile, 10**6)))
    tokenizer.no_padding()
    return tokenizer


def library_ids(pieces: Vocabulary, texts: Sequence[str], profile: str = "default") -> list[list[int]]:
    found: list[list[int]] = pieces.id_lists(tokenize(texts, profile)).to_pylist()
    return found


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("profile", PROFILES)
def test_texts_of_many_scripts_get_the_ids_of_the_library_and_their_words_back(profile: str, whole: bool) -> None:
    texts = [*LANGUAGES.values(), " ".join(LANGUAGES.values()), *ODD_TEXTS]
    tokenizer = exported(profile, whole)
    wanted = library_ids(vocabulary(profile, whole), texts, profile)
    found = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert found == wanted
    assert min(min(ids) for ids in found if ids) >= 1
    words = tokenize(texts, profile).to_pylist()
    assert [tokenizer.decode(ids) for ids in found] == [" ".join(row) for row in words]
    assert [vocabulary(profile, whole).words(ids) for ids in found] == words


def test_of_the_vocabulary_bytes_whole_words_and_pieces_are_all_used() -> None:
    pieces = vocabulary("default", True)
    texts = [*LANGUAGES.values(), "ѫѭ ѫѭѫ ꀀ"]
    used = {number for ids in library_ids(pieces, texts) for number in ids}
    assert pieces.id(MARK + "ѫѭ") in used
    assert not pieces.ids("ѫѭꀀ").any()
    assert any(number < FIRST_LEARNED for number in used)
    assert len(used) > 300


any_text = st.text(
    st.one_of(st.sampled_from(CORPUS_SIGNS), st.sampled_from(OLD_SIGNS), st.sampled_from(OLD_CHARACTERS)), max_size=40
)


@settings(max_examples=300, deadline=None)
@given(text=any_text, profile=st.sampled_from(PROFILES), whole=st.booleans())
def test_any_text_gets_the_ids_of_the_library_and_its_words_back(text: str, profile: str, whole: bool) -> None:
    tokenizer = exported(profile, whole)
    ids = tokenizer.encode(text).ids
    assert ids == library_ids(vocabulary(profile, whole), [text], profile)[0]
    assert tokenizer.decode(ids) == " ".join(tokenize([text], profile).to_pylist()[0])


_SIGNS = st.sampled_from("aZé'’ʼ1٣ ₂²́̈ж́ёИ́יִּשׁالـَกัาเ中か한ｱﾞ\u00ad\u200d\ufe0f?.!,()ςΣİſ\n\t-_\U000e0100")


@settings(max_examples=300, deadline=None)
@given(text=st.text(_SIGNS, max_size=30), profile=st.sampled_from(PROFILES))
def test_marks_and_signs_between_letters_are_treated_as_the_library_treats_them(text: str, profile: str) -> None:
    assert exported(profile, False).encode(text).ids == library_ids(vocabulary(profile, False), [text], profile)[0]


@pytest.mark.parametrize("profile", PROFILES)
def test_every_character_but_a_few_new_ones_gets_the_ids_of_the_library(profile: str) -> None:
    assigned = [chr(point) for point in range(0x20000) if unicodedata.category(chr(point)) not in ("Cn", "Co", "Cs")]
    some = [sign for at, sign in enumerate(assigned) if at % 16 == 0 or not "\u3400" <= sign <= "\ud7a3"]
    texts = [f"Ka{sign}\u0301b{sign}'t 1{sign}" for sign in [*some, *map(chr, range(0xE0100, 0xE01F0))]]
    wanted = library_ids(vocabulary(profile, False), texts, profile)
    tokenizer = exported(profile, False)
    found = [tokenizer.encode(text).ids for text in texts]
    other = [text[2] for text, mine, theirs in zip(texts, wanted, found, strict=True) if mine != theirs]
    assert len(other) < 400
    assert not set(other) & set(OLD_CHARACTERS)


LETTERS = "abж中"


@settings(max_examples=200, deadline=None)
@given(
    pieces=st.sets(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=8),
    begins=st.sets(st.text(LETTERS, min_size=1, max_size=4), max_size=6),
    whole=st.sets(st.text(LETTERS, min_size=1, max_size=6), max_size=4),
    scores=st.lists(st.integers(-800, -1), min_size=15, max_size=15),
    step=st.sampled_from([1, 8, 400]),
    words=st.lists(st.text(LETTERS, min_size=1, max_size=14), min_size=1, max_size=5),
    mark=st.booleans(),
)
def test_whatever_the_pieces_words_are_cut_alike(
    pieces: set[str], begins: set[str], whole: set[str], scores: list[int], step: int, words: list[str], mark: bool
) -> None:
    names = [*SPECIAL_PIECES, *[MARK] * mark, *sorted(pieces), *(MARK + word for word in sorted(begins))]
    # In large steps many cuts are equally good.
    chosen = [-(1 - score // step) * step / 64 for score in scores[: len(names) - FIRST_LEARNED]]
    worth = np.array([0.0] * FIRST_LEARNED + chosen, np.float32)
    kept = sorted(whole - begins)
    if kept:
        worth = np.concatenate([worth, whole_word_scores(kept, names, worth)])
        names += [MARK + word for word in kept]
    made = Vocabulary(names, [0] * len(names), worth)
    texts = [*words, " ".join(words)]
    tokenizer = without_padding(made)
    found = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    assert found == library_ids(made, texts)
    assert [tokenizer.decode(ids) for ids in found] == texts


def test_an_unknown_character_costs_no_more_than_it_does_in_the_library() -> None:
    names = [*SPECIAL_PIECES, MARK, "a", "b", "bc", "c"]
    scores = np.array([0.0] * FIRST_LEARNED + [-1, -1, -1, -1, -300], np.float32)
    scores = np.concatenate([scores, whole_word_scores(["aжb"], names, scores)])
    made = Vocabulary([*names, MARK + "aжb"], [0] * len(scores), scores)
    # The whole word would leave behind it a piece that is worse than the bytes.
    wanted = [MARK, "a", "<0xD0>", "<0xB6>", "bc", MARK + "aжb"]
    assert [made.pieces[number] for number in library_ids(made, ["aжbc aжb"])[0]] == wanted
    assert [made.pieces[number] for number in without_padding(made).encode("aжbc aжb").ids] == wanted


def test_texts_are_cut_off_and_padded_with_zeros() -> None:
    pieces = vocabulary("default", False)
    tokenizer = Tokenizer.from_str(json.dumps(tokenizer_json(pieces, "default", 8)))
    texts = [*LANGUAGES.values(), "", "equal"]
    wanted = [ids[:8] for ids in library_ids(pieces, texts)]
    found = tokenizer.encode_batch(texts)
    assert [encoding.ids for encoding in found] == [ids + [0] * (8 - len(ids)) for ids in wanted]
    assert [sum(encoding.attention_mask) for encoding in found] == list(map(len, wanted))
    # Cut off inside a character, what is left of it is told as unknown.
    assert tokenizer.decode(library_ids(pieces, ["equal ꀀ"])[0][:-1]).startswith("equal \ufffd")


def test_ids_from_the_middle_of_words_are_decoded_without_a_space_before_them() -> None:
    pieces = vocabulary("default", False)
    tokenizer = exported("default", False)
    ids = library_ids(pieces, ["freedom rights"])[0]
    for start in range(len(ids)):
        assert tokenizer.decode(ids[start:]) == " ".join(pieces.words(ids[start:]))


@pytest.mark.parametrize("package", ["@huggingface/tokenizers", "@huggingface/transformers"])
def test_javascript_gives_the_same_ids_and_words(package: str) -> None:
    modules = os.environ.get("LSTM_EMBED_NODE_MODULES", "")
    if not modules or not shutil.which("node") or not Path(modules, package).is_dir():
        pytest.skip(f"needs node, and LSTM_EMBED_NODE_MODULES with {package}")
    rng = random.Random(0)
    texts = [*LANGUAGES.values(), *ODD_TEXTS]
    for signs in (CORPUS_SIGNS, OLD_SIGNS, OLD_CHARACTERS):
        texts += ["".join(rng.choices(signs, k=rng.randrange(1, 40))) for _ in range(400)]
    for profile, whole in (("default", False), ("default", True), ("original", True)):
        pieces = vocabulary(profile, whole)
        request = {
            "modules": str(Path(modules).resolve()),
            "package": package,
            "tokenizer": tokenizer_json(pieces, profile, 64),
            "texts": texts,
        }
        script = Path(__file__).with_name("export_tokenizer.cjs")
        run = subprocess.run(
            ["node", str(script)], input=json.dumps(request), capture_output=True, text=True, timeout=120, check=True
        )
        wanted = library_ids(pieces, texts, profile)
        words = [" ".join(row) for row in tokenize(texts, profile).to_pylist()]
        assert json.loads(run.stdout) == [list(pair) for pair in zip(wanted, words, strict=True)]
