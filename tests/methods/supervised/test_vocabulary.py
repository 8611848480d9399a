"""From texts to ids, in the ways of the released codes."""

from __future__ import annotations

import json

import pytest
import torch
from places import SHARED

from cirbench.methods.supervised.vocabulary import (
    ArtemisVocabulary,
    MaafVocabulary,
    TirgVocabulary,
    pad,
    split_tokens,
    split_words,
)

CAPTIONS = SHARED / "data" / "fashion-iq" / "captions"
needs_captions = pytest.mark.skipif(
    not CAPTIONS.is_dir(), reason="needs the reference data: the real annotations"
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café tee-shirt, (red)", ["caf", "teeshirt", "red"]),
        ("don't\tSTOP\nit", ["dont", "stop", "it"]),
        ("— … !", []),
    ],
)
def test_words_of_tirg_and_maaf(text, words):
    assert split_words(text) == words


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Café tee-shirt, (red)", ["caf", "tee", "shirt", "(", "red", ")"]),
        ("black/white\\grey", ["black", "white", "grey"]),
        ("has 3 buttons & it's", ["has", "buttons", "its"]),
        ("Cannot gimme gonna gotta", ["can", "not", "gim", "me", "gon", "na", "got", "ta"]),
        ("lemme wanna(wanna)", ["lem", "me", "wan", "na", "(", "wan", "na", ")"]),
        ("wannabe unlemme", ["wannabe", "unlemme"]),
        ("one\ttwo", ["onetwo"]),
        ("", []),
    ],
)
def test_tokens_of_artemis(text, tokens):
    assert split_tokens(text) == tokens


def test_tirg_sorts_its_words_and_reads_what_it_does_not_know_as_unknown():
    vocabulary = TirgVocabulary.build(["the red dog", "a dog"])
    assert vocabulary.words == ("<UNK>", "a", "dog", "red", "the")
    assert vocabulary.encode("The blue dog") == [4, 0, 2]


def test_maaf_keeps_the_order_of_appearance_after_the_marker():
    vocabulary = MaafVocabulary.build(["the red inadditiontothat dog", "a dog"])
    assert vocabulary.words == ("<UNK>", "inadditiontothat", "the", "red", "dog", "a")
    assert vocabulary.encode("a dog inadditiontothat red") == [5, 4, 1, 3]


@pytest.mark.parametrize("kind", [TirgVocabulary, MaafVocabulary])
def test_a_text_without_words_is_unknown(kind):
    assert kind.build(["red"]).encode("...") == [0]


def test_artemis_frames_texts_and_joins_captions():
    vocabulary = ArtemisVocabulary.build(["the red dog", "a dog"])
    assert vocabulary.words == (
        "<pad>",
        "<start>",
        "<and>",
        "<end>",
        "<unk>",
        "the",
        "red",
        "dog",
        "a",
    )
    assert vocabulary.encode("a dog <and> the blue") == [1, 8, 7, 2, 5, 4, 3]
    assert vocabulary.encode("and") == [1, 4, 3]  # the word is not the marker
    assert vocabulary.encode("") == [1, 3]


@pytest.mark.parametrize(
    ("words", "fault"), [(("<UNK>", "a", "a"), "once"), (("a", "<UNK>"), "begin with <UNK>")]
)
def test_words_of_a_damaged_header_are_refused(words, fault):
    with pytest.raises(ValueError, match=fault):
        TirgVocabulary(words)


def test_words_can_be_stored_as_json():
    vocabulary = ArtemisVocabulary.build(["a dog", "two dogs"])
    stored = json.loads(json.dumps(vocabulary.words))
    assert ArtemisVocabulary(tuple(stored)) == vocabulary


def test_a_batch_is_as_long_as_its_longest_text():
    texts = pad([[3, 4, 5], [0]])
    assert texts.ids.tolist() == [[3, 4, 5], [0, 0, 0]]
    assert texts.mask.tolist() == [[True] * 3, [True, False, False]]
    assert torch.equal(pad([[3]], length=4).ids, torch.tensor([[3, 0, 0, 0]]))


@pytest.mark.parametrize(("rows", "got"), [([[1], []], "0 to 1"), ([[1, 2, 3]], "3 to 3")])
def test_an_empty_or_too_long_row_is_refused(rows, got):
    with pytest.raises(ValueError, match=f"got {got}"):
        pad(rows, length=2)


def read_training_captions():
    """All first captions of a category, then all its second ones."""
    texts = []
    for category in ("dress", "shirt", "toptee"):
        path = CAPTIONS / f"cap.{category}.train.json"
        pairs = [entry["captions"] for entry in json.loads(path.read_text(encoding="utf-8"))]
        texts += [first for first, _ in pairs] + [second for _, second in pairs]
    return texts


@needs_captions
def test_the_real_captions_have_the_published_number_of_words():
    texts = read_training_captions()
    assert len(texts) == 36_000
    assert len(ArtemisVocabulary.build(texts)) == 3_775 + len(ArtemisVocabulary.specials)
    assert len(TirgVocabulary.build(texts)) == 3_945 + 1
    assert len(MaafVocabulary.build(texts)) == 3_945 + 2


@needs_captions
def test_the_real_captions_without_words_and_the_longest_pair():
    texts = read_training_captions()
    assert sum(not split_words(text) for text in texts) == 13
    longest = 0
    for category in ("dress", "shirt", "toptee"):
        path = CAPTIONS / f"cap.{category}.train.json"
        for entry in json.loads(path.read_text(encoding="utf-8")):
            longest = max(longest, len(split_words(" inadditiontothat ".join(entry["captions"]))))
    assert longest == 29
