"""Strangers' pictures: one gate for galleries, queries, trainings and shards."""

from __future__ import annotations

import io
import os
import random
import resource
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from cirbench.benchmark.api.backbone import ImageSpec
from cirbench.benchmark.images import decoding
from cirbench.benchmark.images.decoding import MOST_ELONGATED, PICTURE_FORMATS, decode, is_deep_grey
from cirbench.benchmark.images.preprocess import make_transform
from cirbench.benchmark.runtime.errors import CorruptData

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
SEARCH = ("search", "-m", "image-only", "-b", "fake", "--gallery", "g", "--top", "3")


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def insert_chunk(png: bytes, kind: bytes, data: bytes) -> bytes:
    """Puts a chunk behind the header."""
    return png[:33] + chunk(kind, data) + png[33:]


def huge_png(width: int, height: int) -> bytes:
    """A few bytes that say they are so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body


NOT_OPENED = {
    "eps": EPS,
    "eps with a preview": b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 30, len(EPS), 0, 0, 0, 0) + EPS,
    "ppm": encode(Image.new("RGB", (9, 9)), "PPM"),
    "ico": encode(Image.new("RGB", (16, 16)), "ICO"),
    "tga": encode(Image.new("RGB", (9, 9)), "TGA"),
    "pdf": encode(Image.new("RGB", (9, 9)), "PDF"),
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='/etc/passwd'/></svg>",
    "html": b"<html>404 Not Found</html>",
    "lfs pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "empty": b"",
}


@pytest.fixture
def gallery(bench, picture):
    """A folder `g` of six good pictures, and a good query."""
    Path("g").mkdir()
    for i in range(6):
        Path(f"g/{i}.png").write_bytes(picture(i))
    Path("q.png").write_bytes(picture(1))


@pytest.fixture
def no_program(monkeypatch):
    """No decoder starts another program."""

    def started(*arguments, **_):
        pytest.fail(f"started {arguments}")

    for name in ("subprocess.Popen", "os.system", "os.posix_spawn"):
        monkeypatch.setattr(name, started)


@pytest.mark.usefixtures("gallery", "no_program")
@pytest.mark.parametrize("content", NOT_OPENED.values(), ids=NOT_OPENED)
@pytest.mark.parametrize("name", ["bad.png", "bad.jpg"])
def test_another_format_in_a_gallery_is_refused_with_its_reason(refused, content, name):
    Path("g", name).write_bytes(content)
    says = (f"1 of 7 gallery pictures cannot be read: {name}", "must be a picture of one of")
    refused(4, *SEARCH, "--image", "q.png", says=says)


@pytest.mark.usefixtures("gallery", "no_program")
@pytest.mark.parametrize("content", NOT_OPENED.values(), ids=NOT_OPENED)
def test_another_format_as_a_query_is_refused(refused, content):
    Path("bad.png").write_bytes(content)
    refused(4, *SEARCH, "--image", "bad.png", says="picture bad.png (")


@pytest.mark.usefixtures("gallery", "no_program")
@pytest.mark.parametrize("content", [EPS, b"", b"junk"], ids=["eps", "empty", "junk"])
def test_a_broken_training_picture_is_corrupt_data(refused, content):
    Path("g/5.png").write_bytes(content)
    training = ("train", "pic2word", "--images", "g", "-b", "fake", "--epochs", 1)
    says = ("got 1 of 6", "--max-unreadable")
    refused(4, *training, "--batch-size", 2, "-o", "m.safetensors", says=says)


@pytest.mark.usefixtures("no_program")
def test_a_broken_picture_in_a_shard_is_corrupt_data(refused, picture):
    with tarfile.open("a.tar", "w") as tar:
        for i, content in enumerate([picture(0), EPS, picture(2)]):
            member = tarfile.TarInfo(f"{i}.jpg")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    training = ("train", "pic2word", "--images", "a.tar", "-b", "fake", "--epochs", 1)
    says = "got 1 of 3"
    refused(4, *training, "--batch-size", 3, "-o", "m.safetensors", says=says)


@pytest.mark.usefixtures("gallery")
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 101), (50_000, 499)])
def test_a_picture_like_a_thread_is_refused_before_it_costs_memory(refused, size):
    Path("g/long.png").write_bytes(encode(Image.new("1", size)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(4, *SEARCH, "--image", "q.png", says=("long.png", "at most 100 times the shorter"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.usefixtures("gallery")
@pytest.mark.parametrize("size", [(1, MOST_ELONGATED), (300, 3), (9, 1), (1, 1)])
def test_a_long_picture_is_read(bench, size):
    Path("g/long.png").write_bytes(encode(Image.new("RGB", size)))
    assert bench(*SEARCH, "--image", "q.png")[0] == 0


@pytest.mark.usefixtures("gallery")
@pytest.mark.parametrize("size", [(14_000, 14_000), (65_000, 65_000), (2**31 - 1, 2**31 - 1)])
def test_more_pixels_than_are_taken_are_refused_by_the_header(refused, size):
    Path("g/bomb.png").write_bytes(huge_png(*size))
    refused(4, *SEARCH, "--image", "q.png", says=("bomb.png", "at most 178,956,970 pixels"))


@pytest.mark.parametrize("size", [(60_000, 700), (999, 60_000), (14_960, 1_000)])
def test_padding_that_would_cost_memory_is_refused(size):
    image = Image.new("1", size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CorruptData, match="at most 178,956,970 pixels, got"):
        make_transform("targetpad", ImageSpec(size=16))(image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


@pytest.mark.usefixtures("gallery")
def test_a_pipe_as_a_query_is_not_waited_for(refused):
    os.mkfifo("pipe.png")
    refused(3, *SEARCH, "--image", "pipe.png", says="not a regular file")


TEXTS = {
    "tEXt": b"Comment\0" + b"x" * 3_000_000,
    "zTXt": b"Comment\0\0" + zlib.compress(b"x" * 3_000_000),
    "iTXt": b"Comment\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000),
    "iCCP": b"profile\0\0" + zlib.compress(b"x" * 3_000_000),
}


@pytest.mark.usefixtures("gallery")
@pytest.mark.parametrize("kind", TEXTS)
def test_a_png_with_a_long_text_or_profile_is_read_as_without_it(bench, picture, kind):
    content = insert_chunk(picture(1), kind.encode(), TEXTS[kind])
    Path("g/text.png").write_bytes(content)
    code, out, _ = bench(*SEARCH, "--image", "g/text.png")
    assert code == 0
    assert "text.png" in out
    np.testing.assert_array_equal(decode(content), decode(picture(1)))


def test_every_format_of_the_list_is_decoded():
    image = Image.fromarray(np.arange(9 * 9 * 3, dtype=np.uint8).reshape(9, 9, 3))
    for kind, endings in PICTURE_FORMATS.items():
        assert features.check("webp") or kind != "WEBP"
        assert decode(encode(image, kind)).size == (9, 9)
        assert set(endings) <= decoding.EXTENSIONS


@settings(max_examples=40, deadline=None)
@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK", "LAB"]),
    kind=st.sampled_from(list(PICTURE_FORMATS)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_any_mode_and_size_becomes_a_tower_input_or_is_refused(mode, kind, size):
    try:
        content = encode(Image.new(mode, size), kind)
    except (OSError, ValueError, KeyError):  # the format has no such mode
        return
    pixels = make_transform("clip", ImageSpec(size=16))(decode(content))
    assert pixels.shape == (3, 16, 16)
    assert bool(pixels.isfinite().all())


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(list(PICTURE_FORMATS)),
    seed=st.integers(0, 2**32),
    flips=st.integers(1, 30),
)
def test_damaged_pictures_are_decoded_or_refused_and_nothing_else(kind, seed, flips):
    rng = random.Random(seed)
    content = bytearray(encode(Image.effect_noise((20, 16), 80).convert("RGB"), kind))
    for _ in range(flips):
        content[rng.randrange(len(content))] = rng.randrange(256)
    try:
        decode(bytes(content), most_pixels=100_000)
    except CorruptData:
        return


def deep_grey(kind: str) -> bytes:
    ramp = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    return encode(Image.fromarray(ramp), kind)


@pytest.mark.usefixtures("gallery")
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_grey_of_16_bits_is_said_of_own_pictures(bench, kind):
    name = f"g/deep.{kind.lower()}"
    Path(name).write_bytes(deep_grey(kind))
    assert is_deep_grey(decode(deep_grey(kind)))
    for arguments in ([*SEARCH, "--image", "q.png"],) * 2:  # the second from the store
        code, _, err = bench(*arguments)
        assert code == 0
        assert "1 of 7 pictures have 16 bits of grey" in err
        assert f"deep.{kind.lower()}" in err
    training = ("train", "pic2word", "--images", "g", "-b", "fake", "--epochs", 1)
    code, _, err = bench(*training, "--batch-size", 7, "-o", "m.safetensors")
    assert code == 0
    assert "1 of 7 pictures have 16 bits of grey" in err


@pytest.mark.usefixtures("gallery")
def test_a_grey_of_16_bits_is_said_of_a_query(bench):
    Path("deep.png").write_bytes(deep_grey("PNG"))
    code, _, err = bench(*SEARCH, "--image", "deep.png")
    assert code == 0
    assert "1 of 1 pictures have 16 bits of grey" in err


def test_nothing_else_opens_a_picture():
    root = Path(decoding.__file__).parents[2]
    sources = [
        path
        for folder in ("benchmark", "methods", "datasets", "slurm")
        for path in (root / folder).rglob("*.py")
        if "Image.open(" in path.read_text(encoding="utf-8")
    ]
    assert [path.name for path in sources] == ["decoding.py"]


@pytest.mark.usefixtures("gallery")
def test_several_unreadable_pictures_are_named_with_their_reasons(refused):
    Path("g/a.png").write_bytes(EPS)
    Path("g/b.png").write_bytes(Path("q.png").read_bytes()[:90])
    Path("g/c.png").write_bytes(encode(Image.new("1", (1, 999))))
    says = (
        "3 of 9 gallery pictures cannot be read",
        "a.png (it must be a picture of one of",
        "b.png (",
        "truncated",
        "c.png (its longer side must be at most 100",
        "--skip-unreadable",
    )
    refused(4, *SEARCH, "--image", "q.png", says=says)
