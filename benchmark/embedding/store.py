"""Embeddings on disk, addressed by content: no picture is encoded twice by the same tower.

A *space* (`space.py`) is everything that can change a vector besides the picture. It has a folder,
named by the sha256 of its description, which lies beside the data as `key.json` and in every shard,
and is compared when a shard is read. In a space, a row is found by the content of its picture,
wherever that lies and whatever it is called.

A run that is killed loses the shard in work. Processes that want the same rows wait for each other
by a lock that dies with its holder. Where the file system has no such locks, or the holder goes on
for an hour, two do the same work: a shard is named by its content, so nothing is lost.

The number of threads and the batch size are no part of a space, though they move a vector's last
digits (up to 4e-6 was seen): the same bytes come from the same kind of machine with the same number
of threads and the same batches. A record says how many threads there were.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path

import torch
from filelock import BaseFileLock, FileLock, Timeout
from torch import Tensor

from cirbench.benchmark.api.values import Box, Mode, Surroundings
from cirbench.benchmark.embedding.folders import (
    DESCRIPTION,
    IMPORTED,
    explain_write_errors,
    list_shards,
)
from cirbench.benchmark.embedding.shard import Shard, check_shard, write_shard
from cirbench.benchmark.embedding.space import Space
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import remove, write_whole

_WAITED_SECONDS = (5, 55, 540, 3000)
"""How long a lock is waited for before each word about it; after the last, nobody waits."""


def make_identity(content_sha256: str, box: Box | None = None) -> str:
    """Name a row by the picture's content, and by the part of it that is embedded."""
    if box is None:
        return content_sha256
    if isinstance(box, Surroundings):
        return f"{content_sha256}@around {box.left},{box.upper},{box.width},{box.height}"
    return f"{content_sha256}@{','.join(map(str, box))}"


class Store:
    """The rows of one space.

    Attributes:
        imported: what was asked for and came from another machine.

    Raises (everywhere a shard is read):
        CorruptData: a shard is cut, altered or of another space; the message names it.
    """

    def __init__(self, root: Path, space: Space, mode: Mode = Mode.USE) -> None:
        self.space, self.mode = space, mode
        self.folder = root / "embeddings" / space.key
        self.imported: set[str] = set()
        self._places: dict[str, tuple[Shard, int]] = {}
        self._read: set[Path] = set()
        self._changed: list[int] | None = None
        self._kept: dict[str, Tensor] = {}
        if mode in (Mode.USE, Mode.REFRESH):
            self._create()

    def _create(self) -> None:
        key = self.folder / DESCRIPTION
        if not key.exists():
            with explain_write_errors(self.folder), write_whole(key) as temporary:
                temporary.write_text(
                    json.dumps(asdict(self.space), indent=2, sort_keys=True), encoding="utf-8"
                )
        with suppress(OSError):  # another user's space can be read all the same
            os.utime(key)

    def find_missing(self, identities: Sequence[str]) -> list[str]:
        """Find those without a row, each once, in order, also in new shards of other processes."""
        if lacked := self._find_lacked(identities):
            self._look_for_new()
            lacked = self._find_lacked(lacked)
        return lacked

    def _find_lacked(self, identities: Sequence[str]) -> list[str]:
        distinct = dict.fromkeys(identities)
        return [name for name in distinct if name not in self._places and name not in self._kept]

    def forget(self, identities: Sequence[str]) -> None:
        """Remove the shards that hold any of these, so that they are computed anew."""
        self._look_for_new()
        for path in {self._places[name][0].path for name in identities if name in self._places}:
            with explain_write_errors(self.folder):
                path.unlink(missing_ok=True)
            self._read.discard(path)
            self._places = {n: p for n, p in self._places.items() if p[0].path != path}

    def forget_all(self) -> None:
        """Remove every shard of the space."""
        self._look_for_new()
        self.forget(list(self._places))

    def read_rows(self, identities: Sequence[str]) -> Tensor:
        """(len(identities), C) float32."""
        found = {name: self._kept[name] for name in identities if name in self._kept}
        wanted: dict[Path, list[str]] = {}
        for name in dict.fromkeys(identities):
            if name not in found:
                wanted.setdefault(self._places[name][0].path, []).append(name)
        for path, names in wanted.items():
            shard = self._places[names[0]][0]
            rows = torch.from_numpy(shard.read([self._places[name][1] for name in names]))
            found.update(zip(names, rows, strict=True))
            if path.parent.name == IMPORTED:
                self.imported.update(names)
        return torch.stack([found[name] for name in identities])

    def add(self, identities: Sequence[str], values: Tensor) -> None:
        """Store (len(identities), C) float32 rows as one shard, or keep them for this run."""
        if self.mode is Mode.READ_ONLY:
            self._kept.update(zip(identities, values, strict=True))
            return
        with explain_write_errors(self.folder):
            self._index(write_shard(self.folder, self.space.canonical, identities, values.numpy()))

    @contextmanager
    def reserve(
        self, identities: Sequence[str], say: Callable[[str], None] | None = None
    ) -> Iterator[None]:
        """Reserve rows, so that no other process computes them; a dead process holds no lock.

        Args:
            say: told how long another process has been waited for.

        Raises:
            UsageError: the rows could not be stored, which is better found out before the work.
        """
        if self.mode is Mode.READ_ONLY:
            yield
            return
        if not os.access(self.folder, os.W_OK):
            with explain_write_errors(self.folder):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(self.folder))
        digest = hashlib.sha256("\n".join(identities).encode()).hexdigest()[:16]
        lock = FileLock(self.folder / f".{digest}.lock", fallback_to_soft=False)
        with ExitStack() as held:
            with suppress(OSError, NotImplementedError):  # a file system without locks
                held.enter_context(_wait_for(lock, say))
            yield

    def _look_for_new(self) -> None:
        """Read the shards that are new, if the folder has changed since it was listed."""
        changed = [
            place.stat().st_mtime_ns
            for place in (self.folder, self.folder / IMPORTED)
            if place.is_dir()
        ]
        if changed == self._changed:
            return
        self._changed = changed
        for path in list_shards(self.folder):
            if path not in self._read:
                try:
                    self._index(check_shard(path, self.space.key, asdict(self.space)))
                except CorruptData:
                    if self.mode is not Mode.REFRESH:
                        raise
                    with explain_write_errors(self.folder):
                        remove(path)

    def _index(self, shard: Shard) -> None:
        self._read.add(shard.path)
        for row, name in enumerate(shard.identities):
            self._places.setdefault(name, (shard, row))


def _wait_for(
    lock: BaseFileLock, say: Callable[[str], None] | None
) -> AbstractContextManager[object]:
    """Take a lock, or go on without it where another process has held it for an hour."""
    waited = 0
    for seconds in _WAITED_SECONDS:
        try:
            return lock.acquire(timeout=seconds)
        except Timeout:
            waited += seconds
            if say:
                say(
                    f"waited {waited} s for another process that computes the same embeddings "
                    f"(it holds {lock.lock_file})"
                )
    return nullcontext()
