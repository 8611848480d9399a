"""Random parts of pictures, for trainings; evaluation draws nothing."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

_TRIES = 10


def crop_and_resize(
    image: Image.Image,
    size: int,
    rng: np.random.Generator,
    *,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    interpolation: InterpolationMode,
) -> Image.Image:
    """Resize a random part of a picture to a square of `size` pixels, in the picture's mode.

    The distribution is torchvision's RandomResizedCrop, but that where no part of the drawn shape
    fits ten times, the largest that has an allowed shape is placed at random and not in the middle.

    Args:
        scale: bounds of the part's area, as a share of the picture's.
        ratio: bounds of the part's width by its height, whose logarithm is drawn.
    """
    width, height = image.size
    lowest, highest = ratio
    for _ in range(_TRIES):
        area = width * height * rng.uniform(*scale)
        shape = math.exp(rng.uniform(math.log(lowest), math.log(highest)))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            break
    else:
        w, h = min(width, round(height * highest)), min(height, round(width / lowest))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part: Image.Image = tv.resized_crop(image, top, left, h, w, [size, size], interpolation)
    return part
