"""The batches of Pic2Word's training, step by step, in any number of processes.

Which pictures a step sees, and how each is cropped, is a function of seed, epoch and picture alone.
A picture that can't be decoded is counted, and its place is taken by the next one that can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.augmentation import crop_and_resize
from cirbench.benchmark.images.decoding import is_deep_grey
from cirbench.benchmark.images.preprocess import Fit, to_bytes
from cirbench.benchmark.images.reading import (
    describe_deep_greys,
    load_picture,
    prefetch,
    split_into_chunks,
)
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, MissingData

_NAMED = 5


def random_crop(
    image: Image.Image, side: int, scale: tuple[float, float], rng: np.random.Generator
) -> Image.Image:
    """RandomResizedCrop with torchvision's ratios (3/4 to 4/3), bicubic, in the picture's mode."""
    bicubic = InterpolationMode.BICUBIC
    return crop_and_resize(
        image, side, rng, scale=scale, ratio=(3 / 4, 4 / 3), interpolation=bicubic
    )


@dataclass(kw_only=True)
class TrainingPictures:
    """Training pictures, and which of them could not be decoded.

    Attributes:
        most_unreadable: the share above which training stops.
        unreadable: row → what is wrong with it.
        deep_greys: id of each picture whose greys beyond 8 bits were lost.
    """

    refs: Sequence[ImageRef]
    most_unreadable: float
    unreadable: dict[int, str] = field(default_factory=dict)
    deep_greys: dict[str, None] = field(default_factory=dict)

    def load(self, row: int, fit_of: Callable[[int], Fit]) -> Tensor:
        """(S, S, 3) uint8: the picture, or the next one that can be decoded.

        Raises:
            MissingData, CorruptData: more are unreadable than may be.
        """
        for candidate in range(row, row + len(self.refs)):
            taken = candidate % len(self.refs)
            if taken in self.unreadable:
                continue
            try:
                return self._load(taken, fit_of(taken))
            except (MissingData, CorruptData) as error:
                self.unreadable[taken] = str(error)
                self._check(type(error))
        raise CorruptData("none of the pictures can be decoded")

    def _load(self, row: int, fit: Fit) -> Tensor:
        ref = self.refs[row]

        def look(image: Image.Image) -> Tensor:
            if is_deep_grey(image):
                self.deep_greys[ref.id] = None
            return to_bytes(fit(image))

        return load_picture(ref, look, row)[0]

    def _check(self, kind: type[CirbenchError]) -> None:
        if len(self.unreadable) > self.most_unreadable * len(self.refs):
            named = "\n  ".join(list(self.unreadable.values())[:_NAMED])
            raise kind(
                f"at most {self.most_unreadable:g} of the pictures may fail to decode "
                f"(--max-unreadable), got {len(self.unreadable)} of {len(self.refs)}:\n  {named}"
            )

    def remarks(self) -> list[str]:
        """Remarks for the person about the pictures that were used."""
        names = sorted(self.deep_greys)
        return [describe_deep_greys(names, len(self.refs))] if names else []

    def report(self) -> dict[str, object]:
        """Report unreadable pictures, for the weights' header."""
        first = [self.unreadable[row] for row in sorted(self.unreadable)[:_NAMED]]
        return {"count": len(self.unreadable), "first": first}


def augment(
    pictures: TrainingPictures,
    steps: Iterable[tuple[int, NDArray[np.int64]]],
    *,
    size: int,
    seed: int,
    side: int,
    scale: tuple[float, float],
    workers: int,
) -> Iterator[list[Tensor]]:
    """b of (S, S, 3) uint8 per step, where `steps` has each step's epoch and this process's b rows.

    Args:
        size: b, the same at every step.
        side: S.
    """

    def job(epoch: int, row: int) -> Tensor:
        def fit_of(taken: int) -> Fit:
            rng = np.random.default_rng((seed, epoch, taken))
            return partial(random_crop, side=side, scale=scale, rng=rng)

        return pictures.load(row, fit_of)

    jobs = (partial(job, epoch, int(row)) for epoch, rows in steps for row in rows)
    yield from split_into_chunks(prefetch(jobs, workers=workers, ahead=2 * size), size)
