"""bench data make: whole worlds in the official layouts, whose records say what they are."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from cirbench import read_records
from cirbench.benchmark.analysis.boards import read_boards
from cirbench.benchmark.analysis.published import read_published, verify
from cirbench.benchmark.api.registry import find_task, tasks
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import Released
from cirbench.benchmark.data.made import MARK, is_made, write_made
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.training.selection import find_supervision
from cirbench.datasets.circo import ASPECTS, SEARLE, Circo
from cirbench.datasets.cirr import CIRR
from cirbench.datasets.coco.prepare import Photo, read_photos
from cirbench.datasets.fashion_iq import ALL_IMAGES, FashionIQ
from cirbench.datasets.genecis import GROUPS, GeneCIS
from cirbench.datasets.imagenet_r import ImageNetR, read_lists

MAKERS = [name for name in tasks() if find_task(name).make is not Task.make]
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Made data of every task that has any, below one data root."""
    root = tmp_path_factory.mktemp("made") / "root"
    for name in MAKERS:
        write_made(find_task(name)(), root, full=False, seed=0, reporter=QUIET)
    return root


@pytest.fixture
def cirr(world, tmp_path):
    """CIRR's made data alone, to be changed."""
    shutil.copytree(world / "cirr", tmp_path / "root" / "cirr")
    return tmp_path / "root"


def hash_tree(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*")
        if path.is_file()
    }


def run(bench, root, results, *options, task="cirr"):
    arguments = ("-b", "fake", "--data-root", root, "-o", results, "-q", *options)
    code, out, err = bench("run", "-m", "image-only", "-t", task, *arguments)
    assert code == 0, err
    return out


def test_each_licensed_task_can_be_made():
    licensed = {"imagenet-r", "fashion-iq", "cirr", "coco", "circo", "genecis"}
    assert licensed <= set(MAKERS)


@pytest.mark.parametrize("task", MAKERS)
def test_it_is_checked_run_and_shown_as_made(world, bench, tmp_path, task):
    code, out, err = bench("data", "check", task, "--data-root", world, "--deep", "-q")
    assert code == 0, err
    assert "complete, made data" in out
    run(bench, world, tmp_path / "results", task=task)
    bench("leaderboard", "-o", tmp_path / "results")
    [record] = read_records(tmp_path / "results")
    said = json.loads(record.path.read_text(encoding="utf-8"))
    assert (said["made"], said["annotations"]["released"]) == (True, False)
    assert record.path.parent.name == f"{task}-made"
    assert record.counts.missing == 0
    page = (tmp_path / "results/leaderboard.md").read_text(encoding="utf-8")
    assert f"## {task}-made · " in page
    assert "the data are made up" in page


def test_the_seed_decides_every_byte(world, bench, tmp_path):
    for name, seed in (("same", 0), ("other", 1)):
        bench("data", "make", "cirr", "-o", tmp_path / name, "--seed", seed, "-q")
    made = {name: hash_tree(tmp_path / name / "cirr") for name in ("same", "other")}
    assert made["same"] == hash_tree(world / "cirr")
    assert made["other"].keys() == made["same"].keys()
    assert all(
        made["other"][name] != made["same"][name] for name in made["same"] if name.endswith(".png")
    )


def test_it_says_beforehand_how_much_it_will_be(bench, tmp_path):
    _, out, err = bench("data", "make", "imagenet-r", "--output", tmp_path)
    assert out.split() == [str(tmp_path / "imgnet")]
    assert err.startswith("92 pictures: about ")


def test_made_and_own_data_of_one_task_never_share_a_table(cirr, bench, tmp_path):
    results = tmp_path / "results"
    run(bench, cirr, results)
    (cirr / "cirr" / MARK).unlink()  # the same bytes, and now nothing says that they are made
    run(bench, cirr, results)
    own, made = sorted(read_records(results), key=lambda record: record.made)
    assert (own.cell, own.fingerprints) == (made.cell, made.fingerprints)
    assert own.path.name == made.path.name
    boards = read_boards(results)
    assert [board.records for board in boards] == [(own,), (made,)]
    assert boards[0].digest != boards[1].digest  # plots are kept by it
    assert set(read_records(results).to_frame().task) == {"cirr", "cirr-made"}
    code, _, err = bench("compare", own.path, made.path, "-o", results)
    assert (code, "task differs, 'cirr' and 'cirr-made'" in err) == (2, True)
    code, _, err = bench("report", "-o", results)
    assert code == 0, err
    assert len(list((results / "report").glob("gallery-*.html"))) == 2


def test_made_data_are_not_the_released_ones_whatever_they_count(world, monkeypatch):
    counted = Released(queries={"all": 40}, gallery=dict.fromkeys(CIRR.protocols, 24))
    monkeypatch.setattr(CIRR, "released", {"val": counted})
    request = Request(methods=("image-only",), task="cirr", backbone="fake", data_root=world)
    assert plan(request).released is False
    assert counted.matches(plan(request).data, plan(request).protocol)


def test_no_published_number_is_held_against_made_data(cirr, bench, tmp_path):
    run(bench, cirr, tmp_path / "results")
    [record] = read_records(tmp_path / "results")
    row = next(r for r in read_published() if (r.task, r.metric) == ("cirr", "R@1"))
    asked = {"method": "image-only", "backbone": "fake", "split": "val", "protocol": "pic2word"}
    row = replace(row, trained_on="", **asked)
    assert verify([row], [record])[0].measured is None
    assert verify([row], [replace(record, made=False)])[0].reason == "custom annotations"


def test_a_server_file_lies_with_the_made_records(cirr, bench, tmp_path):
    run(bench, cirr, tmp_path / "results", "--split", "test1")
    [answer, _] = sorted((tmp_path / "results").rglob("submissions/*"))
    assert answer.parent.parent.name == "cirr-made"


def test_a_training_says_that_its_triplets_were_made(world, cirr):
    assert find_supervision("cirr", world)["trained_on"] == "CIRR (made)"
    (cirr / "cirr" / MARK).unlink()
    assert find_supervision("cirr", cirr)["trained_on"] == "CIRR"


def test_the_mark_goes_along_when_data_are_moved_or_linked_to(cirr, tmp_path):
    moved = tmp_path / "moved"
    shutil.move(cirr / "cirr", moved / "CIRR")
    assert is_made(moved, CIRR.places)
    linked = tmp_path / "linked" / "cirr"
    linked.mkdir(parents=True)
    for path in (moved / "CIRR").iterdir():
        if path.name != MARK:
            (linked / path.name).symlink_to(path)
    assert is_made(linked.parent, CIRR.places)
    assert not is_made(None, CIRR.places)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("make", "emoji", "-o", "new"), 2, "emoji has no made data; those that have: "),
        (("make", "imagenet-rr", "-o", "new"), 2, "did you mean imagenet-r?"),
        (("make", "cirr"), 2, "--output"),
        (("make", "cirr", "-o", "new", "--seed", "-1"), 2, "--seed"),
        (("make", "cirr", "-o", "notes.txt"), 2, "notes.txt must be a folder, got a file"),
        (("make", "cirr", "-o", "."), 2, "must be empty or hold other tasks' made data, got "),
        (("make", "cirr", "-o", "twice"), 2, "got cirr; choose another folder"),
    ],
)
def test_what_cannot_be_made_is_said_and_nothing_is_touched(
    cirr, bench, monkeypatch, arguments, code, says
):
    monkeypatch.chdir(cirr.parent)
    cirr.rename("twice")
    Path("notes.txt").write_text("mine", encoding="utf-8")
    before = hash_tree(Path())
    found, _, err = bench("data", *arguments)
    assert found == code
    assert says in err
    assert (hash_tree(Path()), Path("new").exists()) == (before, False)


def test_a_disk_without_room_is_told_before_the_start(bench, tmp_path, monkeypatch):
    usage = namedtuple("Usage", "free")(1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, _, err = bench("data", "make", "cirr", "-o", tmp_path / "new")
    assert code == 2
    assert "must have room for " in err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_one_leaves_nothing_and_can_be_made_again(tmp_path, monkeypatch):
    task, root = ImageNetR(), tmp_path / "root"

    def stop(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(task, "prepare", stop)
    with pytest.raises(KeyboardInterrupt):
        write_made(task, root, full=False, seed=0, reporter=QUIET)
    assert list(root.iterdir()) == []
    monkeypatch.undo()
    assert write_made(task, root, full=False, seed=0, reporter=QUIET) == [root / "imgnet"]


def make_full(task):
    return task().make(full=True, seed=0)


def read(made, path):
    return json.loads(made.files[path])


def test_imagenet_r_of_full_size_has_the_released_counts(tmp_path):
    made = make_full(ImageNetR)
    for name, text in made.files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    lists = (tmp_path / "imgnet" / f"imgnet_{name}.txt" for name in ("real_query", "targets"))
    photos, renditions = read_lists(*lists)
    assert len(photos) == ImageNetR.released["test"].queries["cartoon"]
    assert len(photos) + len(renditions) == ImageNetR.released["test"].gallery["pic2word"]
    assert len(made.pictures) == len(photos) + len(renditions)
    assert len({photo.wnid for photo in photos}) == 200


def test_fashion_iq_of_full_size_has_the_released_counts():
    made, released = make_full(FashionIQ), FashionIQ.released["val"]
    for category, count in released.queries.items():
        assert len(read(made, f"fashion-iq/captions/cap.{category}.val.json")) == count
    names = [
        read(made, f"fashion-iq/image_splits/split.{category}.val.json")
        for category in released.queries
    ]
    assert sum(map(len, names)) == released.gallery["pic2word"]
    assert len(made.pictures) == ALL_IMAGES


def test_cirr_of_full_size_has_the_released_counts():
    made = make_full(CIRR)
    for split, released in CIRR.released.items():
        rows = read(made, f"cirr/captions/cap.rc2.{split}.json")
        assert len(rows) == released.queries["all"]
        names = read(made, f"cirr/image_splits/split.rc2.{split}.json")
        assert len(names) == released.gallery["pic2word"]
        assert all(len(set(row["img_set"]["members"])) == 6 for row in rows)
        asked = {(row["reference"], row["img_set"].get("target_rank")) for row in rows}
        assert len(asked) == len(rows) or split == "test1"
    assert len(read(made, "cirr/captions/cap.rc2.train.json")) == 28_225


def test_coco_of_full_size_gives_as_many_queries_as_the_paper_has(tmp_path):
    made = find_task("coco")().make(full=True, seed=0)
    path = tmp_path / "instances_val2017.json"
    path.write_text(made.files["coco/annotations/instances_val2017.json"], encoding="utf-8")
    photos, _ = read_photos(path)
    assert len(made.pictures) == 5_000
    assert sum(bool(Photo.candidates(photo)) for photo in photos) == 4_766


def test_circo_of_full_size_has_the_released_counts():
    made, known = make_full(Circo), Circo.released["val"]
    val, test = (read(made, f"CIRCO/annotations/{split}.json") for split in ("val", "test"))
    assert (len(val), len(test)) == (known.queries["all"], 800)
    for aspect, count in ASPECTS.items():
        assert sum(aspect in row["semantic_aspects"] for row in val) == count
    found = {len(row["gt_img_ids"]) for row in val}
    assert (min(found), max(found) <= 14) == (1, True)
    root = "CIRCO/COCO2017_unlabeled"
    listed = read(made, f"{root}/annotations/image_info_unlabeled2017.json")["images"]
    assert len({row["id"] for row in listed}) == known.gallery["searle"]
    assert {f"{root}/unlabeled2017/{row['file_name']}" for row in listed} == set(made.pictures)
    assert not {"target_img_id", "gt_img_ids", "semantic_aspects"} & set(test[0])


def test_every_picture_that_answers_a_made_query_of_circo_is_known_to(world):
    """Pictures of one thing in one style are the answers of one query, or of none."""
    made = Circo().make(full=False, seed=0)
    data = Circo().load(protocol=SEARLE, split="val", data_root=world)
    draws = [
        made.pictures[f"CIRCO/COCO2017_unlabeled/unlabeled2017/{int(ref.id):012}.jpg"]
        for ref in data.gallery
    ]
    shown = [draw.args[0] for draw in draws]
    for query in data.queries:
        asked = shown[query.target]
        assert {row for row, emoji in enumerate(shown) if emoji == asked} == set(query.positives)
        assert asked.name in query.fields["caption"]
        assert query.reference.id not in {data.gallery[row].id for row in query.positives}


def test_genecis_of_full_size_has_the_released_counts():
    made = make_full(GeneCIS)
    counts = {"focus_attribute": 2_000, "change_attribute": 2_112}
    for group, count in (counts | dict(GeneCIS.released["test"].queries)).items():
        rows = read(made, f"genecis/{group}.json")
        assert len(rows) == count
        distractors = 9 if group == "focus_attribute" else 14
        assert {len(row["gallery"]) for row in rows} == {distractors}
        for row in rows:
            names = [json.dumps(image) for image in (row["reference"], row["target"])]
            assert len({*names, *map(json.dumps, row["gallery"])}) == distractors + 2
    folders = [str(Path(path).parent) for path in made.pictures]
    assert folders.count("genecis/VG_100K_all") == 108_249
    assert folders.count("genecis/val2017") == 5_000


def test_only_the_target_of_a_made_query_of_genecis_answers_it():
    made = GeneCIS().make(full=False, seed=0)

    def show(image):
        """The emoji on a picture; of an object its box must be the emoji's."""
        if "val_image_id" in image:
            draw = made.pictures[f"genecis/val2017/{image['val_image_id']:012}.jpg"]
            return [sticker.emoji for sticker in draw.args[0]]
        [sticker] = made.pictures[f"genecis/VG_100K_all/{image['image_id']}.jpg"].args[0]
        side = sticker.side
        assert image["instance_bbox"] == [sticker.left, sticker.top, side, side]
        return [sticker.emoji]

    def answers(group, row, image):
        shown, reference = show(image), show(row["reference"])
        if group == "focus_attribute":
            return shown[0].style == reference[0].style
        if group == "change_attribute":
            [wanted] = show(row["target"])
            return (shown[0].code, shown[0].style) == (reference[0].code, wanted.style)
        return row["condition"] in {emoji.name for emoji in shown}

    for group in GROUPS:
        for row in read(made, f"genecis/{group}.json"):
            assert answers(group, row, row["target"])
            assert not any(answers(group, row, image) for image in row["gallery"])
            there = row["condition"] in {emoji.name for emoji in show(row["reference"])}
            assert there == (group == "focus_object")
