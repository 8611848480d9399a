"""torchvision's ResNets as backbones; their published weights are not here, made ones stand in."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision

from cirbench.benchmark.api.registry import backbone_entry
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.backbones.trunks import Trunk
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where torch looks for weights, with no network to fetch them."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return tmp_path / "hub" / "checkpoints"


def offline(*_arguments, **_named):
    raise URLError("no network")


@pytest.fixture
def published(folder, monkeypatch):
    """A file of weights that passes for the published one: the model and the file's path."""
    folder.mkdir(parents=True)
    torch.manual_seed(1)
    model = torchvision.models.resnet18()
    model.bn1.running_mean += 0.5  # as trained statistics are not those that a model begins with
    torch.save(model.state_dict(), folder / "unnamed")
    digits = hashlib.sha256((folder / "unnamed").read_bytes()).hexdigest()[:8]
    path = (folder / "unnamed").rename(folder / f"resnet18-{digits}.pth")
    known = {"IMAGENET1K_V1": SimpleNamespace(url=f"https://localhost/{path.name}")}
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda _name: known)
    return model, path


def test_the_embedding_is_the_last_map_averaged(published):
    model, _ = published
    trunk = load_backbone("torchvision:resnet18")
    pixels = torch.randn(2, 3, 224, 224)
    seen = []
    model.layer4.register_forward_hook(lambda _module, _given, found: seen.append(found))
    with torch.no_grad():
        model.eval()(pixels)
        found = trunk.encode_images(pixels)
    torch.testing.assert_close(found, seen[0].mean(dim=(2, 3)), atol=1e-5, rtol=1e-5)
    assert found.shape == (2, trunk.embedding_width)
    assert (trunk.image_spec.size, trunk.image_spec.mean[0]) == (224, 0.485)


def test_weights_that_are_not_there_are_never_drawn_instead(folder):
    with pytest.raises(MissingData, match=r"resnet50-0676ba61.pth.*TORCH_HOME") as caught:
        load_backbone("torchvision:resnet50")
    assert str(folder) in str(caught.value)
    assert caught.value.exit_code == 3


def test_weights_that_are_drawn_are_asked_for_by_name(folder):
    one, other = (load_backbone("torchvision:resnet18/random") for _ in range(2))
    assert one.name == "torchvision:resnet18/random"
    assert one.weights_sha256 == other.weights_sha256
    deeper = load_backbone("torchvision:resnet50/random")
    assert (one.embedding_width, deeper.embedding_width) == (512, 2048)
    assert one.architecture_sha256 != deeper.architecture_sha256


def test_a_file_that_was_altered_is_refused(published):
    _, path = published
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(CorruptData, match="must have the sha256"):
        load_backbone("torchvision:resnet18")


def test_texts_are_refused_with_what_to_choose(folder):
    trunk = load_backbone("torchvision:resnet18/random")
    for ask in (
        lambda: trunk.encode_texts(["a dog"]),
        lambda: trunk.encode_prompts(["*"], torch.zeros(1, 1)),
    ):
        with pytest.raises(UsageError, match="no text tower"):
            ask()


@pytest.mark.parametrize("name", ["torchvision:resnet34", "torchvision:resnet18/none"])
def test_an_unknown_trunk_names_the_known_ones(name):
    with pytest.raises(UsageError, match=r"known: torchvision:resnet18, .*/random"):
        load_backbone(name)


@pytest.mark.parametrize("name", ["torchvision:resnet18/random", "tiny", "fake", "features:8"])
def test_what_can_be_trained_along_is_known_without_loading_it(name):
    assert backbone_entry(name).trunk == isinstance(load_backbone(name), Trunk)
