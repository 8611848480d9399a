"""ResNets of torchvision, trained on ImageNet: a tower of pictures without one of texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.backbones.base import ImageTower, TextlessBackbone
from cirbench.benchmark.backbones.loading import translate_errors
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file

NAMES = ("resnet18", "resnet50", "resnet152")
RANDOM = "random"
"""After a name and a slash: weights as they are drawn, for who asks for them."""
IMAGENET = ImageSpec(size=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(kw_only=True)
class Trunk(TextlessBackbone, ImageTower):
    """A trunk as a `Backbone`."""


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
    model: Any = torchvision.models.get_model(trunk)
    if weights != RANDOM:
        model.load_state_dict(read_imagenet_weights(trunk))
    width = model.fc.in_features
    model.fc = nn.Identity()
    return Trunk(
        name=name,
        model=model,
        image_tower=model,
        embedding_width=width,
        image_spec=IMAGENET,
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
