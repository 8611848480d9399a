"""The colour of a photographed garment, by a rule: what most of its pixels are called.

The garment is taken to lie in the middle, before a floor, a bed or a wall that is seen around it:
pixels of the middle that are like the border are no garment, unless nearly all of them are.
"""

from __future__ import annotations

import colorsys
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from PIL import Image

COLOURS = (
    "beige",
    "black",
    "blue",
    "brown",
    "gray",
    "green",
    "orange",
    "pink",
    "purple",
    "red",
    "white",
    "yellow",
)
SIDE = 64
"""Pixels that a photograph is reduced to, whatever its shape."""
_MIDDLE = (slice(14, 50), slice(18, 46))
"""Rows and columns in which the garment is."""
_RIM, _BORDER = 2, 10
"""The border lies between so many pixels from the edge."""
_UNLIKE = 75
"""A pixel whose channels, 0 to 255, differ from the border's by more in sum is the garment's."""
_LEAST_SHARE = 0.15
"""Of the middle; where fewer pixels differ, the garment is of the border's colour."""


def name_colour(image: Image.Image) -> tuple[str, float]:
    """Name a photographed garment's colour, and the share of its pixels that have this name."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small, dtype=np.float64)
    middle = pixels[_MIDDLE].reshape(-1, 3)
    garment = middle[np.abs(middle - _find_background(pixels)).sum(axis=1) > _UNLIKE]
    if len(garment) <= _LEAST_SHARE * len(middle):
        garment = middle
    counts = Counter(name_pixel(*pixel) for pixel in garment / 255)
    colour = max(COLOURS, key=lambda name: counts[name])
    return colour, counts[colour] / len(garment)


def _find_background(pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    """(SIDE, SIDE, 3) → (3,): the median of what is near the edge, but for the outermost rim."""
    near_edge = np.ones((SIDE, SIDE), dtype=bool)
    near_edge[_BORDER:-_BORDER, _BORDER:-_BORDER] = False
    inner = slice(_RIM, -_RIM)
    background: NDArray[np.float64] = np.median(pixels[inner, inner][near_edge[inner, inner]], 0)
    return background


def name_pixel(red: float, green: float, blue: float) -> str:
    """Name a colour whose channels are 0 to 1; all thresholds were set by eye."""
    turn, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    return _name_grey(saturation, value) or _name_hue(360 * turn, saturation, value)


def _name_grey(saturation: float, value: float) -> str | None:
    """Name what is too dark or too pale to have a hue."""
    if value < 0.23 or (value < 0.33 and saturation < 0.30):
        return "black"
    if saturation < 0.13:
        return "white" if value > 0.74 else "gray"
    if saturation < 0.20 and value < 0.45:
        return "gray"
    return None


def _name_hue(degrees: float, saturation: float, value: float) -> str:
    if degrees < 12 or degrees >= 345:
        return "pink" if value > 0.72 and saturation < 0.5 else "red"
    if degrees < 45:
        if saturation < 0.42 and value > 0.5:
            return "beige"
        return "orange" if saturation > 0.6 and value > 0.7 else "brown"
    if degrees < 68:
        if saturation > 0.4 and value > 0.6:
            return "yellow"
        return "beige" if value > 0.55 else "green"
    if degrees < 165:
        return "green"
    if degrees < 255:
        return "blue"
    if degrees < 290:
        return "purple"
    return "pink" if value > 0.5 else "purple"
