"""The packed emoji pictures: which there are, which may be trained on, and their bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, partial

from cirbench.benchmark.api.values import ImageRef
from cirbench.datasets.embedded.pack import Pack

SOURCE_STYLE = "3d"
TARGET_STYLES = ("mono", "noto", "twemoji", "flat")
CORE_STYLES = (SOURCE_STYLE, *TARGET_STYLES)
"""Held out, all five, for every val and test concept."""
HINT_STYLES = ("noto1", "eo", "eo_mono")
"""From these CLIP may know the name of a held-out concept, as it knows "dog" from other dogs."""

PACK = Pack.of("cirbench.datasets.emoji")


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
        read = partial(PACK.read_bytes, self.index)
        return ImageRef(id=f"{self.style}/{self.code}", read=read, title=self.name)


@cache
def read_pictures() -> tuple[EmojiPicture, ...]:
    """Every picture, in the order in which they are packed."""
    return tuple(EmojiPicture(index=i, **row) for i, row in enumerate(PACK.read_rows()))


def read_training_pictures(
    styles: Iterable[str] = CORE_STYLES + HINT_STYLES,
) -> tuple[EmojiPicture, ...]:
    """Every picture of these styles that is not held out."""
    wanted = frozenset(styles)
    return tuple(p for p in read_pictures() if p.style in wanted and not p.held_out)
