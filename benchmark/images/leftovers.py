"""Which files of a folder, or members of a shard, are pictures; what is not is counted aloud."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cirbench.benchmark.images.decoding import EXTENSIONS
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.paths import to_text

HIDDEN = "hidden files and folders of copies"
OTHER = "files whose name ends like no picture"
NO_FILE = "names that lead to no file (dangling links, pipes)"
LINKED = "links to folders, which are not followed"
BESIDE = "files and folders beside the shards"
_COPIES = frozenset({"__MACOSX", "@eaDir"})
_NAMED = 3


def is_leftover(name: str) -> bool:
    """Whether a name is one that programs leave behind: hidden, or of a folder of copies."""
    return name.startswith(".") or name in _COPIES


def _show(name: str) -> str:
    return name if name.isprintable() else ascii(name)


@dataclass
class SkippedFiles:
    """Files that were skipped: reason → names."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count a skipped file."""
        self.names.setdefault(reason, []).append(name)

    def remarks(self) -> list[str]:
        """A sentence for each reason, with the count and the first names."""
        return [
            f"skipped {len(names):,} {reason}: {', '.join(map(_show, names[:_NAMED]))}"
            + (" …" if len(names) > _NAMED else "")
            for reason, names in self.names.items()
        ]

    def takes(self, name: str) -> bool:
        """Tell whether a path has a picture's name; count it as skipped otherwise."""
        if any(map(is_leftover, name.removeprefix("./").split("/"))):
            self.add(HIDDEN, name)
        elif os.path.splitext(name)[1].lower() not in EXTENSIONS:  # noqa: PTH122 - of millions
            self.add(OTHER, name)
        else:
            return True
        return False

    def takes_file(self, path: str, name: str) -> bool:
        """Tell whether a path is a picture's file, without opening it."""
        if not self.takes(to_text(name)):
            return False
        if not os.path.isfile(path):  # noqa: PTH113 - of millions
            self.add(NO_FILE, to_text(name))
            return False
        return True


def list_folder(folder: Path) -> list[Path]:
    """What is in a folder, sorted.

    Raises:
        MissingData: it is no folder, or can't be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise MissingData(
            f"the folder {to_text(folder)} cannot be read ({error.strerror})"
        ) from error


def count_beside_shards(folder: Path, shards: Collection[Path]) -> SkippedFiles:
    """Count what else is in a folder of which only the shards are read."""
    skipped = SkippedFiles()
    for path in list_folder(folder):
        if path not in shards:
            skipped.add(HIDDEN if is_leftover(path.name) else BESIDE, to_text(path.name))
    return skipped


def walk_pictures(folder: Path, skipped: SkippedFiles) -> Iterator[str]:
    """The paths of all pictures below a folder, relative to it, in their order by parts.

    Raises:
        MissingData: the folder, or one in it, can't be read.
    """

    def unreadable(error: OSError) -> None:
        if isinstance(error, FileNotFoundError):
            return
        raise MissingData(f"the folder {error.filename} cannot be read ({error.strerror})")

    found: list[tuple[str, ...]] = []
    for parent, folders, names in os.walk(folder, onerror=unreadable):
        inside = Path(parent).relative_to(folder).parts
        for name in sorted(folders):
            below = "/".join((*inside, name))
            if is_leftover(name):
                skipped.add(HIDDEN, f"{to_text(below)}/")
            elif Path(parent, name).is_symlink():
                skipped.add(LINKED, f"{to_text(below)}/")
        folders[:] = [name for name in folders if not is_leftover(name)]
        for name in sorted(names):
            below = "/".join((*inside, name))
            if skipped.takes_file(f"{parent}/{name}", below):
                found.append((*inside, name))
    yield from map("/".join, sorted(found))
