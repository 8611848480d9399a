"""What is said of a garment: by queries, by triplets, and by the lessons of a tiny CLIP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cirbench.benchmark.api.lessons import Lesson, Lessons
from cirbench.benchmark.api.values import ImageRef
from cirbench.datasets.garments.colours import COLOURS
from cirbench.datasets.garments.photographs import Photograph

PREPROCESS = "white-square"
"""Of training and of every protocol: photographs are oblong, and garments fill them."""

NAMES = {
    "dress": "dress",
    "hat": "hat",
    "longsleeve": "long sleeve top",
    "outwear": "jacket",
    "pants": "pants",
    "shirt": "shirt",
    "shoes": "shoes",
    "shorts": "shorts",
    "skirt": "skirt",
    "t-shirt": "t-shirt",
}
"""Kind → what a garment of it is called."""
_PLURAL = frozenset({"pants", "shoes", "shorts"})


def name_garment(kind: str, colour: str | None = None) -> str:
    """Name a garment of a kind: "a jacket", "an orange hat", "red pants"."""
    words = " ".join(filter(None, (colour, NAMES[kind])))
    if kind in _PLURAL:
        return words
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def word_change(group: str, wanted: str) -> tuple[str, ...]:
    """Every wording of a change: its group, colour or kind, and what is wanted instead."""
    if group == "colour":
        return f"is {wanted}", f"in {wanted}", f"is {wanted} in color"
    return f"is {name_garment(wanted)}", f"as {name_garment(wanted)}"


_VALUES: Mapping[str, Sequence[str]] = {"colour": COLOURS, "kind": tuple(NAMES)}
_SHARES = {"both": 0.45, "kind": 0.15, "colour": 0.1, "phrase and sentence": 0.2, "sentence": 0.1}
_EDITS = 0.3
"""The share of captions whose first words are wrong, and that are put right after the comma."""
_BATCH = 128


@dataclass(frozen=True)
class GarmentLessons(Lessons):
    """Every photograph that is not held out."""

    photographs: Sequence[Photograph]
    pictures: Sequence[ImageRef]

    recipe: ClassVar[Mapping[str, Any]] = {
        "context": 20,
        "text_width": 64,
        "text_heads": 2,
        "preprocess": PREPROCESS,
    }

    def draw_batches(self, rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
        """Photographs at random, those of rare kinds and colours more often."""
        kinds, colours = ([getattr(p, name) for p in self.photographs] for name in _VALUES)
        weights = _weigh(kinds) * _weigh(colours)
        shares = weights / weights.sum()
        while True:
            rows = rng.choice(len(shares), _BATCH, replace=False, p=shares)
            yield [draw_lesson(self.photographs[row], self.pictures[row], rng) for row in rows]


def _weigh(names: Sequence[str]) -> np.ndarray:
    """(N,): one over the root of how often each name occurs."""
    _, place, count = np.unique(names, return_inverse=True, return_counts=True)
    weights: np.ndarray = 1 / np.sqrt(count[place])
    return weights


def draw_lesson(photograph: Photograph, picture: ImageRef, rng: np.random.Generator) -> Lesson:
    """A photograph with a random caption; a colour that is not sure is not spoken of."""
    shows = {"kind": photograph.kind, "colour": photograph.colour}
    if photograph.is_sure:
        text, said = _draw_caption(shows, rng)
    else:
        text, said = f"a photo of {name_garment(photograph.kind)}", ("kind",)
    return Lesson(
        picture=picture, shows=shows, text=text, said={name: shows[name] for name in said}
    )


def _draw_caption(
    shows: Mapping[str, str], rng: np.random.Generator
) -> tuple[str, tuple[str, ...]]:
    """A caption, and which attributes it names."""
    both = ("kind", "colour")
    group = str(rng.choice(both))
    sentence = str(rng.choice(word_change(group, shows[group])))
    if rng.random() < _EDITS:
        others = [name for name in _VALUES[group] if name != shows[group]]
        return f"{_photo_of(**{**shows, group: str(rng.choice(others))})} , {sentence}", both
    form = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    if form == "sentence":
        return sentence, (group,)
    if form == "phrase and sentence":
        [other] = set(both) - {group}
        return f"{_photo_of(**{other: shows[other]})} , {sentence}", both
    said = both if form == "both" else (form,)
    return _photo_of(**{name: shows[name] for name in said}), said


def _photo_of(kind: str | None = None, colour: str | None = None) -> str:
    return "a photo of " + (name_garment(kind, colour) if kind else f"something {colour}")
