"""Strangers' annotation files: each row counts, and what is odd is said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cirbench.benchmark.runtime.errors import CirbenchError
from cirbench.benchmark.runtime.parsing import read_json
from cirbench.benchmark.runtime.paths import check_inside
from cirbench.datasets.coco.query_list import COLUMNS
from cirbench.datasets.coco.task import PROTOCOL, Coco

NAMES = [f"dev-{i}-img0" for i in range(12)]
FEW = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def cirr_row(pair: int, reference: int, target: int, caption: str = "is blue") -> dict:
    return {
        "pairid": pair,
        "reference": NAMES[reference],
        "target_hard": NAMES[target],
        "caption": caption,
        "img_set": {"members": NAMES[:6]},
    }


@pytest.fixture
def cirr(bench, picture):
    """Writes a small CIRR below `d`; `content` replaces what its caption file holds."""

    def write(rows=None, content: bytes | None = None, paths=None) -> None:
        for name in ("captions", "image_splits", "img_raw/dev"):
            Path("d/cirr", name).mkdir(parents=True, exist_ok=True)
        rows = rows or [cirr_row(7, 0, 1), cirr_row(8, 3, 2)]
        captions = Path("d/cirr/captions/cap.rc2.val.json")
        captions.write_bytes(json.dumps(rows).encode() if content is None else content)
        paths = paths or {name: f"./dev/{name}.png" for name in NAMES}
        Path("d/cirr/image_splits/split.rc2.val.json").write_text(
            json.dumps(paths), encoding="utf-8"
        )
        for i, name in enumerate(NAMES):
            Path(f"d/cirr/img_raw/dev/{name}.png").write_bytes(picture(i))

    return write


RUN = ("run", "-m", "image-text", "-t", "cirr", "-b", "fake", "--data-root", "d", "-o", "r")
TWO = json.dumps([cirr_row(7, 0, 1), cirr_row(8, 3, 2)]).encode()


@pytest.mark.parametrize(
    ("row", "remark"),
    [
        (cirr_row(9, 4, 5, ""), "1 queries have an empty text: 9"),
        (cirr_row(9, 4, 5, "  "), "1 queries have an empty text: 9"),
        (cirr_row(9, 4, 5, "a * of it"), "1 queries have a * of their own in the text"),
        (cirr_row(9, 4, 4), "1 queries have their reference as target: 9"),
    ],
    ids=["empty", "blank", "placeholder", "own target"],
)
def test_an_odd_query_is_a_remark_in_record_and_table(bench, cirr, row, remark):
    cirr([cirr_row(7, 0, 1), row])
    code, out, err = bench("data", "check", "cirr", "--data-root", "d")
    assert remark in out, err
    code, _, err = bench(*RUN)
    assert code == 0, err
    [record] = Path("r").rglob("*.json")
    remarks = json.loads(record.read_text(encoding="utf-8"))["annotations"]["remarks"]
    assert any(one.startswith(remark) for one in remarks)


def test_an_overlong_caption_is_refused_with_its_query(bench, cirr):
    cirr([cirr_row(7, 0, 1), cirr_row(4711, 3, 2, "very " * 300 + "blue")])
    code, _, err = bench(*RUN)
    assert code == 2
    assert "query 4711: a text of " in err
    assert "Traceback" not in err


CHECK = ("data", "check", "cirr", "--data-root", "d")
BROKEN = {
    "lines": (
        b"\n".join(json.dumps(cirr_row(i, 0, 1)).encode() for i in (7, 8)),
        "got JSON Lines (one value in each line)",
    ),
    "cut": (TWO[:-9], "is not valid JSON"),
    "empty": (b"", "is not valid JSON"),
    "page": (b"<html>404</html>", "is not valid JSON"),
    "no rows": (b"[]", "must be a non-empty list of rows, got []"),
    "a map": (b'{"a": 1}', "must be a non-empty list of rows, got {'a': 1}"),
    "deep": (b"[" * 200_000, "is not valid JSON"),
    "latin-1": (TWO.replace(b"is blue", b"is bl\xe4u"), "must be text in UTF-8"),
    "half a character": (TWO.replace(b"is blue", b"\\ud83d"), "must be valid Unicode"),
    "a name twice": (
        TWO.replace(b'"caption"', b'"pairid": 9, "caption"', 1),
        "occurs twice in one object",
    ),
    "a field missing": (
        TWO.replace(b'"caption"', b'"kaption"', 1),
        "row 1: `caption` must be a text, got none",
    ),
    "a field of another type": (
        TWO.replace(b'"pairid": 8', b'"pairid": true'),
        "row 2: `pairid` must be a whole number, got True",
    ),
    "a row that is none": (b"[1]", "row 1 must be an object, got 1"),
    "a pair twice": (TWO.replace(b'"pairid": 8', b'"pairid": 7'), "row 2: pair id 7 occurs twice"),
    "not in the gallery": (
        TWO.replace(b"dev-3-", b"dev-99-"),
        "dev-99-img0 is not in the gallery",
    ),
}


@pytest.mark.parametrize(("content", "says"), BROKEN.values(), ids=BROKEN)
def test_a_broken_caption_file_is_corrupt_data_with_its_row(refused, cirr, content, says):
    cirr(content=content)
    says = ("cap.rc2.val.json", says)
    refused(4, *RUN, says=says)


def test_a_byte_order_mark_is_read(bench, cirr):
    cirr(content=b"\xef\xbb\xbf" + TWO)
    code, _, err = bench(*RUN)
    assert code == 0, err


PATHS = {
    "absolute": "/etc/passwd",
    "climbing": "dev/../../../x.png",
    "parent": "..",
    "backslash": "dev\\x.png",
    "backslash climbing": "..\\x.png",
    "drive": "C:/x.png",
    "nul": "dev/x\0.png",
    "long name": f"dev/{'x' * 256}.png",
    "long path": "dev/" * 1100 + "x.png",
    "empty": "",
    "surrogate": "dev/\udc80.png",
}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_a_path_that_is_none_is_refused_with_its_image(refused, cirr, path):
    cirr(paths={**{name: f"./dev/{name}.png" for name in NAMES}, "bad": path})
    refused(4, *RUN, says="split.rc2.val.json")


@FEW
@given(name=st.text(st.characters(), max_size=12))
def test_any_name_stays_inside_or_is_refused(tmp_path, name):
    try:
        checked = check_inside(name, "here")
    except CirbenchError as error:
        str(error).encode()
    else:
        assert (tmp_path / checked).resolve().is_relative_to(tmp_path.resolve())
        (tmp_path / checked).exists()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)


@FEW
@given(value=json_values, bom=st.booleans(), cut=st.integers(0, 60))
def test_any_json_is_read_as_it_is_or_refused(tmp_path, value, bom, cut):
    text = json.dumps(value)
    text = text[: len(text) - cut] if cut < 30 else text
    (tmp_path / "a.json").write_text(text, encoding="utf-8-sig" if bom else "utf-8")
    try:
        found = read_json(tmp_path / "a.json")
    except CirbenchError:
        with pytest.raises(ValueError, match=r"."):
            json.loads(text)
    else:
        assert json.dumps(found) == json.dumps(json.loads(text))


@pytest.fixture
def coco(bench, picture):
    """Writes a small COCO below `d`, with this text as its query list."""

    def write(table: str | bytes, images: int = 3) -> None:
        for name in ("val2017", "val2017_masked"):
            Path("d/coco", name).mkdir(parents=True, exist_ok=True)
            for i in range(images):
                Path(f"d/coco/{name}/{i}.jpg").write_bytes(picture(i))
        content = table.encode() if isinstance(table, str) else table
        Path("d/coco/coco_eval.csv").write_bytes(content)

    return write


def listed(*rows: str) -> str:
    return "\n".join([",".join(COLUMNS), *rows]) + "\n"


ROW = "{}.jpg,1;1;9;9 ,dog,cat;chair"
COCO = ("run", "-m", "image-only", "-t", "coco", "-b", "fake", "--data-root", "d", "-o", "r")


@pytest.mark.parametrize("classes", ["nan", "NaN", ""])
def test_classes_without_a_value_are_none(coco, classes):
    coco(listed(ROW.format(0), f"1.jpg,1;1;9;9 ,dog,{classes}"))
    data = Coco().load(protocol=PROTOCOL, split="val2017", data_root=Path("d"))
    assert [query.fields["others"] for query in data.queries] == ["cat and chair", ""]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("1.jpg,1;1;9;9 ,dog", "row 2 (line 3) must have 4 fields like its header, got 3"),
        (
            "1.jpg,1;1;9;9 ,dog,cat,chair",
            "row 2 (line 3) must have 4 fields like its header, got 5",
        ),
        ("1.jpg", "row 2 (line 3) must have 4 fields like its header, got 1"),
        ("1.jpg,1;1;9;9 ,nan,cat", "row 2: query_class must not be empty"),
        (",1;1;9;9 ,dog,cat", "row 2: id must not be empty"),
        ("1.jpg,nan,dog,cat", "row 2: query_regions must be x1;y1;x2;y2"),
        ("1.jpg,1;1;9,dog,cat", "row 2: query_regions must be x1;y1;x2;y2"),
        ("1.jpg,1;1;9;inf,dog,cat", "row 2: query_regions must be a part of a picture"),
        ("1.jpg,0;0;1e9;1e9,dog,cat", "row 2: query_regions must be a part of a picture"),
        ("1.jpg,-1e9;-1e9;-1;-1,dog,cat", "row 2: query_regions must be a part of a picture"),
        ("1.jpg,1e15;1;1e15;9,dog,cat", "row 2: query_regions must be a part of a picture"),
        ("1.jpg,-1e308;1;1e308;9,dog,cat", "row 2: query_regions must be a part of a picture"),
        ("0.jpg,1;1;9;9 ,dog,cat", "row 2: 0.jpg occurs twice"),
        ("../0.jpg,1;1;9;9 ,dog,cat", "row 2: a path must stay inside its folder, got '../0.jpg'"),
        ('"1.jpg,1;1;9;9 ,dog,cat', "row 2 is not valid CSV"),
    ],
)
def test_a_wrong_row_of_a_query_list_is_refused_with_its_number(refused, coco, row, says):
    coco(listed(ROW.format(0), row))
    refused(4, *COCO, says=("coco_eval.csv", says))


def test_a_query_list_without_rows_is_refused(refused, coco):
    coco(listed())
    refused(4, *COCO, says="lists no queries")


@pytest.mark.parametrize(("count", "released"), [(4764, False), (4765, True), (4766, True)])
def test_both_known_counts_of_the_list_are_released_ones(bench, coco, count, released):
    coco(listed(*(ROW.format(i) for i in range(count))), images=0)
    code, out, _ = bench("data", "check", "coco", "--data-root", "d")
    assert code == 3  # no picture is there
    assert ("released annotations" in out) == released
    expected = count if released else 4766
    verdict = "ok" if released else "DIFFERS"
    [line] = [line for line in out.splitlines() if " queries " in line]
    assert line.split()[-2:] == [f"{expected:,}", verdict]


@pytest.mark.parametrize(
    "name",
    [
        "n01/toy_1.jpg.part",
        "n01/toy_notes.txt",
        "n01/._toy_1.jpg",
        "n01/.ipynb_checkpoints/toy_1.jpg",
        ".ipynb_checkpoints/toy_1.jpg",
    ],
)
def test_only_image_names_count_as_renditions(bench, picture, name):
    for folder, names in {
        "d/imgnet/imagenet-r/n01": ("toy_0.jpg", "art_0.jpg"),
        "d/imgnet/real/n01": ("a.JPEG", "b.JPEG"),
    }.items():
        Path(folder).mkdir(parents=True)
        for i, one in enumerate(names):
            Path(folder, one).write_bytes(picture(i))
    Path("d/imgnet/imagenet-r", name).parent.mkdir(exist_ok=True)
    Path("d/imgnet/imagenet-r", name).write_bytes(picture(9))
    code, out, _ = bench("data", "check", "imagenet-r", "--data-root", "d")
    assert code == 0
    [line] = [line for line in out.splitlines() if " gallery " in line]
    assert line.split()[2] == "3"  # one rendition, two photos
    assert "skipped 1 " in out


def write_fashion_iq(picture, split_of_dress, captions_of_dress) -> None:
    for name in ("captions", "image_splits", "images"):
        Path("d/fashion-iq", name).mkdir(parents=True, exist_ok=True)
    Path("d/fashion-iq/images/B.png").write_bytes(picture(1))
    for category in ("dress", "shirt", "toptee"):
        own = category == "dress"
        rows = [{"candidate": "B", "target": "B", "captions": ["is red", ""]}]
        split = split_of_dress if own else ["B"]
        captions = captions_of_dress if own and captions_of_dress is not None else rows
        for path, value in (
            (f"captions/cap.{category}.val.json", captions),
            (f"image_splits/split.{category}.val.json", split),
        ):
            Path("d/fashion-iq", path).write_text(json.dumps(value), encoding="utf-8")


@pytest.mark.parametrize(
    ("split", "captions", "says"),
    [
        (5, None, "must be a list of image names, got 5"),
        ([["B"]], None, "must be a list of image names"),
        ({"B": 1}, None, "must be a list of image names, got {'B': 1}"),
        (["B", "B"], None, "B is listed twice"),
        (
            ["B"],
            [{"candidate": "B", "target": "B", "captions": ["a"]}],
            "row 1: captions must be a list of two texts",
        ),
        (
            ["B"],
            [{"candidate": "B", "target": "B", "captions": [1, 2]}],
            "row 1: captions must be a list of two texts",
        ),
        (
            ["B"],
            [{"candidate": 1, "target": "B", "captions": []}],
            "row 1: `candidate` must be a text, got 1",
        ),
    ],
)
def test_fashion_iq_files_of_another_shape_are_corrupt_data(bench, picture, split, captions, says):
    write_fashion_iq(picture, split, captions)
    code, out, err = bench("data", "check", "fashion-iq", "--data-root", "d")
    assert code == 4, err
    assert says in out


def test_odd_fashion_iq_queries_are_remarks(bench, picture):
    write_fashion_iq(picture, ["B"], None)
    code, out, err = bench("data", "check", "fashion-iq", "--data-root", "d")
    assert code == 0, err
    assert "3 queries have an empty text: dress/1, shirt/1, toptee/1" in out
    assert "3 queries have their reference as target" in out


def test_cirr_members_that_are_no_names_are_refused(refused, cirr):
    cirr([{**cirr_row(7, 0, 1), "img_set": {"members": [NAMES[1], ["x"]]}}])
    refused(4, *RUN, says=("row 1:", "is not in the gallery"))


INSTANCES = {
    "categories": [{"id": 1, "name": "dog"}],
    "images": [{"id": 1, "file_name": "1.jpg", "width": 24, "height": 24}],
    "annotations": [
        {
            "image_id": 1,
            "category_id": 1,
            "bbox": [1, 1, 5, 5],
            "segmentation": [[1, 1, 6, 1, 6, 6]],
        }
    ],
}


@pytest.mark.parametrize(
    ("part", "field", "value", "says"),
    [
        ("images", "file_name", "../../../out.jpg", "must stay inside its folder"),
        ("images", "file_name", "/tmp/out.jpg", "must stay inside its folder"),
        ("images", "width", "wide", "images, row 1: `width` must be a whole number"),
        ("images", "width", None, "images, row 1: `width` must be a whole number"),
        ("images", "width", -24, "images, row 1: `width` and `height` must be"),
        (
            "images",
            "height",
            10**9,
            "must have the size of its annotation, 24 × 1000000000 pixels, got 24 × 24",
        ),
        (
            "images",
            "file_name",
            "../1.jpg",
            "images, row 1: a path must stay inside its folder, got '../1.jpg'",
        ),
        ("images", "file_name", "a\0.jpg", "images, row 1: a path must be"),
        ("images", "file_name", 5, "images, row 1: `file_name` must be a text"),
        ("images", "id", 2, "annotations, row 1: its category or image must be in the file"),
        ("annotations", "bbox", ["1", "1", "5", "5"], "row 1: `bbox` must be four numbers"),
        ("annotations", "bbox", [1, 1, 5], "row 1: `bbox` must be four numbers"),
        ("annotations", "bbox", [1, 1, 5, float("nan")], "row 1: `bbox` must be four numbers"),
        ("annotations", "category_id", 9, "row 1: its category or image must be in"),
        ("annotations", "segmentation", "outline", "`segmentation` must be polygons"),
        ("annotations", "segmentation", {"counts": [1, -5], "size": [24, 24]}, "must be polygons"),
        ("annotations", "segmentation", {"counts": "a", "size": [10**6] * 2}, "must be polygons"),
        ("annotations", "segmentation", [], "must be polygons"),
        ("annotations", "segmentation", None, "must be polygons"),
        ("categories", "id", "dog", "categories, row 1: `id` must be a whole number"),
    ],
)
def test_coco_instances_of_another_shape_are_corrupt_data(bench, picture, part, field, value, says):
    Path("d/coco/val2017").mkdir(parents=True)
    Path("d/coco/annotations").mkdir()
    Path("d/coco/val2017/1.jpg").write_bytes(picture(1))
    content = {**INSTANCES, part: [{**INSTANCES[part][0], field: value}]}
    path = Path("d/coco/annotations/instances_val2017.json")
    path.write_text(json.dumps(content), encoding="utf-8")
    code, _, err = bench("data", "prepare", "coco", "--data-root", "d")
    assert code == 4, err
    assert "Traceback" not in err
    assert says in err
    assert not list(Path().rglob("out.jpg"))
    assert not Path("d/coco/coco_eval.csv").exists()


@pytest.mark.parametrize("kind", ["latin-1", "utf-16"])
def test_a_released_list_in_another_encoding_is_corrupt_data(bench, picture, kind):
    for folder, name in (("imagenet-r", "toy_0.jpg"), ("real", "a.JPEG")):
        Path("d/imgnet", folder, "n01").mkdir(parents=True)
        Path("d/imgnet", folder, "n01", name).write_bytes(picture(1))
    for name in ("imgnet_real_query.txt", "imgnet_targets.txt"):
        Path("d/imgnet", name).write_text("imgnet/real/n01/ä.JPEG 0 \n", encoding=kind)
    code, out, err = bench("data", "check", "imagenet-r", "--data-root", "d")
    assert code == 4, err
    assert "must be text in UTF-8" in out


@pytest.mark.parametrize(
    ("task", "place"),
    [("fashion-iq", "fashion-iq/images"), ("imagenet-r", "imgnet/imagenet-r")],
)
def test_a_file_in_the_place_of_a_folder_is_missing_data(bench, picture, task, place):
    write_fashion_iq(picture, ["B"], None)
    Path("d/imgnet/real").mkdir(parents=True)
    if Path("d", place).is_dir():
        shutil.rmtree(Path("d", place))
    Path("d", place).write_bytes(b"")
    code, out, err = bench("data", "check", task, "--data-root", "d")
    assert code == 3, err
    assert f"the folder d/{place} cannot be read (Not a directory)" in out


@pytest.mark.parametrize("kind", ["captions/cap", "image_splits/split"])
def test_a_pipe_in_the_place_of_annotations_is_not_waited_for(refused, cirr, kind):
    cirr()
    path = Path(f"d/cirr/{kind}.rc2.val.json")
    path.unlink()
    os.mkfifo(path)
    refused(3, *RUN, says=(path.name, "not a regular file"))
