"""Pictures of made data: emoji on soft colours, as large as the photographs they stand for.

A JPEG gets grain, so that it weighs and decodes like a photograph; a PNG stays smooth.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageChops

from cirbench.benchmark.images.decoding import decode
from cirbench.datasets.emoji.captions import PHRASES
from cirbench.datasets.emoji.pictures import CORE_STYLES, EmojiPicture, read_pictures
from cirbench.datasets.emoji.task import Emoji

Concept = Mapping[str, EmojiPicture]
"""A thing in every core style."""
Size = tuple[int, int]
"""Width and height in pixels."""

CREDIT = Emoji.credit

_GROUND = (6, 8)
_GRAIN, _GRAIN_SIDE = 9.0, 1024
_JPEG_QUALITY = 90
_PNG_EFFORT = 1


@dataclass(frozen=True, slots=True)
class Sticker:
    """An emoji on a picture, a square of `side` pixels."""

    emoji: EmojiPicture
    left: int
    top: int
    side: int


@cache
def read_concepts() -> tuple[Concept, ...]:
    """Every concept that has all core styles, in the pack's order."""
    by_code: dict[str, dict[str, EmojiPicture]] = {}
    for picture in read_pictures():
        if picture.style in CORE_STYLES:
            by_code.setdefault(picture.code, {})[picture.style] = picture
    return tuple(found for found in by_code.values() if len(found) == len(CORE_STYLES))


def shuffle_concepts(seed: int) -> list[Concept]:
    """Every concept, in an order that hangs on the seed: neighbours of the pack look alike."""
    concepts = read_concepts()
    order = np.random.default_rng(seed).permutation(len(concepts))
    return [concepts[i] for i in order]


def describe(emoji: EmojiPicture) -> tuple[str, str]:
    """Give a phrase for its style, and its name."""
    return PHRASES[emoji.style][0], emoji.name


def draw_one(emoji: EmojiPicture, size: Size, seed: Sequence[int], ending: str) -> bytes:
    """Draw one emoji somewhere on a picture, and encode it as `ending` says."""
    rng = np.random.default_rng(seed)
    side = round(min(size) * rng.uniform(0.6, 0.95))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in size)
    return draw([Sticker(emoji, left, top, side)], size, seed, ending)


def draw(stickers: Sequence[Sticker], size: Size, seed: Sequence[int], ending: str) -> bytes:
    """Draw a picture and encode it: the same arguments, the same pixels."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(170, 256, (*_GROUND, 3), dtype=np.uint8)
    picture = Image.fromarray(ground).resize(size, Image.Resampling.BICUBIC)
    for sticker in stickers:
        emoji = decode(sticker.emoji.ref.read()).convert("RGB")
        part = emoji.resize((sticker.side, sticker.side))
        right, lower = sticker.left + sticker.side, sticker.top + sticker.side
        box = (sticker.left, sticker.top, right, lower)
        # the emoji stand on white, which multiplying makes transparent
        picture.paste(ImageChops.multiply(picture.crop(box), part), box)
    buffer = io.BytesIO()
    if ending == ".png":
        picture.save(buffer, "PNG", compress_level=_PNG_EFFORT)
        return buffer.getvalue()
    left, top = (int(rng.integers(0, _GRAIN_SIDE - extent + 1)) for extent in size)
    grain = _make_grain().crop((left, top, left + size[0], top + size[1]))
    ImageChops.add(picture, grain, offset=-128).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


@cache
def _make_grain() -> Image.Image:
    """Make noise around 128, of which each picture takes a part."""
    noise = np.random.default_rng(0).normal(128, _GRAIN, (_GRAIN_SIDE, _GRAIN_SIDE, 3))
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8))
