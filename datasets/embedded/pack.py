"""A pack: many small pictures in one file, and beside it a table of what each of them shows."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import sha256_of_file

TABLE, PICTURES = "pictures.csv", "pictures.safetensors"


@dataclass(frozen=True)
class Pack:
    """The pictures in a folder: `pictures.csv`, whose last column is each one's sha256, and
    `pictures.safetensors`, all files in a row and where each begins."""

    folder: Path

    @classmethod
    def of(cls, package: str) -> Pack:
        """The pack beside the modules of a package."""
        return cls(Path(str(files(package))))

    def read_rows(self) -> Sequence[Mapping[str, str]]:
        """What each picture shows, in the order in which they are packed."""
        with (self.folder / TABLE).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def read_bytes(self, index: int) -> bytes:
        """The file of a picture.

        Raises:
            CorruptData: the two files are not of one pack, or one of them is damaged.
        """
        data, offsets, hashes = _open(self)
        content: bytes = data[offsets[index] : offsets[index + 1]].tobytes()
        if hashlib.sha256(content).hexdigest() != hashes[index]:
            raise CorruptData(f"{_name(self)}: picture {index} is not the one that {TABLE} names")
        return content

    def hash_table(self) -> dict[str, str]:
        """The annotations of a task that reads this pack: its table → sha256."""
        return {TABLE: sha256_of_file(self.folder / TABLE)}


@cache
def _open(pack: Pack) -> tuple[Any, Any, Sequence[str]]:
    """(bytes,) uint8, (N + 1,) int64 and N hashes."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors = load_file(pack.folder / PICTURES)
    except (SafetensorError, OSError) as error:
        raise CorruptData(f"{_name(pack)} cannot be read: {error}") from error
    data, offsets = tensors["bytes"], tensors["offsets"]
    hashes = [row["sha256"] for row in pack.read_rows()]
    if len(offsets) != len(hashes) + 1 or offsets[-1] != len(data):
        raise CorruptData(
            f"{_name(pack)} holds {len(offsets) - 1:,} pictures, {TABLE} names {len(hashes):,}"
        )
    return data, offsets, hashes


def _name(pack: Pack) -> str:
    return f"{pack.folder / PICTURES} (install cirbench again where it is damaged)"
