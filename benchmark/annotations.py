"""Annotation files of data sets, with one clear error for each way in which they can be wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.images import EXTENSIONS


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        MissingData: it is not there.
        CorruptData: it is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingData(f"no annotations at {path}") from error
    except ValueError as error:
        raise CorruptData(f"{path} is no JSON ({error}); fetch it again") from error


def read_rows(path: Path, fields: Mapping[str, type]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSON list with their row numbers, from 1.

    Raises:
        CorruptData: it is no list of objects, or a row lacks a field or has it of another type.
    """
    rows = read_json(path)
    if not isinstance(rows, list):
        raise CorruptData(f"{path} holds no list")
    for number, row in enumerate(rows, start=1):
        for name, kind in fields.items():
            if not isinstance(row, dict) or not isinstance(row.get(name), kind):
                raise CorruptData(f"{path}, row {number}: no {kind.__name__} {name!r}")
        yield number, row


def image_files(folder: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """Name → file `name.jpg`, `name.png` or alike in a flat folder; a .jpg before a .png.

    Raises:
        MissingData: some are not there; says how many, and the first.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS:
            files.setdefault(path.stem, path)
    missing = [name for name in names if name not in files]
    if missing:
        raise MissingData(
            f"{len(missing):,} of {len(names):,} images are not in {folder}, the first is "
            f"{missing[0]}; a gallery that is not whole gives other numbers"
        )
    return {name: files[name] for name in names}


def row_of(gallery: Mapping[str, int], name: str, path: Path, number: int) -> int:
    """The gallery row of an image that an annotation names.

    Raises:
        CorruptData: it is not in the gallery.
    """
    if name not in gallery:
        raise CorruptData(f"{path}, row {number}: {name} is not in the gallery")
    return gallery[name]


def numbered(names: Sequence[str], path: Path) -> dict[str, int]:
    """Name → its place.

    Raises:
        CorruptData: a name occurs twice.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if places.setdefault(name, place) != place:
            raise CorruptData(f"{path}: {name} is listed twice")
    return places
