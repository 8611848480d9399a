"""Made data of GeneCIS: things in drawing styles for attributes, photos of two things for objects.

An attribute is the style in which a thing is drawn; a photo of Visual Genome shows one thing, in
its box. A candidate that is not the target never answers the query.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.api.values import MadeData
from cirbench.datasets.emoji.pictures import CORE_STYLES, SOURCE_STYLE
from cirbench.datasets.made.pictures import (
    CREDIT,
    Concept,
    Sticker,
    describe,
    draw,
    shuffle_concepts,
)

_GENOME_SIZE, _COCO_SIZE = (500, 375), (640, 480)
_CANDIDATES = {
    "focus_attribute": 10,
    "change_attribute": 15,
    "focus_object": 15,
    "change_object": 15,
}
_STYLE = "drawing style"
"""The condition of a query for a thing in the style of the reference's."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    genome: int
    val2017: int
    things: int
    """That are on the photos of COCO."""
    templates: Sequence[int]
    """Of each sub-task."""


_FULL = _Counts(genome=108_249, val2017=5_000, things=80, templates=(2_000, 2_112, 1_960, 1_960))
_SMALL = _Counts(genome=60, val2017=60, things=12, templates=(12, 12, 12, 12))


def make(*, full: bool, seed: int) -> MadeData:
    """Make up the four files and the pictures of both data sets."""
    counts = _FULL if full else _SMALL
    rng = np.random.default_rng(seed)
    concepts = shuffle_concepts(seed)
    objects = _Objects.place(rng, concepts, counts.genome)
    photos = _Photos.place(rng, concepts[: counts.things], counts.val2017)
    asks = (objects.focus, objects.change, photos.focus, photos.change)
    files = {}
    for (group, candidates), ask, count in zip(
        _CANDIDATES.items(), asks, counts.templates, strict=True
    ):
        rows = [ask(rng, candidates - 1) for _ in range(count)]
        files[f"genecis/{group}.json"] = json.dumps(rows)
    pictures: dict[str, Callable[[], bytes]] = {}
    for row, sticker in enumerate(objects.stickers):
        path = f"genecis/VG_100K_all/{row + 1}.jpg"
        pictures[path] = partial(draw, [sticker], _GENOME_SIZE, (seed, len(pictures)), ".jpg")
    for row, stickers in enumerate(photos.stickers):
        path = f"genecis/val2017/{row + 1:012}.jpg"
        pictures[path] = partial(draw, stickers, _COCO_SIZE, (seed, len(pictures)), ".jpg")
    return MadeData(files=files, pictures=pictures, credit=CREDIT)


def _draw_rows(rng: np.random.Generator, fits: NDArray[np.bool_], count: int) -> list[int]:
    """Draw some of the pictures that fit, each at most once."""
    rows: list[int] = rng.choice(np.flatnonzero(fits), count, replace=False).tolist()
    return rows


@dataclass(frozen=True)
class _Objects:
    """Pictures of one thing each.

    Attributes:
        thing, style: of each, by their places in `concepts` and `CORE_STYLES`.
    """

    concepts: Sequence[Concept]
    stickers: Sequence[Sticker]
    thing: NDArray[np.int64]
    style: NDArray[np.int64]

    @classmethod
    def place(cls, rng: np.random.Generator, concepts: Sequence[Concept], count: int) -> _Objects:
        """Place every thing in every style, again and again."""
        thing, style = np.divmod(
            np.arange(count) % (len(concepts) * len(CORE_STYLES)), len(CORE_STYLES)
        )
        sides = rng.integers(60, 200, count).tolist()
        stickers = [
            Sticker(
                concepts[t][CORE_STYLES[s]],
                int(rng.integers(_GENOME_SIZE[0] - side + 1)),
                int(rng.integers(_GENOME_SIZE[1] - side + 1)),
                side,
            )
            for t, s, side in zip(thing.tolist(), style.tolist(), sides, strict=True)
        ]
        return cls(concepts, stickers, thing, style)

    def focus(self, rng: np.random.Generator, distractors: int) -> dict[str, Any]:
        """Ask for another thing in the reference's style."""
        reference = int(rng.integers(len(self.stickers)))
        alike, same = self.style == self.style[reference], self.thing == self.thing[reference]
        [target] = _draw_rows(rng, alike & ~same, 1)
        return self._make_template(_STYLE, reference, target, _draw_rows(rng, ~alike, distractors))

    def change(self, rng: np.random.Generator, distractors: int) -> dict[str, Any]:
        """Ask for the reference's thing in another style."""
        reference = int(rng.integers(len(self.stickers)))
        same, alike = self.thing == self.thing[reference], self.style == self.style[reference]
        [target] = _draw_rows(rng, same & ~alike, 1)
        answers = same & (self.style == self.style[target])
        answers[reference] = True  # which is no candidate
        phrase, _ = describe(self.stickers[target].emoji)
        others = _draw_rows(rng, ~answers, distractors)
        return self._make_template(phrase, reference, target, others)

    def _make_template(
        self, condition: str, reference: int, target: int, gallery: Sequence[int]
    ) -> dict[str, Any]:
        return {
            "condition": condition,
            "gallery": [self._name(row) for row in gallery],
            "reference": self._name(reference),
            "target": self._name(target),
        }

    def _name(self, row: int) -> dict[str, Any]:
        sticker = self.stickers[row]
        box = [float(sticker.left), float(sticker.top), sticker.side, sticker.side]
        return {"image_id": row + 1, "instance_bbox": box}


@dataclass(frozen=True)
class _Photos:
    """Pictures of two things each, left and right.

    Attributes:
        things: (N, 2), by their places in `concepts`.
    """

    concepts: Sequence[Concept]
    stickers: Sequence[Sequence[Sticker]]
    things: NDArray[np.int64]

    @classmethod
    def place(cls, rng: np.random.Generator, concepts: Sequence[Concept], count: int) -> _Photos:
        """Place every thing about equally often, with another beside it."""
        left = np.arange(count) % len(concepts)
        right = (left + rng.integers(1, len(concepts), count)) % len(concepts)
        things = np.stack([left, right], axis=1)
        half = _COCO_SIZE[0] // 2
        stickers = []
        for pair in things.tolist():
            sides = rng.integers(120, half, 2).tolist()
            stickers.append(
                [
                    Sticker(
                        concepts[thing][SOURCE_STYLE],
                        half * place + int(rng.integers(half - side + 1)),
                        int(rng.integers(_COCO_SIZE[1] - side + 1)),
                        side,
                    )
                    for place, (thing, side) in enumerate(zip(pair, sides, strict=True))
                ]
            )
        return cls(concepts, stickers, things)

    def focus(self, rng: np.random.Generator, distractors: int) -> dict[str, Any]:
        """Ask for another photo of one of the reference's things."""
        reference = int(rng.integers(len(self.things)))
        return self._make_template(rng, reference, int(self.things[reference, 0]), distractors)

    def change(self, rng: np.random.Generator, distractors: int) -> dict[str, Any]:
        """Ask for a photo of a thing that the reference lacks."""
        reference = int(rng.integers(len(self.things)))
        lacking = sorted(set(range(len(self.concepts))) - set(self.things[reference].tolist()))
        return self._make_template(rng, reference, int(rng.choice(lacking)), distractors)

    def _make_template(
        self, rng: np.random.Generator, reference: int, thing: int, distractors: int
    ) -> dict[str, Any]:
        has = (self.things == thing).any(axis=1)
        may = np.arange(len(has)) != reference
        [target] = _draw_rows(rng, has & may, 1)
        gallery = _draw_rows(rng, ~has & may, distractors)
        return {
            "condition": self.concepts[thing][SOURCE_STYLE].name,
            "gallery": [{"val_image_id": row + 1} for row in gallery],
            "reference": {"val_image_id": reference + 1},
            "target": {"val_image_id": target + 1},
        }
