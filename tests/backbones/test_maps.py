"""The trunks' maps, sizes and weights."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18

from cirbench.benchmark.backbones.trunks import fill_trunk, make_trunk


def test_the_tiny_trunk_suits_pictures_of_48_pixels():
    trunk = make_trunk("tiny").eval()
    maps = trunk(torch.zeros(2, 3, 48, 48))
    assert maps.layer3.shape == (2, trunk.widths[0], 6, 6)
    assert maps.layer4.shape == (2, trunk.widths[1], 3, 3)
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(250_000, rel=0.02)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_maps_of_torchvisions_trunks_have_the_stated_widths(name):
    trunk = make_trunk(name).eval()
    with torch.no_grad():
        maps = trunk(torch.zeros(1, 3, 64, 64))
    assert maps.layer3.shape == (1, trunk.widths[0], 4, 4)
    assert maps.layer4.shape == (1, trunk.widths[1], 2, 2)


def test_a_filled_trunk_gives_what_torchvisions_classifier_sees():
    whole = resnet18().eval()
    trunk = make_trunk("resnet18").eval()
    fill_trunk(trunk, whole.state_dict())
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(whole.fc(trunk.pool5(pixels)), whole(pixels))


def test_another_trunks_weights_are_refused():
    with pytest.raises(ValueError, match=r"missing: layer1\.0\.conv3"):
        fill_trunk(make_trunk("resnet50"), resnet18().state_dict())


def test_an_unknown_trunk_is_named_beside_the_known_ones():
    with pytest.raises(ValueError, match=r"'vgg'; known: resnet18, .*tiny"):
        make_trunk("vgg")
