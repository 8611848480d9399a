"""Pictures as the supervised systems see them in training: augmented, and read in threads.

Every random number is drawn from a generator that is handed in. An augmentation gives (3, S, S)
float32, normalised:

none     `imagenet`'s preprocessing, nothing drawn: TIRG (google/tirg).

maaf     a part of 0.8 to 1 of the area, of ratio 0.75 to 1.3, resized; flipped or not; noise of
         deviation 0.01 added to 0..1: MAAF (yahoo/maaf).

artemis  on a white square of 256/224 of the side, as `white-square`'s; flipped or not; a crop at a
         random place: ARTEMIS (Delmas et al., ICLR 2022).

emoji    for drawings on white: rotated, scaled and shifted, with white behind, and each channel of
         the ink (what white lacks) made stronger or weaker; white stays white.

All are resized bilinearly and in RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.augmentation import crop_and_resize
from cirbench.benchmark.images.boxes import cut
from cirbench.benchmark.images.preprocess import fit_square, fit_white_square, to_tensor
from cirbench.benchmark.images.reading import load_picture, prefetch
from cirbench.benchmark.runtime.errors import UsageError

Augmentation = Callable[[Image.Image, ImageSpec, np.random.Generator], Tensor]

NOISE = 0.01
"""Of `maaf`: the deviation, where a channel goes from 0 to 1."""
ROTATION = 10.0
"""Of `emoji`: at most so many degrees, to either side."""
SCALE = (0.85, 1.1)
"""Of `emoji`."""
SHIFT = 0.08
"""Of `emoji`: at most so much of the side, along each axis."""
COLOUR = 0.15
"""Of `emoji`: a channel's ink becomes at most so much stronger or weaker."""


def _keep(image: Image.Image, spec: ImageSpec, rng: np.random.Generator) -> Tensor:
    return to_tensor(fit_square(image, spec.size), spec)


def _crop_flip_and_add_noise(
    image: Image.Image, spec: ImageSpec, rng: np.random.Generator
) -> Tensor:
    bilinear = InterpolationMode.BILINEAR
    rgb = image.convert("RGB")
    cropped = crop_and_resize(
        rgb, spec.size, rng, scale=(0.8, 1.0), ratio=(0.75, 1.3), interpolation=bilinear
    )
    pixels = tv.to_tensor(_flip_half(cropped, rng))
    noise = torch.from_numpy(rng.standard_normal(tuple(pixels.shape), dtype=np.float32))
    return _normalise(pixels + NOISE * noise, spec)


def _flip_and_crop_white_square(
    image: Image.Image, spec: ImageSpec, rng: np.random.Generator
) -> Tensor:
    square = _flip_half(fit_white_square(image, spec.size), rng)
    top, left = rng.integers(0, square.width - spec.size + 1, size=2).tolist()
    return to_tensor(tv.crop(square, top, left, spec.size, spec.size), spec)


def _move_and_colour_ink(image: Image.Image, spec: ImageSpec, rng: np.random.Generator) -> Tensor:
    moved = tv.affine(
        fit_square(image, spec.size),
        angle=rng.uniform(-ROTATION, ROTATION),
        scale=rng.uniform(*SCALE),
        translate=(spec.size * rng.uniform(-SHIFT, SHIFT, size=2)).tolist(),
        shear=[0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
        fill=255,
    )
    strength = torch.from_numpy(rng.uniform(1 - COLOUR, 1 + COLOUR, size=(3, 1, 1))).float()
    ink = (1 - tv.to_tensor(moved)) * strength
    return _normalise((1 - ink).clamp(min=0), spec)


def _flip_half(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    flipped: Image.Image = tv.hflip(image) if rng.random() < 0.5 else image
    return flipped


def _normalise(pixels: Tensor, spec: ImageSpec) -> Tensor:
    """(3, S, S) of 0..1 → by the tower's mean and deviation."""
    normalised: Tensor = tv.normalize(pixels, spec.mean, spec.std)
    return normalised


AUGMENTATIONS: dict[str, Augmentation] = {
    "none": _keep,
    "maaf": _crop_flip_and_add_noise,
    "artemis": _flip_and_crop_white_square,
    "emoji": _move_and_colour_ink,
}


def find_augmentation(name: str) -> Augmentation:
    """Find an augmentation by its name.

    Raises:
        UsageError: none has it.
    """
    if name not in AUGMENTATIONS:
        known = ", ".join(AUGMENTATIONS)
        raise UsageError(f"unknown augmentation {name!r}; known: {known}")
    return AUGMENTATIONS[name]


@dataclass(frozen=True, kw_only=True)
class AugmentedPictures:
    """How a training sees pictures.

    Attributes:
        augmentation: its name; see above.
        workers: threads that read and decode; they change no result.

    Raises:
        UsageError: no augmentation has that name.
    """

    augmentation: str
    spec: ImageSpec
    seed: int
    workers: int

    def __post_init__(self) -> None:
        find_augmentation(self.augmentation)

    def load(
        self, draws: Iterable[tuple[ImageRef, int]], *, epoch: int, ahead: int
    ) -> Iterator[Tensor]:
        """Read and augment pictures in threads; give them in order.

        Args:
            draws: pictures, each with the number of its draw within the epoch. What is drawn for
                it depends on seed, epoch and this number alone.
            ahead: so many pictures may be ready before they are taken.

        Yields:
            (3, S, S) float32 each.

        Raises:
            MissingData, CorruptData: a picture can't be read; the message names it.
        """
        jobs = (partial(self._load, ref, epoch, draw) for ref, draw in draws)
        return prefetch(jobs, workers=self.workers, ahead=ahead)

    def _load(self, ref: ImageRef, epoch: int, draw: int) -> Tensor:
        rng = np.random.default_rng((self.seed, epoch, draw))

        def transform(image: Image.Image) -> Tensor:
            return AUGMENTATIONS[self.augmentation](cut(image, ref.box), self.spec, rng)

        return load_picture(ref, transform, draw)[0]
