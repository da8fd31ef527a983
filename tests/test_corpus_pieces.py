"""Pieces of words: every text of any script is cut and comes back, and learning gives the same pieces from the same counts."""

from __future__ import annotations

import functools
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lstm_embed.base.errors import InputError
from lstm_embed.corpus import counts
from lstm_embed.corpus.config import PrepareConfig
from lstm_embed.corpus.pieces import BYTE_PIECES, MARK, SPECIAL_PIECES
from lstm_embed.corpus.text import tokenize
from lstm_embed.corpus.vocabulary import FIRST_LEARNED, PAD, Vocabulary

TEXTS = {
    "English": "The river runs past the old mill. Nobody remembers who built the mill, but the river does. We walked "
    "along the river, walking and talking until the rain began. Rain makes a river remember.",
    "Korean": "나는 오늘 아침에 학교에 갔다. 학교에서 친구를 만났다. 친구는 학교가 좋다고 말했다. 우리는 저녁에 집으로 "
    "돌아왔다. 집에서 저녁을 먹었다.",
    "Japanese": "今日は朝から雨が降っています。私は学校へ行きました。学校で友達に会いました。友達は本を読んでいました。"
    "明日も学校へ行きます。",
    "Chinese": "今天早上下雨了。我去学校上课。在学校我遇见了我的朋友。我的朋友正在读一本书。明天我们还要去学校。",
    "Thai": "วันนี้ฝนตกตั้งแต่เช้า ฉันไปโรงเรียน ที่โรงเรียนฉันพบเพื่อน เพื่อนกำลังอ่านหนังสือ พรุ่งนี้เราจะไปโรงเรียนอีก",
    "Hindi": "आज सुबह से बारिश हो रही है। मैं विद्यालय गया। विद्यालय में मुझे मेरा मित्र मिला। मेरा मित्र किताब पढ़ रहा था। "
    "कल हम फिर विद्यालय जाएँगे।",
    "Arabic": "تمطر السماء منذ الصباح. ذهبت إلى المدرسة. في المدرسة قابلت صديقي. كان صديقي يقرأ كتابا. غدا نذهب إلى "
    "المدرسة مرة أخرى.",
    "Turkish": "Bugün sabahtan beri yağmur yağıyor. Okula gittim. Okulda arkadaşımla karşılaştım. Arkadaşım kitap "
    "okuyordu. Yarın yine okula gideceğiz.",
    "Vietnamese": "Hôm nay trời mưa từ sáng. Tôi đi đến trường. Ở trường tôi gặp bạn của tôi. Bạn tôi đang đọc sách. "
    "Ngày mai chúng tôi lại đến trường.",
    "Russian": "Сегодня с утра идёт дождь. Я пошёл в школу. В школе я встретил своего друга. Мой друг читал книгу. "
    "Завтра мы снова пойдём в школу.",
}
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def words_of(texts: Iterable[str]) -> Counter[str]:
    return Counter(tokenize(list(texts)).flatten().to_pylist())


def learn(counted: Counter[str], num_pieces: int = 2000, whole: Sequence[str] = ()) -> Vocabulary:
    words = sorted(counted)
    return Vocabulary.learn(
        words, np.array([counted[word] for word in words]), num_pieces=num_pieces, whole=sorted(whole)
    )


@functools.cache
def learned(*languages: str) -> Vocabulary:
    """Return a vocabulary of some languages; of all if none is named."""
    return learn(words_of(TEXTS[name] for name in languages or TEXTS))


def cuts(vocabulary: Vocabulary, words: Sequence[str]) -> list[list[int]]:
    return vocabulary.id_lists(pa.array([[word] for word in words], pa.list_(pa.string()))).to_pylist()


def pieces_of(vocabulary: Vocabulary, words: Sequence[str]) -> list[list[str]]:
    return [[vocabulary.pieces[number] for number in ids] for ids in cuts(vocabulary, words)]


def assert_comes_back(vocabulary: Vocabulary, texts: Sequence[str]) -> None:
    """Check that ids of texts give back what the tokenizer made of them."""
    tokens = tokenize(texts)
    lists = vocabulary.id_lists(tokens)
    assert lists.type == pa.list_(pa.int32())
    for words, ids in zip(tokens.to_pylist(), lists.to_pylist(), strict=True):
        assert vocabulary.words(ids) == words
        assert all(PAD < number < len(vocabulary) for number in ids)


# Cutting


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(any_text, min_size=1, max_size=5), language=st.sampled_from([*TEXTS, ""]))
def test_a_text_of_any_characters_comes_back_from_its_ids(texts: list[str], language: str) -> None:
    assert_comes_back(learned(language) if language else learned(), texts)


@settings(max_examples=150, deadline=None)
@given(
    pair=st.sampled_from([(own, other) for own in TEXTS for other in TEXTS]),
    data=st.data(),
)
def test_a_text_of_one_language_comes_back_with_the_pieces_of_another(
    pair: tuple[str, str], data: st.DataObject
) -> None:
    own, other = pair
    letters = st.text(sorted(set(TEXTS[own])), max_size=30)
    assert_comes_back(learned(other), [TEXTS[own], data.draw(letters)])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from([*words_of(TEXTS.values()), "unheard", "𒀀𒀁"]), max_size=6), max_size=6))
def test_ids_of_lists_are_those_of_their_words_one_after_the_other(lists: list[list[str]]) -> None:
    vocabulary = learned()
    column = pa.array([["before", "this"], *lists, []], pa.list_(pa.string()))
    own = {
        word: ids
        for (word,), ids in zip(
            ([w] for w in set().union(*lists)), cuts(vocabulary, list(set().union(*lists))), strict=True
        )
    }
    expected = [[number for word in words for number in own[word]] for words in lists]
    assert vocabulary.id_lists(column.slice(1, len(lists))).to_pylist() == expected
    flat, lengths = vocabulary.cut(pa.array([word for words in lists for word in words], pa.string()))
    assert flat.tolist() == [number for ids in expected for number in ids]
    assert lengths.tolist() == [len(own[word]) for words in lists for word in words]
    assert (flat.dtype, lengths.dtype) == (np.int32, np.int32)


def test_characters_that_were_never_seen_are_cut_into_bytes_and_come_back() -> None:
    vocabulary = learned("English")
    for word in ("лес", "山", "ᚠᚢ", "𒀀", "rivière漢"):
        (pieces,) = pieces_of(vocabulary, [word])
        assert set(pieces) & set(BYTE_PIECES)
        assert vocabulary.words(cuts(vocabulary, [word])[0]) == [word]
    (pieces,) = pieces_of(vocabulary, ["лес"])
    assert pieces == [MARK, *(f"<0x{byte:02X}>" for byte in "лес".encode())]


def test_words_come_back_from_a_vocabulary_that_lacks_the_mark() -> None:
    vocabulary = Vocabulary([*SPECIAL_PIECES, MARK + "kara"], [0] * 258, [-1.0] * 258)
    assert_comes_back(vocabulary, ["kara karamba лоне", "山 kara"])
    assert cuts(vocabulary, ["kara"]) == [[FIRST_LEARNED]]


def test_what_is_left_of_a_character_that_was_cut_off_is_a_replacement_character() -> None:
    vocabulary = learned("English")
    ids = cuts(vocabulary, ["山"])[0]
    assert vocabulary.words(ids[:-1]) == ["�"]
    assert vocabulary.words([]) == []


def test_words_of_any_length_are_cut() -> None:
    vocabulary = learned()
    words = ["ab" * 5000, "学校" * 5000, "x" * 4001, "山" * 4000, "學"]
    for word, ids in zip(words, cuts(vocabulary, words), strict=True):
        assert vocabulary.words(ids) == [word]


# Learning


@settings(max_examples=10, deadline=None)
@given(language=st.sampled_from(list(TEXTS)), seed=st.integers(0, 99), num_parts=st.integers(1, 4))
def test_what_is_learned_depends_on_the_counts_and_not_on_the_order_of_the_words(
    tmp_path_factory: pytest.TempPathFactory, language: str, seed: int, num_parts: int
) -> None:
    words = tokenize([TEXTS[language]]).flatten().to_pylist()
    random.Random(seed).shuffle(words)
    config = PrepareConfig(input=("x",), output="y", num_pieces=1000)
    found = counts.merge_counts(write_counts(tmp_path_factory.mktemp("counts"), words, num_parts), config)
    expected = learn(words_of([TEXTS[language]]), num_pieces=1000)
    assert found.fingerprint == expected.fingerprint
    assert found.pieces == expected.pieces


def write_counts(folder: Path, words: Sequence[str], num_parts: int = 1) -> list[str]:
    """Write counts files of a corpus of words in some parts; return their paths."""
    paths = []
    for number in range(num_parts):
        _, distinct, word_counts, sizes = counts.local_dictionary(pa.array(words[number::num_parts], pa.string()))
        paths.append(f"{folder}/{number}.parquet")
        counts.write_counts(paths[-1], distinct, word_counts, sizes)
    return paths


@pytest.mark.parametrize("language", TEXTS)
def test_pieces_are_counted_as_the_corpus_is_cut_and_frequent_ones_come_first(language: str) -> None:
    counted, vocabulary = words_of([TEXTS[language]]), learned(language)
    assert tuple(vocabulary.pieces[:FIRST_LEARNED]) == SPECIAL_PIECES
    ids = vocabulary.id_lists(tokenize([TEXTS[language]])).flatten().to_numpy()
    assert vocabulary.counts.tolist() == np.bincount(ids, minlength=len(vocabulary)).tolist()
    assert (np.diff(vocabulary.counts[FIRST_LEARNED:]) <= 0).all()
    # Whole steps of 1/64, exact in every arithmetic, and nothing is for nothing.
    scores = vocabulary.scores[FIRST_LEARNED:]
    assert np.array_equal(scores * 64, np.round(scores * 64))
    assert (scores < 0).all()
    letters = set("".join(counted)) | {MARK}
    assert all(set(piece) <= letters for piece in vocabulary.pieces[FIRST_LEARNED:])


def test_a_tiny_corpus_gives_few_pieces() -> None:
    for words in (["a"], ["the", "cat"], ["한국어"], ["9"]):
        vocabulary = learn(Counter(words), num_pieces=32_000)
        assert FIRST_LEARNED < len(vocabulary) < FIRST_LEARNED + 20
        assert_comes_back(vocabulary, [" ".join(words), "something else"])


def test_no_more_pieces_are_learned_than_asked_for() -> None:
    rng = np.random.default_rng(0)
    words = Counter("".join(rng.choice(list("abcdefgh"), rng.integers(3, 9))) for _ in range(5000))
    for most in (512, 700):
        assert FIRST_LEARNED < len(learn(words, most)) <= most


def test_fewer_pieces_than_characters_are_refused_and_the_flag_is_named() -> None:
    rng = np.random.default_rng(0)
    # As in Chinese, some characters make much of the text, and thousands the rest.
    characters = np.array([chr(0x4E00 + number) for number in range(5000)])
    weights = 1 / np.arange(5, 5005)
    words = ["".join(rng.choice(characters, 20, p=weights / weights.sum())) for _ in range(1500)]
    with pytest.raises(InputError, match=r"^512 pieces are too few .*--num-pieces\)$"):
        learn(Counter(words), 512)
    vocabulary = learn(Counter(words), 6000)
    assert len(vocabulary) <= 6000
    assert_comes_back(vocabulary, words[:50])
    assert {*characters[:60]} <= set(vocabulary.pieces)


def test_one_long_run_of_a_script_without_spaces_is_learned_from() -> None:
    text = tokenize([TEXTS["Chinese"]]).flatten().to_pylist()
    run = "".join(text * 60)
    assert len(run) > 2000
    vocabulary = learn(Counter([run]))
    assert {"学校", MARK} <= set(vocabulary.pieces)
    assert_comes_back(vocabulary, [run, TEXTS["Chinese"]])


@pytest.mark.parametrize(("language", "expected"), [("Chinese", "学校"), ("Japanese", "ました"), ("Thai", "โรงเรียน")])
def test_the_words_of_a_script_without_spaces_are_found_inside_its_runs(language: str, expected: str) -> None:
    assert expected in {piece.removeprefix(MARK) for piece in learned(language).pieces}


# Whole words


@settings(max_examples=25, deadline=None)
@given(data=st.data(), language=st.sampled_from([*TEXTS, ""]))
def test_whole_words_are_one_id_each_and_others_are_cut_as_before_but_for_a_whole_beginning(
    data: st.DataObject, language: str
) -> None:
    counted = words_of([TEXTS[language]] if language else TEXTS.values())
    whole = data.draw(st.lists(st.sampled_from(sorted(counted)), max_size=12, unique=True))
    # Also words that the pieces were not learned from.
    whole += data.draw(st.lists(st.sampled_from(["zebra", "лес", "riverbank", "山川"]), max_size=2, unique=True))
    plain = learned(language) if language else learned()
    vocabulary = learn(counted, whole=whole)
    assert len(vocabulary) <= len(plain) + len(whole)
    assert pieces_of(vocabulary, whole) == [[MARK + word] for word in whole]
    others = sorted({*counted, *(f"{word}s" for word in counted), "unheard", "лесной"} - set(whole))
    for word, before, now in zip(others, pieces_of(plain, others), pieces_of(vocabulary, others), strict=True):
        if now != before:
            assert now[0].removeprefix(MARK) in whole, word
            merged = len(before) - len(now[1:])
            assert before[merged:] == now[1:], word
    assert_comes_back(vocabulary, list(TEXTS.values()))


def test_the_next_best_cut_of_a_whole_word_is_the_one_it_would_have() -> None:
    counted = words_of([TEXTS["English"]])
    plain = learned("English")
    whole = [word for word, ids in zip(sorted(counted), cuts(plain, sorted(counted)), strict=True) if len(ids) > 1]
    assert len(whole) > 5
    vocabulary = learn(counted, whole=whole)
    second = [[vocabulary.pieces[number] for number in ids] for ids in vocabulary.second_cuts(whole)]
    same = sum(one == other for one, other in zip(second, pieces_of(plain, whole), strict=True))
    assert same > 0.8 * len(whole)
    assert ["".join(pieces) for pieces in second] == [MARK + word for word in whole]
