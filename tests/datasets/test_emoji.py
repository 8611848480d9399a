"""The embedded data: what it holds, and that nothing that is found was trained on."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cirbench.benchmark.api.lessons import Lesson
from cirbench.benchmark.checkpoints import read_checkpoint
from cirbench.benchmark.evaluation.weights import shipped_checkpoints
from cirbench.benchmark.training import tiny_clip
from cirbench.datasets.emoji import captions
from cirbench.datasets.emoji.captions import EmojiLessons
from cirbench.datasets.emoji.pictures import (
    CORE_STYLES,
    HINT_STYLES,
    PACK,
    SOURCE_STYLE,
    TARGET_STYLES,
    read_pictures,
    read_training_pictures,
)
from cirbench.datasets.emoji.task import MAPPER_STYLES, PROTOCOL, Emoji

ROOT = Path(str(files("cirbench.datasets.emoji")))


def load(split):
    return Emoji().load(protocol=PROTOCOL, split=split, data_root=None)


def pixels(picture):
    image = Image.open(io.BytesIO(PACK.read_bytes(picture.index))).convert("RGB")
    return (
        np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=np.float32).reshape(-1) / 255
    )


def test_each_row_is_its_picture():
    assert all(
        hashlib.sha256(PACK.read_bytes(p.index)).hexdigest() == p.sha256 for p in read_pictures()
    )


@pytest.mark.parametrize(("split", "concepts"), [("test", 600), ("val", 150)])
def test_the_gallery_is_all_target_styles_and_all_sources(split, concepts):
    data = load(split)
    assert len(data.gallery) == 5 * concepts
    assert len({ref.id for ref in data.gallery}) == 5 * concepts
    assert Counter(ref.id.split("/")[0] for ref in data.gallery) == dict.fromkeys(
        CORE_STYLES, concepts
    )
    assert data.groups == TARGET_STYLES


def test_a_query_asks_for_its_own_concept_in_the_groups_style():
    data = load("test")
    places = {ref.id: row for row, ref in enumerate(data.gallery)}
    for query in data.queries:
        style, code = query.id.split("/")
        assert query.reference.id == f"{SOURCE_STYLE}/{code}"
        assert [data.gallery[row].id for row in query.positives] == [f"{style}/{code}"]
        assert query.group == style
        assert query.removed is None
        assert places[query.reference.id] not in query.positives


def test_no_training_sees_an_evaluation_picture_or_its_geometry_twins():
    evaluation = {
        p.code for p in read_pictures() if p.split in ("test", "val") and p.style in CORE_STYLES
    }
    galleries = {ref.id for split in ("test", "val") for ref in load(split).gallery}
    held_out = [p for p in read_pictures() if p.ref.id in galleries]
    trained = read_training_pictures()
    assert len(held_out) == 750 * 5
    assert not {p.sha256 for p in trained} & {p.sha256 for p in held_out}
    assert not [p for p in trained if p.code in evaluation and p.style in ("3d", "flat", "mono")]
    assert {p.style for p in trained if p.code in evaluation} <= set(HINT_STYLES)
    assert {ref.id for ref in Emoji().training_images(data_root=None)} <= {
        p.ref.id for p in trained
    }


def test_no_training_picture_is_nearly_an_evaluation_picture():
    held_out = torch.from_numpy(np.stack([pixels(p) for p in read_pictures() if p.held_out]))
    trained = torch.from_numpy(np.stack([pixels(p) for p in read_training_pictures()]))
    nearest = [torch.cdist(part, held_out, p=1).amin() for part in trained.split(500)]
    assert min(nearest) / held_out.shape[1] >= 0.0199


def test_what_the_trainings_use_is_the_one_rule():
    assert set(MAPPER_STYLES) <= set(CORE_STYLES) | set(HINT_STYLES)
    assert all(not p.held_out for p in read_training_pictures())
    assert set(captions.PHRASES) == {p.style for p in read_pictures()}


def test_every_evaluation_concept_has_its_name_from_another_drawing():
    hinted = {p.code for p in read_training_pictures(HINT_STYLES)}
    concepts = {p.code for p in read_pictures() if p.split == "test"}
    assert len(concepts & hinted) >= 0.9 * len(concepts)


def test_a_caption_is_no_negative_of_what_it_is_true_of():
    chosen = [p for p in read_pictures() if p.style in ("flat", "mono")][:4]
    a, b, c, d = chosen
    assert (a.code, c.code) == (b.code, d.code)
    texts = [{"name": a.name}, {"style": b.style}, {"name": c.name, "style": c.style}, {}]
    lessons = [
        Lesson(picture=p.ref, shows={"name": p.name, "style": p.style}, text="", said=said)
        for p, said in zip(chosen, texts, strict=True)
    ]
    assert tiny_clip.mark_also_true(lessons).tolist() == [
        [False, True, False, False],
        [False, False, False, True],
        [False, False, False, False],
        [True, True, True, False],
    ]


def test_a_training_of_clip_is_an_open_clip_folder_and_its_seed_decides_it(tmp_path):
    from cirbench.benchmark.backbones.load import load_backbone

    small = {"steps": 2, "image_size": 32, "text_layers": 1}
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        recipe = tiny_clip.make_recipe([EmojiLessons()], seed=seed, **small)
        tiny_clip.train([EmojiLessons()], tmp_path / name, recipe)
    a, b, c = (load_backbone(f"local-dir:{tmp_path / name}") for name in "abc")
    assert a.weights_sha256 == b.weights_sha256 != c.weights_sha256
    assert a.context_length == 77
    unseen = a.tokenize(["xylophonist"])[0][1]
    assert not a.token_embedding.weight[unseen].any()


def test_the_shipped_mapper_was_trained_for_the_shipped_clip():
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.methods.pic2word.method import Pic2Word

    checkpoint = read_checkpoint(shipped_checkpoints("pic2word")["emoji-clip"])
    backbone = load_backbone("emoji-clip")
    assert checkpoint.provenance["backbone"]["weights"] == backbone.weights_sha256
    assert checkpoint.provenance["images"]["count"] == len(Emoji().training_images(data_root=None))
    Pic2Word.build(backbone=backbone, checkpoint=checkpoint)
