"""Draws and packs people: `python -P -m cirbench.datasets.wardrobe.build DIR`.

Needs node, npm and the build extra (resvg-py). The result is a function of the seed and the
sources: the same files, byte for byte, with the same versions of numpy, resvg and Pillow.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import write_whole
from cirbench.datasets.embedded.drawing import encode, paste_on_white, render, write_pack
from cirbench.datasets.embedded.sources import Package, fetch_files
from cirbench.datasets.wardrobe.captions import write_sentences
from cirbench.datasets.wardrobe.people import (
    ATTRIBUTES,
    FACES,
    MEMBERS,
    STYLES,
    Person,
    draw,
    draw_families,
    list_changes,
    see,
)
from cirbench.datasets.wardrobe.pictures import TRIPLETS

SEED = 1
FAMILIES = {"train": 170, "val": 25, "test": 60}
"""Of a style."""
TRIPLETS_A_FAMILY = {"train": 16, "val": 4, "test": 4}
FEWEST_CHANGES, MOST_CHANGES = 2, 4
SIDE = 64
"""Pixels."""

SOURCES = (
    Package(
        package="@dicebear/core",
        version="9.4.3",
        sha256="6ca7dae651c74ad547e548fbe7c41f49aaa377cf4617259277518389bf6b1a3d",
    ),
    Package(
        package="@dicebear/toon-head",
        version="9.4.3",
        sha256="b9cd3b5def9fb2c37a9acba2e4b9bd00268b6eaff705d596756e8d921a4580c8",
    ),
    Package(
        package="@dicebear/personas",
        version="9.4.3",
        sha256="6f5b4765c4d54444ab0330c4a89da53636662de3b04118b827f005a31332d002",
    ),
    Package(
        package="@bigheads/core",
        version="0.3.3",
        sha256="c47903c54bf5459221a9990895e6f21218857b76fd277236e80025c136a0d1c8",
    ),
    Package(
        package="react",
        version="17.0.2",
        sha256="e2901c777fd5a469bef952d1fc7bcafead65a7b66ef4dbb295d2a7116a6dc66d",
    ),
    Package(
        package="react-dom",
        version="17.0.2",
        sha256="bec64d076c2425e76fbe01235b53fac5a7e58a8487a126b1cb831087e7d6ba98",
    ),
    Package(
        package="object-assign",
        version="4.1.1",
        sha256="782d726a263ba7b26cced612af97b80035516df4b0cd788524e7b2cebc4e29ed",
    ),
)
"""The three drawings, and what they need to be drawn; React needs the last."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of a family: who it is, with what can't be seen, and the face drawn at random."""

    style: str
    family: int
    number: int
    split: str
    person: Person
    face: Mapping[str, str]

    @property
    def id(self) -> str:
        """As `WardrobePicture.id`."""
        return f"{self.style}/{self.family:03}-{self.number}"

    @property
    def seen(self) -> Person:
        """What can be seen of it."""
        return see(self.style, self.person)

    def describe(self) -> dict[str, str]:
        """For draw.mjs."""
        return {"style": self.style, **self.person, **self.face}


def draw_members(rng: np.random.Generator) -> Iterator[Member]:
    """Every family of every style, first those to train on."""
    splits = [split for split, count in FAMILIES.items() for _ in range(count)]
    for style in STYLES:
        for number, (split, family) in enumerate(
            zip(splits, draw_families(style, rng), strict=False)
        ):
            for place, person in enumerate(family):
                yield Member(
                    style=style,
                    family=number,
                    number=place,
                    split=split,
                    person=person,
                    face=draw(FACES[style], rng),
                )


def draw_triplets(family: Sequence[Member], rng: np.random.Generator) -> Iterator[Sequence[str]]:
    """Rows of triplets.csv; outside of training no member is a reference twice."""
    split, asked = family[0].split, Counter[str]()
    pairs = [(a, b) for a in family for b in family if a is not b]
    for place in rng.permutation(len(pairs)):
        reference, target = pairs[place]
        count = len(list_changes(reference.seen, target.seen))
        again = split != "train" and asked[reference.id]
        if not again and FEWEST_CHANGES <= count <= MOST_CHANGES:
            asked[reference.id] += 1
            yield reference.id, target.id, *write_sentences(reference.seen, target.seen, rng)
        if asked.total() == TRIPLETS_A_FAMILY[split]:
            return


def draw_svgs(members: Sequence[Member], cache: Path) -> Sequence[str]:
    """Run draw.mjs, as many drawings as there are members.

    Raises:
        MissingData: node is not there, or fails; npm, as `fetch_files`.
        CorruptData: as `fetch_files`.
    """
    script = files("cirbench.datasets.wardrobe") / "draw.mjs"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for source in SOURCES:
            for path, content in fetch_files(source, cache).items():
                unpacked = folder / "node_modules" / source.package / path
                unpacked.parent.mkdir(parents=True, exist_ok=True)
                unpacked.write_bytes(content)
        (folder / "draw.mjs").write_bytes(script.read_bytes())
        people = json.dumps([member.describe() for member in members]).encode()
        try:
            done = subprocess.run(
                ["node", "draw.mjs"], cwd=folder, input=people, check=True, stdout=subprocess.PIPE
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise MissingData(f"node draw.mjs failed: {error}; node must be installed") from error
    svgs: list[str] = json.loads(done.stdout)
    return svgs


def check_distinct(members: Sequence[Member], contents: Sequence[bytes]) -> None:
    """Raises CorruptData where two drawings are one: then `see` misses what can't be seen."""
    known: dict[bytes, Member] = {}
    for member, content in zip(members, contents, strict=True):
        if (twin := known.setdefault(content, member)) is not member:
            raise CorruptData(f"{twin.id} and {member.id} must differ, and are drawn alike")


def make_row(member: Member) -> dict[str, str]:
    """A row of pictures.csv; what can't be seen, or a style does not have, is empty."""
    family, number = member.id.rpartition("/")[2].split("-")
    head = {"style": member.style, "family": family, "member": number, "split": member.split}
    return head | {name: member.seen.get(name, "") for name in ATTRIBUTES}


def write_triplets(path: Path, rows: Sequence[Sequence[str]]) -> None:
    """Write triplets.csv."""
    with (
        write_whole(path) as unfinished,
        unfinished.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("reference", "target", "first", "second"))
        table.writerows(rows)


def build(output: Path, cache: Path) -> None:
    """Draw people and triplets, fetch, draw pictures, pack."""
    rng = np.random.default_rng(SEED)
    members = list(draw_members(rng))
    families = [members[start : start + MEMBERS] for start in range(0, len(members), MEMBERS)]
    triplets = [row for family in families for row in draw_triplets(family, rng)]
    svgs = draw_svgs(members, cache)
    contents = [encode(paste_on_white(render(svg), SIDE)) for svg in svgs]
    check_distinct(members, contents)
    write_pack(output, [make_row(member) for member in members], contents)
    write_triplets(output / TRIPLETS, triplets)
    print(f"{len(members)} pictures and {len(triplets)} triplets in {output}")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(tempfile.gettempdir()) / "cirbench-wardrobe-sources")
