"""From a decoded picture to a tower's input. Which way is part of the protocol.

"CLIP preprocessing" is several things that are not pixel-identical, so each has a name here:

clip  OpenAI's and torchvision's: bicubic resize of the shorter side, centre crop with the offset
      rounded half to even, and only then conversion to RGB. A palette picture is thus resized in
      its own mode (by nearest neighbour), as the released code of Pic2Word and CLIP4Cir does.

clip-hf  Hugging Face's CLIPImageProcessor on Pillow: conversion to RGB first, and a crop whose
         offset is rounded down. One pixel beside `clip` where the resized longer side exceeds the
         tower's by 3 modulo 4.

clip-hf-float16  the same, the result rounded to half precision: how LinCIR's evaluation
                 (navervision/lincir) prepares references, and not the gallery.

targetpad  CLIP4Cir's (ABaldrati/CLIP4Cir): a picture whose sides differ by a factor of 1.25 or
      more is first padded with zeros along its shorter side to that factor, then as clip.

imagenet  what ResNets are evaluated with: conversion to RGB, bilinear resize of the shorter side,
          centre crop. Mean and deviation are the tower's own, as everywhere here.

white-square  that of naver/artemis: conversion to RGB, padded with white to a square, an odd pixel
              right or below, bilinear resize to 256/224 of the tower's side, centre crop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.values import Box, Surroundings
from cirbench.benchmark.images.boxes import cut
from cirbench.benchmark.images.decoding import check_size
from cirbench.benchmark.runtime.errors import UsageError

Fit = Callable[[Image.Image], Image.Image]
"""From a picture to the S × S pixels that a tower looks at."""
Transform = Callable[[Image.Image], Tensor]


def to_bytes(image: Image.Image) -> Tensor:
    """A picture of the right size → (S, S, 3) uint8."""
    return torch.from_numpy(np.array(image.convert("RGB")))


def scale_pixels(pixels: Tensor, spec: ImageSpec, preprocess: str) -> Tensor:
    """(B, S, S, 3) uint8 → (B, 3, S, S) float32, normalised, where the pixels are.

    The operations are torchvision's, each rounded as IEEE 754 says, so every device gives the same
    bits.

    Args:
        preprocess: the name by which they were fitted, which may say more of their rounding.
    """

    def per_channel(*values: float) -> Tensor:
        return torch.tensor(values, device=pixels.device).view(-1, 1, 1)

    planes = pixels.permute(0, 3, 1, 2).contiguous().float()
    # by a tensor: a GPU divides by a plain number by multiplying with its inverse
    planes.div_(per_channel(255.0))
    planes.sub_(per_channel(*spec.mean)).div_(per_channel(*spec.std))
    return planes.half().float() if preprocess in _IN_HALF_PRECISION else planes


_IN_HALF_PRECISION = frozenset({"clip-hf-float16"})


def to_tensor(image: Image.Image, spec: ImageSpec, preprocess: str = "clip") -> Tensor:
    """A picture of the right size → (3, S, S) float32, normalised; `preprocess` as `scale_pixels`
    has it."""
    return scale_pixels(to_bytes(image).unsqueeze(0), spec, preprocess)[0]


def _fit_clip(image: Image.Image, size: int) -> Image.Image:
    resized = tv.resize(image, [size], interpolation=InterpolationMode.BICUBIC)
    square: Image.Image = tv.center_crop(resized, [size, size])
    return square


def _fit_clip_hf(image: Image.Image, size: int) -> Image.Image:
    rgb = image.convert("RGB")
    resized = tv.resize(rgb, [size], interpolation=InterpolationMode.BICUBIC)
    left, top = ((side - size) // 2 for side in resized.size)
    square: Image.Image = tv.crop(resized, top, left, size, size)
    return square


def compute_target_padding(width: int, height: int, ratio: float = 1.25) -> tuple[int, int]:
    """Pixels to add left and right, and above and below: no side then exceeds ratio × the other."""
    if max(width, height) / min(width, height) < ratio:
        return 0, 0
    target = max(width, height) / ratio
    return max(int((target - width) / 2), 0), max(int((target - height) / 2), 0)


def _fit_targetpad(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    left, top = compute_target_padding(width, height)
    check_size(width + 2 * left, height + 2 * top)  # 60,000 × 700 would become 2.9 billion
    return _fit_clip(tv.pad(image, [left, top], fill=0), size)


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, in RGB and of `size` pixels a side: `imagenet`'s."""
    resized = tv.resize(image.convert("RGB"), [size], interpolation=InterpolationMode.BILINEAR)
    square: Image.Image = tv.center_crop(resized, [size, size])
    return square


def fit_white_square(image: Image.Image, size: int) -> Image.Image:
    """A whole picture on a white square of size*256//224 pixels a side: `white-square`'s, before
    it is cropped to `size`.

    Raises:
        CorruptData: the square would have more pixels than a picture may have.
    """
    side = max(image.size)
    check_size(side, side)  # as for targetpad
    square = Image.new("RGB", (side, side), "white")
    left, top = ((side - own) // 2 for own in image.size)
    square.paste(image.convert("RGB"), (left, top))
    wide = [size * 256 // 224] * 2
    resized: Image.Image = tv.resize(square, wide, interpolation=InterpolationMode.BILINEAR)
    return resized


def _crop_white_square(image: Image.Image, size: int) -> Image.Image:
    square: Image.Image = tv.center_crop(fit_white_square(image, size), [size, size])
    return square


def stretch(image: Image.Image, size: int, box: Box) -> Image.Image:
    """A part of a picture, resized to the tower's square without keeping its shape."""
    part: Image.Image = tv.resize(
        cut(image, box), [size, size], interpolation=InterpolationMode.BICUBIC
    )
    return part


PREPROCESSES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "clip": _fit_clip,
    "clip-hf": _fit_clip_hf,
    "clip-hf-float16": _fit_clip_hf,
    "targetpad": _fit_targetpad,
    "imagenet": fit_square,
    "white-square": _crop_white_square,
}


def make_fit(name: str, size: int, box: Box | None = None) -> Fit:
    """The named preprocessing, up to the pixels of a tower of `size`.

    Args:
        box: as `ImageRef` has it; what is within four corners is stretched, whatever the name.

    Raises:
        UsageError: no preprocessing has that name.
    """
    if name not in PREPROCESSES:
        raise UsageError(f"unknown preprocess {name!r}; known: {', '.join(PREPROCESSES)}")
    fit = PREPROCESSES[name]
    if isinstance(box, Surroundings):
        return lambda image: fit(cut(image, box), size)
    return lambda image: fit(image, size) if box is None else stretch(image, size, box)


def make_transform(name: str, spec: ImageSpec) -> Transform:
    """The named preprocessing of one picture, to (3, S, S) float32; raises as `make_fit`."""
    fit = make_fit(name, spec.size)
    return lambda image: to_tensor(fit(image), spec, name)
