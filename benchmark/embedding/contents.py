"""The sha256 of pictures' contents, remembered for files that have not changed since.

A remembered hash is used only if size, mtime (which anyone can set back), ctime (which nobody can)
and inode match, and if the file was already older than two seconds when it was hashed: a file
written again within the clock's grain could look the same. In doubt it is hashed again. What is
remembered of a folder of pictures is one small file: the sha256 of what follows, and JSON. Two
processes that write it at once lose nothing but time.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.embedding.folders import explain_write_errors
from cirbench.benchmark.images.reading import split_into_chunks
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.files import read_regular_file, sha256_of_file, write_whole
from cirbench.benchmark.runtime.progress import Stage

SETTLED_NANOSECONDS = 2_000_000_000
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Another user's memory may not be written; what it lacks is hashed again next time."""
_AT_ONCE = 32
"""Pictures a thread is given; one by one, the giving would take longer than a look at a file."""

Mark = list[int | str]
"""Size, times of change of content and of inode in nanoseconds, inode, sha256."""


@dataclass(kw_only=True)
class ContentHashes:
    """Hashes of pictures, remembered below `root`; new ones are not if it is `read_only`."""

    root: Path
    read_only: bool = False
    _known: dict[Path, dict[str, Mark]] = field(default_factory=dict)
    _changed: set[Path] = field(default_factory=set)

    def hash_pictures(self, refs: Sequence[ImageRef], stage: Stage, workers: int) -> list[str]:
        """Hash each picture, in order.

        Raises:
            MissingData: a picture can't be read; the message names it.
        """
        for folder in {ref.path.parent for ref in refs if ref.path}:
            self._known.setdefault(folder, self._load(folder))
        hashes = []
        with ThreadPoolExecutor(max_workers=workers) as pool:
            for found in pool.map(
                lambda some: list(map(self._hash_picture, some)), split_into_chunks(refs, _AT_ONCE)
            ):
                hashes += found
                stage.advance(len(found))
        self._save()
        return hashes

    def _hash_picture(self, ref: ImageRef) -> str:
        try:
            if ref.path is None:
                return hashlib.sha256(ref.read()).hexdigest()
            return self._hash_file(ref.path)
        except OSError as error:
            raise MissingData(
                f"picture {ref.id}: {error.filename} cannot be read ({error.strerror})"
            ) from error

    def _hash_file(self, path: Path) -> str:
        state = path.stat()
        seen: Mark = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        known = self._known[path.parent].get(path.name)
        if known and known[:-1] == seen:
            return str(known[-1])
        sha256 = sha256_of_file(path)
        if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > SETTLED_NANOSECONDS:
            self._known[path.parent][path.name] = [*seen, sha256]
            self._changed.add(path.parent)
        return sha256

    def _find_file(self, folder: Path) -> Path:
        return self.root / "contents" / f"{_hash_text(str(folder.absolute()))[:32]}.txt"

    def _load(self, folder: Path) -> dict[str, Mark]:
        """What is remembered of a folder; nothing if the file is not as it was written."""
        try:
            sha256, _, text = read_regular_file(self._find_file(folder)).decode().partition("\n")
        except (OSError, ValueError):
            return {}
        marks: dict[str, Mark] = json.loads(text) if _hash_text(text) == sha256 else {}
        return marks

    def _save(self) -> None:
        if self.read_only:
            return
        with explain_write_errors(self.root):
            for folder in self._changed:
                text = json.dumps(self._known[folder], sort_keys=True)
                try:
                    with write_whole(self._find_file(folder)) as temporary:
                        temporary.write_text(f"{_hash_text(text)}\n{text}", encoding="utf-8")
                except OSError as error:
                    if error.errno not in _FORBIDDEN:
                        raise
        self._changed.clear()


def _hash_text(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def fingerprint_pictures(refs: Sequence[ImageRef], sha256: Mapping[str, str]) -> str:
    """sha256 over the ids and the contents of pictures, in their order.

    Args:
        sha256: picture's id → that of its file.
    """
    digest = hashlib.sha256()
    for ref in refs:
        digest.update(f"{ref.id}|{sha256[ref.id]}\n".encode())
    return digest.hexdigest()
