"""Spaces of the store as one archive, to carry from a machine to another."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from cirbench.benchmark.embedding.folders import DESCRIPTION, IMPORTED, explain_write_errors
from cirbench.benchmark.embedding.housekeeping import StoredSpace, list_spaces, verify_spaces
from cirbench.benchmark.embedding.space import compute_key
from cirbench.benchmark.runtime.archives import read_members
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import temporary_folder, write_whole

_NAME = re.compile(r"embeddings/[0-9a-f]+/(key\.json|[0-9a-f]+\.safetensors)")
"""Of every member that `export_spaces` writes."""


def export_spaces(entries: Sequence[StoredSpace], output: Path) -> None:
    """Write spaces into one uncompressed .tar; the same spaces give the same bytes."""
    with write_whole(output) as temporary, tarfile.open(temporary, "w") as tar:
        for entry in sorted(entries, key=lambda entry: entry.key):
            for path in (entry.folder / DESCRIPTION, *entry.shards):
                member = tar.gettarinfo(path, f"embeddings/{entry.key}/{path.name}")
                member.mtime, member.mode = 0, 0o644
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                with path.open("rb") as file:
                    tar.addfile(member, file)


def import_spaces(archive: Path, root: Path) -> list[StoredSpace]:
    """Add an archive's spaces to the store; give them as they came.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is not an archive of a store, or a shard in it was cut or altered, holds
            numbers that are not finite, or lies in another space's folder; nothing is added then.
        UsageError: the store can't be written.
    """
    if not archive.is_file():
        raise MissingData(f"{archive} does not exist; bench cache export makes such a file")
    try:
        file = archive.open("rb")
    except OSError as error:
        raise MissingData(f"{archive} cannot be read ({error.strerror})") from error
    with file, explain_write_errors(root), temporary_folder(root) as temporary:
        _unpack(archive, file, temporary)
        entries = _check(archive, list_spaces(temporary))
        for entry in entries:
            _add_shards(entry, root / "embeddings" / entry.key)
    return entries


def _unpack(archive: Path, file: BinaryIO, folder: Path) -> None:
    """Unpack an archive of which every member is what `export_spaces` writes.

    Uncompressed and without holes it can't hold more than its own size; links and other names are
    refused before anything is unpacked.
    """
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in read_members(tar):
                plain = member.isreg() and not member.issparse() and member.name not in seen
                if not (plain and _NAME.fullmatch(member.name)):
                    raise CorruptData(
                        f"{archive}: every member must be a plain file of a store and occur once, "
                        f"got {member.name!r}; bench cache export makes such a file"
                    )
                seen.add(member.name)
            tar.extractall(folder, filter="data")
    except (tarfile.TarError, ValueError) as error:  # ValueError: numbers that are none
        raise CorruptData(
            f"{archive} must be a whole, uncompressed tar file ({error}); bench cache export makes "
            f"one"
        ) from error


def _check(archive: Path, entries: list[StoredSpace]) -> list[StoredSpace]:
    if not entries:
        raise CorruptData(f"{archive} must hold embeddings; bench cache export makes such a file")
    for entry in entries:
        if compute_key(entry.space) != entry.key:
            raise CorruptData(
                f"{archive}: the name of the folder {entry.key} must be the hash of the "
                f"{DESCRIPTION} in it"
            )
        if not str(entry.space.get("backbone")).isprintable():
            raise CorruptData(f"{archive}: the backbone's name in {entry.key} must be printable")
    for _, fault in verify_spaces(entries, None):
        if fault:
            raise CorruptData(f"{archive}: {fault}")
    return entries


def _add_shards(entry: StoredSpace, folder: Path) -> None:
    """Add a space's shards as imported ones, so that records can tell of them."""
    (folder / IMPORTED).mkdir(parents=True, exist_ok=True)
    if not (folder / DESCRIPTION).exists():
        (entry.folder / DESCRIPTION).replace(folder / DESCRIPTION)
    for path in entry.shards:
        if not (folder / path.name).exists():
            path.replace(folder / IMPORTED / path.name)
