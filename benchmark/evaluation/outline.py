"""Names and shapes of the weights in a file, read in milliseconds: no weights, and no torch."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

_MOST_BYTES = 1 << 26
"""Of names and shapes. A CLIP with its optimizer's state has one megabyte of them."""
_MOST_LEVELS = 8
_BEFORE_CONTENT = 3
"""Pickles before the content in a file of torch before 1.6: magic number, version, machine."""


def read_outline(path: Path) -> Mapping[str, tuple[int, ...]]:
    """Read name → shape of a .safetensors file, or of what `torch.save` wrote.

    Nothing of a pickle is run. A name in a name is joined to it by a dot. Of what is no file of
    weights, or is damaged, there is nothing.
    """
    try:
        with path.open("rb") as file:
            if path.suffix == ".safetensors":
                return _read_safetensors(file)
            return dict(_walk(_read_pickle(file), ""))
    except Exception:  # a damaged pickle or archive makes its reader raise anything
        return {}


def _read_safetensors(file: BinaryIO) -> dict[str, tuple[int, ...]]:
    [length] = struct.unpack("<Q", file.read(8))
    header = json.loads(file.read(min(length, _MOST_BYTES)))
    return {name: tuple(found["shape"]) for name, found in header.items() if "shape" in found}


def _read_pickle(file: BinaryIO) -> object:
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            [name] = [one for one in archive.namelist() if one.endswith("/data.pkl")]
            if archive.getinfo(name).file_size > _MOST_BYTES:
                return None
            with archive.open(name) as content:
                return _OutlineUnpickler(content).load()
    file.seek(0)
    for _ in range(_BEFORE_CONTENT):
        _OutlineUnpickler(file).load()
    return _OutlineUnpickler(file).load()


def _walk(content: object, prefix: str, level: int = 0) -> Iterator[tuple[str, tuple[int, ...]]]:
    if isinstance(content, _Shape):
        yield prefix, content.sizes
    elif isinstance(content, Mapping) and level < _MOST_LEVELS:
        for name, inner in content.items():
            yield from _walk(inner, f"{prefix}.{name}" if prefix else str(name), level + 1)


class _Shape:
    """Stands for a tensor."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes


class _Nothing:
    """Stands for whatever else a pickle names, and does nothing."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _shape_of(_storage: object, _offset: int, sizes: tuple[int, ...], *_more: object) -> _Shape:
    return _Shape(tuple(int(size) for size in sizes))


def _first(content: object, *_more: object) -> object:
    return content


_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _shape_of,
    ("torch._utils", "_rebuild_parameter"): _first,
}


class _OutlineUnpickler(pickle.Unpickler):
    """Gives a stand-in for each name, so that nothing that a pickle names is run."""

    def find_class(self, module: str, name: str) -> Any:
        return _STAND_INS.get((module, name), _Nothing)

    def persistent_load(self, pid: object) -> None:
        """Leave out the weights themselves."""
