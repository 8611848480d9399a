"""Photographs of garments: what is asked, what is taught, and that they are fetched whole."""

from __future__ import annotations

import csv
import io
import re
import threading
import zipfile
from collections import Counter
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import open_clip
import pytest
from garments import TYPICAL, draw_garment, encode_garment, write_garments
from PIL import Image
from places import SHARED

from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.benchmark.training import tiny_clip
from cirbench.datasets.embedded.drawing import NEAR, make_thumbnail
from cirbench.datasets.garments.build import SPLIT_SEED, split_photographs
from cirbench.datasets.garments.captions import NAMES, name_garment, word_change
from cirbench.datasets.garments.changes import draw_changes
from cirbench.datasets.garments.colours import COLOURS, name_colour, name_pixel
from cirbench.datasets.garments.photographs import (
    CHECKSUMS,
    COMMIT,
    FETCHED,
    TABLE,
    Photograph,
    read_photographs,
    read_split,
)
from cirbench.datasets.garments.task import PIC2WORD, Garments

REAL = SHARED / "data/garments"
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs the reduced photographs in ../shared")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A data root with a made picture for each photograph; nobody changes it."""
    root = tmp_path_factory.mktemp("whole")
    write_garments(root / "garments")
    return root


@pytest.fixture
def root(tmp_path):
    """One that a test may change."""
    write_garments(tmp_path / FETCHED)
    return tmp_path


def load(split, root):
    return Garments().load(protocol=PIC2WORD, split=split, data_root=root)


def row_of(ref):
    """What the table says of a picture."""
    return next(p for p in read_photographs() if p.path == ref.id)


# the rule of colours


@pytest.mark.parametrize(("name", "channels"), TYPICAL.items())
def test_a_plain_garment_is_named_by_its_colour(name, channels):
    background = (120, 170, 200) if name != "blue" else (200, 170, 120)
    colour, sureness = name_colour(draw_garment(channels, background))
    assert colour == name
    assert sureness > 0.9


@pytest.mark.parametrize("size", [(64, 48), (300, 90), (17, 17)])
def test_the_shape_of_a_photograph_does_not_matter(size):
    assert name_colour(draw_garment(TYPICAL["red"], size=size))[0] == "red"


def test_a_garment_like_its_background_has_the_background_s_colour():
    assert name_colour(Image.new("RGB", (64, 64), TYPICAL["green"])) == ("green", 1.0)


def test_the_colour_of_most_of_a_garment_wins_with_its_share():
    image = draw_garment(TYPICAL["red"], background=(255, 255, 255), size=(64, 64))
    image.paste(TYPICAL["black"], (0, 38, 64, 64))  # the middle ends at 50, the border is white
    image.paste((255, 255, 255), (0, 52, 64, 64))
    image.paste((255, 255, 255), (0, 38, 12, 64))
    image.paste((255, 255, 255), (52, 38, 64, 64))
    colour, sureness = name_colour(image)
    assert colour == "red"
    assert sureness == pytest.approx((38 - 14) / (50 - 14), abs=0.05)


@pytest.mark.parametrize(
    ("pixel", "name"),
    [
        ((0.2, 0.2, 0.2), "black"),
        ((0.3, 0.25, 0.25), "black"),
        ((0.5, 0.5, 0.5), "gray"),
        ((0.40, 0.34, 0.34), "gray"),
        ((0.8, 0.8, 0.8), "white"),
        ((0.9, 0.5, 0.6), "pink"),
        ((0.6, 0.1, 0.1), "red"),
        ((0.3, 0.3, 0.1), "green"),
    ],
)
def test_pixels_near_a_threshold_are_named(pixel, name):
    assert name_pixel(*pixel) == name


# the table


def test_the_table_has_every_photograph_once_and_says_what_it_shows():
    photographs = read_photographs()
    assert len(photographs) == len({p.path for p in photographs}) == 3781
    assert Counter(p.split for p in photographs) == {"train": 2431, "test": 1000, "val": 350}
    assert {p.kind for p in photographs} == set(NAMES)
    assert {p.colour for p in photographs} == set(COLOURS)
    assert all(0 < p.sureness <= 1 for p in photographs)
    layout = r"(train|validation|test)/[a-z-]+/[0-9a-f-]{36}\.jpg"
    assert all(re.fullmatch(layout, p.path) for p in photographs)


def test_the_split_is_that_of_its_seed():
    order = np.random.default_rng(SPLIT_SEED).permutation(3781)
    splits = np.array([p.split for p in read_photographs()])
    assert set(splits[order[:1000]]) == {"test"}
    assert set(splits[order[1000:1350]]) == {"val"}


def test_what_is_nearly_a_held_out_photograph_is_left_out_of_training():
    order = np.random.default_rng(SPLIT_SEED).permutation(1400)
    thumbnails = np.random.default_rng(0).random((1400, 768), dtype=np.float32)
    thumbnails[order[1350]] = thumbnails[order[0]] + 0.9 * NEAR
    thumbnails[order[1351]] = thumbnails[order[1349]]
    thumbnails[order[1352]] = thumbnails[order[1353]]  # neither is held out
    splits = np.array(split_photographs(thumbnails))
    assert Counter(splits) == {"test": 1000, "val": 350, "near": 2, "train": 48}
    assert set(splits[order[[1350, 1351]]]) == {"near"}


@real
def test_the_rule_names_the_real_photographs_as_the_table_does():
    for photograph in read_photographs()[::40]:
        colour, sureness = name_colour(decode((REAL / photograph.path).read_bytes()))
        assert (colour, round(sureness, 3)) == (photograph.colour, photograph.sureness)


@real
def test_no_real_training_photograph_is_nearly_a_held_out_one():
    held_out, trained = (
        np.stack([make_thumbnail((REAL / p.path).read_bytes()) for p in photographs])
        for photographs in (read_split("test") + read_split("val"), read_split("train"))
    )
    assert min(np.abs(held_out - one).mean(axis=1).min() for one in trained) >= NEAR


# what is asked


@pytest.mark.parametrize(("split", "gallery", "of_each"), [("test", 900, 500), ("val", 314, 200)])
def test_every_sure_photograph_that_fits_is_right_and_no_other(whole, split, gallery, of_each):
    data = load(split, whole)
    shown = [row_of(ref) for ref in data.gallery]
    assert len(shown) == len({p.path for p in shown}) == gallery
    assert all(p.split == split and p.sureness > 0.45 for p in shown)
    assert data.query_counts == {"colour": of_each, "kind": of_each}
    assert not data.missing
    for query in data.queries:
        group, wanted, path = query.id.split("/", 2)
        reference = row_of(query.reference)
        asked = replace(reference, colour=wanted) if group == "colour" else reference
        kind = wanted if group == "kind" else reference.kind
        assert path == reference.path == data.gallery[query.removed].id
        assert query.fields["caption"] in word_change(group, wanted)
        assert (asked.colour, kind) != (reference.colour, reference.kind)
        right = [i for i, p in enumerate(shown) if (p.colour, p.kind) == (asked.colour, kind)]
        assert list(query.positives) == right
        assert len(right) >= 2
    assert len({query.id for query in data.queries}) == 2 * of_each


def test_drawn_changes_are_distinct_and_hang_on_their_seed():
    shown = [p for p in read_split("val") if p.is_sure]
    draw = partial(draw_changes, shown, of_each_group=50, fewest_right=3)
    assert draw(seed=1) == draw(seed=1) != draw(seed=2)
    drawn = draw(seed=1)
    assert len({(c.reference, c.group, c.wanted) for c in drawn}) == 100
    assert min(len(c.right) for c in drawn) >= 3


def test_all_that_can_be_asked_is_asked_where_it_is_less_than_wanted():
    shown = [
        Photograph(path=f"train/{kind}/{i}.jpg", colour=colour, sureness=1, split="val")
        for i, (kind, colour) in enumerate([("hat", "red"), ("hat", "blue"), ("skirt", "red")])
    ]
    drawn = draw_changes(shown, of_each_group=9, fewest_right=1, seed=0)
    assert {(c.reference, c.group, c.wanted, c.right) for c in drawn} == {
        (0, "colour", "blue", (1,)),
        (1, "colour", "red", (0,)),
        (0, "kind", "skirt", (2,)),
        (2, "kind", "hat", (0,)),
    }


def test_the_drawn_queries_are_those_that_everybody_has(whole):
    for split in Garments.splits:
        assert Garments.released[split].matches(load(split, whole), PIC2WORD)


# what is taught


def test_no_training_sees_a_photograph_of_a_gallery(whole):
    task = Garments()
    galleries = {ref.id for split in task.splits for ref in load(split, whole).gallery}
    lessons = task.lessons(data_root=whole).draw_batches(np.random.default_rng(0))
    taught = {one.picture.id for _, batch in zip(range(40), lessons, strict=False) for one in batch}
    triplets = task.triplets(data_root=whole)
    seen = {
        "pictures": {ref.id for ref in task.training_images(data_root=whole)},
        "triplets": {ref.id for t in triplets for ref in (t.reference, t.target)},
        "lessons": taught,
    }
    assert {name: len(ids & galleries) for name, ids in seen.items()} == dict.fromkeys(seen, 0)
    assert seen["pictures"] == {p.path for p in read_photographs() if p.split == "train"}
    assert len(taught) > 1500


def test_a_triplet_changes_what_it_says_and_nothing_else(whole):
    triplets = Garments().triplets(data_root=whole)
    assert Counter(t.group for t in triplets) == {"colour": 2000, "kind": 2000}
    for triplet in triplets[::37]:
        a, b = row_of(triplet.reference), row_of(triplet.target)
        assert a.is_sure
        assert b.is_sure
        kept = "kind" if triplet.group == "colour" else "colour"
        assert getattr(a, kept) == getattr(b, kept)
        assert getattr(a, triplet.group) != getattr(b, triplet.group)
        assert triplet.captions == word_change(triplet.group, getattr(b, triplet.group))
        assert [fields["caption"] for fields in triplet.fields] == list(triplet.captions)


def test_garments_are_named_as_people_do():
    assert name_garment("outwear", "orange") == "an orange jacket"
    assert name_garment("longsleeve") == "a long sleeve top"
    assert name_garment("pants", "red") == "red pants"
    assert word_change("kind", "hat") == ("is a hat", "as a hat")


def test_the_last_words_of_a_caption_are_true_and_unsure_colours_are_not_spoken_of(whole):
    lessons = Garments().lessons(data_root=whole)
    drawn = [
        one
        for _, batch in zip(range(10), lessons.draw_batches(np.random.default_rng(0)), strict=False)
        for one in batch
    ]
    edited = 0
    for one in drawn:
        photograph = row_of(one.picture)
        assert one.shows == {"kind": photograph.kind, "colour": photograph.colour}
        assert one.said.items() <= one.shows.items()
        first, _, sentence = one.text.partition(" , ")
        if not photograph.is_sure:
            assert one.text == f"a photo of {name_garment(photograph.kind)}"
        if sentence:
            groups = [g for g, v in one.shows.items() if sentence in word_change(g, v)]
            assert len(groups) == 1
            assert one.said == one.shows
            edited += first.startswith("a photo of") and first not in (
                f"a photo of {name_garment(photograph.kind)}",
                f"a photo of something {photograph.colour}",
            )
    sure = sum(row_of(one.picture).is_sure for one in drawn)
    assert 0.2 < edited / sure < 0.4


def test_no_caption_is_cut(whole):
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    lessons = Garments().lessons(data_root=whole)
    recipe = tiny_clip.make_recipe([lessons])
    longest = f"a photo of {name_garment('longsleeve', 'orange')} , is orange in color"
    assert int((tokenizer([longest])[0] != 0).sum()) <= recipe.context
    assert recipe.preprocess == PIC2WORD.preprocess


def test_a_tiny_clip_is_trained_on_the_photographs_by_its_command(whole, bench, tmp_path):
    command = ["train", "tiny-clip", "-t", "garments", "--steps", 1, "-o", tmp_path / "clip", "-q"]
    code, _, err = bench(*command)
    assert code == 3
    assert "--data-root" in err
    assert bench(*command, "--data-root", whole)[0] == 0
    assert (tmp_path / "clip/open_clip_model.safetensors").is_file()


def test_a_photograph_that_is_oblong_is_taught_as_it_is_evaluated():
    content = io.BytesIO()
    draw_garment((0, 0, 0), (0, 0, 0), (30, 60)).save(content, "PNG")
    taught = tiny_clip.decode(content.getvalue(), "white-square", 48)
    assert taught[:, 24, 0].tolist() == [255, 255, 255]
    assert taught[:, 24, 24].tolist() == [0, 0, 0]


# data that are not as they should be


@pytest.fixture
def check(bench):
    def call(root):
        return bench("data", "check", "garments", "--data-root", root)

    return call


def test_a_whole_data_root_is_counted(check, whole):
    code, out, _ = check(whole)
    assert code == 0
    assert re.search(r"all +photographs of all splits +3,781 +3,781 +ok", out)
    assert "not fetched by bench data prepare garments" in out


@pytest.mark.parametrize(("split", "exit_code"), [("train", 0), ("val", 3)])
def test_a_missing_photograph_is_named(check, root, split, exit_code):
    gone = next(p for p in read_split(split) if p.is_sure).path
    (root / FETCHED / gone).unlink()
    code, out, _ = check(root)
    assert code == exit_code
    assert f"missing: {gone}" in out


def test_a_run_and_a_training_over_a_missing_photograph_stop(root, bench, tmp_path):
    (root / FETCHED / next(p for p in read_split("test") if p.is_sure).path).unlink()
    with pytest.raises(MissingData, match="1 of 900 pictures of garments are not there"):
        plan(Request(methods=("image-only",), task="garments", backbone="fake", data_root=root))
    (root / FETCHED / read_split("train")[0].path).unlink()
    code, _, err = bench(
        *("train", "pic2word", "--images", "garments", "-b", "fake", "--data-root", root),
        *("-o", tmp_path / "m.safetensors"),
    )
    assert code == 3
    assert "1 training photographs are missing" in err


def test_another_layout_a_missing_root_and_a_split_that_is_not_there(tmp_path, whole):
    with pytest.raises(MissingData, match="pass --data-root"):
        load("test", None)
    with pytest.raises(MissingData, match="clothing-dataset-small or garments"):
        load("test", tmp_path)
    (tmp_path / "garments/red").mkdir(parents=True)
    with pytest.raises(MissingData, match="as their repository does"):
        load("test", tmp_path)
    with pytest.raises(UsageError, match="unknown split 'train'; known: test, val"):
        plan(
            Request(
                methods=("image-only",),
                task="garments",
                backbone="fake",
                data_root=whole,
                split="train",
            )
        )


def test_other_photographs_make_another_gallery_and_share_no_board(whole, root, tmp_path, bench):
    for folder, place in ((whole, "a"), (root, "b")):
        if place == "b":
            path = root / FETCHED / next(p for p in read_split("val") if p.is_sure).path
            path.write_bytes(encode_garment("red", number=1))
        code, _, err = bench(
            *("run", "-m", "image-only", "-t", "garments", "-b", "fake", "--split", "val"),
            *("--data-root", folder, "-o", tmp_path / "results" / place, "-q"),
        )
        assert code == 0, err
    from cirbench.benchmark.analysis.boards import make_boards
    from cirbench.benchmark.records.record import read_records

    records = [r for p in "ab" for r in read_records(tmp_path / "results" / p)]
    assert len({r.fingerprints.gallery for r in records}) == 2
    assert len(make_boards(records)) == 2


# fetching


class Archive(SimpleHTTPRequestHandler):
    """Serves a folder."""

    def log_message(self, *_):
        pass


def zip_photographs(path, comment=COMMIT):
    """The archive as GitHub makes it."""
    with zipfile.ZipFile(path, "w") as archive:
        for photograph in read_photographs():
            archive.writestr(f"{FETCHED}/{photograph.path}", encode_garment(photograph.colour))
        archive.writestr(f"{FETCHED}/LICENSE", "CC0 1.0")
        archive.comment = comment.encode()


@pytest.fixture
def prepare(bench, tmp_path, monkeypatch):
    """Runs `bench data prepare garments` against a server of our own, and gives its data root."""
    served = tmp_path / "served"
    served.mkdir()
    handler = partial(Archive, directory=str(served))
    [download] = Garments.downloads
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/archive.zip"
        monkeypatch.setattr(Garments, "downloads", (replace(download, url=url),))
        yield lambda: bench("data", "prepare", "garments", "--data-root", tmp_path / "data", "-q")
        running.shutdown()


def test_fetched_photographs_are_written_down_and_a_changed_one_is_named(prepare, check, tmp_path):
    zip_photographs(tmp_path / "served/archive.zip")
    code, out, err = prepare()
    assert code == 0, err
    data = tmp_path / "data"
    lines = (data / FETCHED / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3781
    assert check(data)[0] == 0
    changed = read_split("train")[7].path
    (data / FETCHED / changed).write_bytes(encode_garment("red", number=1))
    assert prepare()[0] == 0  # what is there stays, and is not written down anew
    code, out, _ = check(data)
    assert code == 4
    assert f"changed since it was fetched: {changed}" in out
    assert "not fetched" not in out


def test_an_archive_of_another_commit_is_refused(prepare, tmp_path):
    zip_photographs(tmp_path / "served/archive.zip", comment="0" * 40)
    code, _, err = prepare()
    assert code == 4
    assert f"must have git-commit {COMMIT}, got {'0' * 40}" in err
    assert list((tmp_path / "data").iterdir()) == []


def test_an_archive_with_a_changed_photograph_is_refused_and_names_it(prepare, tmp_path):
    path = tmp_path / "served/archive.zip"
    zip_photographs(path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        [info] = [i for i in archive.infolist() if i.filename.endswith(read_photographs()[3].path)]
    content[info.header_offset + 30 + len(info.filename) + 20] ^= 1
    path.write_bytes(content)
    code, _, err = prepare()
    assert code == 4
    assert read_photographs()[3].path in err
    assert not (tmp_path / "data" / FETCHED).exists()


def test_the_table_is_the_only_thing_of_the_photographs_that_is_shipped():
    assert sorted(p.suffix for p in TABLE.parent.iterdir() if p.is_file()) == [".csv"] + [".py"] * 7
    with TABLE.open(newline="", encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["path", "colour", "sureness", "split"]
