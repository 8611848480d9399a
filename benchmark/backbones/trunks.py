"""ResNets: towers of pictures without one of texts, whose last two maps can be seen too.

resnet18, resnet50 and resnet152 are torchvision's, trained on ImageNet. `tiny`, for pictures of 48
pixels, has the same parts: a 3x3 stem of stride 2 without pooling, then four stages of one residual
block each. It has no weights of its own: it is there to be trained along with a method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.backbones.base import ImageTower, TextlessBackbone
from cirbench.benchmark.backbones.loading import translate_errors
from cirbench.benchmark.checkpoints import fill_network
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file

NAMES = ("resnet18", "resnet50", "resnet152")
RANDOM = "random"
"""After a name and a slash: weights as they are drawn, for who asks for them."""
IMAGENET = ImageSpec(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TINY_SIZE = 48
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
    return MapTrunk(torchvision.models.get_model(name), widths)


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


@dataclass(kw_only=True)
class Trunk(TextlessBackbone, ImageTower):
    """A trunk as a `Backbone`.

    Attributes:
        trunk: its name among TRUNKS.
    """

    trunk: str


def load(name: str, *, device: str, precision: str) -> Trunk:
    """`torchvision:NAME`, with the weights that its authors trained (IMAGENET1K_V1).

    The embedding is what is left of the last map when it is averaged (pool5).

    Raises:
        UsageError: no such trunk.
        MissingData: its weights are not on this machine and cannot be fetched.
        CorruptData: their file is not what torchvision published.
    """
    trunk, _, weights = name.partition(":")[2].partition("/")
    if trunk not in NAMES or weights not in ("", RANDOM):
        known = ", ".join(f"torchvision:{one}" for one in NAMES)
        raise UsageError(
            f"unknown backbone {name!r}; known: {known}, each also with /{RANDOM} for weights that "
            f"are not trained"
        )
    model = make_trunk(trunk)
    if weights != RANDOM:
        fill_trunk(model, read_imagenet_weights(trunk))
    return _as_backbone(name, trunk, model, IMAGENET, device, precision)


def load_tiny(name: str, *, device: str, precision: str) -> Trunk:
    """`tiny`, with random weights."""
    spec = replace(IMAGENET, size=TINY_SIZE)
    return _as_backbone(name, "tiny", make_trunk("tiny"), spec, device, precision)


def _as_backbone(
    name: str, trunk: str, model: MapTrunk, spec: ImageSpec, device: str, precision: str
) -> Trunk:
    return Trunk(
        name=name,
        trunk=trunk,
        model=model,
        image_tower=model.pool5,
        embedding_width=model.widths[1],
        image_spec=spec,
        device=torch.device(device),
        precision=precision,
    )


def read_imagenet_weights(trunk: str) -> Mapping[str, Tensor]:
    """Read a trunk's weights from torch's folder (TORCH_HOME), fetched where there is a network.

    Raises:
        MissingData: they are not there and cannot be fetched.
        CorruptData: the file is not what torchvision published.
    """
    url = torchvision.models.get_model_weights(trunk)["IMAGENET1K_V1"].url
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    digits = path.stem.rpartition("-")[2]
    if not path.is_file():
        _fetch(trunk, url, path, digits)
    if not sha256_of_file(path).startswith(digits):
        raise CorruptData(f"{path} must have the sha256 {digits}…; remove it and fetch it again")
    with translate_errors(f"torchvision:{trunk}", path.parent):
        found: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return found


def _fetch(trunk: str, url: str, path: Path, digits: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    except (OSError, RuntimeError) as error:
        raise MissingData(
            f"the weights of torchvision:{trunk} are not on this machine and cannot be fetched "
            f"({error}); fetch {path.name} on a machine with network access, into {path.parent} "
            f"(TORCH_HOME names another place), or ask for weights that are not trained: "
            f"torchvision:{trunk}/{RANDOM}"
        ) from error
