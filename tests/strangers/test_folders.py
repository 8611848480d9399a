"""Strangers' folders: copies, leftovers, links and pipes are skipped and counted aloud."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

TRAIN = ("train", "pic2word", "--images", "g", "-b", "fake", "--epochs", 1, "-o", "m.safetensors")
SEARCH = ("search", "-m", "image-only", "-b", "fake", "--gallery", "g", "--image", "q.png")


def _load(*_: object, **__: object) -> None:
    pytest.fail("weights were loaded")


@pytest.fixture
def folder(bench, picture):
    """`g` with four pictures, and a query beside it."""
    path = Path("g")
    path.mkdir()
    for i in range(4):
        (path / f"{i}.png").write_bytes(picture(i))
    Path("q.png").write_bytes(picture(1))
    return path


def copy_to(name: str):
    def make(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((folder / "3.png").read_bytes())

    return make


LEFTOVERS = {
    "checkpoints": (
        copy_to(".ipynb_checkpoints/3-checkpoint.png"),
        "1 hidden",
        ".ipynb_checkpoints/",
    ),
    "mac": (copy_to("__MACOSX/g/3.png"), "1 hidden", "__MACOSX/"),
    "mac inside": (copy_to("cats/__MACOSX/3.png"), "1 hidden", "cats/__MACOSX/"),
    "resource fork": (copy_to("._3.png"), "1 hidden", "._3.png"),
    "synology": (copy_to("@eaDir/3.png/SYNOPHOTO_THUMB_M.jpg"), "1 hidden", "@eaDir/"),
    "trash": (copy_to(".Trash-0/files/3.png"), "1 hidden", ".Trash-0/"),
    "part": (copy_to("5.png.part"), "1 files whose name ends like", "5.png.part"),
    "notes": (copy_to("notes.txt"), "1 files whose name ends like", "notes.txt"),
    "dangling": (
        lambda f: (f / "5.png").symlink_to("gone.png"),
        "1 names that lead to no file",
        "5.png",
    ),
    "loop": (lambda f: (f / "5.png").symlink_to("5.png"), "1 names that lead to no file", "5.png"),
    "pipe": (lambda f: os.mkfifo(f / "5.png"), "1 names that lead to no file", "5.png"),
    "linked folder": (lambda f: (f / "more").symlink_to("."), "1 links to folders", "more/"),
}


@pytest.mark.parametrize(("make", "says", "name"), LEFTOVERS.values(), ids=LEFTOVERS)
def test_leftovers_are_skipped_and_counted(bench, folder, make, says, name):
    make(folder)
    code, out, err = bench(*SEARCH)
    assert code == 0, err
    assert "4 pictures of g" in out
    assert f"g: skipped {says}" in err
    assert name in err


@pytest.mark.parametrize("kind", ["checkpoints", "resource fork", "pipe", "dangling"])
def test_a_training_skips_and_counts_them_too(bench, folder, kind):
    make, says, name = LEFTOVERS[kind]
    make(folder)
    code, _, err = bench(*TRAIN, "--batch-size", 4)
    assert code == 0, err
    assert "on 4 pictures" in err
    assert f"g: skipped {says}" in err
    assert name in err


def test_a_folder_of_leftovers_alone_has_no_pictures(refused):
    Path("g").mkdir()
    Path("g/.hidden.png").write_bytes(b"")
    os.mkfifo("g/pipe.png")
    Path("q.png").symlink_to("gone.png")
    refused(3, *TRAIN, "--batch-size", 2, says="no pictures below g")


NAMES = {
    "latin-1": (b"b\xe4r.png", "b\\xe4r.png"),
    "latin-1 folder": (b"h\xf6fe/1.png", "h\\xf6fe/1.png"),
    "emoji": ("😀.png".encode(), "😀.png"),
    "quotes": (b"a \"b\" 'c'.png", "a \"b\" 'c'.png"),
    "markup": (b"<script>.png", "<script>.png"),
}


@pytest.mark.parametrize(("raw", "shown"), NAMES.values(), ids=NAMES)
def test_any_file_name_reaches_every_output(bench, folder, raw, shown, picture):
    path = Path(os.fsdecode(b"g/" + raw))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(picture(9))
    query = [*SEARCH[:-1], path, "--top", 1]
    code, out, err = bench(*query)
    assert code == 0, err
    assert shown in out
    code, out, err = bench(*query, "--json")
    assert code == 0, err
    assert json.loads(out)["queries"][0]["results"][0]["path"] == shown
    code, out, err = bench(*query, "--html", "found.html", "--png", "found.png")
    assert code == 0, err
    assert "data:image/png" in Path("found.html").read_text(encoding="utf-8")
    assert Path("found.png").is_file()


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--html", "g", "--html must be a file that ends in .html, got g"),
        ("--html", "found.txt", "--html must be a file that ends in .html, got found.txt"),
        ("--png", "found.jpg", "--png must be a file that ends in .png, got found.jpg"),
        ("--png", "x.xyz", "--png must be a file that ends in .png, got x.xyz"),
        ("--png", "g", "--png must be a file that ends in .png, got g"),
    ],
)
def test_an_output_that_can_not_be_is_refused_before_weights_are_loaded(
    refused, monkeypatch, option, name, says
):
    monkeypatch.setattr("cirbench.benchmark.backbones.load.load_backbone", _load)
    refused(2, *SEARCH, option, name, says=says)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["gone.png", "g", "none/q.png"])
def test_a_missing_query_is_refused_before_weights_are_loaded(refused, monkeypatch, name):
    monkeypatch.setattr("cirbench.benchmark.backbones.load.load_backbone", _load)
    refused(3, *SEARCH[:-1], name, says=f"picture {name} cannot be read")


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("code", "arguments", "says"),
    [
        (3, ("-m", "pic2word", "--image", "q.png", "--checkpoint", "nope.pt"), "no checkpoint at"),
        (3, ("-m", "pic2word", "--image", "q.png", "--checkpoint", "g"), "no checkpoint at g"),
        (2, ("-m", "image-only", "--image", "q.png", "--checkpoint", "q.png"), "takes weights"),
        (2, ("-m", "text-only", "--text", "caf\udce9"), "--text must be in UTF-8"),
        (2, ("-m", "text-only", "--text", "a", "--gallery", ""), "must be a folder, or a task"),
    ],
)
def test_a_cheap_mistake_is_found_before_weights_are_loaded(
    refused, monkeypatch, code, arguments, says
):
    monkeypatch.setattr("cirbench.benchmark.backbones.load.load_backbone", _load)
    gallery = () if "--gallery" in arguments else ("--gallery", "g")
    refused(code, "search", *arguments, *gallery, "-b", "fake", says=says)


def test_results_of_the_emoji_have_names(bench, picture):
    Path("q.png").write_bytes(picture(1))
    search = ("search", "-m", "image-only", "--gallery", "emoji", "--image", "q.png", "--top", 2)
    code, out, err = bench(*search, "--json")
    assert code == 0, err
    results = json.loads(out)["queries"][0]["results"]
    assert all(result["title"] for result in results)
    _, out, _ = bench(*search)
    assert results[0]["title"] in out


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("method", ["image-text", "image-only", "pic2word"])
def test_a_folder_is_searched_without_naming_a_backbone(bench, method):
    text = "a cartoon of *"
    code, out, err = bench(
        "search", "-m", method, "--gallery", "g", "--image", "q.png", "--text", text
    )
    assert code == 0, err
    assert "emoji-clip" in out


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "where", "--data-root", "gone"),
        ("data", "where", "cirr", "--data-root", "gone"),
        ("data", "where", "cirr", "--data-root", "q.txt"),
    ],
)
def test_a_data_root_that_is_not_there_is_missing_data(refused, arguments):
    Path("q.txt").write_text("", encoding="utf-8")
    refused(3, *arguments, says="must be a folder that exists")


def test_data_where_lists_all_tasks(bench, monkeypatch):
    monkeypatch.delenv("CIRBENCH_DATA", raising=False)
    code, out, _ = bench("data", "where")
    assert code == 0
    for task in ("emoji", "cirr", "coco", "fashion-iq", "imagenet-r"):
        assert f"{task}: " in out


def test_data_prepare_without_a_root_says_how_to_get_the_rest(bench, monkeypatch):
    monkeypatch.delenv("CIRBENCH_DATA", raising=False)
    code, out, err = bench("data", "prepare", "imagenet-r")
    assert code == 2
    assert "image-net.org" in out
    assert "pass --data-root" in err


def test_the_shipped_data_are_whole(bench):
    code, out, _ = bench("data", "check", "emoji")
    assert code == 0
    assert "test: complete, the shipped data" in out
    assert "custom" not in out
