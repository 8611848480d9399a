"""What the store of embeddings holds, for a person: list, verify, prune."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cirbench.benchmark.errors import CorruptData, UsageError
from cirbench.benchmark.store import check_place, encoding_packages, read_header

_HOUR_SECONDS = 3_600
_DAY_SECONDS = 86_400


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A space on disk.

    Attributes:
        space: its description, as `store.Space` has it; empty where it can't be read.
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
        return "code" in self.space and self.space.get("packages") == encoding_packages()

    def rows(self) -> int | None:
        """How many embeddings there are, by the shards' headers; None where one is damaged."""
        try:
            return sum(len(read_header(path)["identities"]) for path in self.shards)
        except CorruptData:
            return None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "key": self.key, "folder": str(self.folder), "shards": len(self.shards),
            "rows": self.rows(), "bytes": self.bytes, "used": self.used, **self.space,
        }  # fmt: skip


def stored(root: Path) -> list[Stored]:
    """Every space below the cache folder, the one used last first."""
    found = []
    for path in sorted((root / "embeddings").glob("*/key.json")):
        try:
            space = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, OSError, RecursionError):
            space = {}  # what is wrong with it, `verify` says
        space = space if isinstance(space, dict) else {}
        shards = tuple(sorted(path.parent.glob("[!.]*.safetensors")))
        size = sum(shard.lstat().st_size for shard in shards)
        used = path.lstat().st_mtime
        found.append(Stored(folder=path.parent, space=space, shards=shards, bytes=size, used=used))
    return sorted(found, key=lambda entry: -entry.used)


def find(root: Path, key: str) -> Stored:
    """The space whose key begins so.

    Raises:
        UsageError: none does, or several do.
    """
    matching = [entry for entry in stored(root) if entry.key.startswith(key)]
    if len(matching) != 1:
        raise UsageError(f"{len(matching)} keys begin with {key!r}; bench cache ls lists them")
    return matching[0]


def verify(entries: Sequence[Stored], sample: int | None) -> Iterator[tuple[Path, str | None]]:
    """Reads shards, all or a sample of each space: path and what is wrong with it, if anything."""
    for entry in entries:
        if not entry.space:
            yield entry.folder / "key.json", f"{entry.folder / 'key.json'} is not valid JSON"
        shards = list(entry.shards)
        if sample is not None and sample < len(shards):
            shards = random.sample(shards, sample)
        for path in shards:
            try:
                check_place(path)
            except CorruptData as error:
                yield path, str(error)
            else:
                yield path, None


def leftovers(root: Path) -> list[Path]:
    """Unfinished files of runs that were killed; those of the last hour may be in work."""
    unfinished = (
        *root.glob("*/*/.*.safetensors"),
        *root.glob("*/*/.*.json"),
        *root.glob("*/.*.json"),
    )
    return [path for path in unfinished if time.time() - path.stat().st_mtime > _HOUR_SECONDS]


def chosen_to_prune(
    entries: Sequence[Stored], *, older_than_days: float | None, max_bytes: int | None
) -> list[Stored]:
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
