"""Strangers' webdataset shards and archives: whole, or refused whole."""

from __future__ import annotations

import gzip
import io
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cirbench.benchmark.images.shards import ShardImages
from cirbench.benchmark.runtime.archives import unpack
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData

TRAIN = ("train", "pic2word", "-b", "fake", "--epochs", 1, "-o", "m.safetensors")
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def add(
    tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE
) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.type = kind
    if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        member.linkname = "0.png"
    tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def shard(bench, picture):
    """`s.tar` with four pictures and their texts, and the place where the third begins."""
    with tarfile.open("s.tar", "w") as tar:
        for i in range(4):
            add(tar, f"{i}.png", picture(i))
            add(tar, f"{i}.txt", b"a dog")
            add(tar, f"{i}.json", b"{}")
    with tarfile.open("s.tar") as tar:
        members = tar.getmembers()
    return Path("s.tar"), members[6].offset


def test_a_whole_shard_is_trained_on(bench, shard):
    code, _, err = bench(*TRAIN, "--images", "s.tar", "--batch-size", 4)
    assert code == 0, err
    assert "on 4 pictures" in err
    assert "skipped" not in err


DAMAGE: dict[str, tuple[Callable[[bytes, int], bytes], str]] = {
    "cut at a border": (lambda c, at: c[:at], "end marker is missing"),
    "cut at a border, half a marker": (lambda c, at: c[:at] + bytes(99), "end marker is missing"),
    "cut in a member": (lambda c, at: c[: at + 700], "s.tar must be a whole tar file"),
    "cut in a header": (lambda c, at: c[: at + 100], "end marker is missing"),
    "a damaged header": (
        lambda c, at: c[:at] + b"x" * 512 + c[at + 512 :],
        "end marker is missing",
    ),
    "a block of zeros within": (
        lambda c, at: c[:at] + bytes(512) + c[at:],
        "has data after its end marker",
    ),
    "two shards in one": (lambda c, _: c + c, "has data after its end marker"),
    "compressed": (lambda c, _: gzip.compress(c), "s.tar must be a whole tar file"),
    "empty": (lambda _c, _: b"", "s.tar must be a whole tar file"),
    "a page": (lambda _c, _: b"<html>404</html>", "s.tar must be a whole tar file"),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGE.values(), ids=DAMAGE)
def test_a_shard_that_is_not_whole_is_refused(refused, shard, damage, says):
    path, third = shard
    path.write_bytes(damage(path.read_bytes(), third))
    refused(4, *TRAIN, "--images", "s.tar", "--batch-size", 2, says=("s.tar", says))


def test_a_shard_that_is_a_folder_or_a_pipe_is_refused(refused):
    Path("a").mkdir()
    Path("a/0.tar").mkdir()
    refused(4, *TRAIN, "--images", "a", "--batch-size", 2, says="a/0.tar must be a tar file")
    Path("a/0.tar").rmdir()
    os.mkfifo("a/0.tar")
    refused(4, *TRAIN, "--images", "a", "--batch-size", 2, says="a/0.tar must be a tar file")


def test_a_range_of_shards_that_never_ends_stops_at_the_first_that_is_missing(refused, shard):
    shard[0].rename("0.tar")
    says = "no shard at 1.tar"
    refused(3, *TRAIN, "--images", "{0..999999999999}.tar", "--batch-size", 2, says=says)


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        ("._0.png", tarfile.REGTYPE, "1 hidden files"),
        ("__MACOSX/0.png", tarfile.REGTYPE, "1 hidden files"),
        ("0.png.part", tarfile.REGTYPE, "1 files whose name ends like no picture"),
        ("9.png", tarfile.SYMTYPE, "1 names that lead to no file"),
        ("9.png", tarfile.LNKTYPE, "1 names that lead to no file"),
        ("9.png", tarfile.FIFOTYPE, "1 names that lead to no file"),
        ("9.png", tarfile.CHRTYPE, "1 names that lead to no file"),
    ],
)
def test_members_that_are_no_pictures_are_skipped_and_counted(bench, picture, name, kind, says):
    with tarfile.open("s.tar", "w") as tar:
        for i in range(4):
            add(tar, f"./d/{i}.png", picture(i))
        add(tar, name, picture(5) if kind == tarfile.REGTYPE else b"", kind)
    code, _, err = bench(*TRAIN, "--images", "s.tar", "--batch-size", 4)
    assert code == 0, err
    assert "on 4 pictures" in err
    assert f"skipped {says}" in err
    assert name in err


def test_what_lies_beside_the_shards_of_a_folder_is_said(bench, shard):
    Path("f/more").mkdir(parents=True)
    Path("f/s.tar").write_bytes(shard[0].read_bytes())
    Path("f/._s.tar").write_bytes(b"junk")
    Path("f/0.png").write_bytes(b"")
    code, _, err = bench(*TRAIN, "--images", "f", "--batch-size", 4)
    assert code == 0, err
    assert "on 4 pictures" in err
    assert "f: skipped 1 hidden files and folders of copies: ._s.tar" in err
    assert "f: skipped 2 files and folders beside the shards: 0.png, more" in err


@FEW
@given(seed=st.integers(0, 2**32), cut=st.booleans())
def test_a_damaged_shard_is_refused_or_has_all_its_pictures(tmp_path, seed, cut):
    rng = random.Random(seed)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(4):
            add(tar, f"{i}.png", bytes(700))
    content = bytearray(buffer.getvalue()[: 4 * 1536 + 1024])
    if cut:
        del content[rng.randrange(4 * 1536 + 511) :]
    else:
        content[512 * rng.randrange(10) + rng.choice([0, 100, 124, 148, 156])] ^= (
            1 << rng.randrange(8)
        )
    (tmp_path / "s.tar").write_bytes(content)
    try:
        found = len(ShardImages([tmp_path / "s.tar"]))
    except CirbenchError:
        return
    assert not cut
    assert found == 4


def zip_with(**changes: object) -> bytes:
    """A zip of two files, the second changed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("val2017/1.jpg", b"one")
        info = zipfile.ZipInfo(str(changes.get("name", "val2017/2.jpg")))
        info.external_attr = int(str(changes.get("mode", 0))) << 16
        packed.writestr(info, b"two")
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        packed.writestr("val2017/1.jpg", b"one")
        packed.writestr("val2017/2.jpg", bytes(70 << 20))
    return buffer.getvalue()


def locked() -> bytes:
    content = bytearray(zip_with())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    return bytes(content)


def tar_with(name: str = "val2017/2.jpg", kind: bytes = tarfile.REGTYPE) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        add(tar, "val2017/1.jpg", b"one")
        add(tar, name, b"two" if kind == tarfile.REGTYPE else b"", kind)
    return buffer.getvalue()


def cut_tar(end: int) -> bytes:
    """A tar of three files with a damaged header of the third, cut at `end` bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(3):
            add(tar, f"val2017/{i}.jpg", b"one")
    content = bytearray(buffer.getvalue())
    content[2048 + 148] ^= 1
    return bytes(content[:end])


ARCHIVES = {
    "zip climbs": (zip_with(name="../../out.jpg"), "must stay inside its folder"),
    "zip absolute": (zip_with(name="/tmp/out.jpg"), "must stay inside its folder"),
    "zip backslash": (zip_with(name="val2017\\2.jpg"), "must be written with /"),
    "zip drive": (zip_with(name="C:/2.jpg"), "must be written with /"),
    "zip long": (zip_with(name="x" * 300), "each name in it 255"),
    "zip link": (zip_with(mode=stat.S_IFLNK | 0o777), "must be a plain file"),
    "zip device": (zip_with(mode=stat.S_IFCHR | 0o777), "must be a plain file"),
    "zip locked": (locked(), "without a password"),
    "zip bomb": (bomb(), "at most 100 times its own size"),
    "zip cut": (zip_with()[:-9] + b"PK\5\6", ""),
    "tar climbs": (tar_with("../out.jpg"), "must stay inside its folder"),
    "tar absolute": (tar_with("/tmp/out.jpg"), "must stay inside its folder"),
    "tar link": (tar_with(kind=tarfile.SYMTYPE), "must be a plain file"),
    "tar hard link": (tar_with(kind=tarfile.LNKTYPE), "must be a plain file"),
    "tar pipe": (tar_with(kind=tarfile.FIFOTYPE), "must be a plain file"),
    "tar device": (tar_with(kind=tarfile.BLKTYPE), "must be a plain file"),
    "tar cut between files": (cut_tar(2048), "its end marker is missing"),
    "tar with a damaged header": (cut_tar(10240), "its end marker is missing"),
    "tar twice in one": (tar_with() * 2, "it has data after its end marker"),
    "tar cut and packed": (gzip.compress(cut_tar(2048)), "its end marker is missing"),
    "zip with a name twice": (zip_with(name="val2017/1.jpg"), "once, got it twice"),
    "tar with a name twice": (tar_with("val2017/1.jpg"), "once, got it twice"),
    "page": (b"<html>404</html>", "cannot be unpacked"),
}


@pytest.mark.parametrize(("content", "says"), ARCHIVES.values(), ids=ARCHIVES)
def test_an_archive_is_refused_whole(tmp_path, content, says):
    folder = tmp_path / "below" / "coco"
    folder.mkdir(parents=True)
    archive = folder / "val2017.zip"
    archive.write_bytes(content)
    with pytest.raises(CorruptData) as error:
        unpack(archive, folder)
    assert says in str(error.value)
    assert sorted(tmp_path.rglob("*")) == [folder.parent, folder, archive]


@pytest.mark.parametrize("content", [zip_with(), tar_with()], ids=["zip", "tar"])
def test_a_plain_archive_is_unpacked(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    unpack(tmp_path / "a", tmp_path)
    assert [(tmp_path / f"val2017/{i}.jpg").read_bytes() for i in (1, 2)] == [b"one", b"two"]
