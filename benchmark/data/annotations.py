"""Annotation files of data sets, with one clear error for each way in which they can be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.values import ImageRef, Query
from cirbench.benchmark.images.decoding import EXTENSIONS
from cirbench.benchmark.images.leftovers import list_folder
from cirbench.benchmark.images.vectors import VECTOR_ENDING
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.benchmark.runtime.parsing import read_json
from cirbench.benchmark.runtime.paths import check_inside


def read_names(path: Path) -> list[str]:
    """A JSON list of names.

    Raises:
        CorruptData: it is no such list.
    """
    names = read_json(path)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptData(f"{path} must be a list of image names, got {_describe(names)}")
    return names


def read_rows(path: Path, fields: Mapping[str, type]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSON list with their row numbers, from 1.

    Raises:
        CorruptData: it is no list of objects, or empty, or a row lacks a field or has it of
            another type.
    """
    return check_rows(read_json(path), fields, str(path))


def check_rows(
    rows: object, fields: Mapping[str, type], origin: str
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Check the rows of a part of a JSON file, which `origin` names; see `read_rows`."""
    if not isinstance(rows, list) or not rows:
        raise CorruptData(f"{origin} must be a non-empty list of rows, got {_describe(rows)}")
    for number, row in enumerate(rows, start=1):
        yield number, check_fields(row, fields, f"{origin}, row {number}")


def check_fields(row: object, fields: Mapping[str, type], origin: str) -> Mapping[str, Any]:
    """Check one row, which `origin` names.

    Raises:
        CorruptData: it is no object, or lacks a field or has it of another type.
    """
    if not isinstance(row, dict):
        raise CorruptData(f"{origin} must be an object, got {_describe(row)}")
    for name, kind in fields.items():
        if not _is_a(row.get(name), kind):
            raise CorruptData(
                f"{origin}: `{name}` must be {_KINDS[kind]}, got "
                f"{_describe(row[name]) if name in row else 'none'}"
            )
    return row


_KINDS = {str: "a text", int: "a whole number", list: "a list", dict: "an object"}


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _describe(value: object) -> str:
    return f"{value!r:.40}"


def hash_files(files: Sequence[Path]) -> dict[str, str]:
    """File name → sha256, for `TaskData.annotations`."""
    return {path.name: sha256_of_file(path) for path in files}


def find_image_files(folder: Path, names: Sequence[str], origin: Path) -> Mapping[str, Path]:
    """Name → file `name.jpg`, `name.png` or alike in a flat folder; a .jpg before a .png.

    Frozen features, `name.npy`, stand for a picture that has no file of its own.
    A name that no file answers gets the path of a .jpg that is not there; see `find_absent`.

    Raises:
        CorruptData: a name climbs out of the folder.
    """
    files: dict[str, Path] = {}
    vectors: dict[str, Path] = {}
    for path in list_folder(folder):
        if path.suffix.lower() in EXTENSIONS:
            files.setdefault(path.stem, path)
        elif path.suffix == VECTOR_ENDING:
            vectors[path.stem] = path
    files = {**vectors, **files}
    return {
        name: files.get(name) or folder / f"{check_inside(name, str(origin))}.jpg" for name in names
    }


def find_with_any_ending(path: Path) -> Path:
    """The file, or one of the same name with another picture's ending where that is there.

    Frozen features (.npy) stand for a picture that has no file of its own.
    """
    if path.is_file():
        return path
    others = (path.with_suffix(ending) for ending in (*sorted(EXTENSIONS), VECTOR_ENDING))
    return next((other for other in others if other.is_file()), path)


def find_absent(files: Mapping[str, Path]) -> dict[str, str]:
    """Name → path, of the files that are not there, for `TaskData.missing`."""
    return {name: str(path) for name, path in files.items() if not path.is_file()}


def remark_oddities(
    queries: Sequence[Query], gallery: Sequence[ImageRef], placeholder: str = "*"
) -> Iterator[str]:
    """What a reader of the numbers should know of the queries, each with its count."""
    found = {
        "have an empty text": [
            query.id for query in queries if not all(map(str.strip, query.fields.values()))
        ],
        f"have a {placeholder} of their own in the text, which is no placeholder": [
            query.id
            for query in queries
            if any(placeholder in text.split() for text in query.fields.values())
        ],
        "have their reference as target": [
            query.id
            for query in queries
            if query.reference.id in (gallery[row].id for row in query.positives)
        ],
    }
    for oddity, names in found.items():
        if names:
            more = " …" if len(names) > _NAMED else ""
            yield f"{len(names):,} queries {oddity}: {', '.join(names[:_NAMED])}{more}"


_NAMED = 5


def check_none_missing(what: str, missing: Mapping[str, str]) -> None:
    """Refuse missing pictures, as training does, which may leave nothing out.

    Raises:
        MissingData: some are not there; says how many, and the first.
    """
    if missing:
        name, path = next(iter(missing.items()))
        raise MissingData(f"{len(missing):,} {what} are missing, the first is {name} ({path})")


def find_row(gallery: Mapping[str, int], name: str, path: Path, number: int) -> int:
    """The gallery row of an image that an annotation names.

    Raises:
        CorruptData: it is not in the gallery.
    """
    if not isinstance(name, str) or name not in gallery:
        raise CorruptData(f"{path}, row {number}: {name} is not in the gallery")
    return gallery[name]


def number_names(names: Sequence[str], path: Path) -> dict[str, int]:
    """Map each name to its place in the list.

    Raises:
        CorruptData: a name occurs twice.
    """
    places: dict[str, int] = {}
    for place, name in enumerate(names):
        if places.setdefault(name, place) != place:
            raise CorruptData(f"{path}: {name} is listed twice")
    return places
