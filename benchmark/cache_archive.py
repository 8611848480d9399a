"""Spaces of the store as one archive, to carry from a machine to another."""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cirbench.benchmark.cache import Stored, stored, verify
from cirbench.benchmark.downloads import unpack
from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.files import written_whole
from cirbench.benchmark.store import KEY_DIGITS, key_of, unwritable


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
        CorruptData: it is no archive of a store, or a shard in it was cut or altered or lies in
            another space's folder; nothing is added then.
        UsageError: the store can't be written.
    """
    if not archive.is_file():
        raise MissingData(f"{archive} is not there; bench cache export makes such a file")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=root, prefix=".import-") as temporary:
            unpack(archive, Path(temporary))
            entries = _checked(archive, Path(temporary))
            for entry in entries:
                _move(entry, root / "embeddings" / entry.key)
    except OSError as error:
        raise unwritable(root, error) from error
    return entries


def _checked(archive: Path, root: Path) -> list[Stored]:
    entries = stored(root)
    if not entries:
        raise CorruptData(f"{archive} holds no embeddings; bench cache export makes such a file")
    for entry in entries:
        if key_of(entry.space)[:KEY_DIGITS] != entry.key:
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
    for path in entry.shards:
        path.replace(folder / path.name)
