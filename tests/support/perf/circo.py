"""A gallery of CIRCO's size through `bench run`: cost a picture, memory, and a second method."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from circo import make_row, write_circo
from PIL import Image

from perf.measure import Row
from perf.records import run_bench

_SMALL, _WHOLE, _QUERIES = 10_000, 123_403, 220
_MOST_RATIO, _MOST_GIGABYTES, _MOST_SECONDS = 1.15, 3.0, 20.0


def circo_rows(folder: Path) -> Iterator[Row]:
    """With a cold store at two sizes, and a second method with a warm one at the larger."""
    small, whole = (_run_cold(folder, count) for count in (_SMALL, _WHOLE))
    start, _ = run_bench(["info", "circo"], folder / "none")
    each = [(took - start) / n for (took, _), n in ((small, _SMALL), (whole, _WHOLE))]
    ratio = each[1] / each[0]
    yield Row(
        name=f"a picture of {_WHOLE:,} through bench run",
        against=f"one of {_SMALL:,}",
        ratio=ratio,
        target=f"≤ {_MOST_RATIO}",
        ok=ratio <= _MOST_RATIO,
        measured=f"{each[1] * 1e3:.2f} ms against {each[0] * 1e3:.2f} ms",
    )
    gigabytes = whole[1] / 1000
    yield Row(
        name=f"memory of that run, {_WHOLE:,} pictures",
        against=f"{_MOST_GIGABYTES:g} GB",
        ratio=gigabytes / _MOST_GIGABYTES,
        target="≤ 1",
        ok=gigabytes <= _MOST_GIGABYTES,
        measured=f"{gigabytes:.2f} GB resident at most, {whole[0]:.0f} s",
    )
    took, _ = _run(folder, _WHOLE, "image-text")
    yield Row(
        name="a second method over them, from the store",
        against=f"{_MOST_SECONDS:g} s",
        ratio=took / _MOST_SECONDS,
        target="≤ 1",
        ok=took <= _MOST_SECONDS,
        measured=f"{took:.1f} s",
    )


def _run_cold(folder: Path, count: int) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    images = {number: _make_jpeg(rng) for number in range(1, count + 1)}
    rows = [make_row(i, *map(int, rng.integers(1, count, 2))) for i in range(_QUERIES)]
    write_circo(folder / f"circo-{count}", images, rows)
    return _run(folder, count, "image-only")


def _make_jpeg(rng: np.random.Generator) -> bytes:
    """48 × 48 of noise in 8 × 8 blocks: each is another, and none costs much to decode."""
    pixels = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def _run(folder: Path, count: int, method: str) -> tuple[float, float]:
    """Run `bench`; give seconds and its greatest resident memory in MB."""
    root = folder / f"circo-{count}"
    place = ["--data-root", str(root), "--output", str(root / "results")]
    asked = ["run", "-q", "-m", method, "-t", "circo", "-b", "emoji-clip", *place]
    return run_bench(asked, root / "cache")
