"""The part of a picture that is looked at: pixel for pixel, by arithmetic of its own."""

from __future__ import annotations

import io
from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from PIL import Image

from cirbench.benchmark.api.values import ImageRef, Surroundings
from cirbench.benchmark.images.boxes import cut
from cirbench.benchmark.images.preprocess import make_fit
from cirbench.benchmark.images.reading import load_picture
from cirbench.benchmark.runtime.errors import CorruptData

WIDTH, HEIGHT = 40, 30


def picture(mode, width=WIDTH, height=HEIGHT):
    rng = np.random.default_rng(1)
    pixels = rng.integers(1, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def half_even(value):
    return int(Decimal(value).quantize(Decimal(1), rounding=ROUND_HALF_EVEN))


def corners(x, y, w, h):
    """By the data set's rule, in the order in which it is stated."""
    left, top = max(0, x - 0.7 * w), max(0, y - 0.7 * h)
    right, bottom = min(WIDTH, left + 1.7 * w), min(HEIGHT, top + 1.7 * h)
    return tuple(map(half_even, (left, top, right, bottom)))


BOXES = [
    (20, 10, 10, 10),  # widened to the left and above alone
    (0, 0, 10, 10),  # clamped there, so widened to the right and below
    (35.5, 20.25, 12, 30),  # cut off by the far edges
    (10, 5, 5, 2.5),  # corners on halves
    (-3, -2, 9, 8),
    (12, 3, 1, 21),
]


@pytest.mark.parametrize("box", BOXES)
def test_the_part_is_widened_to_the_left_and_above_and_padded_to_a_square(box):
    image = picture("RGB")
    left, top, right, bottom = corners(*box)
    part = np.asarray(image)[top:bottom, left:right]
    height, width = part.shape[:2]
    side = max(width, height)
    wanted = np.zeros((side, side, 3), dtype=np.uint8)
    x, y = (side - width) // 2, (side - height) // 2
    wanted[y : y + height, x : x + width] = part
    np.testing.assert_array_equal(np.asarray(cut(image, Surroundings(*box))), wanted)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "1", "LA", "I;16"])
def test_padding_is_black_and_the_mode_stays(mode):
    image = picture("I").convert("I;16") if mode == "I;16" else picture(mode)
    made = cut(image, Surroundings(20, 10, 10, 4))
    assert (made.mode, made.size) == (mode, (17, 17))
    seen = np.asarray(made.convert("RGB"))
    assert not seen[:5].any()
    assert not seen[-5:].any()
    part = np.asarray(image.crop(corners(20, 10, 10, 4)).convert("RGB"))
    np.testing.assert_array_equal(seen[5:12], part)


def test_the_square_goes_through_the_protocols_preprocessing():
    box = Surroundings(20, 10, 10, 4)
    image = picture("RGB")
    for name in ("clip", "clip-hf", "targetpad"):
        seen = make_fit(name, 8, box)(image)
        assert seen == make_fit(name, 8)(cut(image, box))
        assert seen != make_fit(name, 8)(image)


@pytest.mark.parametrize(
    "box",
    [
        (WIDTH, 5, 10, 10),
        (5, HEIGHT, 10, 10),
        (-10, 5, 10, 10),
        (500, 500, 10, 10),
        (5, 5, 0, 10),
        (20, 5, 0.1, 10),
        (5, 5, -3, 10),
    ],
)
def test_a_box_outside_its_picture_or_without_a_pixel_is_refused(box):
    ref = ImageRef(id="odd", read=bytes, box=Surroundings(*box))
    with pytest.raises(CorruptData, match="must lie in its picture of 40 × 30 pixels"):
        cut(picture("RGB"), ref.box)


def test_the_refusal_names_the_picture():
    buffer = io.BytesIO()
    picture("L").save(buffer, "JPEG")
    ref = ImageRef(id="odd", read=buffer.getvalue, box=Surroundings(90, 5, 3, 3))
    with pytest.raises(CorruptData, match=r"picture odd .* the box \(left 90, upper 5"):
        load_picture(ref, make_fit("clip", 8, ref.box), 0)


def test_a_square_that_would_fill_the_memory_is_refused():
    narrow = Image.new("L", (20_000, 1))
    with pytest.raises(CorruptData, match="pixels"):
        cut(narrow, Surroundings(0, 0, 20_000, 1))


def test_rotation_by_the_camera_is_not_undone():
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture("RGB").save(buffer, "JPEG", exif=exif)
    ref = ImageRef(id="turned", read=buffer.getvalue, box=Surroundings(30, 10, 10, 10))
    found, _ = load_picture(ref, lambda image: cut(image, ref.box), 0)
    with Image.open(io.BytesIO(buffer.getvalue())) as plain:
        np.testing.assert_array_equal(found, cut(plain, ref.box))
    assert found.size == (17, 17)
