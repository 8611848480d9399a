"""The queries of kin: a reference, a sentence, a target, and the image set of six around them.

They are drawn once, by `build`, and kept as a table, so that everybody has the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

import numpy as np

from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.parsing import read_table
from cirbench.datasets.kin.captions import draw_names, word_sentence
from cirbench.datasets.kin.pictures import GALLERY_STYLES, NAMED, STYLES, KinPicture

TABLE = "queries.csv"
COUNTS = {"test": 800, "val": 400, "train": 4000}
SEED = 1
OTHERS = 4
"""So many of an image set are neither reference nor target."""


@dataclass(frozen=True, kw_only=True)
class KinQuery:
    """A row of queries.csv; all its pictures are of one style.

    Attributes:
        reference, target: codes.
        others: codes of the rest of its image set; none in training.
    """

    split: str
    style: str
    reference: str
    target: str
    others: tuple[str, ...]
    caption: str

    def as_row(self) -> dict[str, str]:
        """Its cells."""
        return {
            "split": self.split,
            "style": self.style,
            "reference": self.reference,
            "target": self.target,
            "others": " ".join(self.others),
            "caption": self.caption,
        }


def draw_queries(pictures: Sequence[KinPicture]) -> Iterator[KinQuery]:
    """Draw the queries of every split.

    Training has pictures in all styles, the others in those of the gallery.
    """
    for number, (split, count) in enumerate(COUNTS.items()):
        styles = STYLES if split == "train" else GALLERY_STYLES
        chosen = [p for p in pictures if p.split == split and p.style in styles]
        yield from _Draw(chosen, np.random.default_rng((SEED, number))).queries(split, count)


class _Draw:
    """The pictures of a split, found by what they show."""

    def __init__(self, pictures: Sequence[KinPicture], rng: np.random.Generator) -> None:
        self._pictures, self._rng = pictures, rng
        self._by_shown = {_key(p.shows): p for p in pictures}
        self._values = {name: sorted({p.shows[name] for p in pictures}) for name in NAMED}

    def queries(self, split: str, count: int) -> Iterator[KinQuery]:
        """So many, each of another pair of pictures."""
        seen: set[tuple[str, str, str]] = set()
        while len(seen) < count:
            reference = self._pictures[int(self._rng.integers(len(self._pictures)))]
            names = draw_names(2, self._rng)
            target = self._change(reference, names)
            if target is None or (pair := (reference.style, reference.code, target.code)) in seen:
                continue
            seen.add(pair)
            others = () if split == "train" else self._draw_others(reference, target)
            yield KinQuery(
                split=split,
                style=reference.style,
                reference=reference.code,
                target=target.code,
                others=tuple(other.code for other in others),
                caption=word_sentence(target.shows, names, self._rng),
            )

    def _change(self, picture: KinPicture, names: Sequence[str]) -> KinPicture | None:
        """A picture that differs in just these; None where that one is not there."""
        new = {
            name: str(self._rng.choice([v for v in self._values[name] if v != picture.shows[name]]))
            for name in names
        }
        return self._by_shown.get(_key({**picture.shows, **new}))

    def _draw_others(self, reference: KinPicture, target: KinPicture) -> Sequence[KinPicture]:
        """Pictures that differ from reference or target in one thing, half of them in a way in
        which these two differ from one another, where they do."""
        pair = (reference, target)
        found: dict[str, KinPicture] = {}
        while len(found) < OTHERS:
            place = int(self._rng.integers(2))
            near, far = pair[place], pair[1 - place]
            name = str(self._rng.choice(NAMED))
            value = far.shows[name]
            if value == near.shows[name] or self._rng.random() < 0.5:
                value = str(self._rng.choice(self._values[name]))
            other = self._by_shown.get(_key({**near.shows, name: value}))
            if other is not None and other not in pair:
                found[other.code] = other
        return list(found.values())


def _key(shows: Mapping[str, str]) -> tuple[str, ...]:
    return (shows["style"], *(shows[name] for name in NAMED))


def read_queries(path: Path) -> Sequence[KinQuery]:
    """The rows of queries.csv.

    Raises:
        MissingData, CorruptData: as `read_table`.
    """
    rows = read_table(path, [field.name for field in fields(KinQuery)])
    return [
        KinQuery(
            split=row["split"],
            style=row["style"],
            reference=row["reference"],
            target=row["target"],
            others=tuple(row["others"].split()),
            caption=row["caption"],
        )
        for row in rows
    ]


Known = TypeVar("Known")


def find_known(known: Mapping[tuple[str, str], Known], style: str, code: str) -> Known:
    """What is known of a picture that a query names.

    Raises:
        CorruptData: queries and pictures are not of one version.
    """
    if (style, code) not in known:
        raise CorruptData(
            f"{TABLE} of kin must name pictures of its pack, got {style}/{code}; install cirbench "
            f"again"
        )
    return known[style, code]
