"""Annotation files of data sets, with one clear error for each way in which they can be wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cirbench.benchmark.decoding import EXTENSIONS
from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.files import sha256_of_file


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


def sha256_by_name(files: Sequence[Path]) -> dict[str, str]:
    """File name → sha256, for `TaskData.annotations`."""
    return {path.name: sha256_of_file(path) for path in files}


def check_inside(relative: str, origin: str) -> str:
    """A path from an annotation, which must not leave the folder that it is relative to.

    Raises:
        CorruptData: it is absolute or climbs.
    """
    if relative.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", relative):
        raise CorruptData(f"{origin}: the path {relative} leaves its folder")
    return relative


def image_files(folder: Path, names: Sequence[str], origin: Path) -> Mapping[str, Path]:
    """Name → file `name.jpg`, `name.png` or alike in a flat folder; a .jpg before a .png.

    A name that no file answers gets the path of a .jpg that is not there; see `absent`.

    Raises:
        CorruptData: a name climbs out of the folder.
    """
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in EXTENSIONS:
            files.setdefault(path.stem, path)
    return {
        name: files.get(name) or folder / f"{check_inside(name, str(origin))}.jpg" for name in names
    }


def with_any_ending(path: Path) -> Path:
    """The file, or one of the same name with another picture's ending where that is there."""
    if path.is_file():
        return path
    others = (path.with_suffix(ending) for ending in sorted(EXTENSIONS))
    return next((other for other in others if other.is_file()), path)


def absent(files: Mapping[str, Path]) -> dict[str, str]:
    """Name → path, of the files that are not there, for `TaskData.missing`."""
    return {name: str(path) for name, path in files.items() if not path.is_file()}


def check_none_missing(what: str, missing: Mapping[str, str]) -> None:
    """For training, where nothing may be left out.

    Raises:
        MissingData: some are not there; says how many, and the first.
    """
    if missing:
        name, path = next(iter(missing.items()))
        raise MissingData(f"{len(missing):,} {what} are not there, the first is {name} ({path})")


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
