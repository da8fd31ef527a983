"""Files of word vectors: compressed, cut off, malformed, with n-grams, of another vocabulary."""

from __future__ import annotations

import bz2
import gzip
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lstm_embed.base import storage
from lstm_embed.base.errors import InputError
from lstm_embed.corpus.pieces import MARK, SPECIAL_PIECES
from lstm_embed.corpus.vocabulary import FIRST_ID, FIRST_LEARNED, Vocabulary
from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.fasttext_file import read_fasttext
from lstm_embed.words.folder import WordVectors
from lstm_embed.words.formats import read_vectors
from lstm_embed.words.plain_files import FASTTEXT_MAGIC, detect_format
from lstm_embed.words.scores import shipped_file
from lstm_embed.words.train import train_word_vectors
from tests.synthetic import vocabulary_of, write_token_set

from conftest import json_of

WORDS = [f"word{n}" for n in range(60)]
VOCABULARY = vocabulary_of(WORDS)
OWN = slice(FIRST_LEARNED, FIRST_LEARNED + len(WORDS))
"""Rows of `WORDS`."""
NUMBERS = np.random.default_rng(0).normal(size=(60, 4)).round(4).astype(np.float32)


def text_lines(header: bool = True) -> list[bytes]:
    lines = [" ".join([word, *map(str, row)]).encode() for word, row in zip(WORDS, NUMBERS.tolist(), strict=True)]
    return [b"60 4", *lines] if header else lines


def write_lines(path: Path, lines: list[bytes], end: bytes = b"\n") -> str:
    path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]) + lines[-1] + end)
    return str(path)


def make_binary() -> bytes:
    return b"60 4\n" + b"".join(
        word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, NUMBERS, strict=True)
    )


def tar_of(path: str, target: Path) -> None:
    with tarfile.open(target, "w:gz" if target.suffix == ".gz" else "w") as archive:
        archive.add(path, "v.txt")


def zip_of(path: str, target: Path) -> None:
    with zipfile.ZipFile(target, "w") as archive:
        archive.write(path)


def fasttext_bytes() -> bytes:
    return Path(shipped_file("crime-and-punishment.bin")).read_bytes()


def fasttext_vocabulary() -> Vocabulary:
    return vocabulary_of(["landlady", "landlord", "x", "Москва"], [5, 5, 1, 1])


def test_a_fasttext_binary_gives_gensims_vectors_compressed_or_not(tmp_path: Path) -> None:
    from gensim.models.fasttext import load_facebook_vectors

    vocabulary = fasttext_vocabulary()
    theirs = load_facebook_vectors(shipped_file("crime-and-punishment.bin"))
    expected = np.array([theirs.get_vector(word) for word in ("landlady", "landlord", "x", "Москва")])
    letters = vocabulary.pieces[FIRST_LEARNED + 4 :]
    wordless = [*range(FIRST_LEARNED), vocabulary.id(MARK)]
    for name, compress in (("v.bin", bytes), ("v.bin.gz", gzip.compress), ("v.bin.bz2", bz2.compress)):
        (tmp_path / name).write_bytes(compress(fasttext_bytes()))
        found = read_vectors(str(tmp_path / name), "auto", vocabulary, "default")
        np.testing.assert_allclose(found.vectors[FIRST_LEARNED : FIRST_LEARNED + 4], expected, atol=1e-6)
        # Bytes and the mark of a word's begin have no letters to make a vector of.
        assert not found.vectors[wordless].any()
        assert (found.exact, found.composed, found.from_pieces) == (1, 3 + len(letters) - 1, 0)


def test_a_fasttext_binary_is_read_from_an_object_store(s3: str) -> None:
    storage.write_bytes(f"{s3}/v.bin", fasttext_bytes())
    assert read_vectors(f"{s3}/v.bin", "auto", fasttext_vocabulary(), "default").composed > 3


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.01, 0.1, 0.5, 0.9999])
def test_a_fasttext_binary_that_breaks_off_anywhere_is_refused(tmp_path: Path, share: float) -> None:
    data = fasttext_bytes()
    (tmp_path / "v.bin").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(InputError, match=r"it ends|it begins"):
        read_vectors(str(tmp_path / "v.bin"), "fasttext-binary", fasttext_vocabulary(), "default")


def test_a_fasttext_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    settings = struct.pack("<12id", 4, *[1] * 7, 10, 3, 6, 100, 1e-4)
    words = struct.pack("<3i2q", 1, 1, 0, 1, -1) + b"a\0" + struct.pack("<qb", 1, 0)
    beginning = FASTTEXT_MAGIC + struct.pack("<i", 12) + settings + words
    for name, rest, message in (
        ("quantized", struct.pack("<?2q", True, 11, 4), "quantized"),
        ("wrong size", struct.pack("<?2q", False, 10**9, 4), "its vectors are 1000000000 x 4"),
        ("wrong dimension", struct.pack("<?2q", False, 11, 5), "its vectors are 11 x 5"),
    ):
        (tmp_path / name).write_bytes(beginning + rest + bytes(4 * 11 * 5))
        with pytest.raises(ValueError, match=message):
            read_fasttext(str(tmp_path / name))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_word2vec_binaries_are_read_to_their_end_and_no_further(tmp_path: Path, compress: Any) -> None:
    path = tmp_path / ("v.bin.gz" if compress is gzip.compress else "v.bin")
    path.write_bytes(compress(make_binary()))
    np.testing.assert_array_equal(read_vectors(str(path), "auto", VOCABULARY, "default").vectors[OWN], NUMBERS)
    for data, message in (
        (make_binary()[:-70], "after 57 of 60"),
        (make_binary() + b"more", "goes on after its 60 words"),
    ):
        path.write_bytes(compress(data))
        with pytest.raises(InputError, match=message):
            read_vectors(str(path), "auto", VOCABULARY, "default")


@pytest.mark.parametrize(
    ("lines", "end", "message"),
    [
        (text_lines()[:31], b"\n", "ends after 30 of 60 words"),
        ([*text_lines(header=False)[:20], b"word20 0.5 0."], b"", "ends inside a vector, after 20 words"),
        (
            [line if n % 2 else line + b" 1.5" for n, line in enumerate(text_lines(header=False))],
            b"\n",
            "30 have another",
        ),
        ([b"60 5", *text_lines(header=False)], b"\n", "60 have another number of values than 5"),
        ([line.replace(b"0.", b"0,") for line in text_lines()], b"\n", "is damaged|no readable"),
        ([line.split(b" ")[0] + b" nan nan nan nan" for line in text_lines(header=False)], b"\n", "no finite numbers"),
        ([b"99999999999 99999999999", b"word1 1 2"], b"\n", "99999999999 numbers behind a word"),
        ([b"10 50"], b"\n", "after 0 of 10 words"),
        ([b""], b"", "no known format"),
        ([b"other 1 2 3 4"], b"\n", "none of the .* pieces"),
    ],
    ids=["cut", "cut in a line", "half longer", "dimension", "commas", "nan", "huge", "header", "empty", "other words"],
)
def test_a_damaged_text_file_is_refused_with_what_is_wrong(
    tmp_path: Path, lines: list[bytes], end: bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        read_vectors(write_lines(tmp_path / "v.txt", lines, end), "auto", VOCABULARY, "default")


def test_tabs_line_ends_of_windows_and_foreign_bytes_do_no_harm(tmp_path: Path) -> None:
    lines = [line.replace(b" ", b"\t") + b"\r" for line in text_lines(header=False)]
    path = write_lines(tmp_path / "v.txt", [b"caf\xe9\t1\t2\t3\t4\r", *lines, b"a b\t1\t2\t3\t4\r"])
    found = read_vectors(path, "auto", VOCABULARY, "default")
    np.testing.assert_array_equal(found.vectors[OWN], NUMBERS)
    assert (found.exact, found.malformed) == (60, 0)


def test_a_binary_that_lost_a_byte_is_refused_wherever_it_was(tmp_path: Path) -> None:
    data = make_binary()
    first = data.index(b"word1 ")
    for at in range(first, first + 24):
        (tmp_path / "v.bin").write_bytes(data[:at] + data[at + 1 :])
        try:
            found = read_vectors(str(tmp_path / "v.bin"), "auto", VOCABULARY, "default").vectors[OWN]
        except InputError:
            continue
        # Of a word that lost a letter nothing can be known.
        wrong = (found != NUMBERS).any(axis=1)
        assert wrong.sum() <= 1
        assert not found[wrong].any()


@pytest.mark.parametrize("separator", [b"", b"\n"])
def test_words_with_spaces_in_a_binary_do_not_bring_it_out_of_step(tmp_path: Path, separator: bytes) -> None:
    rng = np.random.default_rng(0)
    words = ["new york", *WORDS, "word1 a b", "São Paulo", "word2 1900", "in the CAT", "rock ’n’ roll"]
    numbers = rng.normal(size=(len(words), 16)).astype("<f4")
    order = rng.permutation(len(words))
    records = (words[n].encode() + b" " + numbers[n].tobytes() + separator for n in order)
    (tmp_path / "v.bin").write_bytes(f"{len(words)} 16\n".encode() + b"".join(records))
    found = read_vectors(str(tmp_path / "v.bin"), "auto", VOCABULARY, "default")
    np.testing.assert_array_equal(found.vectors[OWN], numbers[1 : 1 + len(WORDS)])
    assert (found.exact, found.malformed) == (60, 0)


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.9e26])
@pytest.mark.parametrize("kind", ["text", "binary"])
def test_absurd_numbers_are_counted_and_refused_where_they_are_many(tmp_path: Path, kind: str, value: float) -> None:
    words = [f"word{n}" for n in range(200)]
    vocabulary, path = vocabulary_of(words), str(tmp_path / "v")
    for share in (1, 150):
        numbers = np.ones((200, 8), "<f4")
        numbers[:share, 3] = value
        rows = zip(words, numbers, strict=True)
        if kind == "text":
            write_lines(tmp_path / "v", [" ".join([word, *map(str, row.tolist())]).encode() for word, row in rows])
        else:
            (tmp_path / "v").write_bytes(b"200 8\n" + b"".join(w.encode() + b" " + row.tobytes() for w, row in rows))
        if share == 1:
            found = read_vectors(path, "auto", vocabulary, "default")
            assert (found.exact, found.malformed) == (199, 1)
            assert found.vectors.max() == 1
        else:
            with pytest.raises(
                InputError, match="150 have another number of values than 8, or values that are no finite"
            ):
                read_vectors(path, "auto", vocabulary, "default")


@pytest.mark.parametrize(
    ("first", "header"),
    [
        (b". . . 1 2 3 4", False),
        (b"at name@domain.com 1 2 3 4", False),
        (b"1 000 1 2 3 4", False),
        (b"2000 1 2 3 4", False),
        (b"new york 1 2 3 4", True),
    ],
)
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_the_first_line_may_be_any(tmp_path: Path, first: bytes, header: bool, bom: bytes) -> None:
    lines = [first, *text_lines(header=False), *[b"word1 9 9 9 9"] * header]
    lines = [b"%d 4" % len(lines), *lines] if header else lines
    path = write_lines(tmp_path / "v.txt", [bom + lines[0], *lines[1:]])
    found = read_vectors(path, "auto", VOCABULARY, "default")
    np.testing.assert_array_equal(found.vectors[OWN], NUMBERS)
    assert found.exact == 60


@pytest.mark.parametrize("header", [True, False])
def test_blank_lines_are_passed_over(tmp_path: Path, header: bool) -> None:
    lines = [b"", b" \r", *(blank_or_line for line in text_lines(header) for blank_or_line in (line, b""))]
    found = read_vectors(write_lines(tmp_path / "v.txt", lines), "auto", VOCABULARY, "default")
    np.testing.assert_array_equal(found.vectors[OWN], NUMBERS)


@pytest.mark.parametrize(("pack", "suffix"), [(tar_of, "tar"), (tar_of, "tar.gz"), (zip_of, "zip")])
@pytest.mark.parametrize("file_format", ["auto", "text", "word2vec-binary"])
def test_archives_of_files_are_told_by_name(tmp_path: Path, pack: Any, suffix: str, file_format: str) -> None:
    path = tmp_path / f"vectors.{suffix}"
    pack(write_lines(tmp_path / "v.txt", text_lines()), path)
    with pytest.raises(InputError, match=rf"^{path} is a zip or tar archive; unpack it"):
        read_vectors(str(path), file_format, VOCABULARY, "default")


def test_headers_that_lie_are_refused_without_allocating_what_they_say(tmp_path: Path) -> None:
    body = make_binary().partition(b"\n")[2]
    for name, header, data, message in (
        ("rows", b"9223372036854775808 4\n", body, "ends or makes no sense after 60 of 9223372036854775808"),
        ("longer", b"60 5\n", body, "makes no sense|goes on"),
        ("shorter", b"60 3\n", body, "makes no sense|goes on"),
        ("widest", b"60 65536\n", body, "makes no sense after 0"),
        ("too wide", b"60 9000000000\n", body, "9000000000 numbers behind a word"),
        ("no width", b"60 0\n", body, "0 numbers behind a word|makes no sense|goes on"),
        ("text rows", b"9223372036854775808 4\n", b"\n".join([*text_lines(header=False), b""]), "after 60 of"),
    ):
        (tmp_path / "v").write_bytes(header + data)
        with pytest.raises(InputError, match=message):
            read_vectors(str(tmp_path / "v"), "auto", VOCABULARY, "default"), name


def test_a_damaged_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    data = gzip.compress(make_binary())
    for name, damaged in (
        ("v.gz", data[:200]),
        ("v.gz", data[:60] + bytes(40) + data[100:]),
        ("v.bz2", b"BZh91AY" * 9),
    ):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match="is no readable"):
            read_vectors(str(tmp_path / name), "auto", VOCABULARY, "default")


def test_a_single_bad_line_among_many_is_counted_and_left_out(tmp_path: Path) -> None:
    words = [f"v{n}" for n in range(300)]
    lines = [f"{word} 1 2".encode() for word in words[:-1]] + [b"v299 1 2 3"]
    vocabulary = vocabulary_of(words)
    found = read_vectors(write_lines(tmp_path / "v.txt", lines), "auto", vocabulary, "default")
    assert (found.exact, found.malformed, found.from_pieces) == (299, 1, 1)
    # What it would be cut into has one: v29.
    assert found.vectors[vocabulary.id("▁v299")].tolist() == [1, 2]


def test_gensims_files_come_from_an_object_store_with_the_arrays_beside_them(tmp_path: Path, s3: str) -> None:
    from gensim.models import KeyedVectors

    made = KeyedVectors(4)
    made.add_vectors(WORDS, NUMBERS)
    made.save(str(tmp_path / "v.kv"), separately=["vectors"])
    for file in tmp_path.iterdir():
        storage.write_bytes(f"{s3}/{file.name}", file.read_bytes())
    assert detect_error(f"{s3}/v.kv")
    np.testing.assert_array_equal(read_vectors(f"{s3}/v.kv", "gensim", VOCABULARY, "default").vectors[OWN], NUMBERS)


def detect_error(path: str) -> str:
    with pytest.raises(InputError, match="--import-format gensim") as caught:
        detect_format(path)
    return str(caught.value)


# Words of a file and pieces of a vocabulary


def vocabulary_with(pieces: dict[str, float]) -> Vocabulary:
    """Return a vocabulary of learned pieces and their scores, all of them counted once."""
    number = len(SPECIAL_PIECES)
    return Vocabulary(
        [*SPECIAL_PIECES, *pieces], [0] * number + [1] * len(pieces), [0.0] * number + list(pieces.values())
    )


def imported(folder: Path, vocabulary: Vocabulary, rows: dict[str, list[float]]) -> tuple[Any, dict[str, list[float]]]:
    """Import a file; return what was found, and the vectors of the pieces that have one."""
    lines = [" ".join([word, *map(str, values)]).encode() for word, values in rows.items()]
    found = read_vectors(write_lines(folder / "v.txt", lines), "auto", vocabulary, "default")
    return found, {vocabulary.pieces[row]: found.vectors[row].tolist() for row in np.flatnonzero(found.vectors.any(1))}


def test_a_word_without_a_vector_gets_the_mean_of_its_pieces_vectors(tmp_path: Path) -> None:
    vocabulary = vocabulary_with(
        {
            "▁学校生活": -2.0,
            "▁学校": -4.0,
            "生活": -4.0,
            "▁riverbank": -2.0,
            "▁river": -4.0,
            "bank": -4.0,
            "▁alone": -2.0,
        }
        | dict.fromkeys([MARK, *"学校生活riverbankalo"], -9.0)
    )
    found, vectors = imported(
        tmp_path, vocabulary, {"学校": [1, 2, 3], "生活": [3, 4, 7], "river": [1, 0, 0], "bank": [0, 1, 0]}
    )
    assert vectors.pop("▁学校生活") == [2, 3, 5]
    # What stands for the inside of a word is no word: a bank is not what a riverbank ends with.
    assert vectors.pop("▁riverbank") == [1, 0, 0]
    assert vectors == {"▁学校": [1, 2, 3], "生活": [3, 4, 7], "▁river": [1, 0, 0]}
    assert (found.exact, found.normalized, found.from_pieces) == (3, 0, 2)


def test_words_of_scripts_without_spaces_are_found_inside_tokens_too(tmp_path: Path) -> None:
    inside = ["学校", "がっこう", "カナ", "โรงเรียน", "학교", "school", "школа", "ab学"]
    vocabulary = vocabulary_with({piece: -3.0 for word in inside for piece in (f"▁{word}", word)})
    rows = {word: [float(number + 1), 1.0, 0.0] for number, word in enumerate(inside)}
    found, vectors = imported(tmp_path, vocabulary, rows)
    for word in inside:
        assert vectors[f"▁{word}"] == rows[word]
        assert (word in vectors) == (word in ("学校", "がっこう", "カナ", "โรงเรียน"))
    assert all(vectors[word] == rows[word] for word in inside if word in vectors)
    assert found.exact == len(vectors) == len(inside) + 4


# Folders of this package


def make_config(tokens: str, output: Path, **changes: Any) -> WordVectorsConfig:
    small: dict[str, Any] = {"dimension": 8, "epochs": 2, "sample": 0.0, "workers": 1}
    return WordVectorsConfig(**{"tokens": tokens, "output": str(output), **small, **changes})


def test_a_folder_is_aligned_to_another_vocabulary_and_its_new_words_have_their_pieces(tmp_path: Path) -> None:
    old = write_token_set(str(tmp_path / "old"), num_words=50, num_articles=30)
    new = write_token_set(str(tmp_path / "new"), num_words=70, num_articles=30, seed=1)
    train_word_vectors(make_config(old.path, tmp_path / "old-wv"))
    config = make_config(new.path, tmp_path / "new-wv", import_from=str(tmp_path / "old-wv"))
    train_word_vectors(config)
    before, after = (WordVectors.load(str(tmp_path / name)) for name in ("old-wv", "new-wv"))
    rows = after.vocabulary.ids(before.vocabulary.pieces)
    np.testing.assert_array_equal(after.vectors[rows], before.vectors)
    report = json_of(str(tmp_path / "new-wv" / "report.json"))["imported"]
    assert report["exact"] == len(before.vocabulary) - FIRST_ID
    assert (report["composed"], report["from_pieces"]) == (0, 20)
    assert after.vectors[FIRST_LEARNED:].any(axis=1).all()
    assert train_word_vectors(config).already_done


def test_what_cannot_be_used_leaves_no_folder_that_a_corrected_command_would_trip_over(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path / "tokens"), num_words=50, num_articles=30)
    train_word_vectors(make_config(tokens.path, tmp_path / "old"))
    cut = write_lines(tmp_path / "cut.txt", [b"50 2", b"w1 1 2"])
    for wrong in ({"import_from": cut}, {"continue_from": str(tmp_path / "old"), "dimension": 9}):
        with pytest.raises(InputError):
            train_word_vectors(make_config(tokens.path, tmp_path / "new", **wrong))
        assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError, match="no file at"):
        train_word_vectors(make_config(tokens.path, tmp_path / "new", import_from=str(tmp_path / "missing")))
    assert (
        train_word_vectors(make_config(tokens.path, tmp_path / "new", continue_from=str(tmp_path / "old"))).rows
        == len(tokens.vocabulary) - FIRST_ID
    )
