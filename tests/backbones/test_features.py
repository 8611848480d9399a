"""Frozen features as pictures: an .npy vector a picture goes the way that a picture goes."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from making import Stage
from vectors import NAMES, PAIRS, WIDTH, draw_vectors, to_npy, write_annotations, write_vectors

from cirbench.benchmark.api.values import ImageRef, Mode
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.data.annotations import find_image_files, find_with_any_ending
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_images, embed_with
from cirbench.benchmark.embedding.space import make_image_space
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.records.record import read_record, read_records
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.progress import Reporter

BACKBONE = f"features:{WIDTH}"
SPOILED = NAMES[4]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The pictures' folder of a CIRR whose pictures are vectors, below `data` where bench runs."""
    monkeypatch.chdir(tmp_path)
    found = write_annotations(tmp_path / "data")
    write_vectors(found, draw_vectors())
    return found


@pytest.fixture
def run(bench):
    """Runs image-only over it."""

    def call(*more, backbone=BACKBONE):
        given = ("-m", "image-only", "-t", "cirr", "--data-root", "data", "-o", "results")
        return bench("run", *given, "-b", backbone, *more)

    return call


def embed(folder, backbone, mode=Mode.USE):
    """All pictures by one backbone, in the order of NAMES."""
    embedder = Embedder(
        backbone=backbone,
        preprocess="clip",
        size=BatchSize(value=5),
        workers=2,
        stage=Stage(),
    )
    refs = [make_file_ref(folder / f"{name}.npy", name) for name in NAMES]
    return embed_with([embedder], refs, mode, Reporter(quiet=True))[0]


def rank_directly(vectors):
    """For each query the gallery's rows by cosine, without its reference."""
    unit = np.array([values / np.linalg.norm(values) for values in vectors.values()], np.float64)
    orders = (np.argsort(-(unit @ unit[reference]), kind="stable") for reference, _ in PAIRS)
    return [
        [row for row in order.tolist() if row != reference]
        for order, (reference, _) in zip(orders, PAIRS, strict=True)
    ]


@pytest.mark.parametrize("cache", ["use", "off"])
def test_a_run_ranks_the_vectors_themselves(folder, run, cache):
    code, _, err = run("--cache", cache)
    assert code == 0, err
    [record] = read_records(Path("results"))
    arrays = record.read_per_query()
    expected = rank_directly(draw_vectors())
    assert [[row for row in top if row >= 0] for top in arrays.top.tolist()] == expected
    column = arrays.metrics.tolist().index("R@5")
    found = [target in order[:5] for order, (_, target) in zip(expected, PAIRS, strict=True)]
    assert arrays.values[:, column].tolist() == [100.0 * hit for hit in found]
    assert record.cell.backbone == BACKBONE


def test_a_vector_that_is_missing_stops_the_run(folder, run):
    (folder / f"{SPOILED}.npy").unlink()
    code, _, err = run()
    assert code == 3
    assert f"the first is {SPOILED}" in err
    assert list(read_records(Path("results"))) == []


WHOLE = to_npy(draw_vectors()[SPOILED])
BAD = {
    "another width": (to_npy(np.ones(7, np.float32)), "got float32 of the shape (7,)"),
    "two axes": (to_npy(np.ones((1, WIDTH), np.float32)), "got float32 of the shape (1, 8)"),
    "double precision": (to_npy(np.ones(WIDTH)), "8 float32 numbers, got float64"),
    "whole numbers": (to_npy(np.ones(WIDTH, np.int32)), "8 float32 numbers, got int32"),
    "other byte order": (to_npy(np.ones(WIDTH, ">f4")), "got >f4"),
    "not a number": (to_npy(np.full(WIDTH, np.nan, np.float32)), "must be finite"),
    "cut short": (WHOLE[:-3], "must be a whole .npy file"),
    "cut in its header": (WHOLE[:40], "must be a whole .npy file"),
    "a claim of 4 TB": (WHOLE.replace(b"(8,), }            ", b"(1000000000000,), }"), "a whole"),
    "a pickle": (to_npy(np.array([print], object), allow_pickle=True), "a whole .npy file"),
    "empty": (b"", "got another kind of file"),
}


@pytest.mark.parametrize(("content", "why"), BAD.values(), ids=BAD)
def test_a_file_that_is_no_such_vector_is_named_with_what_mends_it(folder, run, content, why):
    (folder / f"{SPOILED}.npy").write_bytes(content)
    code, _, err = run()
    assert code == 4, err
    assert f"picture {SPOILED} (row 4, {len(content)} bytes)" in err
    assert why in err
    assert "make it again with bench data convert-features" in err


def test_a_picture_is_refused_by_a_backbone_of_vectors(folder, run, picture):
    (folder / f"{SPOILED}.png").write_bytes(picture(1))  # taken before the vector
    code, _, err = run()
    assert code == 4
    assert f"picture {SPOILED} " in err
    assert "must be a vector in an .npy file" in err


def test_a_vector_is_refused_by_a_tower_of_pictures(folder, run):
    code, _, err = run(backbone="fake")
    assert code == 4
    assert "must be a picture, got a vector (.npy); choose the backbone features:WIDTH" in err


def test_a_broken_vector_is_left_out_where_it_may_be(folder, run):
    (folder / f"{SPOILED}.npy").write_bytes(WHOLE[:-3])
    code, _, err = run("--allow-missing")
    assert code == 0, err
    assert f"left out: picture {SPOILED}" in err
    [record] = map(read_record, Path("results-partial/cirr").glob("*.json"))
    assert record.counts.gallery == len(NAMES) - 1


def test_one_width_is_one_space_and_other_content_is_other_rows(folder, tmp_path):
    one, other = load_backbone(BACKBONE), load_backbone(f"mine={BACKBONE}")
    assert (one.name, other.name) == (BACKBONE, "mine")
    assert make_image_space(one, "clip").key == make_image_space(other, "clip").key
    wider = make_image_space(load_backbone("features:9"), "clip")
    assert wider.key != make_image_space(one, "clip").key

    (tmp_path / "others").mkdir()
    vectors = {**draw_vectors(seed=1), NAMES[0]: draw_vectors()[NAMES[0]]}
    write_vectors(tmp_path / "others", vectors)
    first = embed(folder, one)
    second = embed(tmp_path / "others", other)
    assert (first.passes, second.passes) == (len(NAMES), len(NAMES) - 1)
    assert torch.equal(second.values, torch.tensor(np.array(list(vectors.values()))))
    assert torch.equal(first.values, embed(folder, one, Mode.OFF).values)


def test_the_fingerprint_is_that_of_the_width_under_any_name():
    wanted = hashlib.sha256(b"features:2048").hexdigest()
    assert load_backbone("mine=features:2048").weights_sha256 == wanted


def test_texts_are_refused_with_what_to_choose():
    backbone = load_backbone(BACKBONE)
    for ask in (
        lambda: backbone.encode_texts(["a dog"]),
        lambda: backbone.encode_prompts(["*"], torch.zeros(1, 1)),
    ):
        with pytest.raises(UsageError, match="no text tower"):
            ask()


@pytest.mark.parametrize("width", ["0", "-1", "08", "x", "1.5", "8/random", "1000000", "８"])
def test_a_name_without_a_width_is_refused(width):
    with pytest.raises(UsageError, match="must be features:WIDTH"):
        load_backbone(f"features:{width}")


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        load_backbone(BACKBONE, precision="fp8")


def test_a_part_of_a_picture_is_refused():
    ref = ImageRef(id="a", read=lambda: WHOLE, box=(0, 0, 1, 1))
    embedder = Embedder(
        backbone=load_backbone(BACKBONE),
        preprocess="clip",
        size=BatchSize(value=1),
        workers=1,
        stage=Stage(),
    )
    with pytest.raises(UsageError, match="takes whole pictures, got a part of one"):
        embed_images(embedder, [ref])


def test_the_data_are_checked_as_pictures_are(folder, bench):
    def check(*more):
        code, out, _ = bench("data", "check", "cirr", "--data-root", "data", "--json", "-q", *more)
        return code, json.loads(out)["splits"][0]

    code, said = check("--deep")
    assert (said["missing"], said["unreadable"]) == ({}, {})
    (folder / f"{SPOILED}.npy").write_bytes(to_npy(np.full(WIDTH, np.inf, np.float32)))
    (folder / f"{NAMES[5]}.npy").unlink()
    code, said = check("--deep")
    assert code != 0
    assert list(said["missing"]) == [NAMES[5]]
    assert list(said["unreadable"]) == [SPOILED]


def test_a_vector_stands_only_for_a_picture_that_has_no_file(tmp_path):
    for name in ("a.npy", "a.jpg", "b.npy", "b.png", "c.npy", "d.txt"):
        (tmp_path / name).write_bytes(b"")
    found = find_image_files(tmp_path, ["a", "b", "c", "d"], tmp_path)
    assert [path.name for path in found.values()] == ["a.jpg", "b.png", "c.npy", "d.jpg"]
    asked = [find_with_any_ending(tmp_path / f"{name}.png").name for name in "abcd"]
    assert asked == ["a.jpg", "b.png", "c.npy", "d.png"]


def test_it_is_listed(bench):
    code, out, _ = bench("ls", "backbones")
    assert code == 0
    assert re.search(r"features: +frozen features", out)
    assert "frozen features" in bench("info", BACKBONE)[1]
