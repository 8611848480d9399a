"""Scenes of emoji: what the data hold, and that nothing that is found was trained on."""

from __future__ import annotations

import hashlib
import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.training.tiny_clip import mark_also_true
from cirbench.datasets.emoji.pictures import read_pictures
from cirbench.datasets.scenes import captions
from cirbench.datasets.scenes.build import QUERIES, SEED, draw_scenes
from cirbench.datasets.scenes.captions import SceneLessons, draw_lesson
from cirbench.datasets.scenes.pictures import (
    SIDE,
    Placed,
    Scene,
    compose,
    draw_places,
    read_scenes,
    read_training_pictures,
)
from cirbench.datasets.scenes.task import OTHERS, PIC2WORD, Scenes

SPLITS = ("test", "val")


def load(split, protocol=OTHERS):
    return Scenes().load(protocol=protocol, split=split, data_root=None)


def list_drawings(scene):
    return {(placed.style, placed.code) for placed in scene.objects}


def choose(*names, style="noto"):
    found = {p.name: p for p in read_training_pictures() if p.style == style}
    return [found[name] for name in names]


@pytest.mark.parametrize("split", SPLITS)
def test_the_gallery_is_every_scene_of_the_split_and_each_is_another(split):
    data = load(split)
    assert len(data.queries) == QUERIES[split]
    assert data.groups == ("2 objects", "3 objects")
    assert len({ref.id for ref in data.gallery}) == len(data.gallery)
    contents = {hashlib.sha256(ref.read()).hexdigest() for ref in data.gallery}
    assert len(contents) == len(data.gallery)


@pytest.mark.parametrize("split", SPLITS)
def test_one_scene_answers_a_query_and_the_drawing_alone_is_its_reference(split):
    data = load(split)
    scenes = [scene for scene in read_scenes() if scene.split == split]
    for query in data.queries:
        [row] = query.positives
        scene = scenes[row]
        asked, names = scene.objects[0], Counter(scene.names)
        assert query.reference.id == f"{asked.style}/{asked.code}"
        assert (
            Counter([query.fields["query_class"], *query.fields["others"].split(" and ")]) == names
        )
        same = [
            other
            for other in scenes
            if Counter(other.names) == names and (asked.style, asked.code) in list_drawings(other)
        ]
        assert same == [scene]


def test_a_query_has_look_alikes():
    scenes = [scene for scene in read_scenes() if scene.split == "test"]
    drawings = [list_drawings(scene) for scene in scenes]
    others = Counter(frozenset(d - {one}) for d in drawings for one in d)
    for scene, shown in zip(scenes, drawings, strict=True):
        if scene.asked:
            first = scene.objects[0]
            assert others[frozenset(shown - {(first.style, first.code)})] >= 2


def test_the_second_protocol_names_the_object_too():
    [query, *_] = load("val", PIC2WORD).queries
    own, others = query.fields["query_class"], query.fields["others"]
    assert OTHERS.text("text", query.group, query.fields) == f"a photo of {others}"
    assert PIC2WORD.text("text", query.group, query.fields) == f"a photo of {own} and {others}"
    assert (
        PIC2WORD.text("pseudo-word", query.group, query.fields)
        == f"a photo of * and {own} and {others}"
    )


def test_no_training_sees_an_object_of_a_gallery():
    held_out = {
        drawing
        for scene in read_scenes()
        if scene.split in SPLITS
        for drawing in list_drawings(scene)
    }
    pictures = {(p.style, p.code): p for p in read_pictures()}
    assert all(pictures[drawing].held_out for drawing in held_out)
    trained = {(p.style, p.code): p for p in read_training_pictures()}
    assert not held_out & set(trained)
    assert not {pictures[d].sha256 for d in held_out} & {p.sha256 for p in trained.values()}
    of_triplets = {
        drawing
        for scene in read_scenes()
        if scene.split == "train"
        for drawing in list_drawings(scene)
    }
    assert of_triplets <= set(trained)
    known = {p.ref.id for p in trained.values()}
    assert {ref.id for ref in Scenes().training_images(data_root=None)} <= known
    triplets = Scenes().triplets(data_root=None)
    assert len(triplets) == QUERIES["train"]
    assert {triplet.reference.id for triplet in triplets} <= known
    batches = SceneLessons().draw_batches(np.random.default_rng(0))
    for lesson in (one for _ in range(10) for one in next(batches)):
        assert set(lesson.picture.id.split("+")) <= known


def test_every_thing_of_a_gallery_is_known_from_other_drawings():
    known = {p.code for p in read_training_pictures()}
    assert {o.code for s in read_scenes() if s.split in SPLITS for o in s.objects} <= known


def test_scenes_are_those_that_a_seed_draws():
    things = {}
    for picture in read_pictures():
        things.setdefault(picture.code, {})[picture.style] = picture
    codes = {o.code for s in read_scenes() if s.split == "val" for o in s.objects}
    drawn = draw_scenes(
        "val", [things[code] for code in sorted(codes)], np.random.default_rng((SEED, 11))
    )
    assert list(drawn) == [scene for scene in read_scenes() if scene.split == "val"]


def test_a_scene_is_its_row():
    assert all(Scene.parse(scene.as_row()) == scene for scene in read_scenes())


@pytest.mark.parametrize("objects", ["3d 1f98a 30 0", "3d 1f98a 30 x 0", ""])
def test_a_damaged_row_is_told(objects):
    with pytest.raises(CorruptData, match="must be style, code, side, left and top"):
        Scene.parse({"split": "test", "asked": "yes", "objects": objects})


def test_an_emoji_that_is_not_there_is_told():
    with pytest.raises(CorruptData, match="must name emoji of the pack, got 3d/abc"):
        compose([Placed(style="3d", code="abc", side=30, left=0, top=0)])


def test_a_scene_shows_its_objects_where_they_are_and_white_elsewhere():
    [bear] = choose("bear")
    content = compose([Placed(style=bear.style, code=bear.code, side=30, left=34, top=2)])
    assert content.startswith(b"BM")
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    assert pixels.shape == (SIDE, SIDE, 3)
    inside = np.zeros((SIDE, SIDE), dtype=bool)
    inside[2:32, 34:64] = True
    assert (pixels[~inside] == 255).all()
    assert (pixels[inside] < 200).any()


@pytest.mark.parametrize("names", [("bear", "bagel"), ("bear", "bagel", "camel")])
def test_objects_stay_on_the_canvas_and_hardly_meet(names):
    for seed in range(50):
        placed = draw_places(choose(*names), np.random.default_rng(seed))
        assert [p.code for p in placed] == [p.code for p in choose(*names)]
        covered = np.zeros((SIDE, SIDE), dtype=int)
        for one in placed:
            assert 0 <= one.left <= SIDE - one.side
            assert 0 <= one.top <= SIDE - one.side
            covered[one.top : one.top + one.side, one.left : one.left + one.side] += 1
        assert (covered > 1).mean() < 0.1


def test_a_caption_is_no_negative_of_a_scene_that_it_is_true_of():
    bear, bagel, camel = choose("bear", "bagel", "camel")
    [other_bear] = choose("bear", style="flat")
    shown = [[bear, bagel], [other_bear, bagel, camel], [bear, camel]]
    lessons = [draw_lesson(pictures, np.random.default_rng(0)) for pictures in shown]
    said = [[bear.code, bagel.code], [f"flat/{bear.code}"], [camel.code]]
    marked = mark_also_true(
        [
            captions.Lesson(
                picture=one.picture, shows=one.shows, text="", said=dict.fromkeys(names, "yes")
            )
            for one, names in zip(lessons, said, strict=True)
        ]
    )
    assert marked.tolist() == [
        [False, True, False],
        [False, False, False],
        [False, True, False],
    ]


def test_a_caption_names_only_what_is_there():
    batches = SceneLessons().draw_batches(np.random.default_rng(0))
    names = {p.code: p.name for p in read_pictures()}
    twice = 0
    for lesson in (one for _ in range(10) for one in next(batches)):
        assert lesson.said.items() <= lesson.shows.items()
        codes = {part.rpartition("/")[2] for part in lesson.said} & set(names)
        assert all(names[code] in lesson.text for code in codes)
        twice += any(lesson.text.count(names[code]) > 1 for code in codes)
    assert twice
