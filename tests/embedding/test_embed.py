from __future__ import annotations

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from making import Stage
from PIL import Image

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.embedding.pictures import BatchSize, Embedder, embed_images, work_in_batches
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.images.reading import load_picture
from cirbench.benchmark.runtime.errors import CorruptData, MissingData


@pytest.fixture(scope="module")
def backbone():
    return load_backbone("fake")


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (18, 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


class Pictures:
    """Makes references to pictures and keeps a list of which were read."""

    def __init__(self):
        self.read = []

    def ref(self, i, content=None):
        def read():
            self.read.append(i)
            return png(i) if content is None else content

        return ImageRef(id=f"picture-{i}", read=read)


def embed(backbone, refs, batch_size=4, stage=None):
    embedder = Embedder(
        backbone=backbone,
        preprocess="clip",
        size=BatchSize(value=batch_size),
        workers=2,
        stage=stage or Stage(),
    )
    return embed_images(embedder, refs)


def altered(backbone, encode):
    return SimpleNamespace(
        image_spec=backbone.image_spec, device=backbone.device, encode_images=encode
    )


def test_each_distinct_picture_is_read_and_encoded_once(backbone):
    pictures, stage, encoded = Pictures(), Stage(), []

    def encode(pixels):
        encoded.append(len(pixels))
        return backbone.encode_images(pixels)

    refs = [pictures.ref(i) for i in (2, 0, 2, 1, 0, 2, 3, 4)]
    found = embed(altered(backbone, encode), refs, batch_size=2, stage=stage)
    assert sorted(pictures.read) == [0, 1, 2, 3, 4]
    assert encoded == [2, 2, 1]
    assert stage.done == 5
    assert dict(found.rows) == {
        "picture-2": 0,
        "picture-0": 1,
        "picture-1": 2,
        "picture-3": 3,
        "picture-4": 4,
    }


def test_rows_belong_to_their_pictures(backbone):
    refs = [Pictures().ref(i) for i in range(5)]
    found = embed(backbone, refs, batch_size=2)
    assert found.values.shape == (5, backbone.embedding_width)
    assert found.values.dtype == torch.float32
    asked = [refs[3], refs[1], refs[3]]
    transform = make_transform("clip", backbone.image_spec)
    for row, ref in zip(found.of(asked), asked, strict=True):
        pixels, sha256 = load_picture(ref, transform, 0)
        torch.testing.assert_close(row, backbone.encode_images(pixels[None])[0])
        assert found.sha256[found.rows[ref.id]] == sha256
    assert found.of([]).shape == (0, backbone.embedding_width)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_the_batch_size_changes_nothing(backbone, batch_size):
    refs = [Pictures().ref(i) for i in range(7)]
    whole, found = embed(backbone, refs, 64), embed(backbone, refs, batch_size)
    torch.testing.assert_close(found.values, whole.values, rtol=0, atol=1e-5)
    assert found.rows == whole.rows
    assert found.sha256 == whole.sha256
    assert found.batch_size == batch_size


def test_the_fingerprint_is_of_ids_contents_and_order(backbone):
    pictures = Pictures()
    a, b = pictures.ref(0), pictures.ref(1)
    fingerprint = embed(backbone, [a, b]).fingerprint([a, b])
    assert embed(backbone, [b, a], batch_size=1).fingerprint([a, b]) == fingerprint
    assert embed(backbone, [a, b]).fingerprint([b, a]) != fingerprint
    assert embed(backbone, [a, b]).fingerprint([a]) != fingerprint
    other = pictures.ref(1, png(2))
    assert embed(backbone, [a, other]).fingerprint([a, other]) != fingerprint
    renamed = ImageRef(id="renamed", read=b.read)
    assert embed(backbone, [a, renamed]).fingerprint([a, renamed]) != fingerprint


def test_a_broken_picture_is_named_with_its_row(backbone):
    pictures = Pictures()
    refs = [pictures.ref(0), pictures.ref(0), pictures.ref(1), pictures.ref(2, b"no picture")]
    with pytest.raises(CorruptData, match=r"picture picture-2 \(row 2, "):
        embed(backbone, refs, batch_size=2)


def test_a_missing_picture_is_named_and_work_stops(backbone, tmp_path):
    pictures = Pictures()
    gone = ImageRef(id="gone", read=(tmp_path / "gone.jpg").read_bytes)
    refs = [pictures.ref(0), gone, *(pictures.ref(i) for i in range(1, 100))]
    with pytest.raises(MissingData, match=r"picture gone \(row 1\)"):
        embed(backbone, refs, batch_size=2)
    assert len(pictures.read) < 10


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_non_finite_embedding_is_refused_by_name(backbone, value):
    def encode(pixels):
        features = backbone.encode_images(pixels)
        if len(pixels) == 1:  # the last batch
            features[0, 3] = value
        return features

    refs = [Pictures().ref(i) for i in (0, 0, 1, 0, 2, 3, 4)]
    with pytest.raises(CorruptData, match=r"picture picture-4 is not finite \(1 such\)") as error:
        embed(altered(backbone, encode), refs, batch_size=2)
    assert error.value.exit_code == 4


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError])
def test_where_memory_runs_out_batches_shrink_and_stay_small(backbone, error):
    tried = []

    def encode(pixels):
        tried.append(len(pixels))
        if len(pixels) > 3:
            raise error
        return backbone.encode_images(pixels)

    refs = [Pictures().ref(i) for i in range(20)]
    found = embed(altered(backbone, encode), refs, batch_size=8)
    torch.testing.assert_close(found.values, embed(backbone, refs).values, rtol=0, atol=1e-5)
    assert found.batch_size == 2
    assert tried == [8, 4, *[2] * 10]


@pytest.mark.parametrize(
    ("size", "limit", "left"),
    [
        (7, 100, 7),
        (7, 3, 3),
        (7, 2, 1),
        (50, 100, 50),
        (50, 20, 50),
        (50, 5, 3),
        (8, 4, 4),
        (1, 1, 1),
    ],
)
def test_batches_give_all_rows_in_order_whatever_memory_allows(size, limit, left):
    def work(items):
        if len(items) > limit:
            raise MemoryError
        return torch.tensor(items)

    batch_size = BatchSize(value=size)
    found = list(work_in_batches(range(20), batch_size, work))
    assert torch.cat(found).tolist() == list(range(20))
    assert max(map(len, found)) == min(left, 20)
    assert batch_size.value == left


def test_memory_that_runs_out_midway_loses_and_repeats_nothing():
    def work(items):
        if len(items) > (4 if items[0] < 8 else 1):
            raise MemoryError
        return torch.tensor(items)

    found = list(work_in_batches(range(11), BatchSize(value=4), work))
    assert [part.tolist() for part in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8], [9], [10]]


def test_one_item_too_many_is_an_error():
    tried = []

    def work(items):
        tried.append(len(items))
        raise MemoryError("really")

    with pytest.raises(MemoryError, match="really"):
        list(work_in_batches(range(9), BatchSize(value=4), work))
    assert tried == [4, 2, 1]


def test_other_errors_are_not_tried_again():
    tried = []

    def work(items):
        tried.append(len(items))
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(work_in_batches(range(9), BatchSize(value=4), work))
    assert tried == [4]
