"""People at work and play: what the data hold, and that nothing that is found was trained on."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pytest
import torch

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.datasets.embedded.drawing import NEAR, make_thumbnail
from cirbench.datasets.kin import task as kin_task
from cirbench.datasets.kin.captions import MEDIA, SKIN, KinLessons, word_activity, word_sentence
from cirbench.datasets.kin.pictures import (
    GALLERY_STYLES,
    GENDERS,
    HINT_STYLES,
    NAMED,
    PACK,
    STYLES,
    TONES,
    read_gallery,
    read_pictures,
    read_training_pictures,
)
from cirbench.datasets.kin.queries import COUNTS, draw_queries, read_queries
from cirbench.datasets.kin.task import PROTOCOL, QUERIES, Kin

SPLITS = {"test": 32, "val": 14}


def load(split):
    return Kin().load(protocol=PROTOCOL, split=split, data_root=None)


def find_shown():
    return {p.ref.id: p.shows for p in read_pictures()}


def list_changes(before, after):
    return {name for name in before if before[name] != after[name]}


def says(caption, shows):
    """Which of the attributes a caption names rightly, by words alone."""
    found = set()
    if word_activity(shows["activity"]) in caption:
        found.add("activity")
    if re.search(rf"\b(is|as) a {shows['gender']}\b", caption):
        found.add("gender")
    if any(words in caption for words in SKIN[shows["tone"]]):
        found.add("tone")
    return found


def test_each_row_is_its_picture():
    assert all(
        hashlib.sha256(PACK.read_bytes(p.index)).hexdigest() == p.sha256 for p in read_pictures()
    )


def test_a_picture_is_in_the_pack_once():
    pictures = read_pictures()
    assert len({p.sha256 for p in pictures}) == len(pictures)
    assert len({p.ref.id for p in pictures}) == len(pictures)
    assert {tuple(p.shows.values()) for p in pictures} == {
        tuple(p.shows.values()) for p in pictures if p.gender in GENDERS and p.tone in TONES
    }


def test_an_activity_is_in_one_split():
    splits = Counter(split for _, split in {(p.activity, p.split) for p in read_pictures()})
    assert splits == {**SPLITS, "train": 23}
    assert sum(splits.values()) == len({p.activity for p in read_pictures()})


@pytest.mark.parametrize("split", SPLITS)
def test_the_gallery_is_every_person_of_the_splits_activities_in_both_styles(split):
    gallery = read_gallery(split)
    assert [ref.id for ref in load(split).gallery] == [p.ref.id for p in gallery]
    assert {p.style for p in gallery} == set(GALLERY_STYLES)
    # noto draws the three astronauts of a tone alike, so that one stays
    expected = SPLITS[split] * len(GENDERS) * len(TONES) * len(GALLERY_STYLES)
    assert len(gallery) == expected - (8 if split == "val" else 0)


@pytest.mark.parametrize("split", SPLITS)
def test_a_query_names_all_that_changes_and_its_reference_is_removed(split):
    data, shown = load(split), find_shown()
    assert len(data.queries) == COUNTS[split]
    assert len({(q.reference.id, q.positives) for q in data.queries}) == COUNTS[split]
    for query in data.queries:
        [positive] = query.positives
        before, after = shown[query.reference.id], shown[data.gallery[positive].id]
        changes = list_changes(before, after)
        assert 1 <= len(changes) <= 2
        assert changes <= set(NAMED)
        assert changes <= says(query.fields["caption"], after)
        assert not changes & says(query.fields["caption"], before)
        assert data.gallery[query.removed].id == query.reference.id


@pytest.mark.parametrize("split", SPLITS)
def test_an_image_set_has_four_near_the_reference_or_the_target(split):
    data, shown = load(split), find_shown()
    for query in data.queries:
        assert len(query.members) == len(set(query.members)) == 5
        assert query.removed not in query.members
        assert query.positives[0] in query.members
        ends = [shown[query.reference.id], shown[data.gallery[query.positives[0]].id]]
        for row in set(query.members) - set(query.positives):
            other = shown[data.gallery[row].id]
            assert other["style"] == ends[0]["style"]
            assert min(len(list_changes(end, other)) for end in ends) == 1


def test_no_training_sees_a_picture_of_a_gallery():
    galleries = {ref.id for split in SPLITS for ref in load(split).gallery}
    held_out = [p for p in read_pictures() if p.ref.id in galleries]
    trained = read_training_pictures()
    assert all(p.held_out for p in held_out)
    assert not {p.sha256 for p in trained} & {p.sha256 for p in held_out}
    assert {p.style for p in trained if p.split != "train"} == set(HINT_STYLES)
    known = {p.ref.id for p in trained}
    assert {ref.id for ref in Kin().training_images(data_root=None)} <= known
    triplets = Kin().triplets(data_root=None)
    assert {ref.id for t in triplets for ref in (t.reference, t.target)} <= known
    batches = KinLessons().draw_batches(np.random.default_rng(0))
    assert {one.picture.id for _ in range(40) for one in next(batches)} <= known


def test_no_training_picture_is_nearly_a_picture_of_a_gallery():
    def look(pictures):
        return torch.from_numpy(
            np.stack([make_thumbnail(PACK.read_bytes(p.index)) for p in pictures])
        )

    held_out = look([p for p in read_pictures() if p.held_out])
    nearest = torch.cdist(look(read_training_pictures()), held_out, p=1).amin()
    assert nearest / held_out.shape[1] >= NEAR - 1e-4


def test_triplets_are_of_training_activities_and_name_all_that_changes():
    shown = find_shown()
    splits = {p.ref.id: p.split for p in read_pictures()}
    triplets = Kin().triplets(data_root=None)
    assert len(triplets) == COUNTS["train"]
    for triplet in triplets:
        before, after = shown[triplet.reference.id], shown[triplet.target.id]
        assert splits[triplet.reference.id] == splits[triplet.target.id] == "train"
        assert list_changes(before, after) <= set(NAMED) & says(triplet.captions[0], after)


def test_the_queries_are_those_that_a_seed_draws():
    assert list(draw_queries(read_pictures())) == list(read_queries(QUERIES))


def test_a_lesson_says_what_its_picture_shows_and_an_edit_ends_with_what_is_true():
    batches = KinLessons().draw_batches(np.random.default_rng(0))
    lessons = [one for _ in range(20) for one in next(batches)]
    wrong = 0
    for lesson in lessons:
        assert lesson.said.items() <= lesson.shows.items()
        phrase, _, sentence = lesson.text.partition(" , ")
        true = says(sentence or phrase, lesson.shows)
        named = set(lesson.said) - {"style"}
        assert true <= named
        wrong += bool(sentence) and word_activity(lesson.shows["activity"]) in sentence
    assert wrong
    assert set(MEDIA) == set(STYLES)


@pytest.mark.parametrize(
    ("activity", "words"),
    [
        ("surfing", "is surfing"),
        ("mountain biking", "is mountain biking"),
        ("feeding baby", "is feeding a baby"),
        ("playing handball", "is playing handball"),
        ("in tuxedo", "is in a tuxedo"),
        ("with veil", "has a veil"),
        ("red hair", "has red hair"),
        ("beard", "has a beard"),
        ("bald", "has no hair"),
        ("astronaut", "is an astronaut"),
        ("gesturing NO", "is gesturing no"),
    ],
)
def test_an_activity_is_worded(activity, words):
    assert word_activity(activity) == words


def test_a_sentence_says_each_named_attribute_once():
    shows = {"activity": "surfing", "gender": "woman", "tone": "dark", "style": "noto"}
    for seed in range(20):
        sentence = word_sentence(shows, NAMED, np.random.default_rng(seed))
        for words in ("is surfing", "a woman", "dark skin"):
            assert sentence.count(words) == 1


def test_queries_of_another_pack_are_told(monkeypatch, tmp_path):
    table = tmp_path / "queries.csv"
    text = QUERIES.read_text(encoding="utf-8")
    header, first = text.splitlines()[:2]
    cells = first.split(",")
    table.write_text(f"{header}\n{','.join([*cells[:2], 'abc', *cells[3:]])}\n", encoding="utf-8")
    monkeypatch.setattr(kin_task, "QUERIES", table)
    with pytest.raises(CorruptData, match="must name pictures of its pack, got twemoji/abc"):
        load("test")
