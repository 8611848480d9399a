"""coco: every rule of its protocol and of the query list, on made images and annotations."""

from __future__ import annotations

import io
import json
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.images.preprocess import make_fit, make_transform, stretch, to_tensor
from cirbench.benchmark.images.reading import load_picture
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.coco.prepare import (
    Photo,
    draw_mask,
    draw_object,
    prepare,
    read_photos,
    to_row,
)
from cirbench.datasets.coco.query_list import ObjectQuery, read_queries
from cirbench.datasets.coco.task import PROTOCOL, Coco

QUIET = Reporter(quiet=True)
WIDTH, HEIGHT = 40, 30
NAMES = {1: "person", 2: "dog", 3: "chair"}


def instance(image, category, box, **changes):
    x, y, w, h = box
    corners = [x, y, x + w, y, x + w, y + h, x, y + h]
    return {
        "image_id": image,
        "category_id": category,
        "bbox": list(box),
        "area": w * h,
        "segmentation": [corners],
        "iscrowd": 0,
        **changes,
    }


ANNOTATIONS = {
    "categories": [{"id": i, "name": name} for i, name in NAMES.items()],
    "images": [
        {"id": i, "file_name": f"{i:012}.jpg", "width": WIDTH, "height": HEIGHT}
        for i in (9, 3, 5, 7)
    ],
    "annotations": [
        instance(3, 2, (5.5, 6.9, 12.2, 10.8)),
        instance(5, 1, (0, 0, 39, 29)),  # more than half
        instance(9, 1, (1, 1, 8, 8)),
        instance(9, 3, (20, 10, 10, 10)),
        instance(9, 3, (2, 15, 6, 6)),
    ],
}


@pytest.fixture
def made(tmp_path):
    """A data root with COCO's layout: images 3 and 9 have candidates, 5 has none, 7 no object."""
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    (folder / "annotations/instances_val2017.json").write_text(
        json.dumps(ANNOTATIONS), encoding="utf-8"
    )
    for image in ANNOTATIONS["images"]:
        rng = np.random.default_rng(image["id"])
        pixels = rng.integers(0, 100, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "val2017" / image["file_name"], quality=95)
    return tmp_path


def load(root):
    return Coco().load(protocol=PROTOCOL, split="val2017", data_root=root)


def test_prepare_writes_a_list_and_masked_images(made):
    lines = prepare(made, seed=0, reporter=QUIET)
    rows = read_queries(made / "coco/coco_eval.csv")
    assert [row.image for row in rows] == ["000000000003.jpg", "000000000009.jpg"]
    assert "2 queries of 3 annotated images" in lines[0]
    text = (made / "coco/coco_eval.csv").read_text(encoding="utf-8").splitlines()
    assert text[0] == "id,query_regions,query_class,classes"
    assert text[1] == "000000000003.jpg,5.5;6.9;17.7;17.700000000000003 ,dog,"
    with Image.open(made / "coco/val2017_masked/000000000003.jpg") as image:
        pixels = np.asarray(image).astype(int)
    assert pixels[:5].min() > 220
    assert pixels[10:14, 9:13].max() < 160


def test_the_draw_is_the_seeds_and_the_images_alone(made):
    photos, _ = read_photos(made / "coco/annotations/instances_val2017.json")
    nine = photos[2]
    drawn = {seed: draw_object(nine, seed)["bbox"][0] for seed in range(20)}
    assert drawn == {seed: draw_object(nine, seed)["bbox"][0] for seed in range(20)}
    assert set(drawn.values()) == {1, 20, 2}
    assert draw_object(photos[1], 0) is None


@pytest.mark.parametrize(
    ("box", "candidate"),
    [
        ((0, 0, 0.2, 0.2), False),
        ((0, 0, 0.3, 0.3), True),
        ((0, 0, 30, 20), False),
        ((0, 0, 30, 19.9), True),
    ],
)
def test_a_box_is_a_candidate_above_a_twentieth_of_a_pixel_and_below_half_the_image(box, candidate):
    photo = Photo(name="a.jpg", width=WIDTH, height=HEIGHT, objects=[instance(1, 1, box)])
    assert bool(photo.candidates()) == candidate


def test_a_crowd_is_a_candidate():
    crowd = instance(1, 1, (1, 1, 5, 5), iscrowd=1)
    assert Photo(name="a.jpg", width=WIDTH, height=HEIGHT, objects=[crowd]).candidates() == [crowd]


def test_other_classes_are_named_once_and_without_the_own(made):
    photos, names = read_photos(made / "coco/annotations/instances_val2017.json")
    nine = photos[2]
    assert to_row(nine, nine.objects[0], names).others == ("chair",)
    assert to_row(nine, nine.objects[1], names).others == ("person",)


def test_run_lengths_and_polygons_give_the_same_mask():
    box = (4, 6, 10, 8)
    wanted = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    wanted[6:14, 4:14] = 1
    flat = wanted.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    packed = coco_mask.encode(np.asfortranarray(wanted))
    photo = Photo(name="a.jpg", width=WIDTH, height=HEIGHT, objects=[])
    size = [HEIGHT, WIDTH]
    for segmentation in (
        instance(1, 1, box)["segmentation"],
        {"size": size, "counts": counts},
        {"size": size, "counts": packed["counts"].decode()},
    ):
        mask = draw_mask(photo, {"segmentation": segmentation})
        assert (mask == wanted.astype(bool)).all()


def test_queries_see_the_cut_out_and_are_answered_by_the_whole_image(made):
    prepare(made, seed=0, reporter=QUIET)
    data = load(made)
    assert [ref.id for ref in data.gallery] == ["000000000003.jpg", "000000000009.jpg"]
    assert [(q.reference.id, q.positives, q.removed) for q in data.queries] == [
        ("masked/000000000003.jpg", (0,), None),
        ("masked/000000000009.jpg", (1,), None),
    ]
    assert data.queries[0].reference.box == (5, 6, 17, 17)
    assert data.queries[0].reference.read() != data.gallery[0].read()
    assert all(ref.box is None for ref in data.gallery)


def test_the_prompt_names_the_query_class_first_and_ends_in_and_without_others():
    def texts(others):
        fields = {"query_class": "dog", "others": " and ".join(others)}
        return [PROTOCOL.text(family, "all", fields) for family in ("pseudo-word", "text")]

    assert texts(["chair", "tv"]) == [
        "a photo of * and dog and chair and tv",
        "a photo of dog and chair and tv",
    ]
    assert texts([]) == ["a photo of * and dog and ", "a photo of dog and "]


def test_the_box_is_cut_off_not_rounded_and_its_shape_is_not_kept():
    row = ObjectQuery(image="a", region=(0.9, 1.9, 20.99, 6.99), query_class="dog", others=())
    assert row.box == (0, 1, 20, 6)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    seen = stretch(image, 8, row.box)
    assert seen == image.crop(row.box).resize((8, 8), Image.Resampling.BICUBIC)
    assert seen != make_fit("clip", 8)(image.crop(row.box))


def test_a_box_without_a_whole_pixel_is_black_and_said(made):
    prepare(made, seed=0, reporter=QUIET)
    table = made / "coco/coco_eval.csv"
    table.write_text(
        table.read_text(encoding="utf-8").replace("5.5;6.9;17.7", "5.5;6.9;5.9"), encoding="utf-8"
    )
    data = load(made)
    assert any("1 queries are black" in remark for remark in data.remarks)
    reference = data.queries[0].reference
    seen, _ = load_picture(reference, make_fit("clip", 8, reference.box), 0)
    assert seen == Image.new("RGB", (8, 8))


def request(root, **changes):
    return Request(
        methods=("image-only",),
        task="coco",
        backbone="fake",
        data_root=root,
        output=root / "results",
        **changes,
    )


def test_a_run_embeds_the_stretched_cut_out(made):
    prepare(made, seed=0, reporter=QUIET)
    [record] = run(plan(request(made)), QUIET)
    backbone = load_backbone("fake", device="cpu", precision="fp32")
    data = load(made)
    images = [Image.open(io.BytesIO(ref.read())) for ref in data.gallery]
    query = data.queries[1].reference
    spec = backbone.image_spec
    seen = to_tensor(stretch(Image.open(io.BytesIO(query.read())), spec.size, query.box), spec)
    whole = make_transform("clip", spec)
    gallery = [backbone.encode_images(whole(image)[None])[0] for image in images]
    wanted = backbone.encode_images(seen[None])[0]
    scores = [float(wanted @ g / wanted.norm() / g.norm()) for g in gallery]
    arrays = record.read_per_query()
    assert sorted(arrays.similarity[1][:2].tolist()) == pytest.approx(sorted(scores), abs=1e-5)
    assert record.counts.image_passes == 4
    assert record.annotations.released is False
    assert "drawn at random" in record.annotations.remarks[0]


def test_a_list_that_is_there_is_taken_and_stays(made):
    prepare(made, seed=0, reporter=QUIET)
    table = made / "coco/coco_eval.csv"
    before = table.read_bytes()
    assert "is kept" in prepare(made, seed=7, reporter=QUIET)[0]
    assert table.read_bytes() == before


def test_the_same_seed_gives_the_same_bytes(made):
    def digest():
        prepare(made, seed=3, reporter=QUIET)
        files = sorted((made / "coco/val2017_masked").iterdir())
        content = [(made / "coco/coco_eval.csv").read_bytes(), *(f.read_bytes() for f in files)]
        (made / "coco/coco_eval.csv").unlink()
        shutil.rmtree(made / "coco/val2017_masked")
        return content

    assert digest() == digest()


def test_archives_are_unpacked_first(made):
    folder = made / "coco"
    with zipfile.ZipFile(folder / "val2017.zip", "w") as archive:
        for path in (folder / "val2017").iterdir():
            archive.write(path, f"val2017/{path.name}")
    shutil.rmtree(folder / "val2017")
    prepare(made, seed=0, reporter=QUIET)
    assert not load(made).missing


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "categories"),
        (lambda c: c["annotations"][0].pop("bbox"), "bbox"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2]), "row 1: `bbox` must be four numbers"),
        (lambda c: c["annotations"][0].update(category_id=99), "row 1: its category or image"),
    ],
)
def test_wrong_annotations_are_named(made, change, words):
    path = made / "coco/annotations/instances_val2017.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CorruptData, match=words) as error:
        prepare(made, seed=0, reporter=QUIET)
    assert str(path) in str(error.value)


def test_an_image_of_another_size_and_one_that_is_not_there(made):
    path = made / "coco/val2017/000000000003.jpg"
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(CorruptData, match="pixels"):
        prepare(made, seed=0, reporter=QUIET)
    path.unlink()
    with pytest.raises(MissingData, match=str(path)):
        prepare(made, seed=0, reporter=QUIET)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("query_regions", "regions", "no column `query_regions`"),
        (";6.9;", ";", "row 1: query_regions"),
        (";6.9;", ";nan;", "row 1: query_regions must be a part of a picture"),
        (",dog,", ",,", "row 1: query_class must not be empty"),
        ("000000000003.jpg", "../3.jpg", "row 1: a path must stay inside its folder"),
        ("000000000003.jpg", "000000000009.jpg", "row 2: 000000000009.jpg occurs twice"),
    ],
)
def test_a_wrong_list_is_named(made, old, new, words):
    prepare(made, seed=0, reporter=QUIET)
    table = made / "coco/coco_eval.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(CorruptData, match=words):
        load(made)
