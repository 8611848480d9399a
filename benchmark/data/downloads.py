"""Fetching what may be fetched: resumed where it broke off, checked, and unpacked safely."""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

from cirbench.benchmark.api.task import Download
from cirbench.benchmark.runtime.archives import read_commit, unpack
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.progress import Reporter

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 60
PART = ".part"
"""What a file's name ends in while it is fetched."""


def fetch(download: Download, root: Path, reporter: Reporter) -> str:
    """Fetch a file unless it is there, and unpack an archive; give a line about it.

    Raises:
        MissingData: it can't be fetched; what has come so far is kept and gone on from.
        CorruptData: it has another checksum, or a path in an archive leaves its folder.
    """
    path = root / download.path
    if download.makes and (root / download.makes).exists():
        return f"{root / download.makes}: there"
    if path.exists():
        check_checksum(path, download.checksum)
        said = f"{path}: there"
    else:
        part = path.with_name(f"{path.name}{PART}")
        try:
            fetch_part(download.url, part, reporter)
        except MissingData as error:
            raise MissingData(
                f"{error}; run the same command again to resume, or put the file at {path} yourself"
            ) from error
        check_checksum(part, download.checksum)
        part.replace(path)
        said = f"{path}: fetched from {download.url}"
    if download.makes:
        unpack(path, path.parent)
        said += ", unpacked"
    return said + ("" if download.checksum else " (no checksum is published)")


def fetch_part(url: str, part: Path, reporter: Reporter) -> None:
    """Fetch a file into `part`, or what of it is not there yet.

    Raises:
        MissingData: it can't be fetched; what has come so far is kept.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            resumed = answer.status == 206
            length = int(answer.headers.get("Content-Length") or 0)
            part.parent.mkdir(parents=True, exist_ok=True)
            with (
                part.open("ab" if resumed else "wb") as file,
                reporter.stage(part.name.removesuffix(PART), length) as stage,
            ):
                while chunk := answer.read(_CHUNK_BYTES):
                    file.write(chunk)
                    stage.advance(len(chunk))
                    length -= len(chunk)
            if length > 0:  # an answer that is read in chunks may end early without an error
                raise ConnectionError(f"the connection broke off {length:,} bytes before the end")
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is left to fetch
            return
        raise MissingData(f"GET {url} returned {error.code} {error.reason}") from error
    except (OSError, HTTPException) as error:
        raise MissingData(f"{url} cannot be fetched ({error})") from error


def check_checksum(path: Path, checksum: str | None) -> None:
    """Compare a file with a checksum as `Download` has it.

    Raises:
        CorruptData: they differ; a file that was just fetched is removed.
    """
    if checksum is None:
        return
    algorithm, _, wanted = checksum.partition(":")
    if algorithm == "git-commit":
        found = read_commit(path)
    else:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, algorithm).hexdigest()
    if found != wanted:
        if path.suffix == PART:
            path.unlink()
        raise CorruptData(f"{path} must have {algorithm} {wanted}, got {found}; fetch it again")
