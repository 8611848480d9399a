"""cirr: every rule of its protocols, on made pictures in the real layouts."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
import torch
from rich.console import Console

from cirbench.benchmark.cli.terminal import print_record
from cirbench.benchmark.data.server_files import check_names
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.ranking.rank import dot_product, rank
from cirbench.benchmark.records.record import read_records
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.cirr import (
    CIRR,
    CLIP4CIR,
    PIC2WORD,
    SOFT,
    format_server_file,
)

NAMES = [f"dev-{i}-0-img0" for i in range(12)]


def query(pairid, reference, target, members):
    return {
        "pairid": pairid,
        "reference": NAMES[reference],
        "target_hard": NAMES[target],
        "target_soft": {},
        "caption": f"more  of {target}",
        "img_set": {"id": 1, "members": [NAMES[i] for i in members]},
    }


ROWS = [
    query(7, 0, 1, range(6)),
    query(8, 3, 2, range(6)),
    query(9, 6, 11, range(6, 12)),
]


def write(picture, root, annotations="cirr", images="cirr/img_raw"):
    base = root / annotations
    for split, folder in (("val", "dev"), ("test1", "test1")):
        for path in (base / "captions", base / "image_splits", root / images / folder):
            path.mkdir(parents=True, exist_ok=True)
        hidden = () if split == "val" else ("target_hard", "target_soft")
        rows = [{k: v for k, v in row.items() if k not in hidden} for row in ROWS]
        (base / "captions" / f"cap.rc2.{split}.json").write_text(json.dumps(rows), encoding="utf-8")
        paths = {name: f"./{folder}/{name}.png" for name in NAMES}
        (base / "image_splits" / f"split.rc2.{split}.json").write_text(
            json.dumps(paths), encoding="utf-8"
        )
        for i, name in enumerate(NAMES):
            (root / images / folder / f"{name}.png").write_bytes(picture(i))
    return root


@pytest.fixture
def make(picture):
    return partial(write, picture)


def load(root, protocol=PIC2WORD):
    return CIRR().load(protocol=protocol, split="val", data_root=root)


def test_the_gallery_is_the_split_and_the_reference_is_removed(make, tmp_path):
    data = load(make(tmp_path))
    assert [ref.id for ref in data.gallery] == NAMES
    assert [(q.id, q.positives, q.removed) for q in data.queries] == [
        ("7", (1,), 0),
        ("8", (2,), 3),
        ("9", (11,), 6),
    ]
    assert data.queries[1].members == (0, 1, 2, 4, 5)


def test_the_caption_is_as_it_is():
    fields = {"caption": "more  of it"}
    assert PIC2WORD.text("pseudo-word", "all", fields) == "a photo of * , more  of it"
    assert (
        PIC2WORD.text("text", "all", fields)
        == CLIP4CIR.text("text", "all", fields)
        == "more  of it"
    )


@pytest.mark.parametrize(
    ("annotations", "images"),
    [("cirr", "cirr/img_raw"), ("CIRR", "CIRR"), ("cirr", ""), ("CIRR", "CIRR/img_raw")],
)
def test_layouts(make, tmp_path, annotations, images):
    data = load(make(tmp_path, annotations, images or "."))
    assert all(ref.read() for ref in data.gallery)


def test_recall_and_subset_recall_by_hand(make, tmp_path):
    request = Request(
        methods=("image-only",),
        task="cirr",
        backbone="fake",
        data_root=make(tmp_path),
        output=tmp_path / "results",
    )
    [record] = run(plan(request), Reporter(quiet=True))
    arrays = record.read_per_query()
    column = {name: i for i, name in enumerate(arrays.metrics.tolist())}
    for i, one in enumerate(load(tmp_path).queries):
        [target] = one.positives
        order = [row for row in arrays.top[i].tolist() if row >= 0]
        assert len(order) == len(NAMES) - 1
        assert one.removed not in order
        inside = [row for row in order if row in one.members]
        assert arrays.members[i].tolist() == inside
        expected = {f"R@{k}": 100.0 * (target in order[:k]) for k in (1, 5, 10)}
        expected |= {f"Rs@{k}": 100.0 * (target in inside[:k]) for k in (1, 2, 3)}
        expected["(R@5+Rs@1)/2"] = (expected["R@5"] + expected["Rs@1"]) / 2
        for name, value in expected.items():
            assert arrays.values[i, column[name]] == value
    mean = record.metrics["all"]["(R@5+Rs@1)/2"].value
    assert mean == pytest.approx(np.mean(arrays.values[:, column["(R@5+Rs@1)/2"]]))


GRADES = [
    {1: 1.0, 4: 0.5, 5: -1.0},
    {3: 1.0, 2: 0.2},  # the reference, as in 37 released rows
    {7: -1.0},
]


def edit_rows(root, changes):
    """Changes the val rows; a change to None leaves a field out."""
    path = root / "cirr" / "captions" / "cap.rc2.val.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    kept = [{k: v for k, v in row.items() if v is not None} for row in rows]
    path.write_text(json.dumps(kept), encoding="utf-8")


def name_grades(grades):
    return {"target_soft": {NAMES[row]: grade for row, grade in grades.items()}}


def test_soft_targets_are_grades_of_gallery_rows(make, tmp_path):
    edit_rows(make(tmp_path), map(name_grades, GRADES))
    assert [query.grades for query in load(tmp_path, SOFT).queries] == GRADES
    assert all(query.grades == {} for query in load(tmp_path).queries)


def test_graded_recall_by_hand(make, tmp_path):
    edit_rows(make(tmp_path), map(name_grades, GRADES))
    request = Request(
        methods=("image-only",),
        task="cirr",
        protocol="soft",
        backbone="fake",
        data_root=tmp_path,
        output=tmp_path / "results",
    )
    [record] = run(plan(request), Reporter(quiet=True))
    arrays = record.read_per_query()
    column = {name: i for i, name in enumerate(arrays.metrics.tolist())}
    for i, one in enumerate(load(tmp_path, SOFT).queries):
        order = [row for row in arrays.top[i].tolist() if row >= 0]
        inside = [row for row in order if row in one.members]
        for kind, ranked, cutoffs in (("SR", order, (1, 2, 5, 10)), ("SRs", inside, (1, 2, 3))):
            for k in cutoffs:
                best = max(0, *(GRADES[i].get(row, 0) for row in ranked[:k]))
                assert arrays.values[i, column[f"{kind}@{k}"]] == pytest.approx(100 * best)
    whole = arrays.values[:, column["SR@50"]].tolist()
    assert whole == pytest.approx([100, 20, 0])  # the removed reference's 1.0 is never found


def test_only_soft_asks_for_soft_targets(make, tmp_path):
    edit_rows(make(tmp_path), [{"target_soft": None}])
    assert len(load(tmp_path).queries) == len(ROWS)
    with pytest.raises(CorruptData, match="row 1: `target_soft` must be an object"):
        load(tmp_path, SOFT)


@pytest.mark.parametrize(
    ("soft", "words"),
    [
        ({"dev-99": 1.0}, "row 1: dev-99 is not in the gallery"),
        ({NAMES[1]: "1"}, f"row 1: the grade of {NAMES[1]} must be a number, got '1'"),
        ({NAMES[1]: True}, "must be a number, got True"),
        ({NAMES[1]: float("nan")}, "must be a number, got nan"),
        ([], "`target_soft` must be an object"),
    ],
)
def test_a_wrong_soft_target_is_named(make, tmp_path, soft, words):
    edit_rows(make(tmp_path), [{"target_soft": soft}])
    with pytest.raises(CorruptData, match=words):
        load(tmp_path, SOFT)


def test_test1_gives_the_two_server_files_and_no_metrics(make, tmp_path, capsys):
    request = Request(
        methods=("image-only",),
        task="cirr",
        split="test1",
        backbone="fake",
        data_root=make(tmp_path),
        output=tmp_path / "results",
    )
    [record] = run(plan(request), Reporter(quiet=True))
    assert record.metrics == {}
    assert list(read_records(tmp_path / "results")) == []
    print_record(record, Console())
    paths = [record.path.parent / name for name in record.submission]
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in paths)
    recall, subset = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
    for file, metric, count in ((recall, "recall", 11), (subset, "recall_subset", 3)):
        assert file.pop("version") == "rc2"
        assert file.pop("metric") == metric
        assert set(file) == {"7", "8", "9"}
        for row in ROWS:
            names = file[str(row["pairid"])]
            assert len(set(names)) == len(names) == count
            assert row["reference"] not in names
    for row in ROWS:
        assert set(subset[str(row["pairid"])]) <= set(row["img_set"]["members"])
        inside = [n for n in recall[str(row["pairid"])] if n in row["img_set"]["members"]]
        assert subset[str(row["pairid"])] == inside[:3]


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], ["a", "b", "x"], list("abcd")])
def test_what_the_server_refuses_is_refused_here(names):
    with pytest.raises(CorruptData, match="pair 7"):
        check_names("pair 7", names, {"a", "b", "c", "d"}, 3)


def test_a_file_beyond_the_servers_limit_is_refused():
    with pytest.raises(CorruptData, match="5 MB"):
        format_server_file("recall", {str(i): ["x" * 100] * 50 for i in range(1000)})


def test_members_that_tie_are_in_gallery_order():
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    found = rank(
        dot_product(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), gallery),
        [(3,), (2,)],
        4,
        depth=2,
        removed=[None, 0],
        members=[(3, 2, 1), (0, 3)],
    )
    assert found.members.tolist() == [[1, 2, 3], [3, 0, -1]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pairid": 8}, r"cap\.rc2\.val\.json, row 2: pair id 8 occurs twice"),
        ({"reference": "dev-99"}, "row 1: dev-99 is not in the gallery"),
        ({"target_hard": "dev-99"}, "row 1: the image set must hold the target"),
        ({"img_set": {}}, "row 1: the image set"),
        ({"caption": None}, "row 1: `caption` must be a text, got None"),
    ],
)
def test_a_wrong_row_is_named(make, tmp_path, change, words):
    path = make(tmp_path) / "cirr" / "captions" / "cap.rc2.val.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    rows[0].update(change)
    path.write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(CorruptData, match=words):
        load(tmp_path)


@pytest.mark.parametrize("path", ["../dev/x.png", "/etc/x.png", "./dev/../../x.png"])
def test_a_path_that_climbs_out_is_refused(make, tmp_path, path):
    split = make(tmp_path) / "cirr" / "image_splits" / "split.rc2.val.json"
    split.write_text(
        json.dumps({**json.loads(split.read_text(encoding="utf-8")), NAMES[0]: path}),
        encoding="utf-8",
    )
    with pytest.raises(CorruptData, match="must stay inside its folder"):
        load(tmp_path)


def test_a_missing_image_is_counted_and_named(make, tmp_path):
    make(tmp_path)
    (tmp_path / "cirr/img_raw/dev" / f"{NAMES[4]}.png").unlink()
    assert list(load(tmp_path).missing) == [NAMES[4]]


def test_an_image_under_another_ending_is_found(make, tmp_path):
    make(tmp_path)
    file = tmp_path / "cirr/img_raw/dev" / f"{NAMES[4]}.png"
    file.rename(file.with_suffix(".jpg"))
    data = load(tmp_path)
    assert not data.missing
    assert data.gallery[4].read()
