"""The pictures of a task of one's own: a folder, an archive, or tables with their bytes."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.images.decoding import EXTENSIONS
from cirbench.benchmark.images.leftovers import SkippedFiles, walk_pictures
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.images.shards import index_tar, read_at
from cirbench.benchmark.runtime.archives import DAMAGED, check_zip
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.paths import check_inside, to_text
from cirbench.datasets.own.tables import Columns, find_tables


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Pictures by name, in their order.

    Attributes:
        place: where they lie.
        groups: group → the names in its gallery, where a table says so; one may be in several.
        remarks: what was skipped.
    """

    place: Path
    refs: Mapping[str, ImageRef]
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    def make_absent(self, name: str, origin: str) -> ImageRef:
        """A picture that is not there, by where it was looked for."""
        return make_file_ref(self.place / check_inside(name, origin), name)


def drop_ending(name: str) -> str:
    """A picture's path without the ending of its file."""
    bare, dot, ending = name.rpartition(".")
    return bare if f"{dot}{ending}".lower() in EXTENSIONS else name


def open_pictures(place: Path) -> Pictures:
    """Find out which pictures there are; none is opened.

    Raises:
        MissingData: there is no such place, or no picture in it.
        UsageError: it is neither a folder, nor a .zip or .tar, nor a table.
        CorruptData: it is damaged, a name leaves it, or two pictures have one name.
    """
    skipped = SkippedFiles()
    if tables := find_tables(place):
        found = _open_tables(place, tables)
    elif place.is_dir():
        files = ((name, make_file_ref(place / name, "")) for name in walk_pictures(place, skipped))
        found = _name_pictures(place, files, skipped)
    elif not place.is_file():
        raise MissingData(f"no pictures at {to_text(place)}; check the path")
    elif place.suffix == ".zip":
        found = _name_pictures(place, _list_zip(place, skipped), skipped)
    elif place.suffix == ".tar":
        found = _name_pictures(place, _list_tar(place, skipped), skipped)
    else:
        raise UsageError(
            f"pictures must be a folder, a .zip, a .tar, or .parquet tables, got {to_text(place)}; "
            f"unpack it into a folder"
        )
    if not found.refs:
        raise MissingData(
            f"no pictures in {to_text(place)}; a picture's name must end in one of "
            f"{', '.join(sorted(EXTENSIONS))}"
        )
    return found


def _name_pictures(
    place: Path, files: Iterator[tuple[str, ImageRef]], skipped: SkippedFiles
) -> Pictures:
    """Name each by its path without its ending, as rows of all layouts do."""
    refs: dict[str, ImageRef] = {}
    for path, ref in files:
        name = drop_ending(to_text(path))
        named = ImageRef(id=name, read=ref.read, path=ref.path)
        if refs.setdefault(name, named) is not named:
            raise CorruptData(
                f"{to_text(place)}: pictures must differ in more than their endings, got two that "
                f"are called {name}; rename one"
            )
    return Pictures(place=place, refs=refs, remarks=tuple(skipped.remarks()))


def _list_zip(path: Path, skipped: SkippedFiles) -> Iterator[tuple[str, ImageRef]]:
    try:
        packed = zipfile.ZipFile(path)
    except (*DAMAGED, OSError) as error:
        raise CorruptData(f"{to_text(path)} cannot be read ({error}); fetch it again") from error
    check_zip(path, packed)
    for member in packed.infolist():
        if not member.is_dir() and skipped.takes(member.filename):
            read = partial(_read_member, packed, member)
            yield member.filename, ImageRef(id="", read=read)


def _read_member(packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's bytes; the file is open once, and takes turns by itself."""
    try:
        return packed.read(member)
    except DAMAGED as error:
        raise CorruptData(
            f"{packed.filename}: {member.filename} cannot be read ({error}); fetch it again"
        ) from error


def _list_tar(path: Path, skipped: SkippedFiles) -> Iterator[tuple[str, ImageRef]]:
    for name, offset, size in index_tar(path, skipped):
        inside = check_inside(name.removeprefix("./"), to_text(path))
        yield inside, ImageRef(id="", read=partial(read_at, path, offset, size))


_IDS, _IMAGES, _GROUPS = ("id", "candidate_id"), ("img", "image"), "category"
"""Columns of the data sets of this field: `royokong/cirr_imgs`, `royokong/fashioniq_val_imgs`, and
the corpus of a data set in MTEB's layout."""


def _open_tables(place: Path, paths: list[Path]) -> Pictures:
    table = Columns(paths)
    names = [name for name in _IDS if name in table.names]
    images = [name for name in _IMAGES if name in table.names and table.is_images(name)]
    if not names or not images:
        raise CorruptData(
            f"{to_text(place)} must have a column {' or '.join(_IDS)} and one of encoded pictures, "
            f"{' or '.join(_IMAGES)}, got {', '.join(table.names)}"
        )
    columns = [names[0], *([_GROUPS] if _GROUPS in table.names else [])]
    refs: dict[str, ImageRef] = {}
    groups: dict[str, dict[str, None]] = {}
    for (origin, row), at in zip(table.read_rows(columns), table.locate(), strict=True):
        name, own = str(row[names[0]]), groups.setdefault(str(row.get(_GROUPS, "")), {})
        if name in own:
            raise CorruptData(f"{origin}: a picture must have an id of its own, got {name} twice")
        own[name] = None
        refs.setdefault(name, ImageRef(id=name, read=partial(table.read_image, images[0], at)))
    by_group = {group: tuple(own) for group, own in groups.items()} if _GROUPS in columns else {}
    return Pictures(place=place, refs=refs, groups=by_group)
