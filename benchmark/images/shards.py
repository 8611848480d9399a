"""Pictures in webdataset shards (tar files of KEY.jpg, KEY.txt, KEY.json), read where they lie.

Each shard is indexed once by its headers; after that any picture is one seek away, so an epoch can
be shuffled over all shards and resumed in its middle, and nothing is unpacked. CC3M is handed out
in this form (img2dataset). Shards behind URLs are not read.
"""

from __future__ import annotations

import glob
import re
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import overload

import numpy as np

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.leftovers import NO_FILE, SkippedFiles, is_leftover
from cirbench.benchmark.images.reading import Say
from cirbench.benchmark.runtime.archives import read_members
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.parsing import say_nothing

_BESIDE = frozenset({".txt", ".json", ".cls", ".npy"})
"""Endings of what stands beside each picture, and is not counted as skipped."""


def find_shards(pattern: str) -> list[Path]:
    """The tar files of `shards/{00000..00331}.tar`, `shards/*.tar`, one file, or a folder.

    Raises:
        MissingData: there are none, or one of a range is not there.
    """
    if Path(pattern).is_dir():
        found = Path(pattern).glob("*.tar")
        return sorted(path for path in found if not is_leftover(path.name))
    paths: list[Path] = []
    for one in _expand_braces(pattern):
        matches = sorted(glob.glob(one))  # noqa: PTH207 - a pattern, not a folder
        if not matches and not glob.has_magic(one):  # at once, since a range may be endless
            raise MissingData(f"no shard at {one}")
        paths += map(Path, matches)
    if not paths:
        raise MissingData(f"no shard at {pattern}")
    return paths


def _expand_braces(pattern: str) -> Iterator[str]:
    """Expand `{000..012}` as the shell would."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}", pattern)
    if not match:
        yield pattern
        return
    first, last = match.groups()
    for number in range(int(first), int(last) + 1):
        yield from _expand_braces(
            f"{pattern[: match.start()]}{number:0{len(first)}}{pattern[match.end() :]}"
        )


class ShardImages(Sequence[ImageRef]):
    """The pictures of many shards, as numbers until one is asked for.

    Raises:
        CorruptData: a shard is no tar file, or cut short, or goes on behind its end.
        MissingData: no picture is in any.
    """

    def __init__(self, paths: Sequence[Path], say: Say = say_nothing) -> None:
        self.paths = tuple(paths)
        skipped = SkippedFiles()
        rows = [
            (i, *place)
            for i, path in enumerate(self.paths)
            for _, *place in index_tar(path, skipped)
        ]
        for remark in skipped.remarks():
            say(f"shards: {remark}")
        if not rows:
            raise MissingData(f"no pictures in {len(self.paths)} shards")
        self._places = np.array(rows, dtype=np.int64)  # (N, 3): shard, offset, bytes

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, row: int) -> ImageRef: ...
    @overload
    def __getitem__(self, row: slice) -> list[ImageRef]: ...
    def __getitem__(self, row: int | slice) -> ImageRef | list[ImageRef]:
        if isinstance(row, slice):
            return [self[i] for i in range(*row.indices(len(self)))]
        shard, offset, size = self._places[row].tolist()
        path = self.paths[shard]
        return ImageRef(id=f"{path.name}@{offset}", read=partial(read_at, path, offset, size))


def index_tar(path: Path, skipped: SkippedFiles) -> Iterator[tuple[str, int, int]]:
    """(name, offset, bytes) of each picture in a tar file.

    Raises:
        CorruptData: it is no tar file, or cut short, or goes on behind its end.
    """
    if not path.is_file():
        raise CorruptData(f"{path} must be a tar file, not a folder or a pipe")
    try:
        with tarfile.open(path, "r:") as tar:
            for member in read_members(tar):
                if member.isdir() or PurePosixPath(member.name).suffix in _BESIDE:
                    continue
                if not skipped.takes(member.name):
                    continue
                if member.isreg() and member.sparse is None:
                    yield member.name, member.offset_data, member.size
                else:
                    skipped.add(NO_FILE, member.name)
    except (tarfile.TarError, OSError, ValueError) as error:
        raise CorruptData(f"{path} must be a whole tar file ({error}); fetch it again") from error


def read_at(path: Path, offset: int, size: int) -> bytes:
    """So many bytes of a file."""
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)
