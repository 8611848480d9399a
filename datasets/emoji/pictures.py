"""The packed emoji pictures: which there are, which may be trained on, and their bytes."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.values import ImageRef

SOURCE_STYLE = "3d"
TARGET_STYLES = ("mono", "noto", "twemoji", "flat")
CORE_STYLES = (SOURCE_STYLE, *TARGET_STYLES)
"""Held out, all five, for every val and test concept."""
HINT_STYLES = ("noto1", "eo", "eo_mono")
"""From these CLIP may know the name of a held-out concept, as it knows "dog" from other dogs."""

FOLDER = Path(str(files("cirbench.datasets.emoji")))


@dataclass(frozen=True, kw_only=True, slots=True)
class EmojiPicture:
    """A row of pictures.csv."""

    index: int
    style: str
    code: str
    name: str
    split: str
    sha256: str

    @property
    def held_out(self) -> bool:
        """Whether no training may ever see it: the one rule all trainings go by."""
        return self.split != "train" and self.style in CORE_STYLES

    @property
    def ref(self) -> ImageRef:
        """The picture for the harness."""
        read = partial(read_bytes, self.index)
        return ImageRef(id=f"{self.style}/{self.code}", read=read, title=self.name)


@cache
def read_pictures() -> tuple[EmojiPicture, ...]:
    """Every picture, in the order in which they are packed."""
    with (FOLDER / "pictures.csv").open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        columns = next(rows)
        return tuple(
            EmojiPicture(index=i, **dict(zip(columns, row, strict=True)))
            for i, row in enumerate(rows)
        )


def read_training_pictures(
    styles: Iterable[str] = CORE_STYLES + HINT_STYLES,
) -> tuple[EmojiPicture, ...]:
    """Every picture of these styles that is not held out."""
    wanted = frozenset(styles)
    return tuple(p for p in read_pictures() if p.style in wanted and not p.held_out)


@cache
def _open_pack() -> tuple[Any, Any]:
    from safetensors.numpy import load_file

    tensors = load_file(FOLDER / "pictures.safetensors")
    return tensors["bytes"], tensors["offsets"]


def read_bytes(index: int) -> bytes:
    """The webp file of a picture."""
    data, offsets = _open_pack()
    content: bytes = data[offsets[index] : offsets[index + 1]].tobytes()
    return content
