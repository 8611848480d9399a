"""The photographs: which there are, what each shows, and which may be trained on.

They lie below the data root, in the layout of their repository. The table beside this module was
written by `build.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from cirbench.benchmark.api.task import Place
from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.data.annotations import check_none_missing, find_absent
from cirbench.benchmark.data.layout import locate
from cirbench.benchmark.images.reading import make_file_ref
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.files import sha256_of_file, write_whole
from cirbench.benchmark.runtime.parsing import read_lines

REPOSITORY = "alexeygrigorev/clothing-dataset-small"
COMMIT = "11961516512414bf9f6c150a832cfd21b54a6b54"
FETCHED = f"clothing-dataset-small-{COMMIT}"
"""The folder that the repository's archive of this commit holds."""
PLACES = (Place(name="photographs", candidates=(FETCHED, "clothing-dataset-small", "garments")),)

TABLE = Path(str(files("cirbench.datasets.garments") / "photographs.csv"))
CHECKSUMS = "photographs.sha256"
"""In the folder of the photographs: what each was when it was fetched, as `sha256sum` writes it."""

SURE = 0.45
"""A colour that a larger share of a garment's pixels has counts as its colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photograph:
    """A row of photographs.csv.

    Attributes:
        path: in the repository, {train,validation,test}/KIND/NAME.jpg; its split there is not ours.
        colour: by `colours.name_colour`.
        sureness: the share of the garment's pixels that have this colour.
        split: test, val, train, or near, which is in no gallery and in no training.
    """

    path: str
    colour: str
    sureness: float
    split: str

    @property
    def kind(self) -> str:
        """What people sorted it as."""
        return self.path.split("/")[1]

    @property
    def is_sure(self) -> bool:
        """Whether its colour may be asked for."""
        return self.sureness > SURE


@cache
def read_photographs() -> tuple[Photograph, ...]:
    """Every photograph, in the order of the paths."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(
            Photograph(**{**row, "sureness": float(row["sureness"])})  # type: ignore[arg-type]  # the others are texts
            for row in csv.DictReader(file)
        )


def read_split(split: str) -> tuple[Photograph, ...]:
    """The photographs of a split; those of "train" are all that any training may see."""
    return tuple(p for p in read_photographs() if p.split == split)


def locate_photographs(data_root: Path | None) -> Path:
    """The folder of the photographs.

    Raises:
        MissingData: it is not there, or lies in another layout than the repository's.
    """
    folder = locate(data_root, "garments", PLACES)["photographs"]
    assert folder is not None  # needed places are never None
    if not any((folder / p.path).is_file() for p in read_photographs()):
        raise MissingData(
            f"{folder} must hold the photographs as their repository does, such as "
            f"{read_photographs()[0].path}, got none of them; bench data prepare garments fetches "
            f"them"
        )
    return folder


def make_refs(folder: Path, photographs: Sequence[Photograph]) -> tuple[ImageRef, ...]:
    """The pictures for the harness, in the same order."""
    return tuple(make_file_ref(folder / p.path, p.path) for p in photographs)


def find_missing(folder: Path, photographs: Sequence[Photograph]) -> dict[str, str]:
    """Path in the table → where it was looked for, of those that are not there."""
    return find_absent({p.path: folder / p.path for p in photographs})


def find_training_refs(
    data_root: Path | None, photographs: Sequence[Photograph]
) -> tuple[ImageRef, ...]:
    """Photographs of the split "train" for the harness, in the same order.

    Raises:
        MissingData: as `locate_photographs`, or one of them is not there.
    """
    folder = locate_photographs(data_root)
    check_none_missing("training photographs", find_missing(folder, photographs))
    return make_refs(folder, photographs)


def write_checksums(folder: Path) -> None:
    """Write down what each photograph is.

    Raises:
        MissingData: one is not there.
    """
    photographs = read_photographs()
    check_none_missing("photographs", find_missing(folder, photographs))
    with write_whole(folder / CHECKSUMS) as path:
        path.write_text("".join(f"{_sum(folder, p)}\n" for p in photographs), encoding="utf-8")


def find_changed(folder: Path, photographs: Sequence[Photograph]) -> tuple[str, ...]:
    """The paths of those that are not what was written down; none where nothing was."""
    if not (folder / CHECKSUMS).is_file():
        return ()
    written = frozenset(read_lines(folder / CHECKSUMS))
    there = (p for p in photographs if (folder / p.path).is_file())
    return tuple(p.path for p in there if _sum(folder, p) not in written)


def _sum(folder: Path, photograph: Photograph) -> str:
    return f"{sha256_of_file(folder / photograph.path)}  {photograph.path}"
