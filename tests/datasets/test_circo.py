"""circo: every rule of its protocols, on made pictures in the real layouts."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from circo import make_row, write_circo
from PIL import Image
from rich.console import Console

from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.analysis.compare import compare
from cirbench.benchmark.api.values import Released
from cirbench.benchmark.cli.terminal import print_record
from cirbench.benchmark.conformance.tasks import inspect_task
from cirbench.benchmark.data.check import check_split
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.records.record import read_record
from cirbench.benchmark.report.tables import make_leaderboard_tables
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.scoring.summary import read_scored
from cirbench.datasets.circo import (
    ASPECTS,
    CONCEPT,
    LINCIR,
    LISTS,
    SEARLE,
    Circo,
    format_server_file,
)

QUIET = Reporter(quiet=True)
IDS = [900 - 7 * i for i in range(60)]
"""Of the images, as they are listed: not in the order of numbers."""
MODES = ("RGB", "L", "CMYK")
ROWS = [
    make_row(
        0, IDS[0], IDS[9], gt_img_ids=[IDS[9], IDS[3], IDS[30]], semantic_aspects=["negation"]
    ),
    make_row(1, IDS[1], IDS[2], semantic_aspects=["negation", "addition"]),
    make_row(2, IDS[0], IDS[50], gt_img_ids=[IDS[4], IDS[50]], semantic_aspects=["viewpoint"]),
    make_row(3, IDS[7], IDS[8], gt_img_ids=[IDS[8], *IDS[10:18]], semantic_aspects=[]),
]


def jpeg(number):
    """A JPEG of one of three modes, turned by its EXIF, and of no shape that all share."""
    rng = np.random.default_rng(number)
    size = (int(rng.integers(20, 40)), int(rng.integers(20, 40)))
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 1 + number % 8
    mode = MODES[number % 3]
    coarse.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def images():
    return {number: jpeg(number) for number in IDS}


@pytest.fixture
def root(images, tmp_path):
    write_circo(tmp_path, images, ROWS)
    return tmp_path


def load(root, protocol=SEARLE, split="val"):
    return Circo().load(protocol=protocol, split=split, data_root=root)


def request(root, **changes):
    return Request(
        **{
            "methods": ("image-text",),
            "task": "circo",
            "backbone": "fake",
            "data_root": root,
            "output": root / "results",
            **changes,
        }
    )


def test_the_gallery_is_the_list_in_its_order_and_the_reference_stays(root):
    data = load(root)
    assert [ref.id for ref in data.gallery] == list(map(str, IDS))
    assert [(q.id, q.reference.id, q.positives, q.target, q.removed) for q in data.queries] == [
        ("0", "900", (9, 3, 30), 9, None),
        ("1", "893", (2,), 2, None),
        ("2", "900", (4, 50), 50, None),
        ("3", "851", (8, *range(10, 18)), 8, None),
    ]
    assert data.queries[1].aspects == ("negation", "addition")
    assert [ref.id for ref in load(root, split="test").gallery] == list(map(str, IDS))


@pytest.mark.parametrize(
    ("annotations", "coco"),
    [
        ("CIRCO/annotations", "CIRCO/COCO2017_unlabeled"),
        ("circo/annotations", "coco"),
        ("CIRCO/annotations", "COCO"),
        ("CIRCO/annotations", "."),
    ],
)
def test_layouts(images, tmp_path, annotations, coco):
    write_circo(tmp_path, images, ROWS, annotations, coco)
    data = load(tmp_path)
    assert not data.missing
    assert data.gallery[3].read() == images[IDS[3]]


def test_the_texts_of_each_protocol():
    fields = {"caption": "has  two of them", "shared_concept": "a dog"}
    for protocol in (SEARLE, LINCIR):
        assert protocol.text("text", "all", fields) == "has  two of them"
        for family in ("that", "pseudo-word"):
            assert protocol.text(family, "all", fields) == "a photo of * that has  two of them"
    assert (
        CONCEPT.text("text", "all", fields)
        == "Find a picture that also a dog, but has  two of them."
    )
    assert CONCEPT.text("find-but", "all", fields) == "find a dog but has  two of them"
    assert (SEARLE.preprocess, LINCIR.preprocess) == ("targetpad", "clip-hf")


def by_hand(order, row, metric):
    """One query's value: `order` are image ids, best first."""
    kind, _, k = metric.partition("@")
    first = order[: int(k)]
    if kind == "target R":
        return 100.0 * (row["target_img_id"] in first)
    hits = [image in row["gt_img_ids"] for image in first]
    precisions = [sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits) if hit]
    return 100 * sum(precisions) / min(len(row["gt_img_ids"]), int(k))


def test_every_metric_by_hand_on_all_and_by_aspect(root):
    [record] = run(plan(request(root)), QUIET)
    arrays = record.read_per_query()
    orders = [[IDS[row] for row in rows] for rows in arrays.top.tolist()]
    assert arrays.top.shape == (4, 50)
    assert record.protocol.metrics[:2] == ("mAP@5", "mAP@10")
    for column, metric in enumerate(arrays.metrics.tolist()):
        wanted = [by_hand(*pair, metric) for pair in zip(orders, ROWS, strict=True)]
        np.testing.assert_allclose(arrays.values[:, column], wanted)
        means = {name: found[metric].value for name, found in record.metrics.items()}
        assert means.pop("average") == means.pop("all") == pytest.approx(np.mean(wanted))
        assert list(means) == ["negation", "addition", "viewpoint"]
        for aspect, mean in means.items():
            having = [i for i, row in enumerate(ROWS) if aspect in row["semantic_aspects"]]
            assert mean == pytest.approx(np.mean([wanted[i] for i in having]))
            assert record.metrics[aspect][metric].n == len(having)


def test_records_with_aspects_are_read_checked_compared_and_shown(root, capsys):
    methods = ("image-only", "text-only")
    a, b = run(plan(request(root, methods=methods, protocol="concept")), QUIET)
    again = read_record(a.path)
    assert (again.protocol, again.metrics) == (a.protocol, a.metrics)
    assert len(read_scored(root / "results")) == 2
    [pair] = compare([(a, b)], metrics=["mAP@10"])
    assert {cell.group for cell in pair.cells} == {"average", *a.groups}
    wins = {cell.group: cell.difference for cell in pair.cells}
    assert wins["negation"].wins + wins["negation"].ties + wins["negation"].losses == 2
    [board] = read_boards(root / "results")
    assert board.title.endswith("protocol concept v1 · text: shared concept and caption")
    by_group = make_leaderboard_tables(board, ())[1]
    assert by_group.title == "mAP@10 by group"
    assert by_group.headers[4:] == ("all", "negation", "addition", "viewpoint")
    print_record(a, Console(width=200))
    assert "text: shared concept and caption" in " ".join(capsys.readouterr().out.split())


def test_an_altered_aspect_is_found_out(root):
    [record] = run(plan(request(root)), QUIET)
    text = record.path.read_text(encoding="utf-8").replace('"viewpoint"', '"cardinality"')
    record.path.write_text(text, encoding="utf-8")
    with pytest.raises(CorruptData, match="was edited"):
        read_scored(root / "results")


def test_the_test_split_gives_the_servers_file_and_no_metrics(root):
    [record] = run(plan(request(root, split="test")), QUIET)
    assert record.metrics == {}
    [name] = record.submission
    assert name.endswith("circo.json")
    answers = json.loads((record.path.parent / name).read_text(encoding="utf-8"))
    assert list(answers) == ["0", "1", "2", "3"]
    for i, names in enumerate(answers.values()):
        assert names == [IDS[row] for row in record.read_per_query().top[i]]
        assert len(set(names)) == len(names) == 50
        assert all(type(one) is int for one in names)


def answer(**changes):
    return {**{str(i): list(map(str, IDS[:50])) for i in range(3)}, **changes}


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (answer(**{"1": list(map(str, IDS[:49]))}), "query 1: an answer must have 50 distinct"),
        (answer(**{"1": list(map(str, [IDS[0], *IDS[:49]]))}), "query 1: an answer must have 50"),
        (answer(**{"2": ["1", *map(str, IDS[:49])]}), "query 2: an answer must have 50"),
        ({"0": [], "2": []}, "the queries 0 to 1, and 1 is not answered"),
        ({"a": []}, "0 is not answered"),
    ],
)
def test_what_the_server_refuses_or_fails_to_see_is_refused_here(answers, words):
    with pytest.raises(CorruptData, match=words):
        format_server_file(answers, list(map(str, IDS)))
    assert json.loads(format_server_file(answer(), list(map(str, IDS))))["2"] == IDS[:50]


def edit(root, number, change, file="CIRCO/annotations/val.json"):
    path = root / file
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content["images"] if isinstance(content, dict) else content
    rows[number] = {k: v for k, v in {**rows[number], **change}.items() if v is not None}
    path.write_text(json.dumps(content), encoding="utf-8")


LISTED = "CIRCO/COCO2017_unlabeled/annotations/image_info_unlabeled2017.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": 0}, r"val\.json, row 2: query id 0 occurs twice"),
        ({"id": "1"}, "row 2: `id` must be a whole number, got '1'"),
        ({"reference_img_id": 5}, "row 2: 5 is not in the gallery"),
        ({"target_img_id": 5}, "row 2: 5 is not in the gallery"),
        ({"gt_img_ids": [IDS[2], 5]}, "row 2: 5 is not in the gallery"),
        ({"gt_img_ids": [[IDS[2]]]}, "is not in the gallery"),
        ({"gt_img_ids": []}, "row 2: `gt_img_ids` must name `target_img_id`"),
        ({"gt_img_ids": [IDS[3]]}, "row 2: `gt_img_ids` must name `target_img_id`"),
        ({"gt_img_ids": [IDS[2], IDS[2]]}, "each image once"),
        ({"relative_caption": None}, "row 2: `relative_caption` must be a text, got none"),
        ({"semantic_aspects": ["colour"]}, "row 2: a semantic aspect must be one of cardinality"),
        ({"semantic_aspects": [["colour"]]}, "row 2: a semantic aspect must be one of"),
        ({"semantic_aspects": "negation"}, "row 2: `semantic_aspects` must be a list"),
    ],
)
def test_a_wrong_row_is_named(root, change, words):
    edit(root, 1, change)
    with pytest.raises(CorruptData, match=words):
        load(root)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": IDS[0]}, f"{IDS[0]} is listed twice"),
        ({"id": None}, "images, row 2: `id` must be a whole number"),
        ({"file_name": "../x.jpg"}, "must stay inside its folder"),
    ],
)
def test_a_wrong_image_list_is_named(root, change, words):
    edit(root, 1, change, LISTED)
    with pytest.raises(CorruptData, match=words):
        load(root)


def test_a_list_without_images_is_refused(root):
    (root / LISTED).write_text("[]", encoding="utf-8")
    with pytest.raises(CorruptData, match="images must be a non-empty list"):
        load(root)


def test_an_image_that_is_not_there_is_named_and_a_target_that_is_left_out_is_never_found(root):
    (root / f"CIRCO/COCO2017_unlabeled/unlabeled2017/{IDS[9]:012}.jpg").unlink()
    assert list(load(root).missing) == [str(IDS[9])]
    with pytest.raises(MissingData, match=f"the first is {IDS[9]}"):
        plan(request(root))
    [record] = run(plan(request(root, allow_missing=True)), QUIET)
    arrays = record.read_per_query()
    assert record.run.partial
    found = dict(zip(arrays.metrics.tolist(), arrays.values[0], strict=True))
    assert found["target R@50"] == 0
    assert arrays.positives[0] == 2


def test_released_annotations_are_known_by_counts_and_checksums(root):
    checked = check_split(Circo(), "val", root, deep=True, reporter=QUIET)
    counts = {count.name: (count.found, count.expected) for count in checked.counts}
    assert counts["queries"] == (4, 220)
    assert counts["queries of negation"] == (2, 21)
    assert counts["gallery"] == (60, 123_403)
    assert checked.exit_code == 0
    assert not checked.released
    assert sum(ASPECTS.values()) == 711
    data = load(root)
    known = Released(
        queries={"all": 4, "negation": 2}, files={"val.json": data.annotations["val.json"]}
    )
    assert known.matches(data, SEARLE)
    assert not replace(known, files={"val.json": LISTS["val"]}).matches(data, SEARLE)
    assert not replace(known, queries={"negation": 21}).matches(data, SEARLE)
    [record] = run(plan(request(root)), QUIET)
    assert record.annotations.released is False


def test_a_limited_run_is_partial_and_keeps_its_aspects(root):
    [record] = run(plan(request(root, limit=2)), QUIET)
    assert record.run.partial
    assert record.groups == ("all", "negation", "addition")
    [server] = run(plan(request(root, limit=2, split="test")), QUIET)
    answers = json.loads((server.path.parent / server.submission[0]).read_text(encoding="utf-8"))
    assert list(answers) == ["0", "1"]


def test_only_the_released_annotations_lack_to_keep_the_contract(root):
    found = inspect_task("circo", data_root=root)
    assert [one.rule for one in found if one.fault] == ["has what it calls released"]
