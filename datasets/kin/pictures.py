"""The packed pictures of people: which there are, which may be trained on, and their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from cirbench.benchmark.api.values import ImageRef
from cirbench.datasets.embedded.pack import Pack

GALLERY_STYLES = ("noto", "twemoji")
"""Held out, both, for every val and test activity."""
HINT_STYLES = ("flat", "3d")
"""From these CLIP may know a held-out activity, as it knows "surfing" from other surfers."""
STYLES = GALLERY_STYLES + HINT_STYLES
GENDERS = ("person", "man", "woman")
TONES = ("yellow", "light", "medium", "dark")

PACK = Pack.of("cirbench.datasets.kin")

NAMED = ("activity", "gender", "tone")
"""What a query may change; the style stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KinPicture:
    """A row of pictures.csv."""

    index: int
    activity: str
    gender: str
    tone: str
    style: str
    code: str
    split: str
    sha256: str

    @property
    def held_out(self) -> bool:
        """Whether no training may ever see it: the one rule all trainings go by."""
        return self.split != "train" and self.style in GALLERY_STYLES

    @property
    def ref(self) -> ImageRef:
        """The picture for the harness."""
        read = partial(PACK.read_bytes, self.index)
        title = f"{self.activity}, {self.gender}, {self.tone} skin"
        return ImageRef(id=f"{self.style}/{self.code}", read=read, title=title)

    @property
    def shows(self) -> dict[str, str]:
        """All that may be said of it."""
        return {
            "activity": self.activity,
            "gender": self.gender,
            "tone": self.tone,
            "style": self.style,
        }


@cache
def read_pictures() -> Sequence[KinPicture]:
    """Every picture, in the order in which they are packed."""
    return tuple(KinPicture(index=i, **row) for i, row in enumerate(PACK.read_rows()))


def read_gallery(split: str) -> Sequence[KinPicture]:
    """The pictures of a split in the styles of the gallery."""
    return tuple(p for p in read_pictures() if p.split == split and p.style in GALLERY_STYLES)


def read_training_pictures() -> Sequence[KinPicture]:
    """Every picture that is not held out."""
    return tuple(p for p in read_pictures() if not p.held_out)
