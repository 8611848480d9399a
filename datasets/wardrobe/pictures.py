"""The packed drawings of people: which there are, which may be trained on, and their bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial

from cirbench.benchmark.api.values import ImageRef
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.datasets.embedded.pack import Pack
from cirbench.datasets.wardrobe.people import ATTRIBUTES, Person

PACK = Pack.of("cirbench.datasets.wardrobe")
TRIPLETS = "triplets.csv"


@dataclass(frozen=True, kw_only=True, slots=True)
class WardrobePicture:
    """A row of pictures.csv: a member of a family, in one style."""

    index: int
    style: str
    family: str
    member: str
    split: str
    person: Person
    sha256: str

    @property
    def held_out(self) -> bool:
        """Whether no training may ever see it: the one rule all trainings go by."""
        return self.split != "train"

    @property
    def id(self) -> str:
        """Names it within the task."""
        return f"{self.style}/{self.family}-{self.member}"

    @property
    def ref(self) -> ImageRef:
        """The picture for the harness."""
        read = partial(PACK.read_bytes, self.index)
        title = f"{self.person['colour']} {self.person['garment']}"
        return ImageRef(id=self.id, read=read, title=title)


@dataclass(frozen=True, kw_only=True, slots=True)
class WardrobeTriplet:
    """A row of triplets.csv: two people of a family, and two sentences that name what differs."""

    reference: WardrobePicture
    target: WardrobePicture
    sentences: tuple[str, str]


@cache
def read_pictures() -> tuple[WardrobePicture, ...]:
    """Every picture, in the order in which they are packed."""
    return tuple(
        WardrobePicture(
            index=index,
            style=row["style"],
            family=row["family"],
            member=row["member"],
            split=row["split"],
            person={name: row[name] for name in ATTRIBUTES if row[name]},
            sha256=row["sha256"],
        )
        for index, row in enumerate(PACK.read_rows())
    )


def read_training_pictures() -> tuple[WardrobePicture, ...]:
    """Every picture that is not held out."""
    return tuple(p for p in read_pictures() if not p.held_out)


def read_triplets(split: str) -> Sequence[WardrobeTriplet]:
    """The triplets of a split; both pictures of each are of that split.

    Raises:
        CorruptData: triplets.csv names a picture that pictures.csv does not.
    """
    path = PACK.folder / TRIPLETS
    pictures = {p.id: p for p in read_pictures()}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        triplets = [
            WardrobeTriplet(
                reference=pictures[row["reference"]],
                target=pictures[row["target"]],
                sentences=(row["first"], row["second"]),
            )
            for row in rows
        ]
    except KeyError as error:
        raise CorruptData(
            f"{path} and pictures.csv must be of one pack, got {error}; install cirbench again"
        ) from error
    return [t for t in triplets if t.target.split == split]


def hash_tables() -> dict[str, str]:
    """The annotations of the task: table → sha256."""
    return {**PACK.hash_table(), TRIPLETS: sha256_of_file(PACK.folder / TRIPLETS)}
