"""ARTEMIS's words from a file of GloVe's: what is read, what is refused, and what is kept of it."""

from __future__ import annotations

import hashlib

import pytest
import torch

from cirbench.benchmark.api.training import TrainingRequest
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.methods.artemis.method import Artemis
from cirbench.methods.artemis.training import ArtemisRecipe, ArtemisTraining
from cirbench.methods.artemis.word_vectors import read_word_vectors

LINES = """the 0.5 -1 2e-1
red 1 2 3
at name@domain.com 7 8 9
red 4 5 6
café 0 0 1
"""
TOWERS = {"trunk": "tiny", "image_width": 0, "words": True, "text_width": 0}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "glove.txt"
    path.write_text(LINES, encoding="utf-8")
    return path


def test_only_the_words_that_are_asked_for_are_read_and_the_first_line_of_one_counts(file):
    found = read_word_vectors(file, ["red", "the", "café", "at", "blue"], 3)
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "the": pytest.approx([0.5, -1, 0.2]),
        "red": [1, 2, 3],
        "café": [0, 0, 1],
    }


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("red 1 2\n", "line 1 must be a word and 3 numbers, got 3 parts"),
        ("the 1 2 3\nred 1 2 3 4\n", "line 2 must be a word and 3 numbers, got 5 parts"),
        ("400000 300\n", "line 1 must be a word and 3 numbers"),
        ("\n", "line 1 must be a word and 3 numbers"),
        ("red 1 2 three\n", "line 1 must be a word and numbers"),
        ("red 1 2 nan\n", "line 1 must have finite numbers"),
        ("red 1 2 1e99\n", "line 1 must have finite numbers"),
        ("x" * 100_000, "line 1 must be a word and 3 numbers"),
        ("red" + " 1" * 100_000, "line 1 must be a word and 3 numbers"),
    ],
)
def test_a_line_that_is_no_word_and_its_numbers_is_named(file, lines, said):
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(CorruptData, match=said) as error:
        read_word_vectors(file, ["red"], 3)
    assert str(file) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"no file of word vectors at .*none\.txt"):
        read_word_vectors(tmp_path / "none.txt", ["red"], 3)


def begin(word_vectors, towers=TOWERS):
    torch.manual_seed(0)
    settings = {"width": 8, "word_width": 3, "word_vectors": str(word_vectors)}
    network, words = Artemis.start(settings, towers, ["red shoe"])
    return dict(zip(words.words, network.text.embedding.weight.tolist(), strict=True))


def test_words_begin_with_their_vectors_and_the_others_are_drawn(file):
    vectors, again = begin(file), begin(file)
    assert vectors["red"] == [1, 2, 3]
    assert vectors["shoe"] == again["shoe"] != begin("")["shoe"]
    drawn = torch.tensor([vector for word, vector in vectors.items() if word != "red"])
    assert 0.5 < drawn.std() < 1.5


def test_a_backbone_that_reads_texts_itself_takes_no_word_vectors(file):
    towers = {"trunk": None, "image_width": 4, "words": False, "text_width": 4}
    with pytest.raises(UsageError, match="word_vectors must be left out"):
        begin(file, towers)


def test_a_file_without_any_of_the_words_is_refused(file):
    file.write_text("blue 1 2 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match="some of the training's 7 words, got none"):
        begin(file)


def test_the_header_tells_the_file_by_its_content(file, tmp_path):
    file.write_text("icon 1 2 3\n", encoding="utf-8")
    recipe = {"width": 8, "word_width": 3, "first_epochs": 0, "epochs": 1}
    request = TrainingRequest(
        source="emoji",
        backbone="tiny",
        output=tmp_path / "artemis.safetensors",
        recipe={**recipe, "word_vectors": str(file), "frozen": True},
        device="cpu",
    )
    ArtemisTraining().train(request, Reporter(quiet=True), resume=False)
    header = read_checkpoint(request.output).provenance
    assert header["recipe"]["word_vectors"] == {
        "file": "glove.txt",
        "sha256": hashlib.sha256(b"icon 1 2 3\n").hexdigest(),
    }
    assert str(tmp_path) not in str(header)


def test_a_recipe_of_another_file_is_another_training(file):
    before = ArtemisRecipe(word_vectors=str(file)).describe()
    file.write_text("red 1 2 4\n", encoding="utf-8")
    assert ArtemisRecipe(word_vectors=str(file)).describe() != before
    assert ArtemisRecipe().describe()["word_vectors"] == ""
