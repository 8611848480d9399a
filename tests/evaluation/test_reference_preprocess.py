"""References that a protocol prepares otherwise than the gallery: LinCIR rounds their pixels."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from cirbench.benchmark.evaluation.compose import QueryBatch
from cirbench.benchmark.evaluation.embed import embed
from cirbench.benchmark.evaluation.plan import Request, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.runtime.errors import CheckFailed
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.emoji.task import PROTOCOL, Emoji
from cirbench.testing import check_task

QUIET = Reporter(quiet=True)
ROUNDED = replace(
    PROTOCOL, name="rounded", preprocess="clip-hf", reference_preprocess="clip-hf-float16"
)


class Rounded(Emoji):
    """The embedded task under a protocol that rounds references."""

    name = "emoji-rounded"
    protocols: ClassVar = {"rounded": ROUNDED}


def request(**changes):
    settings = {"methods": ("image-only",), "task": Rounded(), "backbone": "fake", "split": "val"}
    return Request(**{**settings, "limit": 6, "device": "cpu", **changes})


def pixels_of(ref, spec, rounded):
    """By Pillow and numpy alone: shorter side to the tower's, bicubic, middle, float16 or not."""
    image = Image.open(io.BytesIO(ref.read())).convert("RGB")
    assert image.width == image.height
    image = image.resize((spec.size, spec.size), Image.Resampling.BICUBIC)
    values = np.asarray(image, dtype=np.float32) / np.float32(255)
    values = (values - np.float32(spec.mean)) / np.float32(spec.std)
    if rounded:
        values = values.astype(np.float16).astype(np.float32)
    return torch.from_numpy(values.transpose(2, 0, 1))


def test_references_are_rounded_before_the_tower_and_the_gallery_is_not(fake):
    made = plan(request())
    [images] = embed(made, [fake], QUIET)
    refs = [query.reference for query in made.data.queries]
    for rounded, found in ((True, images.of_references(refs)), (False, images.of(refs))):
        pixels = torch.stack([pixels_of(ref, fake.image_spec, rounded) for ref in refs])
        torch.testing.assert_close(found, fake.encode_images(pixels), atol=1e-6, rtol=0)
    moved = (images.of_references(refs) - images.of(refs)).abs().max()
    assert 1e-5 < moved < 1e-2
    gallery = torch.stack([pixels_of(r, fake.image_spec, False) for r in made.data.gallery[:20]])
    torch.testing.assert_close(
        images.of(made.data.gallery[:20]), fake.encode_images(gallery), atol=1e-6, rtol=0
    )


def test_rounding_is_that_of_float16(fake):
    refs = [query.reference for query in plan(request()).data.queries]
    exact, rounded = (
        torch.stack(
            [make_transform(n, fake.image_spec)(Image.open(io.BytesIO(r.read()))) for r in refs]
        )
        for n in ("clip-hf", "clip-hf-float16")
    )
    assert rounded.dtype == torch.float32
    assert np.array_equal(rounded.numpy(), exact.numpy().astype(np.float16).astype(np.float32))
    assert not torch.equal(exact, rounded)


def test_a_method_that_reads_pixels_sees_them_rounded(fake):
    queries = plan(request()).data.queries
    batch = QueryBatch(
        protocol=ROUNDED, queries=queries, reference_features=torch.empty(0), encoder=Encoder(fake)
    )
    seen = batch.reference_pixels
    assert torch.equal(seen, seen.half().float())


class Encoder:
    """As much of `TextFeatures` as pixels need."""

    def __init__(self, backbone):
        self.backbone = backbone


@pytest.mark.parametrize("cache", ["use", "off"])
def test_a_record_counts_both_passes_and_a_warm_store_has_none(cache, tmp_path):
    made = plan(request(cache=cache, output=tmp_path))
    both = len(made.data.pictures) + len({query.reference.id for query in made.data.queries})
    passes = [next(run(made, QUIET)).counts.image_passes for _ in range(2)]
    assert passes == [both, 0 if cache == "use" else both]


def test_with_nothing_else_said_references_are_the_gallerys_own_rows(fake):
    [images] = embed(plan(request(task="emoji")), [fake], QUIET)
    assert images.references is None


def test_a_protocol_that_says_nothing_of_references_has_the_hash_and_text_of_before():
    assert PROTOCOL.hash == "6d247013dd41"
    assert "reference_preprocess" not in PROTOCOL.as_dict()
    assert ROUNDED.as_dict()["reference_preprocess"] == "clip-hf-float16"
    assert replace(ROUNDED, reference_preprocess="").hash != ROUNDED.hash


def test_an_unknown_preprocess_of_references_is_no_protocol():
    class Wrong(Rounded):
        protocols: ClassVar = {"rounded": replace(ROUNDED, reference_preprocess="float8")}

    with pytest.raises(CheckFailed, match="preprocess must be one of"):
        check_task(Wrong())
