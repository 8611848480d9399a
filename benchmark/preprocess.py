"""From a decoded picture to a tower's input. Which way is part of the protocol.

"CLIP preprocessing" is several things that are not pixel-identical, so each has a name here:

clip  OpenAI's and torchvision's: bicubic resize of the shorter side, centre crop with the offset
      rounded half to even, and only then conversion to RGB. A palette picture is thus resized in
      its own mode (by nearest neighbour), as the released code of Pic2Word and CLIP4Cir does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from cirbench.benchmark.errors import UsageError
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Transform = Callable[[Image.Image], Tensor]


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a backbone's image tower takes: side in pixels, and the normalisation of RGB."""

    size: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for a record."""
        return asdict(self)

    def fingerprint(self, preprocess: str) -> str:
        """sha256 over the named preprocessing and this tower's numbers."""
        canonical = json.dumps({"preprocess": preprocess, **self.as_dict()}, sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def to_tensor(image: Image.Image, spec: ImageSpec) -> Tensor:
    """A picture of the right size → (3, S, S) float32, normalised."""
    pixels: Tensor = tv.normalize(tv.to_tensor(image.convert("RGB")), spec.mean, spec.std)
    return pixels


def _clip(spec: ImageSpec) -> Transform:
    def transform(image: Image.Image) -> Tensor:
        resized = tv.resize(image, [spec.size], interpolation=InterpolationMode.BICUBIC)
        return to_tensor(tv.center_crop(resized, [spec.size, spec.size]), spec)

    return transform


PREPROCESSES: dict[str, Callable[[ImageSpec], Transform]] = {"clip": _clip}


def preprocess(name: str, spec: ImageSpec) -> Transform:
    """The named preprocessing for a backbone.

    Raises:
        UsageError: no preprocessing has that name.
    """
    if name not in PREPROCESSES:
        raise UsageError(f"unknown preprocess {name!r}; known: {', '.join(PREPROCESSES)}")
    return PREPROCESSES[name](spec)
