"""Scenes: which there are, and how one is composed of emoji when it is read.

Which emoji may be trained on is decided where they are packed: by `EmojiPicture.held_out`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.parsing import read_table
from cirbench.datasets.embedded.pack import Pack
from cirbench.datasets.emoji.pictures import PACK, EmojiPicture, read_pictures

SIDE = 64
"""Pixels of a canvas."""
STYLES = ("3d", "noto", "twemoji", "flat")
"""Drawings that stand in the scenes of the task."""
FOLDER = Pack.of("cirbench.datasets.scenes").folder
THINGS, SCENES = FOLDER / "things.csv", FOLDER / "scenes.csv"

_MOST_SHRUNK = 50_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """An emoji on a canvas; side, left and top in pixels."""

    style: str
    code: str
    side: int
    left: int
    top: int

    @property
    def picture(self) -> EmojiPicture:
        """What is drawn.

        Raises:
            CorruptData: the pack of emoji has no such picture.
        """
        try:
            return _index_pictures()[self.style, self.code]
        except KeyError:
            raise CorruptData(
                f"{SCENES} must name emoji of the pack, got {self.style}/{self.code}; install "
                f"cirbench again"
            ) from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """A row of scenes.csv.

    Attributes:
        asked: whether a query looks for it, by its first object.
    """

    split: str
    asked: bool
    objects: tuple[Placed, ...]

    @property
    def names(self) -> Sequence[str]:
        """Of its objects, in their order."""
        return [placed.picture.name for placed in self.objects]

    @property
    def ref(self) -> ImageRef:
        """The scene for the harness."""
        name = "+".join(f"{placed.style}/{placed.code}" for placed in self.objects)
        read = partial(compose, self.objects)
        return ImageRef(id=name, read=read, title=" and ".join(self.names))

    def as_row(self) -> dict[str, str]:
        """Its cells."""
        objects = (f"{o.style} {o.code} {o.side} {o.left} {o.top}" for o in self.objects)
        return {
            "split": self.split,
            "asked": "yes" if self.asked else "no",
            "objects": ", ".join(objects),
        }

    @classmethod
    def parse(cls, row: Mapping[str, str]) -> Scene:
        """Read its cells.

        Raises:
            CorruptData: an object is not five words.
        """
        try:
            objects = tuple(
                Placed(style=style, code=code, side=int(side), left=int(left), top=int(top))
                for style, code, side, left, top in map(str.split, row["objects"].split(","))
            )
        except ValueError as error:
            raise CorruptData(
                f"{SCENES}: an object must be style, code, side, left and top, got "
                f"{row['objects']!r}; install cirbench again"
            ) from error
        return cls(split=row["split"], asked=row["asked"] == "yes", objects=objects)


def compose(objects: Sequence[Placed]) -> bytes:
    """The scene as BMP, which is not compressed: its bytes are a function of its pixels alone."""
    canvas = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    for placed in objects:
        rows = slice(placed.top, placed.top + placed.side)
        columns = slice(placed.left, placed.left + placed.side)
        drawn = _shrink(placed.picture.index, placed.side)
        canvas[rows, columns] = np.minimum(canvas[rows, columns], drawn)
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "BMP")
    return buffer.getvalue()


@lru_cache(_MOST_SHRUNK)
def _shrink(index: int, side: int) -> NDArray[np.uint8]:
    """(side, side, 3)"""
    picture = decode(PACK.read_bytes(index)).convert("RGB")
    return np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS))


@cache
def _index_pictures() -> Mapping[tuple[str, str], EmojiPicture]:
    return {(picture.style, picture.code): picture for picture in read_pictures()}


@cache
def read_scenes() -> Sequence[Scene]:
    """Every scene, in the order of the table.

    Raises:
        MissingData, CorruptData: as `read_table`; an object is not five words.
    """
    return tuple(map(Scene.parse, read_table(SCENES, ("split", "asked", "objects"))))


@cache
def read_training_pictures() -> Sequence[EmojiPicture]:
    """Every emoji of a thing that is not held out, in all styles."""
    things = {row["code"] for row in read_table(THINGS, ("code",))}
    return tuple(p for p in read_pictures() if p.code in things and not p.held_out)


_LAYOUTS = {
    2: (((0, 16), (32, 16)), ((16, 0), (16, 32)), ((0, 0), (32, 32)), ((32, 0), (0, 32))),
    3: (
        ((0, 0), (32, 0), (16, 32)),
        ((16, 0), (0, 32), (32, 32)),
        ((0, 0), (0, 32), (32, 16)),
        ((32, 0), (32, 32), (0, 16)),
    ),
}
"""Number of objects → where the left upper corners of their cells, of 32 pixels, may be."""
_SIDES = {2: (30, 32, 34), 3: (24, 26, 28)}
_SHIFT = 3


def draw_places(pictures: Sequence[EmojiPicture], rng: np.random.Generator) -> tuple[Placed, ...]:
    """Two or three emoji at random places of a canvas."""
    count = len(pictures)
    corners = rng.permutation(_LAYOUTS[count][int(rng.integers(len(_LAYOUTS[count])))])
    placed = []
    for picture, corner in zip(pictures, corners, strict=True):
        side = int(rng.choice(_SIDES[count]))
        room = 32 - side + _SHIFT
        left, top = np.clip(corner + rng.integers(-_SHIFT, max(room, 0) + 1, 2), 0, SIDE - side)
        placed.append(
            Placed(style=picture.style, code=picture.code, side=side, left=int(left), top=int(top))
        )
    return tuple(placed)
