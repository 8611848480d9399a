"""The part of a picture that is looked at, at its own proportions."""

from __future__ import annotations

from PIL import Image, ImageOps

from cirbench.benchmark.api.values import Box, Surroundings
from cirbench.benchmark.images.decoding import check_size
from cirbench.benchmark.runtime.errors import CorruptData

AROUND = 0.7
"""How much of an object's width and height is looked at besides it: DILATION in the released code
of GeneCIS (facebookresearch/genecis)."""


def cut(image: Image.Image, box: Box | None) -> Image.Image:
    """Cut out the part in a box, in the picture's own mode.

    Corners that enclose nothing give black, as they do in torchvision with the released code of
    Pic2Word.

    Raises:
        CorruptData: of an object's surroundings, as `cut_square`.
    """
    if box is None:
        return image
    if isinstance(box, Surroundings):
        return cut_square(image, box)
    left, upper, right, lower = box
    return image.crop(box) if left < right and upper < lower else Image.new("RGB", (64, 64))


def cut_square(image: Image.Image, box: Surroundings) -> Image.Image:
    """Cut out an object with its surroundings, padded with black to a square.

    As the released code of GeneCIS: the part begins `AROUND` of the object's size to its left and
    above it, or at the picture's edge, and is 1 + `AROUND` as large as the object, so that nothing
    is added to the right and below but what the edge cut off. Corners are rounded half to even; an
    odd pixel of the padding goes right or below.

    Raises:
        CorruptData: the object is not in the picture, or the part has no whole pixel, or its square
            would be larger than a picture may be.
    """
    right, lower = box.left + box.width, box.upper + box.height
    left, upper = box.left - AROUND * box.width, box.upper - AROUND * box.height
    left, upper = max(0.0, left), max(0.0, upper)
    corners = (
        left,
        upper,
        min(image.width, left + (1 + AROUND) * box.width),
        min(image.height, upper + (1 + AROUND) * box.height),
    )
    start_x, start_y, end_x, end_y = map(round, corners)
    inside = right > 0 and lower > 0 and box.left < image.width and box.upper < image.height
    if not inside or start_x >= end_x or start_y >= end_y:
        raise CorruptData(
            f"the box (left {box.left:g}, upper {box.upper:g}, width {box.width:g}, height "
            f"{box.height:g}) must lie in its picture of {image.width} × {image.height} pixels and "
            f"have an area"
        )
    return pad_to_square(image.crop((start_x, start_y, end_x, end_y)))


def pad_to_square(image: Image.Image) -> Image.Image:
    """Pad a picture with black on both sides of its shorter one; an odd pixel comes after.

    Raises:
        CorruptData: the square would have more pixels than a picture may have.
    """
    side = max(image.size)
    check_size(side, side)
    before_x, before_y = ((side - own) // 2 for own in image.size)
    border = (before_x, before_y, side - image.width - before_x, side - image.height - before_y)
    colour = len(image.getbands()) > 2 or image.mode == "P"
    return ImageOps.expand(image, border, fill=(0, 0, 0) if colour else 0)
