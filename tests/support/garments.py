"""The photographs of `garments` in their own layout, made: a patch of the colour on another."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image

from cirbench.datasets.garments.photographs import Photograph, read_photographs

TYPICAL = {
    "beige": (215, 195, 160),
    "black": (25, 25, 28),
    "blue": (40, 70, 170),
    "brown": (110, 70, 40),
    "gray": (130, 130, 130),
    "green": (40, 140, 60),
    "orange": (240, 130, 30),
    "pink": (240, 150, 180),
    "purple": (110, 50, 150),
    "red": (190, 30, 35),
    "white": (245, 245, 245),
    "yellow": (240, 220, 50),
}
"""Colour → channels that nobody would call otherwise."""


def draw_garment(
    colour: tuple[int, int, int],
    background: tuple[int, int, int] = (120, 170, 200),
    size: tuple[int, int] = (48, 64),
) -> Image.Image:
    """A patch in the middle of a photograph."""
    image = Image.new("RGB", size, background)
    width, height = size
    image.paste(colour, (width // 4, height // 5, width - width // 4, height - height // 5))
    return image


@cache
def encode_garment(colour: str, number: int = 0) -> bytes:
    """Its file; another number is another picture of the same colour."""
    buffer = io.BytesIO()
    background = (120 + number, 170, 200)
    draw_garment(TYPICAL[colour], background, (12, 16)).save(buffer, "PNG")
    return buffer.getvalue()


def write_garments(folder: Path, photographs: Sequence[Photograph] | None = None) -> None:
    """Write a picture for each row of the table, below a folder."""
    for photograph in photographs or read_photographs():
        path = folder / photograph.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_garment(photograph.colour))
