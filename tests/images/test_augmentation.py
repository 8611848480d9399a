"""Random parts of pictures, seen on one whose pixels say where they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import InterpolationMode

from cirbench.benchmark.images.augmentation import crop_and_resize


def draw_parts(width, height, scale, ratio, count=300):
    """(count, 4) left, top, width and height of drawn parts."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    image = Image.fromarray(np.stack([x, y, x], axis=2).astype(np.uint8))
    rng = np.random.default_rng(0)
    parts = []
    for _ in range(count):
        part = crop_and_resize(
            image, 512, rng, scale=scale, ratio=ratio, interpolation=InterpolationMode.NEAREST
        )
        first, last = (np.array(part.getpixel(at))[:2] for at in ((0, 0), (511, 511)))
        parts.append([*first, *(last - first + 1)])
    return np.array(parts)


@pytest.mark.parametrize("scale", [(0.8, 1.0), (0.3, 0.5)])
def test_area_and_shape_of_the_parts_fill_their_bounds(scale):
    _, _, w, h = draw_parts(250, 250, scale, (0.75, 1.3)).T
    share, shape = w * h / 250**2, w / h
    assert scale[0] - 0.01 < share.min() < scale[0] + 0.03
    assert scale[1] - 0.06 < share.max() < scale[1] + 0.01
    assert 0.74 < shape.min() < 0.85
    assert 1.15 < shape.max() < 1.31


def test_the_logarithm_of_the_shape_is_uniform():
    _, _, w, h = draw_parts(250, 250, (0.1, 0.1), (0.5, 2.0), 1000).T
    share = np.histogram(np.log(w / h), bins=4, range=(-math.log(2), math.log(2)))[0] / 1000
    assert share == pytest.approx(0.25, abs=0.05)


def test_the_parts_lie_anywhere():
    left, top, w, h = draw_parts(250, 200, (0.25, 0.25), (1.0, 1.0)).T
    for start, room in ((left, 250 - w), (top, 200 - h)):
        assert start.min() <= 3
        assert (room - start).min() <= 3
        assert (start / room).mean() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("size", "part"), [((240, 20), (26, 20)), ((20, 240), (20, 27)), ((1, 200), (1, 1))]
)
def test_where_no_part_fits_the_largest_of_an_allowed_shape_is_placed_at_random(size, part):
    left, top, w, h = draw_parts(*size, (0.9, 1.0), (0.75, 1.3)).T
    assert (set(w), set(h)) == ({part[0]}, {part[1]})
    assert len(set(left if size[0] > size[1] else top)) > 50
