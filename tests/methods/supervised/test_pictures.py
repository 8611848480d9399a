"""What trainings see: each augmentation by its own measures, and one result for all threads."""

from __future__ import annotations

import io
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as tv

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.preprocess import make_transform, to_tensor
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.methods.supervised.pictures import AUGMENTATIONS, AugmentedPictures

SPEC = ImageSpec(size=48)
PLAIN = ImageSpec(size=64, mean=(0, 0, 0), std=(1, 1, 1))
SMALL = ImageSpec(size=14)
"""Of which `artemis` makes a square of 16 pixels."""


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(width * height)
    image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return image.convert(mode)


def draw(name, image, spec=SPEC, count=1):
    rng = np.random.default_rng(0)
    return torch.stack([AUGMENTATIONS[name](image, spec, rng) for _ in range(count)])


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def paint(size, box, colour):
    """A rectangle on white, by left, upper, right and lower pixel."""
    image = Image.new("RGB", (size, size), "white")
    image.paste(colour, box)
    return image


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
@pytest.mark.parametrize("size", [(60, 44), (31, 90)])
def test_each_gives_what_a_tower_takes_and_draws_from_the_given_generator_alone(name, mode, size):
    image, found = noise(*size, mode), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        np.random.seed(seed)
        found.append(draw(name, image, count=3))
    assert found[0].shape == (3, 3, 48, 48)
    assert found[0].dtype == torch.float32
    assert torch.equal(*found)
    assert torch.equal(found[0][0], found[0][1]) == (name == "none")


@pytest.mark.parametrize("size", [(60, 44), (31, 90), (48, 48)])
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_none_is_the_preprocessing_of_resnets(size, mode):
    image = noise(*size, mode)
    assert torch.equal(draw("none", image)[0], make_transform("imagenet", SPEC)(image))


@pytest.mark.parametrize("size", [(40, 25), (25, 40), (30, 30)])
def test_artemis_gives_every_crop_of_the_white_square_and_of_its_mirror_image(size):
    image = noise(*size)
    square = Image.new("RGB", (max(size), max(size)), "white")
    square.paste(image, tuple((max(size) - side) // 2 for side in size))
    square = tv.resize(square, [16, 16], interpolation=tv.InterpolationMode.BILINEAR)
    crops = {
        to_tensor(tv.crop(one, top, left, 14, 14), SMALL).numpy().tobytes()
        for one in (square, tv.hflip(square))
        for top in range(3)
        for left in range(3)
    }
    assert make_transform("white-square", SMALL)(image).numpy().tobytes() in crops
    drawn = [crop.numpy().tobytes() for crop in draw("artemis", image, SMALL, 300)]
    assert set(drawn) == crops
    assert max(map(drawn.count, crops)) < 40


def test_the_noise_of_maaf_is_independent_with_a_deviation_of_a_hundredth():
    grey = Image.new("RGB", (80, 80), (128, 128, 128))
    spec = ImageSpec(size=224, mean=(0.1, 0.2, 0.3), std=(0.5, 1, 2))
    found = draw("maaf", grey, spec, 2)
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))
    noises = (found * std + mean - 128 / 255).flatten(2).flatten(0, 1)
    assert noises.mean(dim=1).numpy() == pytest.approx(0, abs=2e-4)
    assert noises.std(dim=1).numpy() == pytest.approx(0.01, rel=0.02)
    assert (noises.abs() < 0.01).float().mean().item() == pytest.approx(0.6827, abs=0.01)
    assert torch.corrcoef(noises).numpy() == pytest.approx(np.eye(6), abs=0.02)
    in_order = noises.reshape(-1)
    assert torch.corrcoef(torch.stack([in_order[1:], in_order[:-1]]))[0, 1].abs() < 0.01


def test_the_parts_of_maaf_are_large_and_half_of_them_mirrored():
    steps = np.linspace(0, 255, 100).astype(np.uint8)
    x, y = np.meshgrid(steps, steps)
    image = Image.fromarray(np.stack([x, y, x], axis=2))
    found = draw("maaf", image, PLAIN, 300)
    across = found[:, 0].mean(dim=1)
    down = found[:, 1].mean(dim=2)
    width, height = (each[:, -1] - each[:, 0] for each in (across, down))
    assert (height > 0.5).all()
    assert 0.4 < (width < 0).float().mean() < 0.6
    area = (width * height).abs()
    assert 0.76 < area.min() < 0.82
    assert 0.95 < area.max() < 1.02


def test_white_stays_white():
    for size in ((48, 48), (70, 50)):
        white = Image.new("RGB", size, "white")
        found = draw("emoji", white, count=20)
        wanted = to_tensor(Image.new("RGB", (48, 48), "white"), SPEC)
        assert all(torch.equal(one, wanted) for one in found)
    drawing = draw("emoji", paint(48, (16, 16, 32, 32), (200, 30, 90)), count=100)
    border = torch.ones(48, 48, dtype=torch.bool)
    border[5:-5, 5:-5] = False
    assert torch.equal(drawing[:, :, border], wanted[:, border].expand(100, -1, -1))


def test_the_inks_channels_become_stronger_or_weaker_each_by_itself():
    found = draw("emoji", paint(64, (4, 4, 60, 60), (155, 205, 55)), PLAIN, 300)
    ink = 255 * (1 - found[:, :, 32, 32])
    strength = (ink / torch.tensor([100, 50, 200])).numpy()
    for channel in strength.T:
        assert 0.85 < channel.min() < 0.86
        assert 1.14 < channel.max() < 1.15
    assert np.corrcoef(strength.T) == pytest.approx(np.eye(3), abs=0.2)
    black = draw("emoji", paint(64, (4, 4, 60, 60), "black"), PLAIN, 50)
    assert black.min() == 0


def test_drawings_are_turned_scaled_and_shifted_within_their_bounds():
    side = 64
    found = draw("emoji", paint(side, (20, 28, 44, 36), (155, 155, 155)), PLAIN, 300)
    ink = (1 - found).mean(dim=1).double()
    ink /= ink.amax(dim=(1, 2), keepdim=True)
    at = torch.arange(side) + 0.5 - side / 2
    weight = ink.sum(dim=(1, 2))
    x = (ink.sum(dim=1) * at).sum(dim=1) / weight
    y = (ink.sum(dim=2) * at).sum(dim=1) / weight
    for shift in (x, y):
        assert 0.07 * side < shift.abs().max() < 0.08 * side + 0.1
        assert shift.min() < 0 < shift.max()
    scale = (weight / (24 * 8)).sqrt()
    assert 0.83 < scale.min() < 0.88
    assert 1.07 < scale.max() < 1.12
    dx, dy = at - x[:, None], at - y[:, None]
    crossed = torch.einsum("nyx,ny,nx->n", ink, dy, dx) / weight
    wide = torch.einsum("nyx,nx->n", ink, dx**2) / weight
    tall = torch.einsum("nyx,ny->n", ink, dy**2) / weight
    angle = torch.rad2deg(torch.atan2(2 * crossed, wide - tall) / 2)
    assert 9 < angle.max() < 10.5
    assert -10.5 < angle.min() < -9


def pictures_of(name="artemis", **changes):
    return AugmentedPictures(
        **{"spec": SMALL, "seed": 0, "workers": 2, "augmentation": name, **changes}
    )


def load(draws, epoch=0, **changes):
    return torch.stack(list(pictures_of(**changes).load(draws, epoch=epoch, ahead=4)))


@pytest.fixture
def refs(picture_refs):
    return picture_refs(12)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_pictures_come_in_order_whatever_the_number_of_threads(refs, name):
    draws = list(zip(refs, range(12), strict=True))
    alone = torch.cat([load([one], name=name) for one in draws])
    for workers in (1, 2, 5):
        assert torch.equal(load(draws, name=name, workers=workers), alone)


def test_what_is_drawn_is_a_function_of_seed_epoch_and_number(refs):
    draws = [(refs[0], number) for number in range(40)]
    found = load(draws)
    assert torch.equal(load(draws[::-1]), found.flip(0))
    rng = np.random.default_rng((5, 7, 3))
    image = Image.open(io.BytesIO(refs[0].read()))
    by_hand = AUGMENTATIONS["artemis"](image, SMALL, rng)
    assert torch.equal(load([(refs[0], 3)], seed=5, epoch=7)[0], by_hand)
    assert len(found.unique(dim=0)) > 10
    for other in (load(draws, seed=1), load(draws, epoch=1)):
        assert not torch.equal(other, found)


def test_pictures_are_read_no_further_ahead_than_is_asked_for(picture):
    read = []

    def read_one(i):
        read.append(i)
        return picture(i)

    draws = ((ImageRef(id=str(i), read=partial(read_one, i)), i) for i in range(100))
    loaded = pictures_of(workers=1).load(draws, epoch=0, ahead=4)
    next(loaded)
    assert len(read) <= 5
    loaded.close()
    assert len(read) <= 6


def test_of_a_part_only_what_is_in_its_box_is_seen():
    image, box = noise(60, 50), (10, 5, 30, 40)
    whole = ImageRef(id="whole", read=lambda: png(image.crop(box)))
    part = ImageRef(id="part", read=lambda: png(image), box=box)
    for name in AUGMENTATIONS:
        assert torch.equal(load([(part, 3)], name=name), load([(whole, 3)], name=name))


def test_a_damaged_picture_is_named(refs):
    damaged = ImageRef(id="the-third", read=lambda: b"no picture")
    with pytest.raises(CorruptData, match=r"picture the-third .*cannot be decoded"):
        load([(refs[0], 0), (damaged, 1), (refs[1], 2)])


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(UsageError, match="unknown augmentation 'mirror'; known: none, maaf"):
        pictures_of("mirror")
