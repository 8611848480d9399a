from __future__ import annotations

import hashlib
import io
import threading
from functools import partial

import numpy as np
import pytest
import torch
from patience import PATIENCE_SECONDS
from PIL import Image

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.decoding import EXTENSIONS
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.images.reading import (
    find_images_in_folder,
    load_picture,
    make_file_ref,
    prefetch,
    read_image_table,
    split_into_chunks,
)
from cirbench.benchmark.runtime.errors import CorruptData, MissingData

TRANSFORM = make_transform("clip", ImageSpec(size=16))


def encoded(kind, mode="RGB"):
    """A picture of 20 × 16 random pixels."""
    pixels = np.random.default_rng(0).integers(0, 255, (16, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def load(content, row=0):
    return load_picture(ImageRef(id="cat/1.jpg", read=lambda: content), TRANSFORM, row)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "1", "LA"])
def test_pictures_of_any_mode_are_loaded(mode):
    content = encoded("PNG", mode)
    pixels, sha256 = load(content)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.float32
    assert sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_a_picture_cut_short_is_refused_with_its_id_and_row(kind):
    content = encoded(kind)
    for length in (0, 1, 20, len(content) // 3, len(content) // 2, len(content) * 9 // 10):
        with pytest.raises(CorruptData, match="cannot be decoded") as error:
            load(content[:length], row=17)
        assert f"picture cat/1.jpg (row 17, {length} bytes)" in str(error.value)
        assert error.value.exit_code == 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_wherever_a_picture_is_cut_its_pixels_are_whole_or_refused(kind):
    content = encoded(kind)
    whole, _ = load(content)
    refused = 0
    for length in range(0, len(content), 5):
        try:
            pixels, _ = load(content[:length])
        except CorruptData:
            refused += 1
        else:
            assert torch.equal(pixels, whole)
    assert refused > len(content) // 5 * 0.9


@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"version https://git-lfs\n" * 9, b"\0" * 999]
)
def test_a_file_that_is_no_picture_is_refused_with_its_id_and_row(tmp_path, content):
    (tmp_path / "page.jpg").write_bytes(content)
    with pytest.raises(CorruptData, match=r"picture shop/page\.jpg \(row 3, "):
        load_picture(make_file_ref(tmp_path / "page.jpg", "shop/page.jpg"), TRANSFORM, 3)


def test_a_missing_file_is_named_with_its_id_and_row(tmp_path):
    ref = make_file_ref(tmp_path / "gone.jpg", "shop/gone.jpg")
    with pytest.raises(MissingData, match=r"picture shop/gone\.jpg \(row 5\)") as error:
        load_picture(ref, TRANSFORM, 5)
    assert str(tmp_path / "gone.jpg") in str(error.value)
    assert error.value.exit_code == 3


@pytest.mark.parametrize("error", [PermissionError, IsADirectoryError, NotADirectoryError])
def test_a_file_that_can_not_be_opened_is_named_too(error):
    def read():
        raise error(1, "no way in", "/a/b.jpg")

    with pytest.raises((MissingData, CorruptData), match=r"picture b \(row 2"):
        load_picture(ImageRef(id="b", read=read), TRANSFORM, 2)


def test_a_folders_pictures_come_in_the_order_of_their_paths(tmp_path):
    names = ["b/2.png", "a.jpg", "b/10.PNG", "c/d/e.webp", "B.JPEG", "b/1.gif"]
    for name in [*names, "notes.txt", "b/readme.md", "png"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name, encoding="utf-8")
    refs = find_images_in_folder(tmp_path)
    expected = ["B.JPEG", "a.jpg", "b/1.gif", "b/10.PNG", "b/2.png", "c/d/e.webp"]
    assert [ref.id for ref in refs] == expected
    assert [ref.read().decode() for ref in refs] == expected


def test_a_folder_called_like_a_picture_is_none(tmp_path):
    (tmp_path / "scans.jpg").mkdir()
    (tmp_path / "scans.jpg" / "1.jpg").write_bytes(b"")
    assert [ref.id for ref in find_images_in_folder(tmp_path)] == ["scans.jpg/1.jpg"]


@pytest.mark.parametrize("name", ["", "nowhere"])
def test_a_folder_without_pictures_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    with pytest.raises(MissingData, match="no pictures below") as error:
        find_images_in_folder(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert all(extension in str(error.value) for extension in EXTENSIONS)


@pytest.mark.parametrize(("name", "separator"), [("t.csv", ","), ("t.tsv", "\t"), ("t", "\t")])
def test_a_tables_pictures_are_relative_to_its_folder(tmp_path, name, separator):
    rows = [("title", "filepath"), ("a dog", "b/2.jpg"), ("ein Bär; a, b", "1.jpg")]
    quoted = [[f'"{cell}"' if separator in cell else cell for cell in row] for row in rows]
    text = "\n".join(separator.join(row) for row in quoted)
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.jpg").write_bytes(b"two")
    (tmp_path / "1.jpg").write_bytes(b"one")
    refs = read_image_table(tmp_path / name)
    assert [(ref.id, ref.read()) for ref in refs] == [("b/2.jpg", b"two"), ("1.jpg", b"one")]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "title,path\na,1.jpg\n", r"no column `filepath`; its header is .*'path'"),
        ("t.tsv", "title,filepath\na,1.jpg\n", "no column `filepath`"),
        ("t.csv", "", "no column `filepath`; its header is empty"),
        ("t.csv", "title,filepath\n", "lists no pictures"),
        ("t.csv", "title,filepath\na,1.jpg\nonly a title\n", "t.csv"),
        ("t.csv", "title,filepath\nb\xe4r,1.jpg\n", "t.csv"),
    ],
    ids=["other column", "commas in a tsv", "empty", "header only", "short row", "not utf-8"],
)
def test_a_table_that_can_not_be_read_is_refused(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(CorruptData, match=message) as error:
        read_image_table(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(MissingData, match=r"t\.csv"):
        read_image_table(tmp_path / "t.csv")


def test_prefetched_results_keep_their_order():
    second_done = threading.Event()

    def first():
        assert second_done.wait(PATIENCE_SECONDS)
        return "first"

    def second():
        second_done.set()
        return "second"

    # The first job ends only after the second one has, and still comes first.
    jobs = [first, second, *(partial(str, i) for i in range(20))]
    found = list(prefetch(jobs, workers=2, ahead=4))
    assert found == ["first", "second", *map(str, range(20))]


@pytest.mark.parametrize("ahead", [0, 1, 5])
def test_prefetching_looks_ahead_so_far_and_no_farther(ahead):
    given = []

    def jobs():
        for i in range(30):
            given.append(i)
            yield partial(int, i)

    for i, result in enumerate(prefetch(jobs(), workers=3, ahead=ahead)):
        assert result == i
        assert len(given) == min(30, i + 1 + ahead)


def failing_jobs(started):
    def job(i):
        started.append(i)
        if i == 3:
            raise CorruptData("picture 3")
        return i

    return (partial(job, i) for i in range(1000))


def test_prefetching_stops_at_an_error():
    started, found = [], []
    with pytest.raises(CorruptData, match="picture 3"):  # noqa: PT012 - what came before counts
        for result in prefetch(failing_jobs(started), workers=2, ahead=4):
            found.append(result)
    assert found == [0, 1, 2]
    assert len(started) <= 3 + 1 + 4


def test_prefetching_stops_when_its_taker_does():
    started, release, threads_before = [], threading.Event(), set(threading.enumerate())

    def job(i):
        started.append(i)
        assert i == 0 or release.wait(PATIENCE_SECONDS)

    results = prefetch((partial(job, i) for i in range(1000)), workers=1, ahead=4)
    next(results)
    # The job under way goes on for a moment; those that wait behind it never start.
    threading.Timer(0.3, release.set).start()
    results.close()
    assert started in ([0], [0, 1])
    assert [t for t in threading.enumerate() if t not in threads_before and "Pool" in t.name] == []


@pytest.mark.parametrize(
    ("size", "expected"),
    [(2, [[0, 1], [2, 3], [4]]), (5, [[0, 1, 2, 3, 4]]), (9, [[0, 1, 2, 3, 4]])],
)
def test_chunks(size, expected):
    assert list(split_into_chunks(range(5), size)) == expected
