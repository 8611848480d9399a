"""The pixels of references: those that a tower sees, read when a method asks and not before."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from making import Stage
from PIL import Image
from torch.nn.functional import normalize

import cirbench
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Query, Selection, TaskData
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_images
from cirbench.benchmark.embedding.texts import TextFeatures
from cirbench.benchmark.evaluation.compose import QueryBatch, compose
from cirbench.benchmark.images.preprocess import PREPROCESSES
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.training.selection import score_selection
from cirbench.methods.baselines import ImageOnly, TextOnly
from cirbench.testing import check_method

PROTOCOL = EvaluationProtocol(
    name="shapes",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    metrics=("R@1",),
    headline="R@1",
    templates={"text": "{text}"},
)


class Seeing(cirbench.Method):
    """Embeds its references once more, from their pixels."""

    name = "seeing"

    def __init__(self, backbone):
        self.backbone, self.batches = backbone, []

    @classmethod
    def build(cls, *, backbone, checkpoint):
        return cls(backbone)

    def compose(self, queries):
        self.batches.append(queries.reference_pixels)
        return normalize(self.backbone.encode_images(self.batches[-1]), dim=-1)


class Pictures:
    """Makes references, and counts how often each was read."""

    def __init__(self):
        self.read = Counter()

    def ref(self, i, box=None):
        def read():
            self.read[i] += 1
            pixels = np.random.default_rng(i).integers(0, 255, (18, 25, 3), dtype=np.uint8)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            return buffer.getvalue()

        return ImageRef(id=f"picture-{i}", read=read, box=box)


def queries_of(refs):
    return [
        Query(id=f"q{row}", reference=ref, positives=(row,), fields={"text": "a"})
        for row, ref in enumerate(refs)
    ]


def batch_of(fake, refs, **changes):
    return QueryBatch(
        protocol=replace(PROTOCOL, **changes),
        queries=queries_of(refs),
        reference_features=torch.empty(len(refs), fake.embedding_width),
        encoder=TextFeatures(backbone=fake, truncate=False),
    )


def embedder_of(backbone, preprocess="clip"):
    size = BatchSize(value=64)
    return Embedder(backbone=backbone, preprocess=preprocess, size=size, workers=2, stage=Stage())


@pytest.mark.parametrize("preprocess", PREPROCESSES)
def test_they_are_what_the_embedder_gives_the_image_tower(fake, preprocess):
    seen = []

    def encode(pixels):
        seen.append(pixels)
        return fake.encode_images(pixels)

    tower = SimpleNamespace(image_spec=fake.image_spec, device=fake.device, encode_images=encode)
    pictures = Pictures()
    refs = [pictures.ref(0), pictures.ref(1, box=(2, 3, 20, 9)), pictures.ref(2)]
    embed_images(embedder_of(tower, preprocess), refs)
    found = batch_of(fake, refs, preprocess=preprocess).reference_pixels
    assert found.dtype == torch.float32
    assert torch.equal(found, *seen)


def test_each_distinct_picture_is_read_once_each_time_they_are_asked_for(fake):
    pictures = Pictures()
    refs = [pictures.ref(i) for i in (2, 0, 2, 1, 0, 2)]
    batch = batch_of(fake, refs)
    assert pictures.read == {}
    found = batch.reference_pixels
    assert pictures.read == {0: 1, 1: 1, 2: 1}
    for row, ref in enumerate(refs):
        assert torch.equal(found[row], batch_of(fake, [ref]).reference_pixels[0])
    pictures.read.clear()
    assert torch.equal(batch.reference_pixels, found)
    assert pictures.read == {0: 1, 1: 1, 2: 1}


def test_a_method_that_does_not_ask_reads_no_picture_and_one_that_does_a_batchs(fake):
    pictures = Pictures()
    refs = [pictures.ref(i) for i in (0, 1, 0, 0, 2)]
    images = embed_images(embedder_of(fake), refs)
    texts = TextFeatures(backbone=fake, truncate=False)

    def run(method):
        pictures.read.clear()
        options = {"size": BatchSize(value=2), "workers": 2, "stage": Stage()}
        return compose(method, queries_of(refs), PROTOCOL, images, texts, **options)

    for blind in (ImageOnly(), TextOnly()):
        run(blind)
        assert pictures.read == {}
    seeing = Seeing(fake)
    torch.testing.assert_close(run(seeing), normalize(images.of(refs), dim=1))
    assert pictures.read == {0: 2, 1: 1, 2: 1}
    assert [len(pixels) for pixels in seeing.batches] == [2, 2, 1]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_threads_changes_nothing(fake, workers):
    batch = batch_of(fake, [Pictures().ref(i) for i in range(9)])
    found = replace(batch, workers=workers).reference_pixels
    assert torch.equal(found, batch.reference_pixels)


def test_a_picture_that_cannot_be_read_names_itself(fake, tmp_path):
    sound = Pictures().ref(0)
    damaged = ImageRef(id="the-third", read=lambda: b"no picture")
    with pytest.raises(CorruptData, match=r"picture the-third .*cannot be decoded"):
        _ = batch_of(fake, [sound, sound, damaged]).reference_pixels
    gone = ImageRef(id="gone", read=(tmp_path / "gone.jpg").read_bytes)
    with pytest.raises(MissingData, match=r"picture gone .*gone.jpg cannot be read"):
        _ = batch_of(fake, [sound, gone]).reference_pixels


def test_a_method_of_pixels_is_evaluated_as_one_of_the_same_features():
    settings = {"backbone": "fake", "split": "val", "limit": 20, "batch_size": 8}
    seeing, plain = cirbench.evaluate([Seeing, "image-only"], "emoji", **settings)
    assert seeing.metrics == plain.metrics


def test_a_method_of_pixels_keeps_the_contract():
    check_method(Seeing)


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [7]), (3, [3, 3, 1])])
def test_selection_composes_as_many_queries_at_a_time_as_are_asked_for(fake, batch_size, sizes):
    pictures = Pictures()
    refs = tuple(pictures.ref(i) for i in range(7))
    data = TaskData(gallery=refs, queries=tuple(queries_of(refs)), annotations={})
    images = embed_images(embedder_of(fake), refs)
    texts = TextFeatures(backbone=fake, truncate=False)
    selection = Selection(split="val", protocol=PROTOCOL, metrics=("R@1",))
    method = Seeing(fake)
    found = score_selection(method, selection, data, images, texts, batch_size=batch_size)
    assert found == 100
    assert [len(pixels) for pixels in method.batches] == sizes
