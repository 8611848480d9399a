"""A shard: one file of embeddings of a space, and the names that rows are found by.

A safetensors file of at most 4,096 rows, named by the sha256 of its own bytes and put in place by a
rename: a shard that is there is whole, and one that was altered no longer has its name.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from cirbench.benchmark.embedding.space import KEY_DIGITS, hash_text
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import check_regular, sha256_of_file, write_whole

SHARD_ROWS = 4096
_NUMBER_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A shard's header.

    Attributes:
        space: the text of the space that its rows are of.
        identities: what its rows are found by, in order.
        width: of a row, in numbers.
        start: the byte at which the rows begin.
    """

    path: Path
    space: str
    identities: tuple[str, ...]
    width: int
    start: int

    def read(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """(len(rows), width) float32; no other row is read.

        Raises:
            CorruptData: the file is not there any more, or a number in it is not finite.
        """
        values = np.empty((len(rows), self.width), np.float32)
        size = self.width * _NUMBER_BYTES
        try:
            with self.path.open("rb", buffering=0) as file:
                for row, place in zip(rows, values, strict=True):
                    if os.preadv(file.fileno(), [place.data], self.start + row * size) != size:
                        raise make_damage_error(self.path, "it is truncated")
        except OSError as error:
            raise make_damage_error(self.path, str(error.strerror)) from error
        if not np.isfinite(values).all():
            raise make_damage_error(self.path, "its numbers must be finite")
        return values


def write_shard(
    folder: Path, space: str, identities: Sequence[str], values: NDArray[np.float32]
) -> Shard:
    """Put (len(identities), C) float32 rows into a folder as one shard."""
    header = {"space": space, "identities": list(identities)}
    content = save(
        {"values": np.ascontiguousarray(values)},
        {"cirbench": json.dumps(header, sort_keys=True, separators=(",", ":"))},
    )
    path = folder / f"{hashlib.sha256(content).hexdigest()[:KEY_DIGITS]}.safetensors"
    with write_whole(path) as temporary:
        temporary.write_bytes(content)
    return read_shard(path)


def check_shard(path: Path, key: str, space: Mapping[str, Any]) -> Shard:
    """Read a shard, and check that its bytes fit its name, and its space the folder.

    Args:
        key: of that space.
        space: its description, as far as it is known.

    Raises:
        CorruptData: it is altered, not a shard, or of another space; its numbers are not looked at.
    """
    try:
        check_regular(path, path.stat())
        sha256 = sha256_of_file(path)
    except OSError as error:
        raise make_damage_error(path, str(error.strerror)) from error
    if sha256[:KEY_DIGITS] != path.stem:
        raise make_damage_error(path, "it is truncated or altered")
    shard = read_shard(path)
    if hash_text(shard.space) != key:
        raise make_damage_error(
            path, f"it belongs to another space{_list_differences(shard.space, space)}"
        )
    if space.get("width") not in (None, shard.width):
        raise make_damage_error(
            path, f"its rows must have {space['width']} numbers, got {shard.width}"
        )
    return shard


def _list_differences(found: str, space: Mapping[str, Any]) -> str:
    try:
        theirs = json.loads(found)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(theirs, dict):
        return ""
    differences = [
        f"{name} {theirs[name]} instead of {value}"
        for name, value in space.items()
        if name in theirs and theirs[name] != value
    ]
    return f": {', '.join(differences)}" if differences else ""


def read_shard(path: Path) -> Shard:
    """Read a shard's header.

    Raises:
        CorruptData: the header is not that of a shard.
    """
    try:
        check_regular(path, path.stat())
        with path.open("rb") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
        with safe_open(path, framework="np") as file:
            names, header = list(file.keys()), json.loads((file.metadata() or {})["cirbench"])
            values = file.get_slice("values")
            shape, kind = values.get_shape(), values.get_dtype()
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise make_damage_error(path, str(error)) from error
    if names != ["values"] or not _is_header(header):
        raise make_damage_error(path, "its header must be that of a shard")
    count = len(header["identities"])
    if kind != "F32" or len(shape) != 2 or shape[0] != count:
        raise make_damage_error(
            path, f"it must hold a row of float32 for each of its {count} names, got {shape} {kind}"
        )
    return Shard(
        path=path,
        space=header["space"],
        identities=tuple(header["identities"]),
        width=int(shape[1]),
        start=start,
    )


def _is_header(header: Any) -> bool:
    return (
        isinstance(header, dict)
        and isinstance(header.get("space"), str)
        and isinstance(header.get("identities"), list)
        and all(isinstance(name, str) for name in header["identities"])
    )


def make_damage_error(path: Path, why: str) -> CorruptData:
    """Make the error for a shard that cannot be used."""
    return CorruptData(
        f"the shard of embeddings {path} cannot be used: {why}; bench cache verify --repair "
        "removes all such shards, and the next run computes their rows again"
    )
