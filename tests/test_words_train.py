"""Word vectors: training that survives being killed, continuing on grown text, every file format, honest scores."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from lstm_embed.base import storage
from lstm_embed.base.errors import FingerprintMismatch, InputError
from lstm_embed.corpus.token_set import TokenSet
from lstm_embed.corpus.vocabulary import FIRST_ID, FIRST_LEARNED
from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.folder import VECTORS, State, WordVectors
from lstm_embed.words.formats import read_vectors
from lstm_embed.words.plain_files import detect_format
from lstm_embed.words.scores import shipped_file, unit_rows
from lstm_embed.words.train import train_word_vectors
from tests.synthetic import NUM_TOPICS, vocabulary_of, write_token_set

SMALL: dict[str, Any] = {"dimension": 16, "epochs": 3, "sample": 0.0, "workers": 1, "seed": 5}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenSet:
    return write_token_set(str(tmp_path_factory.mktemp("tokens")), num_words=80, num_articles=80)


def make_config(tokens: TokenSet, output: Path, **changes: Any) -> WordVectorsConfig:
    return WordVectorsConfig(**{"tokens": tokens.path, "output": str(output), **SMALL, **changes})


def report_of(output: Path) -> dict[str, Any]:
    return json.loads((output / "report.json").read_text())


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in folder.rglob("*") if p.is_file()}


def test_trained_vectors_are_aligned_to_the_token_sets_vocabulary(tokens: TokenSet, tmp_path: Path) -> None:
    summary = train_word_vectors(make_config(tokens, tmp_path / "wv"))
    made = WordVectors.load(summary.output)
    assert made.vectors.shape == (len(tokens.vocabulary), 16)
    assert made.vocabulary.fingerprint == tokens.vocabulary_fingerprint
    assert not made.vectors[:FIRST_ID].any()
    assert made.vectors[FIRST_ID:].any(axis=1).all()
    assert (summary.rows, summary.row_name) == (len(tokens.vocabulary) - FIRST_ID, "pieces")
    assert "running_text_with_vectors" not in summary.facts


def test_words_of_one_topic_come_out_closer_than_words_of_different_topics(tokens: TokenSet, tmp_path: Path) -> None:
    train_word_vectors(make_config(tokens, tmp_path / "wv", epochs=30, alpha=0.05))
    units = unit_rows(WordVectors.load(str(tmp_path / "wv")).vectors[FIRST_LEARNED : FIRST_LEARNED + 80])
    cosine = units @ units.T
    topic = np.arange(len(units)) % NUM_TOPICS
    same = topic[:, None] == topic[None, :]
    np.fill_diagonal(cosine, np.nan)
    assert np.nanmean(cosine[same]) > np.nanmean(cosine[~same]) + 0.1


def test_a_finished_folder_is_left_as_it_is(tokens: TokenSet, tmp_path: Path) -> None:
    config = make_config(tokens, tmp_path / "wv")
    train_word_vectors(config)
    before = files_of(tmp_path / "wv")
    again = train_word_vectors(dataclasses.replace(config, workers=2))
    assert again.already_done
    assert files_of(tmp_path / "wv") == before


def test_other_settings_are_refused_with_both_values(tokens: TokenSet, tmp_path: Path) -> None:
    config = make_config(tokens, tmp_path / "wv")
    train_word_vectors(config)
    with pytest.raises(FingerprintMismatch, match="dimension was 16 and is now 20"):
        train_word_vectors(dataclasses.replace(config, dimension=20))


def test_a_folder_with_other_files_is_refused(tokens: TokenSet, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(InputError, match=r"letter\.txt"):
        train_word_vectors(make_config(tokens, tmp_path))


TRAIN_AND_TELL = """
import sys
from lstm_embed.words.config import WordVectorsConfig
from lstm_embed.words.train import train_word_vectors
import json
class Teller:
    def progress(self, *args, **counters): pass
    def note(self, message):
        print(message, flush=True)
        sys.stdin.readline()
train_word_vectors(WordVectorsConfig(**json.loads(sys.argv[1])), Teller())
"""


def test_a_training_killed_after_an_epoch_ends_with_the_same_vectors(tokens: TokenSet, tmp_path: Path) -> None:
    config = make_config(tokens, tmp_path / "killed")
    arguments = [sys.executable, "-c", TRAIN_AND_TELL, json.dumps(dataclasses.asdict(config))]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "epoch 1 of 3" in process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    state = State.load(str(tmp_path / "killed"), len(tokens.vocabulary) - FIRST_ID, 16)
    assert state is not None
    assert state.facts["epoch"] == 1
    with pytest.raises(InputError, match="not a finished word vectors folder"):
        WordVectors.load(str(tmp_path / "killed"))
    train_word_vectors(config)
    train_word_vectors(dataclasses.replace(config, output=str(tmp_path / "whole")))
    assert (tmp_path / "killed" / VECTORS).read_bytes() == (tmp_path / "whole" / VECTORS).read_bytes()
    assert [e["epoch"] for e in report_of(tmp_path / "killed")["epochs"]] == [1, 2, 3]


def test_a_state_that_says_nothing_of_itself_is_refused(tmp_path: Path) -> None:
    arrays = {name: np.zeros((3, 2), np.float32) for name in ("vectors", "hidden")}
    (tmp_path / "state.safetensors").write_bytes(safetensors.numpy.save(arrays))
    with pytest.raises(InputError, match="delete it to train from the start"):
        State.load(str(tmp_path), 3, 2)


def test_the_loss_falls_and_does_not_depend_on_the_number_of_threads(tokens: TokenSet, tmp_path: Path) -> None:
    losses = {}
    for workers in (1, 3):
        output = tmp_path / str(workers)
        train_word_vectors(make_config(tokens, output, workers=workers, epochs=12, alpha=0.05))
        losses[workers] = [epoch["loss"] for epoch in report_of(output)["epochs"]]
    assert losses[1][-1] < losses[1][0]
    assert losses[3] == pytest.approx(losses[1], rel=0.05)


def test_a_cap_on_sentences_takes_them_evenly_from_the_corpus(tokens: TokenSet, tmp_path: Path) -> None:
    train_word_vectors(make_config(tokens, tmp_path / "all"))
    train_word_vectors(make_config(tokens, tmp_path / "some", max_sentences=tokens.num_rows // 4))
    words = [report_of(tmp_path / name)["epochs"][0]["words"] for name in ("all", "some")]
    assert words[1] == pytest.approx(words[0] / 4, rel=0.15)


def test_a_cap_that_leaves_nothing_out_is_none(tokens: TokenSet, tmp_path: Path) -> None:
    train_word_vectors(make_config(tokens, tmp_path, max_sentences=0))
    assert train_word_vectors(make_config(tokens, tmp_path, max_sentences=tokens.num_rows)).already_done
    with pytest.raises(FingerprintMismatch, match=f"max_sentences was 0 and is now {tokens.num_rows - 1}"):
        train_word_vectors(make_config(tokens, tmp_path, max_sentences=tokens.num_rows - 1))


def test_a_damaged_part_stops_the_training_with_an_error(tmp_path: Path) -> None:
    tokens = write_token_set(str(tmp_path / "tokens"), num_articles=10)
    storage.write_bytes(tokens.parts[1].path, b"PAR1 not really PAR1")
    with pytest.raises(InputError, match="damaged"):
        train_word_vectors(make_config(tokens, tmp_path / "wv"))


def test_training_continues_on_a_grown_token_set(tokens: TokenSet, tmp_path: Path) -> None:
    train_word_vectors(make_config(tokens, tmp_path / "old"))
    grown = write_token_set(str(tmp_path / "grown"), num_words=100, seed=1)
    # A learning rate of nearly nothing shows what the training started from.
    still = {"continue_from": str(tmp_path / "old"), "alpha": 1e-9, "min_alpha": 1e-9, "epochs": 1}
    train_word_vectors(make_config(grown, tmp_path / "new", **still))
    old, new = (WordVectors.load(str(tmp_path / name)) for name in ("old", "new"))
    assert new.vectors.shape == (len(old.vectors) + 20, 16)
    rows = new.vocabulary.ids(old.vocabulary.pieces)
    np.testing.assert_allclose(new.vectors[rows], old.vectors, atol=1e-4)
    assert new.vectors[FIRST_ID:].any(axis=1).all()
    with pytest.raises(InputError, match=r"dimension 16, and now it is 8.*--dimension 16"):
        train_word_vectors(make_config(grown, tmp_path / "other", **{**still, "dimension": 8}))


def test_the_state_is_dropped_on_request_and_vectors_can_still_be_continued(tokens: TokenSet, tmp_path: Path) -> None:
    train_word_vectors(make_config(tokens, tmp_path / "old", keep_state=False))
    assert not (tmp_path / "old" / "state.safetensors").exists()
    train_word_vectors(make_config(tokens, tmp_path / "new", continue_from=str(tmp_path / "old")))
    assert WordVectors.load(str(tmp_path / "new")).fingerprint != WordVectors.load(str(tmp_path / "old")).fingerprint


def test_word_vectors_are_made_and_continued_in_an_object_store(tokens: TokenSet, s3: str) -> None:
    config = WordVectorsConfig(tokens=tokens.path, output=f"{s3}/old", **SMALL)
    train_word_vectors(config)
    assert train_word_vectors(config).already_done
    new = dataclasses.replace(config, output=f"{s3}/new", continue_from=f"{s3}/old", epochs=1)
    train_word_vectors(new)
    assert WordVectors.load(f"{s3}/new").vectors.shape == WordVectors.load(f"{s3}/old").vectors.shape


# Files made elsewhere


VOCABULARY = vocabulary_of(["paris", "river", "absent"], [9, 8, 7])
PARIS, RIVER = FIRST_LEARNED, FIRST_LEARNED + 1
ROWS = {"Paris": [1.0, 2.0, 3.0], "river": [4.0, 5.0, 6.0], "paris": [7.0, 8.0, 9.0], "unwanted": [0.0, 0.0, 1.0]}


def text_file(path: Path, *, header: bool, rows: dict[str, list[float]] = ROWS) -> str:
    lines = [f"{len(rows)} 3"] if header else []
    lines += [" ".join([word, *map(str, values)]) for word, values in rows.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def binary_file(path: Path, separator: bytes = b"\n") -> str:
    data = b"4 3\n"
    for word, values in ROWS.items():
        data += word.encode() + b" " + np.array(values, "<f4").tobytes() + separator
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize("kind", ["word2vec text", "glove", "gzipped", "binary", "binary without line ends"])
def test_every_plain_format_gives_the_same_vectors(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "v.txt"
    if kind == "gzipped":
        plain = Path(text_file(path, header=True))
        path = tmp_path / "v.txt.gz"
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif kind.startswith("binary"):
        binary_file(path, b"\n" if kind == "binary" else b"")
    else:
        text_file(path, header=kind == "word2vec text")
    imported = read_vectors(str(path), "auto", VOCABULARY, "default")
    expected = np.zeros((len(VOCABULARY), 3), np.float32)
    expected[PARIS], expected[RIVER] = [7, 8, 9], [4, 5, 6]
    np.testing.assert_array_equal(imported.vectors, expected)
    assert (imported.exact, imported.normalized, imported.composed, imported.from_pieces) == (2, 0, 0, 0)


def test_a_word_that_is_only_there_in_another_form_is_found_by_the_token_rule(tmp_path: Path) -> None:
    path = text_file(tmp_path / "v.txt", header=False, rows={"Paris": [1.0, 2.0, 3.0], "PARIS": [9.0, 9.0, 9.0]})
    imported = read_vectors(path, "auto", VOCABULARY, "default")
    np.testing.assert_array_equal(imported.vectors[PARIS], [1, 2, 3])
    assert (imported.exact, imported.normalized) == (0, 1)


def test_a_word_with_a_space_in_it_does_not_pass_for_its_first_half(tmp_path: Path) -> None:
    path = text_file(
        tmp_path / "v.txt", header=False, rows={"the": [1.0, 1.0, 1.0], "paris name@x.org": [5.0, 5.0, 5.0]}
    )
    with pytest.raises(InputError, match=r"none of the .* pieces"):
        read_vectors(path, "auto", VOCABULARY, "default")


def test_fasttext_binaries_compose_unknown_words_from_their_subwords() -> None:
    from gensim.models.fasttext import load_facebook_vectors

    path = shipped_file("crime-and-punishment.bin")
    vocabulary = vocabulary_of(["landlady", "landlord"], [5, 5])
    lady, lord = vocabulary.ids(["▁landlady", "▁landlord"])
    imported = read_vectors(path, "auto", vocabulary, "default")
    theirs = load_facebook_vectors(path)
    assert "landlord" not in theirs.key_to_index
    assert imported.exact == 1
    np.testing.assert_allclose(imported.vectors[lord], theirs["landlord"])
    text = read_vectors(shipped_file("crime-and-punishment.vec"), "auto", vocabulary, "default")
    np.testing.assert_allclose(text.vectors[lady], imported.vectors[lady], atol=1e-4)
    assert not text.vectors[lord].any()


def test_pickles_are_read_only_when_they_are_named(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    kept = KeyedVectors(3)
    kept.add_vectors(list(ROWS), np.array(list(ROWS.values()), np.float32))
    path = str(tmp_path / "v.kv")
    kept.save(path)
    with pytest.raises(InputError, match="--import-format gensim"):
        read_vectors(path, "auto", VOCABULARY, "default")
    np.testing.assert_array_equal(read_vectors(path, "gensim", VOCABULARY, "default").vectors[PARIS], [7, 8, 9])


def test_files_that_hold_no_vectors_are_refused_with_their_beginning(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("Dear reader, this is a letter.\n")
    with pytest.raises(InputError, match="Dear reader"):
        detect_format(str(tmp_path / "letter.txt"))
    (tmp_path / "cut.bin").write_bytes(Path(binary_file(tmp_path / "v.bin")).read_bytes()[:-5])
    with pytest.raises(InputError, match="ends or makes no sense after 3 of 4 words"):
        read_vectors(str(tmp_path / "cut.bin"), "word2vec-binary", VOCABULARY, "default")


def test_imported_vectors_make_a_finished_folder(tokens: TokenSet, tmp_path: Path) -> None:
    rows = {f"w{n}": [float(n), 1.0, 0.0] for n in range(40, 80)}
    path = text_file(tmp_path / "v.txt", header=True, rows=rows)
    config = make_config(tokens, tmp_path / "wv", import_from=path)
    summary = train_word_vectors(config)
    made = WordVectors.load(summary.output)
    np.testing.assert_array_equal(made.vectors[FIRST_LEARNED + 50], [50, 1, 0])
    assert summary.facts["dimension"] == 3
    assert report_of(tmp_path / "wv")["imported"]["coverage_pieces"] == 40 / (len(made.vectors) - FIRST_LEARNED)
    again = train_word_vectors(config)
    assert again.already_done
    assert again.facts == summary.facts


class Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def progress(self, *_: Any, **__: Any) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


@pytest.mark.parametrize(("num_words", "warns"), [(10, True), (70, False)])
def test_an_import_tells_how_much_of_the_running_text_has_vectors_and_warns_of_little(
    tokens: TokenSet, tmp_path: Path, num_words: int, warns: bool
) -> None:
    rows = {f"w{n}": [float(n), 1.0, 0.0] for n in range(80 - num_words, 80)}
    path = text_file(tmp_path / "v.txt", header=True, rows=rows)
    told = Notes()
    summary = train_word_vectors(make_config(tokens, tmp_path / "wv", import_from=path), told)
    counts = tokens.vocabulary.counts
    share = counts[FIRST_LEARNED + 80 - num_words : FIRST_LEARNED + 80].sum() / counts.sum()
    assert (share < 0.5) == warns
    assert summary.facts["running_text_with_vectors"] == f"{100 * share:.1f} %"
    assert summary.facts["pieces_with_vectors"] == f"{100 * num_words / (len(tokens.vocabulary) - FIRST_LEARNED):.1f} %"
    assert report_of(tmp_path / "wv")["imported"]["coverage_tokens"] == pytest.approx(share)
    warnings = [note for note in told.notes if note.startswith("warning: ")]
    assert len(warnings) == warns
    if warns:
        learned = len(tokens.vocabulary) - FIRST_LEARNED
        assert f"{path} covers {100 * share:.1f} % of the running text and {1000 / learned:.1f} % of" in warnings[0]
        assert "--whole-word-count" in warnings[0]


# Settings


def test_settings_are_read_without_gensim_torch_or_ray() -> None:
    code = (
        "import sys, lstm_embed.words.config, lstm_embed.evaluation.config as c\n"
        "print([m for m in ('gensim', 'torch', 'ray', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dimension": 0}, "dimension is 0; expected 1 to 65,536 .--dimension"),
        ({"sample": 2.0}, "sample is 2.0; expected 0 to 1"),
        ({"architecture": "glove"}, "architecture is 'glove'; expected 'skip-gram' or 'cbow'"),
        ({"import_from": "a", "continue_from": "b"}, "both set"),
    ],
)
def test_wrong_settings_name_field_value_range_and_flag(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        WordVectorsConfig(**{"tokens": "t", "output": "o", **changes})
