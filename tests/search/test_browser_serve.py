"""A real `bench serve` in Chromium: a search with a picture and a text, and what is refused."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys

import pytest
from browsing import LOOKS, barriers, fits, keep_screenshot
from patience import PATIENCE_SECONDS, wait_until
from PIL import Image

from cirbench.datasets.emoji.pictures import read_pictures

pytestmark = pytest.mark.browser

METHODS = ("pic2word", "image-text")
CODE = "1f921"
"""The clown face, which Pic2Word finds as a cartoon."""
START = "import sys; from cirbench.benchmark.cli.main import main; main()"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of a server in a process of its own, which must end as asked and without a traceback."""
    folder = tmp_path_factory.mktemp("served")
    call = [
        sys.executable,
        "-P",
        "-c",
        START,
        "serve",
        "--gallery",
        "emoji",
        "-b",
        "emoji-clip",
        "--port",
        "0",
        *(f"--method={name}" for name in METHODS),
    ]
    environment = {**os.environ, "CIRBENCH_CACHE": str(folder / "cache")}
    with subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment,
        encoding="utf-8",
    ) as server:
        said = server.stdout.readline()
        yield re.match(r"http://127\.0\.0\.1:\d+/", said).group()
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == 130
        assert "Traceback" not in server.stderr.read()


@pytest.fixture(scope="module")
def clown(tmp_path_factory):
    """A 3D emoji of the gallery's concepts as a PNG file."""
    [ref] = [p.ref for p in read_pictures() if (p.style, p.code) == ("3d", CODE)]
    path = tmp_path_factory.mktemp("upload") / "clown.png"
    Image.open(io.BytesIO(ref.read())).save(path)
    return path


@pytest.fixture
def page(visited, address):
    """The page as a person first sees it."""
    return visited(address)


def search(page, picture=None, text="a cartoon of *"):
    """Fills in the form by its labels, and waits for the answer."""
    if picture:
        page.get_by_label("Picture").set_input_files(picture)
    page.get_by_label("Text", exact=True).fill(text)
    with page.expect_navigation():
        page.get_by_role("button", name="Search").click()


def found(page, method):
    """What one method shows, best first."""
    return [
        image.get_attribute("alt")
        for image in page.get_by_role("region", name=method).get_by_role("img").all()
    ]


def test_methods_answer_an_uploaded_emoji_side_by_side(page, clown):
    search(page, clown)
    assert page.title().startswith("Results")
    assert found(page, "pic2word")[0] == f"noto/{CODE}"
    assert found(page, "image-text") != found(page, "pic2word")
    assert [len(found(page, name)) for name in METHODS] == [12, 12]
    left, right = (page.get_by_role("region", name=name).bounding_box() for name in METHODS)
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    assert page.get_by_role("img", name="Query picture clown.png").is_visible()
    for image in page.get_by_role("img").all():
        image.scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())


def test_a_picture_can_be_dropped_anywhere_on_its_field(page, clown):
    field = page.get_by_label("Picture")
    box = field.bounding_box()
    where = {"x": box["x"] + 0.9 * box["width"], "y": box["y"] + 0.9 * box["height"]}
    carried = {"items": [], "files": [str(clown)], "dragOperationsMask": 1}
    devtools = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        devtools.send("Input.dispatchDragEvent", {"type": kind, "data": carried, **where})
    page.wait_for_function("field => field.files.length == 1", arg=field.element_handle())
    search(page)
    assert found(page, "pic2word")[0] == f"noto/{CODE}"


def test_the_text_alone_can_change(page, clown):
    search(page, clown)
    cartoons = found(page, "pic2word")
    search(page, text="a flat icon of *")
    assert found(page, "pic2word") != cartoons
    assert page.get_by_role("img", name="Query picture clown.png").is_visible()
    assert page.get_by_label("Text", exact=True).input_value() == "a flat icon of *"


def test_a_method_that_can_not_answer_says_why_beside_the_other(page, clown):
    search(page, clown, text="a cartoon")
    said = page.get_by_role("region", name="pic2word").inner_text()
    assert "no placeholder" in said
    assert len(found(page, "image-text")) == 12


def refused(page):
    """What the page says is wrong."""
    return page.get_by_role("alert").inner_text()


def test_a_file_that_is_no_picture_is_named_and_the_text_stays(page, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no picture", encoding="utf-8")
    search(page, path)
    assert "notes.txt (10 bytes) is refused: it must be a picture" in refused(page)
    assert page.get_by_label("Text", exact=True).input_value() == "a cartoon of *"


def test_100_megabytes_are_refused_in_words(page, tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.truncate(100 * 2**20)
    search(page, path)
    assert "larger than 10 MB" in refused(page)


def test_a_pixel_bomb_is_refused_in_words(page, tmp_path):
    path = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(path)
    search(page, path)
    assert "bomb.png (" in refused(page)
    assert "must have at most 25,000,000 pixels" in refused(page)


def test_the_keyboard_is_enough(page, clown):
    choosers = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    page.keyboard.press("Tab")
    page.wait_for_function("document.activeElement.id === 'picture'")

    def chooser_opens():
        # a busy browser may take the press for older than an act of its user may be
        page.keyboard.press("Space")
        page.wait_for_timeout(1000)
        return choosers

    wait_until(chooser_opens, "file chooser")
    choosers[0].set_files(clown)
    page.keyboard.press("Tab")
    page.keyboard.type("a cartoon of *")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")  # takes image-text away
    page.keyboard.press("Tab")
    page.keyboard.type("5")
    page.keyboard.press("Tab")
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert found(page, "pic2word")[0] == f"noto/{CODE}"
    assert len(found(page, "pic2word")) == 5
    assert page.get_by_role("region", name="image-text").count() == 0
    assert page.evaluate("document.activeElement.id") == "answers"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_barrier(visited, address, clown, tmp_path, scheme):
    page = visited(address, color_scheme=scheme)
    assert barriers(page) == []
    search(page, clown)
    assert barriers(page) == []
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    search(page, tmp_path / "notes.txt")
    assert barriers(page) == []


@pytest.mark.parametrize("look", LOOKS)
def test_it_fits_the_screen_and_its_picture_is_kept(visited, address, clown, tmp_path, look):
    page = visited(address, **LOOKS[look])
    assert fits(page)
    keep_screenshot(page, f"serve-form-{look}", whole=True)
    search(page, clown)
    assert fits(page)
    keep_screenshot(page, f"serve-results-{look}", whole=True)
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    search(page, tmp_path / "notes.txt")
    assert fits(page)
    keep_screenshot(page, f"serve-refused-{look}", whole=True)
