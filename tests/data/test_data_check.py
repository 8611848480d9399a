"""bench data check, and runs over data that is not whole."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from places import SHARED
from typer.testing import CliRunner

from cirbench.benchmark.api.values import Released
from cirbench.benchmark.cli.main import app
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.records.record import read_records
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.fashion_iq import CATEGORIES, PIC2WORD, FashionIQ

REAL = SHARED / "data"


@pytest.fixture
def root(picture, tmp_path):
    """Fashion-IQ in small: four images and two triplets a category."""
    base = tmp_path / "fashion-iq"
    for name in ("captions", "image_splits", "images"):
        (base / name).mkdir(parents=True)
    for i, category in enumerate(CATEGORIES):
        names = [f"{category}{j}" for j in range(4)]
        rows = [
            {"candidate": names[j], "target": names[j + 1], "captions": ["a", "b"]} for j in (0, 1)
        ]
        (base / "captions" / f"cap.{category}.val.json").write_text(
            json.dumps(rows), encoding="utf-8"
        )
        (base / "image_splits" / f"split.{category}.val.json").write_text(
            json.dumps(names), encoding="utf-8"
        )
        for j, name in enumerate(names):
            (base / "images" / f"{name}.png").write_bytes(picture(10 * i + j))
    return tmp_path


def check(root, *options):
    result = CliRunner().invoke(
        app, ["data", "check", "fashion-iq", "--data-root", str(root), "--json", "-q", *options]
    )
    return result.exit_code, json.loads(result.stdout)


def test_whole_made_data_is_complete_and_custom(root):
    code, said = check(root)
    [split] = said["splits"]
    assert (code, split["missing"], split["released"]) == (0, {}, False)
    counts = {c["name"]: (c["found"], c["expected"]) for c in split["counts"]}
    assert counts["queries of shirt"] == (2, 2038)
    assert counts["gallery"] == (12, 15_536)
    assert set(split["annotations"]) == {
        f"{kind}.{c}.val.json" for kind in ("cap", "split") for c in CATEGORIES
    }
    [everything] = said["collections"]
    assert (everything["found"], everything["expected"]) == (12, 74_381)


def test_what_is_missing_is_named_and_exits_3(root):
    (root / "fashion-iq/images/dress1.png").unlink()
    code, said = check(root)
    assert code == 3
    assert list(said["splits"][0]["missing"]) == ["dress1"]


def test_only_a_deep_check_finds_the_unreadable_and_exits_4(root):
    path = root / "fashion-iq/images/dress1.png"
    path.write_bytes(path.read_bytes()[:60])
    assert check(root)[0] == 0
    code, said = check(root, "--deep")
    assert code == 4
    assert list(said["splits"][0]["unreadable"]) == ["dress1"]


def test_a_split_that_can_not_be_loaded_says_why(root):
    (root / "fashion-iq/captions/cap.dress.val.json").write_text("[", encoding="utf-8")
    code, said = check(root)
    assert code == 4
    assert "not valid JSON" in said["splits"][0]["error"]


def test_the_table_names_what_is_wrong(root):
    (root / "fashion-iq/images/dress1.png").unlink()
    result = CliRunner().invoke(app, ["data", "check", "fashion-iq", "--data-root", str(root)])
    assert result.exit_code == 3
    assert "1 missing, 0 unreadable, custom annotations" in result.stdout
    assert "missing: dress1" in result.stdout
    assert "DIFFERS" in result.stdout


def request(root, **changes):
    return Request(
        methods=("image-only",),
        task="fashion-iq",
        backbone="fake",
        data_root=root,
        output=root / "results",
        **changes,
    )


def test_allow_missing_leaves_out_what_is_gone_or_broken_and_is_partial(root):
    images = root / "fashion-iq/images"
    (images / "dress0.png").unlink()
    (images / "shirt3.png").write_bytes(b"no picture")
    [record] = run(plan(request(root, allow_missing=True)), Reporter(quiet=True))
    counts = record.counts
    assert (counts.queries, counts.gallery, counts.missing) == (5, 10, 2)
    assert record.run.partial is True
    assert record.path.is_relative_to(root / "results-partial")
    assert not (root / "results").exists()


def test_allow_missing_with_nothing_missing_is_whole(root):
    [record] = run(plan(request(root, allow_missing=True)), Reporter(quiet=True))
    assert record.run.partial is False
    assert len(list(read_records(root / "results"))) == 1


def test_released_is_told_by_counts_and_by_content(root):
    task = FashionIQ()
    data = task.load(protocol=PIC2WORD, split="val", data_root=root)
    known = Released(
        queries=dict.fromkeys(CATEGORIES, 2),
        gallery={"pic2word": 12},
        annotations_sha256=data.annotations_sha256,
    )
    assert known.matches(data, PIC2WORD)
    assert replace(known, annotations_sha256=None).matches(data, PIC2WORD)
    assert not replace(known, annotations_sha256="0").matches(data, PIC2WORD)
    assert not replace(known, gallery={"pic2word": 13}).matches(data, PIC2WORD)
    assert not replace(known, queries=dict.fromkeys(CATEGORIES, 3)).matches(data, PIC2WORD)


@pytest.mark.skipif(not REAL.is_dir(), reason="needs the reference data: the real annotations")
def test_the_real_annotations_are_the_released_ones_and_74381_is_everything(tmp_path):
    (tmp_path / "fashion-iq").mkdir()
    for name in ("captions", "image_splits"):
        (tmp_path / "fashion-iq" / name).symlink_to(REAL / "fashion-iq" / name)
    (tmp_path / "fashion-iq/images").mkdir()
    code, said = check(tmp_path)
    assert code == 3
    [split], [everything] = said["splits"], said["collections"]
    assert split["released"] is True
    assert all(c["found"] == c["expected"] for c in split["counts"][:-1])
    assert len(everything["missing"]) == everything["expected"] == 74_381


def test_prepare_without_a_network_says_what_is_missing(tmp_path, monkeypatch):
    import cirbench.datasets.cirr as cirr
    from cirbench.benchmark.api.task import Download

    dead = Download(url="http://127.0.0.1:9/cap.json", path="cirr/captions/cap.json")
    monkeypatch.setattr(cirr.CIRR, "downloads", (dead,))
    result = CliRunner().invoke(app, ["data", "prepare", "cirr", "--data-root", str(tmp_path)])
    assert result.exit_code != 0
    assert "NLVR2" in result.stdout
    assert "cannot be fetched" in str(result.exception)
