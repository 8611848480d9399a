"""What the store of embeddings holds, for a person: list, verify, prune."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirbench.benchmark.embedding.encoding_code import hash_own_code
from cirbench.benchmark.embedding.folders import DESCRIPTION, list_shards
from cirbench.benchmark.embedding.shard import check_shard, read_shard
from cirbench.benchmark.embedding.space import compute_key, find_libraries
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.files import read_regular_file

_HOUR_SECONDS = 3_600
_DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class StoredSpace:
    """A stored space of embeddings, on disk.

    Attributes:
        space: its description, as `space.Space` has it; empty where it can't be read.
        used: when a run last opened it, in seconds since 1970.
    """

    folder: Path
    space: dict[str, Any]
    shards: tuple[Path, ...]
    bytes: int
    used: float

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def is_current(self) -> bool:
        """Whether this version of our code and of the libraries could use it."""
        ours = {"code": hash_own_code(), "packages": find_libraries()}
        return all(self.space.get(name) == value for name, value in ours.items())

    def rows(self) -> int | None:
        """How many embeddings there are, by the shards' headers; None where one is damaged."""
        try:
            return sum(len(read_shard(path).identities) for path in self.shards)
        except CorruptData:
            return None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "key": self.key,
            "folder": str(self.folder),
            "shards": len(self.shards),
            "rows": self.rows(),
            "bytes": self.bytes,
            "used": self.used,
            "current": self.is_current,
            **self.space,
        }


def list_spaces(root: Path) -> list[StoredSpace]:
    """Every space below the cache folder, the one used last first."""
    found = []
    for folder in sorted((root / "embeddings").glob("[!.]*")):
        key, shards = folder / DESCRIPTION, list_shards(folder)
        if shards or os.path.lexists(key):
            used = (key if os.path.lexists(key) else folder).lstat().st_mtime
            size = sum(shard.lstat().st_size for shard in shards)
            found.append(
                StoredSpace(
                    folder=folder, space=_describe(key), shards=tuple(shards), bytes=size, used=used
                )
            )
    return sorted(found, key=lambda entry: -entry.used)


def _describe(path: Path) -> dict[str, Any]:
    try:
        space = json.loads(read_regular_file(path))
    except (OSError, ValueError, RecursionError):
        return {}  # `verify_spaces` says so
    return space if isinstance(space, dict) else {}


def find_space(root: Path, key: str) -> StoredSpace:
    """Find the space whose key begins with `key`.

    Raises:
        UsageError: none does, or several do.
    """
    matching = [entry for entry in list_spaces(root) if entry.key.startswith(key)]
    if len(matching) != 1:
        raise UsageError(
            f"the beginning of a key must fit one space, got {key!r}, which fits "
            f"{len(matching)}; bench cache ls lists them"
        )
    return matching[0]


def verify_spaces(
    entries: Sequence[StoredSpace], sample: int | None
) -> Iterator[tuple[Path, str | None]]:
    """Read descriptions and shards, all or a sample of each space: path and what is wrong with it,
    if anything."""
    for entry in entries:
        description = entry.folder / DESCRIPTION
        if os.path.lexists(description) and compute_key(entry.space) != entry.key:
            yield description, f"{description} must be the description whose hash names its folder"
        shards = list(entry.shards)
        if sample is not None and sample < len(shards):
            shards = random.sample(shards, sample)
        for path in shards:
            try:
                shard = check_shard(path, entry.key, entry.space)
                shard.read(range(len(shard.identities)))
            except CorruptData as error:
                yield path, str(error)
            else:
                yield path, None


def find_leftovers(root: Path) -> list[Path]:
    """Unfinished files of runs that were killed; those of the last hour may be in work."""
    kinds = (".import-*", ".cirbench-*", "*/.*.json", "*/*/.*.json", "*/*/.*.safetensors")
    unfinished = (path for kind in kinds for path in sorted(root.glob(kind)))
    return [path for path in unfinished if time.time() - path.lstat().st_mtime > _HOUR_SECONDS]


def choose_to_prune(
    entries: Sequence[StoredSpace], *, older_than_days: float | None, max_bytes: int | None
) -> list[StoredSpace]:
    """The spaces to remove: unused for so long, then the least recently used ones that are over."""
    now = time.time()
    age = None if older_than_days is None else older_than_days * _DAY_SECONDS
    chosen, kept_bytes = [], 0
    for entry in sorted(entries, key=lambda entry: -entry.used):
        too_old = age is not None and now - entry.used > age
        too_much = max_bytes is not None and kept_bytes + entry.bytes > max_bytes
        if too_old or too_much:
            chosen.append(entry)
        else:
            kept_bytes += entry.bytes
    return chosen
