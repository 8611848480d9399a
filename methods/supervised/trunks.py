"""Trunks of the image towers: pictures become the last two maps of a ResNet.

resnet18, resnet50 and resnet152 are torchvision's, with its names for the weights. `tiny`, for
pictures of 48 pixels, has the same parts: a 3x3 stem of stride 2 without pooling, then four stages
of one residual block each. A trunk is made with random weights; `fill_trunk` puts others in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.models.resnet import BasicBlock

from cirbench.benchmark.checkpoints import fill_network

TINY_WIDTHS = (16, 32, 64, 107)
"""Of the four stages: 0.25 million parameters."""


class Maps(NamedTuple):
    """The last two maps of a trunk: (B, C3, 2h, 2w) and (B, C4, h, w)."""

    layer3: Tensor
    layer4: Tensor


class MapTrunk(nn.Module):
    """A ResNet without its head: (B, 3, S, S) pixels → `Maps`.

    Attributes:
        widths: channels of layer3 and layer4.
    """

    def __init__(self, resnet: Any, widths: tuple[int, int]) -> None:
        super().__init__()
        self.widths = widths
        self.conv1, self.bn1 = resnet.conv1, resnet.bn1
        self.relu, self.maxpool = resnet.relu, resnet.maxpool
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        self.layer3, self.layer4 = resnet.layer3, resnet.layer4

    def forward(self, pixels: Tensor) -> Maps:
        stem = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        layer3 = self.layer3(self.layer2(self.layer1(stem)))
        return Maps(layer3, self.layer4(layer3))

    def pool5(self, pixels: Tensor) -> Tensor:
        """The mean of the last map: (B, 3, S, S) → (B, C4)."""
        return self(pixels).layer4.mean(dim=(2, 3))  # type: ignore[no-any-return]  # nn.Module is untyped


class _TinyResNet(nn.Module):
    """The parts of a ResNet, for pictures of 48 pixels: layer3 gives 6 x 6 and layer4 3 x 3."""

    def __init__(self) -> None:
        super().__init__()
        first, *_ = TINY_WIDTHS
        self.conv1 = nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False)
        self.bn1, self.relu, self.maxpool = nn.BatchNorm2d(first), nn.ReLU(), nn.Identity()
        self.layer1 = nn.Sequential(BasicBlock(first, first))
        self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(BasicBlock(before, after, 2, _shortcut(before, after)))
            for before, after in pairwise(TINY_WIDTHS)
        )


def _shortcut(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 1, stride=2, bias=False), nn.BatchNorm2d(after))


def _make_resnet(name: str, widths: tuple[int, int]) -> MapTrunk:
    return MapTrunk(get_model(name), widths)


def _make_tiny() -> MapTrunk:
    return MapTrunk(_TinyResNet(), TINY_WIDTHS[2:])


TRUNKS: dict[str, Callable[[], MapTrunk]] = {
    "resnet18": partial(_make_resnet, "resnet18", (256, 512)),
    "resnet50": partial(_make_resnet, "resnet50", (1024, 2048)),
    "resnet152": partial(_make_resnet, "resnet152", (1024, 2048)),
    "tiny": _make_tiny,
}


def make_trunk(name: str) -> MapTrunk:
    """Make a trunk with random weights.

    Raises:
        ValueError: no trunk has that name.
    """
    if name not in TRUNKS:
        raise ValueError(f"unknown trunk {name!r}; known: {', '.join(TRUNKS)}")
    return TRUNKS[name]()


def fill_trunk(trunk: MapTrunk, weights: Mapping[str, Tensor]) -> None:
    """Put weights under torchvision's names into a trunk; those of the classifier are left out.

    Raises:
        ValueError: names are missing or unknown, or shapes differ.
    """
    fill_network(trunk, {name: t for name, t in weights.items() if not name.startswith("fc.")})
