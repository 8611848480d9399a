"""Small things that several tests need."""

from __future__ import annotations

import io
import signal
import sys
from functools import partial

import numpy as np
import pytest
from PIL import Image

from cirbench.benchmark.cli import main
from cirbench.benchmark.interfaces import ImageRef

# A shell that starts pytest in the background has it, and all it starts, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
