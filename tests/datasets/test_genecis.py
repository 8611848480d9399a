"""genecis: every rule of its protocols, on made pictures in the real layouts."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from genecis import around, make_template, whole, write_genecis
from PIL import Image
from torch.nn.functional import normalize

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.values import Surroundings
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.conformance.tasks import inspect_task
from cirbench.benchmark.data.check import check_split
from cirbench.benchmark.embedding.store import make_identity
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.report.pictures import open_picture
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.genecis import AS_RELEASED, GENECIS, LINCIR, OBJECTS, GeneCIS

QUIET = Reporter(quiet=True)
SIZE = (60, 44)


def jpeg(number, mode="RGB"):
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 255, (5, 5, 3), dtype=np.uint8))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    coarse.resize(SIZE, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


VAL2017 = {i: jpeg(i, mode) for i, mode in enumerate(("RGB", "L", "CMYK", "RGB", "RGB", "L"), 139)}
GENOME = {i: jpeg(i, mode) for i, mode in ((2, "RGB"), (139, "CMYK"), (2417997, "L"))}
BOXES = [(20, 10, 12.5, 10), (0, 0, 11, 30), (41.5, 20, 30, 9), (5, 12, 8, 8)]
PARTS = [around(image, box) for image in GENOME for box in BOXES]
OBJECT_ROWS = [
    make_template("hot dog", *map(whole, (139, 140, 141, 142))),
    make_template("tile wall", *map(whole, (140, 141, 143, 144))),
    make_template("cup", *map(whole, (141, 142, 142, 143))),  # its target is a distractor, too
]
ATTRIBUTE_ROWS = [
    make_template("colour", *PARTS[:7]),
    make_template("red", *PARTS[4:10]),
]
TEMPLATES = {
    "focus_attribute": ATTRIBUTE_ROWS,
    "change_attribute": ATTRIBUTE_ROWS[:1],
    "focus_object": OBJECT_ROWS[:2],
    "change_object": OBJECT_ROWS,
}


def write(root, templates=TEMPLATES, folder="visual_genome/VG_100K_all"):
    write_genecis(root, templates, {folder: GENOME}, VAL2017)
    return root


@pytest.fixture
def root(tmp_path):
    return write(tmp_path)


def load(root, protocol=GENECIS):
    return GeneCIS().load(protocol=protocol, split="test", data_root=root)


def request(root, **changes):
    return Request(
        **{
            "methods": ("image-text",),
            "task": "genecis",
            "backbone": "fake",
            "data_root": root,
            "output": root / "results",
            **changes,
        }
    )


def test_each_query_has_candidates_of_its_own_and_the_target_is_the_last(root):
    data = load(root)
    assert data.groups == ("focus_attribute", "change_attribute", "focus_object", "change_object")
    query = next(query for query in data.queries if query.id == "focus_object/2")
    assert query.reference.id == "val2017/000000000140.jpg"
    names = [data.gallery[row].id for row in query.candidates]
    assert names == [f"val2017/{number:012}.jpg" for number in (143, 144, 141)]
    assert query.positives == query.candidates[-1:]
    first = data.queries[0]
    assert data.gallery[first.candidates[-1]].id == "genome/2.jpg@0,0,11,30"
    assert first.reference.id == "genome/2.jpg@20,10,12.5,10"
    assert first.reference.box == Surroundings(20.0, 10.0, 12.5, 10.0)


def test_a_target_that_is_a_distractor_too_has_a_row_of_its_own_and_ties(root):
    data = load(root)
    query = data.queries[-1]
    other, _, own = query.candidates
    assert query.id == "change_object/3"
    assert other != own
    assert data.gallery[other].id == data.gallery[own].id
    assert any("1 queries have their target among" in remark for remark in data.remarks)
    [record] = run(plan(request(root, methods=(Photographic,))), QUIET)
    arrays = record.read_per_query()
    assert (arrays.first_rank[-1], arrays.tied[-1]) == (2, True)
    assert record.counts.tied_queries == 1


class Photographic(Method):
    """Asks for the picture 142."""

    name: ClassVar[str] = "photographic"

    def compose(self, queries):
        backbone = load_backbone("fake")
        image = Image.open(io.BytesIO(VAL2017[142]))
        pixels = make_transform("clip", backbone.image_spec)(image)[None]
        return normalize(backbone.encode_images(pixels), dim=1).expand(len(queries.texts()), -1)


class Constant(Method):
    """Gives all candidates one score."""

    name: ClassVar[str] = "constant"

    def compose(self, queries):
        return normalize(torch.ones_like(queries.reference_features), dim=1)

    def gallery(self, features):
        return normalize(torch.ones_like(features), dim=1)


def test_a_constant_scorer_finds_nothing_and_its_ties_are_counted(root):
    [record] = run(plan(request(root, methods=(Constant,))), QUIET)
    assert record.metrics["average"]["R@1"].value == 0
    assert record.counts.tied_queries == record.counts.queries == 8
    assert record.read_per_query().first_rank.tolist() == [6, 5, 6, 3, 3, 3, 3, 3]


def seen(image, spec, protocol):
    """A picture as the released code shows it to the tower, written out again."""
    if "val_image_id" in image:
        opened = Image.open(io.BytesIO(VAL2017[image["val_image_id"]]))
    else:
        opened = Image.open(io.BytesIO(GENOME[image["image_id"]]))
        x, y, w, h = image["instance_bbox"]
        left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
        right, bottom = min(SIZE[0], left + 1.7 * w), min(SIZE[1], top + 1.7 * h)
        part = opened.crop((left, top, right, bottom))
        side = max(part.size)
        black = (0,) if part.mode == "L" else (0, 0, 0)
        opened = Image.new(part.mode, (side, side), black)
        opened.paste(part, ((side - part.width) // 2, (side - part.height) // 2))
    return make_transform(protocol.preprocess, spec)(opened)


@pytest.mark.parametrize("protocol", [GENECIS, LINCIR])
def test_every_metric_by_hand(root, protocol):
    [record] = run(plan(request(root, protocol=protocol.name)), QUIET)
    arrays = record.read_per_query()
    backbone = load_backbone("fake")

    def embed(image):
        return backbone.encode_images(seen(image, backbone.image_spec, protocol)[None])[0]

    ranks = {}
    for group, rows in TEMPLATES.items():
        for row in rows:
            text = backbone.encode_texts([row["condition"]])[0]
            query = normalize(embed(row["reference"]) + text, dim=0)
            images = [*row["gallery"], row["target"]]
            scores = [float(query @ normalize(embed(image), dim=0)) for image in images]
            better = sum(score > scores[-1] - 1e-7 for score in scores[:-1])
            ranks.setdefault(group, []).append(1 + better)
    assert arrays.first_rank.tolist() == [rank for own in ranks.values() for rank in own]
    for k in (1, 2, 3):
        found = {group: 100 * np.mean([r <= k for r in own]) for group, own in ranks.items()}
        for group, recall in found.items():
            assert record.metrics[group][f"R@{k}"].value == pytest.approx(recall)
        average = record.metrics["average"][f"R@{k}"].value
        assert average == pytest.approx(np.mean(list(found.values())))


def test_each_picture_and_box_is_embedded_once(root):
    [record] = run(plan(request(root)), QUIET)
    parts = 10  # of the twelve, those that the templates name
    assert record.counts.image_passes == record.counts.pictures == parts + 6
    boxes = [Surroundings(*map(float, box)) for box in BOXES]
    assert len({make_identity("0", box) for box in [*boxes, (20, 10, 12, 10), None]}) == 6


def test_the_texts_of_each_protocol(root):
    for protocol in (GENECIS, LINCIR, AS_RELEASED):
        for query in load(root, protocol).queries:
            condition = query.fields["condition"]
            assert protocol.text("text", query.group, query.fields) == condition
            lost = protocol is AS_RELEASED and query.group in OBJECTS
            wanted = f"a photo of * that {0 if lost else condition}"
            for family in ("that", "pseudo-word"):
                assert protocol.text(family, query.group, query.fields) == wanted
    assert (GENECIS.preprocess, LINCIR.preprocess) == ("clip", "clip-hf")


@pytest.mark.parametrize("folder", ["VG/VG_All", "Visual_Genome/VG_100K_all", "VG_100K_all"])
def test_layouts(tmp_path, folder):
    data = load(write(tmp_path, folder=folder))
    assert not data.missing
    assert all(ref.read() for ref in data.gallery)


def test_a_picture_is_taken_from_whichever_archive_has_it(tmp_path):
    first, *others = GENOME
    genome = {
        "visual_genome/VG_100K": {first: GENOME[first]},
        "visual_genome/VG_100K_2": {number: GENOME[number] for number in others},
    }
    write_genecis(tmp_path, TEMPLATES, genome, VAL2017)
    data = load(tmp_path)
    assert not data.missing
    assert {ref.path.parent.name for ref in data.gallery if ref.box} == {"VG_100K", "VG_100K_2"}


def test_a_missing_picture_is_named(root):
    (root / "visual_genome/VG_100K_all/2.jpg").unlink()
    with pytest.raises(MissingData, match=r"the first is genome/2\.jpg@"):
        plan(request(root))


def edited(group, number, **changes):
    rows = [dict(row) for row in TEMPLATES[group]]
    rows[number].update(changes)
    return {**TEMPLATES, group: [{k: v for k, v in r.items() if v is not None} for r in rows]}


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        (edited("focus_object", 1, condition=None), r"focus_object\.json, row 2: `condition` must"),
        (edited("focus_object", 1, gallery=[]), "row 2, gallery must be a non-empty list"),
        (edited("focus_object", 1, gallery=[7]), "row 2, gallery, row 1 must be an object"),
        (edited("focus_object", 1, target={}), "row 2, target, row 1: `val_image_id` must be"),
        (edited("focus_object", 1, reference=PARTS[0]), "reference, row 1: `val_image_id` must be"),
        (edited("focus_attribute", 0, target=whole(139)), "target, row 1: `image_id` must be"),
        *(
            (edited("focus_attribute", 0, target=around(2, box)), "`instance_bbox` must be x, y")
            for box in (
                (1, 2, 3),
                (1, 2, 0, 4),
                (1, 2, 3, -4),
                (1, 2, float("nan"), 4),
                (1, 2, 1e300, 4),
                ("1", 2, 3, 4),
                (True, 2, 3, 4),
            )
        ),
    ],
)
def test_a_wrong_template_is_named(tmp_path, templates, words):
    with pytest.raises(CorruptData, match=words):
        load(write(tmp_path, templates))


OUTSIDE = edited("focus_attribute", 0, target=around(139, (500, 5, 10, 10)))


def test_a_box_outside_its_picture_stops_a_run_and_is_found_by_a_deep_check(tmp_path):
    write(tmp_path, OUTSIDE)
    said = r"picture genome/139\.jpg@500,5,10,10 .* must lie in its picture of 60 × 44 pixels"
    with pytest.raises(CorruptData, match=said):
        list(run(plan(request(tmp_path)), QUIET))
    deep = check_split(GeneCIS(), "test", tmp_path, deep=True, reporter=QUIET)
    assert (deep.exit_code, list(deep.unreadable)) == (4, ["genome/139.jpg@500,5,10,10"])
    [record] = run(plan(request(tmp_path, allow_missing=True)), QUIET)
    assert (record.counts.queries, record.run.partial) == (7, True)


def test_the_numbers_of_candidates_are_said(root, tmp_path):
    [counts] = [remark for remark in load(root).remarks if "candidates" in remark]
    assert counts == (
        "candidates a query: focus_attribute 6 (1 queries fewer), change_attribute 6, "
        "focus_object 3, change_object 3"
    )


def test_released_annotations_are_known_by_the_counts_and_checksums_of_object_tasks(root):
    checked = check_split(GeneCIS(), "test", root, deep=False, reporter=QUIET)
    counts = {count.name: (count.found, count.expected) for count in checked.counts}
    assert counts["queries of change_object"] == (3, 1960)
    assert counts["queries of focus_attribute"] == (2, None)
    assert counts["gallery"] == (15, None)
    assert not checked.released
    data, released = load(root), GeneCIS.released["test"]
    files = {name: data.annotations[name] for name in released.files}
    ours = {"focus_object": 2, "change_object": 3}
    assert replace(released, files=files, queries=ours).matches(data, GENECIS)
    assert not replace(released, queries=ours).matches(data, GENECIS)
    found = {one.name: (one.found, one.expected) for one in GeneCIS().collections(data_root=root)}
    assert found == {"Visual Genome's images": (3, 108_249), "val2017's images": (6, 5_000)}


def test_a_page_shows_what_the_tower_saw(root):
    ref = load(root).queries[0].reference
    assert open_picture(ref).size == (21, 21)


def test_a_limited_run_keeps_each_querys_candidates(root):
    [whole_run] = run(plan(request(root)), QUIET)
    [limited] = run(plan(request(root, limit=1)), QUIET)
    ranks, arrays = whole_run.read_per_query(), limited.read_per_query()
    for name, rank in zip(arrays.query, arrays.first_rank, strict=True):
        assert rank == ranks.first_rank[ranks.query == name][0]
    assert limited.counts.queries == 4


def test_only_the_released_annotations_lack_to_keep_the_contract(root):
    found = inspect_task("genecis", data_root=root)
    assert [one.rule for one in found if one.fault] == ["has what it calls released"]
