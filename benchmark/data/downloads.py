"""Fetching what may be fetched: resumed where it broke off, checked, and unpacked safely."""

from __future__ import annotations

import hashlib
import lzma
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.paths import check_inside
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.tars import read_members

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
_MOST_EXPANDED = 100
"""Unpacked size by archive's; annotations in JSON shrink to a tenth, bombs to a thousandth."""
_SMALL_BYTES = 1 << 26
_ENCRYPTED = 0x1
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
)
"""What the libraries raise for archives that are cut, changed, or packed in an unknown way."""


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file that its owners let everybody fetch.

    Attributes:
        path: where it goes, below the data root.
        checksum: "sha256:…" or "md5:…"; None where none is known, then only counts can tell.
        makes: for an archive, the path below the data root that unpacking it beside itself makes.
    """

    url: str
    path: str
    checksum: str | None = None
    makes: str | None = None


def fetch(download: Download, root: Path, reporter: Reporter) -> str:
    """Fetches a file unless it is there, and unpacks an archive; gives a line about it.

    Raises:
        MissingData: it can't be fetched; what has come so far is kept and gone on from.
        CorruptData: it has another checksum, or a path in an archive leaves its folder.
    """
    path = root / download.path
    if download.makes and (root / download.makes).exists():
        return f"{root / download.makes}: there"
    if path.exists():
        check_sum(path, download.checksum)
        said = f"{path}: there"
    else:
        part = path.with_name(f"{path.name}.part")
        _fetch(download.url, part, reporter)
        check_sum(part, download.checksum)
        part.replace(path)
        said = f"{path}: fetched from {download.url}"
    if download.makes:
        unpack(path, path.parent)
        said += ", unpacked"
    return said + ("" if download.checksum else " (no checksum is published)")


def _fetch(url: str, part: Path, reporter: Reporter) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            resumed = answer.status == 206
            length = int(answer.headers.get("Content-Length") or 0)
            part.parent.mkdir(parents=True, exist_ok=True)
            with (
                part.open("ab" if resumed else "wb") as file,
                reporter.stage(part.name.removesuffix(".part"), length) as stage,
            ):
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
                    stage.advance(len(chunk))
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise MissingData(f"{url} answers {error.code} {error.reason}") from error
    except OSError as error:
        raise MissingData(
            f"{url} can't be fetched ({error}); the same command goes on where it broke off, or "
            f"put the file at {part.with_suffix('')} yourself"
        ) from error


def check_sum(path: Path, checksum: str | None) -> None:
    """Compares a file with "algorithm:digest".

    Raises:
        CorruptData: they differ; a file that was just fetched is removed.
    """
    if checksum is None:
        return
    algorithm, _, wanted = checksum.partition(":")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        if path.suffix == ".part":
            path.unlink()
        raise CorruptData(f"{path} has {algorithm} {found}, not {wanted}; fetch it again")


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a .tar or .zip, of which no member may leave the folder; what is there already stays.

    Raises:
        CorruptData: a member climbs out or is no plain file, all together are said to be far
            larger than the archive, or it is damaged. Nothing is unpacked then.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".unpacking-") as temporary:
        try:
            _extract(archive, temporary)
        except (*_DAMAGED, OSError) as error:
            raise CorruptData(f"{archive} can't be unpacked: {error}; fetch it again") from error
        for path in Path(temporary).iterdir():
            if not (folder / path.name).exists():
                path.rename(folder / path.name)


def _extract(archive: Path, folder: str) -> None:
    """Unpacks an archive when each of its members has been looked at."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            check_members(archive, map(_zip_member, packed.infolist()))
            packed.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            check_members(archive, map(_tar_member, read_members(tar)))
            tar.extractall(folder, filter="data")


@dataclass(frozen=True, kw_only=True)
class Member:
    """What an archive says of one of its members.

    Attributes:
        plain: whether it is a file or a folder, and no link, device or locked file.
    """

    name: str
    size: int
    plain: bool


def _zip_member(info: zipfile.ZipInfo) -> Member:
    kind = stat.S_IFMT(info.external_attr >> 16)
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not info.flag_bits & _ENCRYPTED
    return Member(name=info.filename, size=info.file_size, plain=plain)


def _tar_member(info: tarfile.TarInfo) -> Member:
    plain = (info.isreg() and info.sparse is None) or info.isdir()
    return Member(name=info.name, size=info.size, plain=plain)


def check_members(archive: Path, members: Iterable[Member]) -> None:
    """Looks at each member of an archive before one is unpacked.

    Raises:
        CorruptData: a name climbs out, is none or comes twice, a member is a link, a device or
            locked, or all together are said to be far larger than the archive.
    """
    seen: set[str] = set()
    left = max(_SMALL_BYTES, _MOST_EXPANDED * archive.stat().st_size)
    for member in members:
        check_inside(member.name, str(archive))
        if member.name in seen:
            raise CorruptData(f"{archive}: {member.name} must be in it once")
        seen.add(member.name)
        if not member.plain:
            raise CorruptData(f"{archive}: {member.name} must be a plain file, without a password")
        left -= member.size
        if left < 0:
            raise CorruptData(
                f"{archive} must be at most {_MOST_EXPANDED} times as large unpacked; it says "
                f"that {member.name} has {member.size:,} bytes"
            )
