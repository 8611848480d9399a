"""Frozen features as pictures: a picture's file is its vector, made once by somebody's tower.

CIRR's authors release vectors of a ResNet-152 in place of their pictures; `bench data
convert-features` makes files of them. What tells two features backbones of one width apart is the
content of their files, as it tells pictures apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.backbones.base import TextlessBackbone
from cirbench.benchmark.backbones.text import check_precision
from cirbench.benchmark.images.vectors import decode_vector
from cirbench.benchmark.runtime.errors import UsageError

NO_PIXELS = ImageSpec(size=0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_NAME = re.compile(r"features:([1-9][0-9]{0,5})")


@dataclass(kw_only=True)
class FrozenFeatures(TextlessBackbone):
    """A backbone without towers, which takes each picture's file for its embedding."""

    embedding_width: int
    device: torch.device
    precision: str = "fp32"
    image_spec: ImageSpec = NO_PIXELS
    weights_sha256: str = field(init=False)
    architecture_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        said = f"features:{self.embedding_width}"  # whatever name a person gave it
        self.weights_sha256 = self.architecture_sha256 = hashlib.sha256(said.encode()).hexdigest()

    @property
    def remarks(self) -> tuple[str, ...]:
        return ()

    def decode(self, content: bytes) -> Tensor:
        """An .npy file of C float32 numbers → (C,) float32."""
        return torch.from_numpy(decode_vector(content, self.embedding_width))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, C) float32, as `decode` gives them → the same."""
        return pixels.to(self.device)

    def parameters(self) -> Iterable[Tensor]:
        return ()

    def state_dict(self) -> Mapping[str, Tensor]:
        return {}


def load(name: str, *, device: str, precision: str) -> FrozenFeatures:
    """`features:WIDTH`; nothing is read before the pictures are.

    Raises:
        UsageError: the name has no width, or no precision is called so.
    """
    width = _NAME.fullmatch(name)
    if width is None:
        raise UsageError(
            f"a backbone of frozen features must be features:WIDTH, as features:2048, got {name!r}"
        )
    return FrozenFeatures(
        name=name,
        embedding_width=int(width[1]),
        device=torch.device(device),
        precision=precision,
    )
