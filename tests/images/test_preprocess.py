"""CLIP's preprocessing, by hand and against the library that the released code calls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from cirbench.benchmark.api.backbone import CLIP_MEAN, CLIP_STD, ImageSpec
from cirbench.benchmark.images.preprocess import compute_target_padding, make_transform
from cirbench.benchmark.runtime.errors import CorruptData, UsageError

SPEC = ImageSpec(size=224)


def noise(width, height, mode="RGB"):
    rng = np.random.default_rng(width * height)
    image = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    return image.convert(mode)


@pytest.mark.parametrize("size", [(300, 224), (227, 224), (231, 224), (224, 235), (640, 480)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_clip_is_resize_crop_then_rgb(size, mode):
    theirs = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            lambda image: image.convert("RGB"),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    image = noise(*size, mode)
    assert torch.equal(make_transform("clip", SPEC)(image), theirs(image))


@pytest.mark.parametrize("excess", range(16))
def test_hugging_faces_crop_is_one_pixel_beside_at_an_excess_of_3_modulo_4(excess):
    image = noise(224 + excess, 224)
    ours, theirs = make_transform("clip", SPEC)(image), make_transform("clip-hf", SPEC)(image)
    assert torch.equal(ours, theirs) == (excess % 4 != 3)
    left = excess // 2
    by_hand = image.crop((left, 0, left + 224, 224))
    assert torch.equal(theirs, make_transform("clip", SPEC)(by_hand))


def test_hugging_face_converts_a_palette_before_it_resizes():
    image = noise(300, 260).quantize(16)
    assert torch.equal(
        make_transform("clip-hf", SPEC)(image),
        make_transform("clip-hf", SPEC)(image.convert("RGB")),
    )
    assert not torch.equal(
        make_transform("clip", SPEC)(image), make_transform("clip-hf", SPEC)(image)
    )


def test_a_palette_picture_is_resized_before_it_is_converted():
    image = noise(300, 260).quantize(16)
    transform = make_transform("clip", SPEC)
    assert not torch.equal(transform(image), transform(image.convert("RGB")))


@pytest.mark.parametrize(("width", "left"), [(225, 0), (226, 1), (227, 2), (231, 4)])
def test_the_crops_offset_is_rounded_half_to_even(width, left):
    image = noise(width, 224)
    cropped = image.crop((left, 0, left + 224, 224))
    transform = make_transform("clip", SPEC)
    assert torch.equal(transform(image), transform(cropped))


def test_the_fingerprint_is_of_name_and_numbers():
    prints = {
        SPEC.fingerprint("clip"),
        SPEC.fingerprint("targetpad"),
        ImageSpec(size=288).fingerprint("clip"),
        ImageSpec(size=224, mean=(0.5, 0.5, 0.5)).fingerprint("clip"),
        ImageSpec(size=224, std=(0.5, 0.5, 0.5)).fingerprint("clip"),
    }
    assert len(prints) == 5
    assert SPEC.fingerprint("clip") == ImageSpec(size=224).fingerprint("clip")


@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((300, 800), (170, 0)),
        ((800, 300), (0, 170)),
        ((500, 400), (0, 0)),
        ((640, 480), (0, 16)),
        ((301, 445), (27, 0)),
        ((1024, 683), (0, 68)),
        ((240, 200), (0, 0)),
    ],
)
def test_targetpad_pads_the_shorter_side_with_zeros(size, padding):
    assert compute_target_padding(*size) == padding
    image = noise(*size)
    padded = Image.new("RGB", (size[0] + 2 * padding[0], size[1] + 2 * padding[1]))
    padded.paste(image, padding)
    assert torch.equal(
        make_transform("targetpad", SPEC)(image), make_transform("clip", SPEC)(padded)
    )


@pytest.mark.parametrize("size", [(300, 224), (227, 224), (100, 350)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_imagenet_is_rgb_bilinear_resize_crop(size, mode):
    theirs = transforms.Compose(
        [
            transforms.Resize(224, interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    image = noise(*size, mode)
    assert torch.equal(make_transform("imagenet", SPEC)(image), theirs(image.convert("RGB")))


def test_imagenet_converts_a_palette_before_it_resizes():
    image = noise(300, 260).quantize(16)
    transform = make_transform("imagenet", SPEC)
    assert torch.equal(transform(image), transform(image.convert("RGB")))


@pytest.mark.parametrize(
    ("size", "corner"),
    [((300, 201), (0, 49)), ((201, 300), (49, 0)), ((240, 240), (0, 0)), ((31, 40), (4, 0))],
)
@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_white_square_pads_with_the_odd_pixel_right_or_below(size, corner, mode):
    image = noise(*size, mode)
    square = Image.new("RGB", (max(size), max(size)), (255, 255, 255))
    square.paste(image.convert("RGB"), corner)
    theirs = transforms.Compose(
        [
            transforms.Resize((256, 256), interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    assert torch.equal(make_transform("white-square", SPEC)(image), theirs(square))


def test_white_square_makes_no_square_beyond_the_bounds_of_a_picture():
    with pytest.raises(CorruptData, match="pixels"):
        make_transform("white-square", SPEC)(Image.new("RGB", (60_000, 700)))


def test_an_unknown_preprocess_is_refused():
    with pytest.raises(UsageError, match="known: clip"):
        make_transform("clop", SPEC)
