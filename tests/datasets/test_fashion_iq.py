"""fashion-iq: every rule of its protocols, on made pictures in the real layouts."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import pytest
from places import SHARED

from cirbench.benchmark.api.values import Released
from cirbench.benchmark.evaluation.plan import Request, plan, plan_each
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.fashion_iq import (
    ARTEMIS,
    CATEGORIES,
    CLIP4CIR,
    COSMO,
    MAAF,
    PIC2WORD,
    VAL,
    FashionIQ,
    read_category,
)

REAL = SHARED / "data" / "fashion-iq"
SPLIT = ["B1", "B2", "B3", "B4"]
TRIPLETS = [
    {"candidate": "B2", "target": "B1", "captions": ["is Longer. ", "has no star *"]},
    {"candidate": "B1", "target": "B4", "captions": ["", "more, red?"]},
]


def write(picture, root, folder="fashion-iq", captions="captions", ending=".jpg"):
    base = root / folder
    for name in (captions, "image_splits", "images"):
        (base / name).mkdir(parents=True)
    for i, category in enumerate(CATEGORIES):
        split = [f"{name}{i}" if name != "B3" else name for name in SPLIT]
        rows = [{**row, **{r: f"{row[r]}{i}" for r in ("candidate", "target")}} for row in TRIPLETS]
        (base / captions / f"cap.{category}.val.json").write_text(
            json.dumps(rows), encoding="utf-8"
        )
        (base / "image_splits" / f"split.{category}.val.json").write_text(
            json.dumps(split), encoding="utf-8"
        )
        for j, name in enumerate(split):
            (base / "images" / f"{name}{ending}").write_bytes(picture(10 * i + j))
    return root


@pytest.fixture
def make(picture):
    return partial(write, picture)


def load(root, protocol=PIC2WORD):
    return FashionIQ().load(protocol=protocol, split="val", data_root=root)


def test_each_category_has_the_whole_split_as_its_own_gallery(make, tmp_path):
    data = load(make(tmp_path))
    assert data.spans == {"dress": range(4), "shirt": range(4, 8), "toptee": range(8, 12)}
    assert [ref.id for ref in data.gallery[:4]] == ["B10", "B20", "B3", "B40"]
    assert [(q.reference.id, q.positives, q.group) for q in data.queries[:3]] == [
        ("B20", (0,), "dress"),
        ("B10", (3,), "dress"),
        ("B21", (4,), "shirt"),
    ]
    assert all(query.removed is None for query in data.queries)


def test_val_ranks_only_images_of_triplets(make, tmp_path):
    data = load(make(tmp_path), VAL)
    assert [ref.id for ref in data.gallery[:3]] == ["B10", "B20", "B40"]
    assert [query.positives for query in data.queries] == [(0,), (2,), (3,), (5,), (6,), (8,)]


def test_the_second_caption_comes_first_and_the_star_is_literal(make, tmp_path):
    query = load(make(tmp_path)).queries[0]
    composed = PIC2WORD.text("pseudo-word", query.group, query.fields)
    assert composed == "a photo of * , has no star * and is Longer. "
    assert PIC2WORD.text("text", query.group, query.fields) == composed
    assert CLIP4CIR.text("text", query.group, query.fields) == "Is longer and has no star *"


def test_an_empty_caption_stays(make, tmp_path):
    query = load(make(tmp_path)).queries[1]
    assert CLIP4CIR.text("text", query.group, query.fields) == " and more, red"


def test_clip4cir_differs_in_preprocess_text_and_sum():
    assert (CLIP4CIR.preprocess, CLIP4CIR.image_text_sum) == ("targetpad", "raw")
    assert len({PIC2WORD.hash, CLIP4CIR.hash, VAL.hash}) == 3


@pytest.mark.parametrize("protocol", [MAAF, ARTEMIS, COSMO], ids=lambda made: made.name)
def test_the_reference_is_removed_from_the_whole_split(make, tmp_path, protocol):
    data = load(make(tmp_path), protocol)
    assert [ref.id for ref in data.gallery] == [ref.id for ref in load(tmp_path).gallery]
    assert all(data.gallery[query.removed] is query.reference for query in data.queries)


@pytest.mark.parametrize("protocol", [ARTEMIS, COSMO], ids=lambda made: made.name)
def test_both_orders_of_the_captions_are_queries_of_one_reference(make, tmp_path, protocol):
    once, twice = load(make(tmp_path), MAAF).queries, load(tmp_path, protocol).queries
    assert [query.id for query in twice[:4]] == ["dress/1/0", "dress/1/1", "dress/2/0", "dress/2/1"]
    for query, first, second in zip(once, twice[::2], twice[1::2], strict=True):
        assert replace(first, id=query.id) == query
        assert replace(second, id=query.id, fields=query.fields) == query
        assert second.fields["first"] == query.fields["second"]
        assert second.fields["second_stripped"] == query.fields["first_stripped"]


def test_each_family_has_its_own_marker_between_the_captions_as_they_are(make, tmp_path):
    first, second = load(make(tmp_path), ARTEMIS).queries[:2]
    said = {
        (protocol.name, family): protocol.text(family, "dress", query.fields)
        for protocol, family, query in (
            (MAAF, "inadditiontothat", first),
            (ARTEMIS, "and-token", second),
            (COSMO, "text", second),
        )
    }
    assert said == {
        ("maaf", "inadditiontothat"): "is Longer.  inadditiontothat has no star *",
        ("artemis", "and-token"): "has no star * <and> is Longer. ",
        ("cosmo", "text"): "has no star * and is Longer. ",
    }
    assert ARTEMIS.templates == MAAF.templates


def test_two_orders_are_evaluated_as_two_queries_of_one_cluster(make, tmp_path):
    request = Request(
        methods=("text-only",),
        task="fashion-iq",
        protocol="artemis",
        backbone="fake",
        data_root=make(tmp_path),
        output=tmp_path / "results",
    )
    [record] = run(plan(request), Reporter(quiet=True))
    assert (record.counts.queries, record.counts.references) == (12, 6)
    arrays = record.read_per_query()
    ranked = [[row for row in top if row >= 0] for top in arrays.top.tolist()]
    for query, rows in zip(load(tmp_path, ARTEMIS).queries, ranked, strict=True):
        assert len(rows) == 3
        assert query.removed not in rows


def test_what_is_released_is_counted_in_annotations(make, tmp_path):
    data = load(make(tmp_path), ARTEMIS)
    known = Released(queries=dict.fromkeys(CATEGORIES, 2), gallery={"artemis": 12, "maaf": 12})
    assert known.matches(data, ARTEMIS)
    assert not known.matches(data, MAAF)
    assert known.matches(load(tmp_path, MAAF), MAAF)


@pytest.mark.parametrize("folder", ["fashion-iq", "fashionIQ_dataset", "FashionIQ"])
@pytest.mark.parametrize("captions", ["captions", "json"])
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_layouts(make, tmp_path, folder, captions, ending):
    data = load(make(tmp_path, folder, captions, ending))
    assert all(ref.read() for ref in data.gallery)


def test_all_protocols_are_planned_in_turn(make, tmp_path):
    request = Request(
        methods=("image-only",), task="fashion-iq", protocol="all", data_root=make(tmp_path)
    )
    planned = [made.protocol.name for made in plan_each(request)]
    assert planned == list(FashionIQ.protocols)
    assert len(planned) > 1


def test_a_shared_picture_is_encoded_once_and_no_category_sees_anothers(make, tmp_path):
    request = Request(
        methods=("image-only",),
        task="fashion-iq",
        backbone="fake",
        data_root=make(tmp_path),
        output=tmp_path / "results",
    )
    [record] = run(plan(request), Reporter(quiet=True))
    arrays = record.read_per_query()
    assert record.counts.image_passes == 10
    assert record.counts.gallery == 12
    data = load(tmp_path)
    for query, top, first in zip(data.queries, arrays.top, arrays.first_rank, strict=True):
        span = data.spans[query.group]
        ranked = [row for row in top.tolist() if row >= 0]
        assert sorted(ranked) == list(span)
        assert data.gallery[ranked[0]].id == query.reference.id
        assert ranked.index(query.positives[0]) + 1 == first
    assert record.metrics["average"]["R@1"].value == 0
    assert record.metrics["average"]["R@5"].value == 100


def test_a_limited_run_keeps_its_spans(make, tmp_path):
    request = Request(
        methods=("image-only",),
        task="fashion-iq",
        backbone="fake",
        data_root=make(tmp_path),
        limit=1,
        output=tmp_path / "results",
    )
    made = plan(request)
    assert made.data.spans == {"dress": range(2), "shirt": range(2, 4), "toptee": range(4, 6)}
    [record] = run(made, Reporter(quiet=True))
    assert record.counts.queries == 3
    assert (record.read_per_query().first_rank == 2).all()


def test_a_missing_image_is_counted_and_named(make, tmp_path):
    make(tmp_path)
    (tmp_path / "fashion-iq" / "images" / "B3.jpg").unlink()
    assert list(load(tmp_path).missing) == ["B3"]
    request = Request(
        methods=("image-only",),
        task="fashion-iq",
        backbone="fake",
        data_root=tmp_path,
        output=tmp_path / "results",
    )
    with pytest.raises(MissingData, match=r"1 of 10 pictures .* B3 .*--allow-missing"):
        plan(request)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"candidate": "B9"}, r"cap\.dress\.val\.json, row 1: B9 is not in the gallery"),
        ({"target": "B9"}, r"cap\.dress\.val\.json, row 1: B9 is not in the gallery"),
        ({"target": None}, r"row 1: `target` must be a text, got None"),
        ({"captions": ["one"]}, "row 1: captions must be a list of two texts"),
        ({"captions": "one"}, "row 1: `captions` must be a list, got 'one'"),
    ],
)
def test_a_wrong_row_is_named(make, tmp_path, change, words):
    path = make(tmp_path) / "fashion-iq" / "captions" / "cap.dress.val.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows[0].update(change)
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(CorruptData, match=words):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [("[", "not valid JSON"), ('{"B1": 1}', "must be a list"), ('["B1", "B1"]', "twice")],
)
def test_a_wrong_split_file_is_named(make, tmp_path, text, words):
    path = make(tmp_path) / "fashion-iq" / "image_splits" / "split.shirt.val.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CorruptData, match=words) as error:
        load(tmp_path)
    assert "split.shirt.val.json" in str(error.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the reference data: the real annotations")
@pytest.mark.parametrize(
    ("category", "queries", "whole", "used"),
    [("dress", 2017, 3817, 2628), ("shirt", 2038, 6346, 3089), ("toptee", 1961, 5373, 2902)],
)
def test_the_real_annotations_have_the_published_counts(category, queries, whole, used):
    files = (
        REAL / "captions" / f"cap.{category}.val.json",
        REAL / "image_splits" / f"split.{category}.val.json",
    )
    gallery, found = read_category(*files, PIC2WORD, category, 0)
    assert (len(found), len(gallery)) == (queries, whole)
    assert len(read_category(*files, VAL, category, 0)[0]) == used


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the reference data: the real annotations")
def test_both_orders_of_the_real_captions_are_12032_released_queries(tmp_path):
    for name in ("captions", "image_splits"):
        (tmp_path / "fashion-iq").mkdir(exist_ok=True)
        (tmp_path / "fashion-iq" / name).symlink_to(REAL / name)
    (tmp_path / "fashion-iq/images").mkdir()
    references = {query.reference.id for query in load(tmp_path).queries}
    for protocol, queries in ((MAAF, 6016), (ARTEMIS, 12_032), (COSMO, 12_032)):
        data = load(tmp_path, protocol)
        assert len(data.queries) == queries
        assert {query.reference.id for query in data.queries} == references
        assert FashionIQ.released["val"].matches(data, protocol)
