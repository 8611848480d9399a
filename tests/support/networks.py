"""Supervised networks on made weights, and what their authors' modules gave on some."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from places import SHARED
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from cirbench.benchmark.backbones.trunks import MapTrunk

FOLDER = SHARED / "golden" / "supervised"
needs_golden = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="needs the reference data: numbers of the authors' modules"
)
TRUNK = "golden"
"""The name under which `golden_trunk` can be made, in a test that has put it into TRUNKS."""
_MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
_STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@dataclass(frozen=True)
class Golden:
    """One file: the authors' weights under their names, inputs and outputs, and facts."""

    state: Mapping[str, Tensor]
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    @property
    def pixels(self) -> Tensor:
        """(8, 3, S, S): four references, then four targets."""
        return (self["in/pictures_u8"].float() / 255 - _MEAN) / _STD


def read_golden(name: str) -> Golden:
    tensors = load_file(FOLDER / f"{name}.safetensors")
    facts = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    state = {k.removeprefix("state/"): t for k, t in tensors.items() if k.startswith("state/")}
    return Golden(state, tensors, facts)


class _SmallResNet(nn.Module):
    """The trunk of the files with pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        self.relu, self.maxpool = nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        self.layer1 = nn.Sequential(BasicBlock(8, 8))
        self.layer2 = nn.Sequential(BasicBlock(8, 16, 2, _shortcut(8, 16)))
        self.layer3 = nn.Sequential(Bottleneck(16, 64, 2, _shortcut(16, 256)))
        self.layer4 = nn.Sequential(Bottleneck(256, 128, 2, _shortcut(256, 512)))


def _shortcut(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(before, after, 1, 2, bias=False), nn.BatchNorm2d(after))


def golden_trunk() -> MapTrunk:
    return MapTrunk(_SmallResNet(), (256, 512))


def prepare_gradients(network: nn.Module) -> nn.Module:
    """Train mode, with dropouts that do nothing, in double precision.

    In single precision another machine's kernels turn the sign of some activation beside a ReLU's
    corner, and a gradient norm of the trunk moves by as much as 1e-3.
    """
    network.double().train()
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> None:
    assert ours.shape == theirs.shape
    difference = float((ours - theirs).detach().abs().max())
    print(f"largest difference {difference:.2e}")
    assert difference <= tolerance


def assert_gradients(network: nn.Module, names: Mapping[str, str], golden: Golden, factor=1.0):
    """Hold each parameter's gradient norm, and their total, to the file's.

    Args:
        names: our name → the authors'.
        factor: theirs over ours.
    """
    theirs = golden.facts["grad_norms"]
    own = {names[name]: p.grad for name, p in network.named_parameters()}
    largest = 0.0
    for name, norm in theirs["each"].items():
        ours = float(own[name].norm()) * factor
        # Norms that are zero but for rounding have no relative error.
        assert ours == pytest.approx(norm, rel=1e-4, abs=1e-6 * theirs["total"]), name
        if norm > 1e-6 * theirs["total"]:
            largest = max(largest, abs(ours / norm - 1))
    squares = sum(float(g.square().sum()) for g in own.values() if g is not None)
    total = factor * squares**0.5
    print(
        f"largest relative difference of a gradient norm {largest:.2e}, "
        f"of their total {abs(total / theirs['total'] - 1):.2e}"
    )
    assert total == pytest.approx(theirs["total"], rel=1e-4)


def scramble(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give all weights and statistics values of their own, as after a training, in eval mode."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=draw)
            fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
            tensor.copy_(noise / fan_in**0.5 if tensor.dim() > 1 else 1 + 0.3 * noise.abs())
    return network.eval()


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
