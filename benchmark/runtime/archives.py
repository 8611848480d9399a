"""Archives of others: read whole, and unpacked without leaving their folder."""

from __future__ import annotations

import lzma
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.paths import check_inside

_CHUNK_BYTES = 1 << 20


def read_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members of an open tar file, in order.

    The standard library takes a file that ends between two members, or at a damaged header, or in
    the middle of two that were joined, for a whole one. A whole one ends in a block of zeros, and
    in nothing else behind it.

    Raises:
        tarfile.TarError: it is not whole; after its last member.
    """
    yield from tar
    file = tar.fileobj
    assert file is not None  # only of one that was closed
    file.seek(tar.offset)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("its end marker is missing, so it may be truncated")
    while rest := file.read(_CHUNK_BYTES):
        if any(rest):
            raise tarfile.ReadError("it has data after its end marker")


_MOST_EXPANDED = 100
"""Unpacked size by archive's; annotations in JSON shrink to a tenth, bombs to a thousandth."""


_SMALL_BYTES = 1 << 26


_ENCRYPTED = 0x1


DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
)
"""What the libraries raise for archives that are cut, changed, or packed in an unknown way."""


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar or .zip, of which no member may leave the folder; what is there already stays.

    Raises:
        CorruptData: a member climbs out or is no plain file, all together are said to be far
            larger than the archive, or it is damaged. Nothing is unpacked then.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            _extract(archive, temporary)
        except (*DAMAGED, OSError) as error:
            raise CorruptData(f"{archive} cannot be unpacked: {error}; fetch it again") from error
        for path in Path(temporary).iterdir():
            if not (folder / path.name).exists():
                path.rename(folder / path.name)


def _extract(archive: Path, folder: str) -> None:
    """Unpack an archive when each of its members has been looked at."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            check_zip(archive, packed)
            packed.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            check_members(archive, map(_read_tar_member, read_members(tar)))
            tar.extractall(folder, filter="data")


def read_commit(archive: Path) -> str:
    """The commit that a .zip file is of, which git writes into its comment.

    Returns:
        What is written there, or "none" where nothing is, or it is no whole .zip file.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            return packed.comment.decode("ascii", "replace") or "none"
    except DAMAGED:
        return "none"


@dataclass(frozen=True, kw_only=True)
class Member:
    """What an archive says of one of its members.

    Attributes:
        plain: whether it is a file or a folder, and no link, device or locked file.
    """

    name: str
    size: int
    plain: bool


def check_zip(archive: Path, packed: zipfile.ZipFile) -> None:
    """Look at each member of an open .zip file; raises as `check_members`."""
    check_members(archive, map(_read_zip_member, packed.infolist()))


def _read_zip_member(info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & _ENCRYPTED
    return Member(name=info.filename, size=info.file_size, plain=plain)


def _read_tar_member(info: tarfile.TarInfo) -> Member:
    plain = (info.isreg() and info.sparse is None) or info.isdir()
    return Member(name=info.name, size=info.size, plain=plain)


def check_members(archive: Path, members: Iterable[Member]) -> None:
    """Look at each member of an archive before one is unpacked.

    Raises:
        CorruptData: a name climbs out, is none or comes twice, a member is a link, a device or
            locked, or all together are said to be far larger than the archive.
    """
    seen: set[str] = set()
    left = max(_SMALL_BYTES, _MOST_EXPANDED * archive.stat().st_size)
    for member in members:
        check_inside(member.name, str(archive))
        if member.name in seen:
            raise CorruptData(
                f"{archive} must hold {member.name} once, got it twice; fetch it again"
            )
        seen.add(member.name)
        if not member.plain:
            raise CorruptData(f"{archive}: {member.name} must be a plain file, without a password")
        left -= member.size
        if left < 0:
            raise CorruptData(
                f"{archive} must unpack to at most {_MOST_EXPANDED} times its own size; its "
                f"member {member.name} claims {member.size:,} bytes"
            )
