"""From a decoded picture to a tower's input. Which way is part of the protocol.

"CLIP preprocessing" is several things that are not pixel-identical, so each has a name here:

clip  OpenAI's and torchvision's: bicubic resize of the shorter side, centre crop with the offset
      rounded half to even, and only then conversion to RGB. A palette picture is thus resized in
      its own mode (by nearest neighbour), as the released code of Pic2Word and CLIP4Cir does.

clip-hf  Hugging Face's CLIPImageProcessor on Pillow: conversion to RGB first, and a crop whose
         offset is rounded down. One pixel beside `clip` where the resized longer side exceeds the
         tower's by 3 modulo 4.

targetpad  CLIP4Cir's (ABaldrati/CLIP4Cir): a picture whose sides differ by a factor of 1.25 or
      more is first padded with zeros along its shorter side to that factor, then as clip.

imagenet  what ResNets are evaluated with: conversion to RGB, bilinear resize of the shorter side,
          centre crop. Mean and deviation are the tower's own, as everywhere here.

white-square  that of naver/artemis: conversion to RGB, padded with white to a square, an odd pixel
              right or below, bilinear resize to 256/224 of the tower's side, centre crop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.images.decoding import check_size
from cirbench.benchmark.runtime.errors import UsageError

Transform = Callable[[Image.Image], Tensor]


def to_tensor(image: Image.Image, spec: ImageSpec) -> Tensor:
    """A picture of the right size → (3, S, S) float32, normalised."""
    pixels: Tensor = tv.normalize(tv.to_tensor(image.convert("RGB")), spec.mean, spec.std)
    return pixels


def _make_clip(spec: ImageSpec) -> Transform:
    def transform(image: Image.Image) -> Tensor:
        resized = tv.resize(image, [spec.size], interpolation=InterpolationMode.BICUBIC)
        return to_tensor(tv.center_crop(resized, [spec.size, spec.size]), spec)

    return transform


def _make_clip_hf(spec: ImageSpec) -> Transform:
    def transform(image: Image.Image) -> Tensor:
        rgb = image.convert("RGB")
        resized = tv.resize(rgb, [spec.size], interpolation=InterpolationMode.BICUBIC)
        left, top = ((side - spec.size) // 2 for side in resized.size)
        return to_tensor(tv.crop(resized, top, left, spec.size, spec.size), spec)

    return transform


def compute_target_padding(width: int, height: int, ratio: float = 1.25) -> tuple[int, int]:
    """Pixels to add left and right, and above and below: no side then exceeds ratio × the other."""
    if max(width, height) / min(width, height) < ratio:
        return 0, 0
    target = max(width, height) / ratio
    return max(int((target - width) / 2), 0), max(int((target - height) / 2), 0)


def _make_targetpad(spec: ImageSpec) -> Transform:
    clip = _make_clip(spec)

    def transform(image: Image.Image) -> Tensor:
        width, height = image.size
        left, top = compute_target_padding(width, height)
        check_size(width + 2 * left, height + 2 * top)  # 60,000 × 700 would become 2.9 billion
        return clip(tv.pad(image, [left, top], fill=0))

    return transform


def fit_square(image: Image.Image, size: int) -> Image.Image:
    """The middle square of a picture, in RGB and of `size` pixels a side: `imagenet`'s."""
    resized = tv.resize(image.convert("RGB"), [size], interpolation=InterpolationMode.BILINEAR)
    square: Image.Image = tv.center_crop(resized, [size, size])
    return square


def _make_imagenet(spec: ImageSpec) -> Transform:
    return lambda image: to_tensor(fit_square(image, spec.size), spec)


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


def _make_white_square(spec: ImageSpec) -> Transform:
    def transform(image: Image.Image) -> Tensor:
        square = fit_white_square(image, spec.size)
        return to_tensor(tv.center_crop(square, [spec.size, spec.size]), spec)

    return transform


def stretch(image: Image.Image, box: tuple[int, int, int, int], spec: ImageSpec) -> Tensor:
    """A part of a picture, resized to the tower's square without keeping its shape.

    A box without area gives black, as it does in torchvision with the released code of Pic2Word.
    """
    left, upper, right, lower = box
    side = [spec.size, spec.size]
    if right <= left or lower <= upper:
        return to_tensor(Image.new("RGB", (spec.size, spec.size)), spec)
    part = image.crop(box)
    return to_tensor(tv.resize(part, side, interpolation=InterpolationMode.BICUBIC), spec)


PREPROCESSES: dict[str, Callable[[ImageSpec], Transform]] = {
    "clip": _make_clip,
    "clip-hf": _make_clip_hf,
    "targetpad": _make_targetpad,
    "imagenet": _make_imagenet,
    "white-square": _make_white_square,
}


def make_transform(
    name: str, spec: ImageSpec, box: tuple[int, int, int, int] | None = None
) -> Transform:
    """The named preprocessing for a backbone.

    Args:
        box: as `ImageRef` has it; a part of a picture is stretched, whatever the name.

    Raises:
        UsageError: no preprocessing has that name.
    """
    if name not in PREPROCESSES:
        raise UsageError(f"unknown preprocess {name!r}; known: {', '.join(PREPROCESSES)}")
    return PREPROCESSES[name](spec) if box is None else partial(stretch, box=box, spec=spec)
