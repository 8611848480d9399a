"""Small things that several tests need."""

from __future__ import annotations

import io
import shutil
import signal
import sys
from functools import partial

import numpy as np
import pytest
from patience import PATIENCE_SECONDS
from PIL import Image

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.cli.main import main

# A shell that starts pytest in the background has it, and all it starts, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def png(seed: int, side: int = 24) -> bytes:
    """A PNG of random blobs, different for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees the user's embeddings, or another test's."""
    monkeypatch.setenv("CIRBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def fake():
    """The backbone that needs no weights."""
    return load_backbone("fake")


@pytest.fixture(scope="module")
def tiny():
    """The trunk that is trained along with a method."""
    return load_backbone("tiny")


@pytest.fixture
def picture():
    """The maker of pictures."""
    return png


@pytest.fixture
def picture_refs():
    """Makes n pictures, each with a count of how often it was read."""

    def make(n: int) -> list[ImageRef]:
        return [ImageRef(id=f"picture-{i}", read=partial(png, i)) for i in range(n)]

    return make


@pytest.fixture
def picture_folder(tmp_path):
    """A folder of 24 pictures."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(24):
        (folder / f"{i:02}.png").write_bytes(png(i))
    return folder


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs bench; gives exit code, stdout, stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def chromium():
    """A running browser, for one module: while it runs no test can have its own event loop."""
    from playwright.sync_api import sync_playwright  # not for every test

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"no browser ({', '.join(BROWSERS)}); apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visited(chromium):
    """Opens an address; at the end no page must have had an error or asked another host.

    That a form was refused (status 400, 413) Chromium counts among the errors; here it is none.
    """
    contexts, wrong = [], []

    def visit(url, **options):
        home = "file:" if url.startswith("file:") else url

        def heard(message):
            itself = message.location["url"].partition("#")[0] == home
            refused = itself and "responded with a status of 4" in message.text
            if message.type in ("error", "warning") and not refused:
                wrong.append(message.text)

        def asked(request):
            if not request.url.startswith((home, "data:")):
                wrong.append(request.url)

        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(1000 * PATIENCE_SECONDS)
        page.on("console", heard)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", asked)
        page.goto(url)
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []
