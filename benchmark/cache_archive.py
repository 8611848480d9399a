"""Spaces of the store as one archive, to carry from a machine to another."""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cirbench.benchmark.cache import Stored, stored, verify
from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.files import written_whole
from cirbench.benchmark.store import IMPORTED, KEY_DIGITS, key_of, read_imported, unwritable

_NAME = re.compile(r"embeddings/[0-9a-f]+/(key\.json|[0-9a-f]+\.safetensors)")
"""Of every member that `export` writes."""


def export(entries: Sequence[Stored], output: Path) -> None:
    """Writes spaces into one uncompressed .tar; the same spaces give the same bytes."""
    with written_whole(output) as temporary, tarfile.open(temporary, "w") as tar:
        for entry in sorted(entries, key=lambda entry: entry.key):
            for path in (entry.folder / "key.json", *entry.shards):
                member = tar.gettarinfo(path, f"embeddings/{entry.key}/{path.name}")
                member.mtime, member.mode = 0, 0o644
                member.uid = member.gid = 0
                member.uname = member.gname = ""
                with path.open("rb") as file:
                    tar.addfile(member, file)


def take_in(archive: Path, root: Path) -> list[Stored]:
    """Adds an archive's spaces to the store; gives them as they came.

    Raises:
        MissingData: there is no such file.
        CorruptData: it is not an archive of a store, or a shard in it was cut or altered, holds
            numbers that are not finite, or lies in another space's folder; nothing is added then.
        UsageError: the store can't be written.
    """
    if not archive.is_file():
        raise MissingData(f"{archive} is not there; bench cache export makes such a file")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".import-") as temporary:
            _unpack(archive, Path(temporary))
            entries = _checked(archive, Path(temporary))
            for entry in entries:
                _move(entry, root / "embeddings" / entry.key)
    except OSError as error:
        raise unwritable(root, error) from error
    return entries


def _unpack(archive: Path, folder: Path) -> None:
    """Unpacks an archive of which every member is what `export` writes.

    Uncompressed, it can't hold more than its own size, and links or other names are refused before
    anything is unpacked.
    """
    try:
        with tarfile.open(archive, "r:") as tar:
            members = tar.getmembers()
            for member in members:
                if not (member.isreg() and _NAME.fullmatch(member.name)):
                    raise CorruptData(
                        f"{archive}: every member must be a plain file of a store, got "
                        f"{member.name!r}; bench cache export makes such a file"
                    )
            for member in members:
                tar.extract(member, folder, filter="data")
    except tarfile.TarError as error:
        raise CorruptData(
            f"{archive} is not an uncompressed tar file ({error}); bench cache export makes one"
        ) from error


def _checked(archive: Path, root: Path) -> list[Stored]:
    entries = stored(root)
    if not entries:
        raise CorruptData(f"{archive} holds no embeddings; bench cache export makes such a file")
    for entry in entries:
        if not entry.space or key_of(entry.space)[:KEY_DIGITS] != entry.key:
            raise CorruptData(f"{archive}: {entry.key} is not the key of its key.json")
    faults = [fault for _, fault in verify(entries, None) if fault]
    if faults:
        raise CorruptData(f"{archive}: {faults[0]}")
    return entries


def _move(entry: Stored, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "key.json").exists():
        with written_whole(folder / "key.json") as temporary:
            temporary.write_text(
                json.dumps(entry.space, indent=2, sort_keys=True), encoding="utf-8"
            )
    new = {path.stem for path in entry.shards if not (folder / path.name).exists()}
    with written_whole(folder / IMPORTED) as temporary:
        names = sorted(read_imported(folder) | new)
        temporary.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    for path in entry.shards:
        path.replace(folder / path.name)
