"""What is said of people: the sentences of the queries, and what the tiny CLIP is taught.

A query's sentence names what is new in the picture that is looked for. The CLIP is taught phrases
("a photo of a woman who is surfing"), sentences, both with a comma between them, and *edits*: a
phrase that is wrong in one or two things, and after the comma the sentence that sets them right. So
it learns that words after the comma are of the same picture, and that later words win; it is never
shown two pictures at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cirbench.benchmark.api.lessons import Lesson, Lessons
from cirbench.datasets.kin.pictures import NAMED, KinPicture, read_training_pictures

MEDIA = {
    "noto": ("noto emoji", "cartoon"),
    "twemoji": ("twitter emoji", "sticker"),
    "flat": ("flat icon", "flat emoji"),
    "3d": ("3d emoji", "glossy render"),
}
"""Style → what a picture in it is called; any may be called a photo."""
SKIN = {
    "yellow": ("yellow skin",),
    "light": ("light skin", "pale skin"),
    "medium": ("medium skin", "brown skin"),
    "dark": ("dark skin",),
}

_COUNTABLE = re.compile(
    r"\b(ball|baby|beard|boat|hand|haircut|massage|manual wheelchair|motorized wheelchair|"
    r"steamy room|turban|tuxedo|veil|white cane)$"
)
_SHARES = {
    "edit": 0.3,
    "phrase": 0.32,
    "phrase and sentence": 0.17,
    "sentence": 0.14,
    "style": 0.07,
}
_MEDIUM_SHARE = 0.35
CELLS_PER_BATCH, PICTURES_PER_CELL = 43, 3


def word_activity(activity: str) -> str:
    """An activity, by its name in Unicode, as a predicate: "is surfing", "has a beard"."""
    if activity == "bald":
        return "has no hair"
    words = _COUNTABLE.sub(r"a \1", activity).lower()
    if words.startswith("with ") or words.endswith((" hair", "beard")):
        return f"has {words.removeprefix('with ')}"
    if words.startswith("in ") or re.search(r"ing\b", words):
        return f"is {words}"
    return f"is {'an' if words[0] in 'aeiou' else 'a'} {words}"


def word_sentence(shows: Mapping[str, str], names: Sequence[str], rng: np.random.Generator) -> str:
    """What is true of a picture, as words that follow it; says all of the named attributes."""
    parts, left = [], list(names)
    if {"gender", "tone"} <= set(left) and rng.random() < 0.5:
        parts.append(f"is a {shows['gender']} with {rng.choice(SKIN[shows['tone']])}")
        left = [name for name in left if name == "activity"]
    for name in left:
        if name == "activity":
            parts.append(word_activity(shows["activity"]))
        elif name == "gender":
            parts.append(f"{rng.choice(('is', 'as'))} a {shows['gender']}")
        else:
            parts.append(f"{rng.choice(('has', 'with'))} {rng.choice(SKIN[shows['tone']])}")
    return " and ".join(parts[place] for place in rng.permutation(len(parts)))


def draw_phrase(
    shows: Mapping[str, str], shares: Sequence[float], rng: np.random.Generator
) -> tuple[str, list[str]]:
    """A noun phrase of what is shown, and what it says.

    Args:
        shares: how often it says each of `NAMED`.
    """
    said = [name for name, share in zip(NAMED, shares, strict=True) if rng.random() < share]
    predicates = []
    if "activity" in said:
        predicates.append(word_activity(shows["activity"]))
    if "tone" in said:
        predicates.append(f"has {rng.choice(SKIN[shows['tone']])}")
    noun = f"a {shows['gender']}" if "gender" in said else "somebody"
    return f"{noun} who {' and '.join(predicates)}" if predicates else noun, said


def draw_names(most: int, rng: np.random.Generator) -> list[str]:
    """One to `most` of the attributes that may be named."""
    chosen: list[str] = rng.choice(NAMED, int(rng.integers(1, most + 1)), replace=False).tolist()
    return chosen


class KinLessons(Lessons):
    """Every picture of people that is not held out."""

    recipe: ClassVar[Mapping[str, Any]] = {"context": 32, "text_width": 64, "text_heads": 2}

    def draw_batches(self, rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
        """Some activities in a style, a few people of each, so that all has hard negatives."""
        cells: dict[tuple[str, str], list[KinPicture]] = {}
        values: dict[str, set[str]] = {name: set() for name in NAMED}
        for picture in read_training_pictures():
            cells.setdefault((picture.activity, picture.style), []).append(picture)
            for name in NAMED:
                values[name].add(picture.shows[name])
        known = {name: sorted(found) for name, found in values.items()}
        full = [people for people in cells.values() if len(people) >= PICTURES_PER_CELL]
        while True:
            yield [
                draw_lesson(full[cell][person], known, rng)
                for cell in rng.choice(len(full), CELLS_PER_BATCH, replace=False)
                for person in rng.choice(len(full[cell]), PICTURES_PER_CELL, replace=False)
            ]


def draw_lesson(
    picture: KinPicture, known: Mapping[str, Sequence[str]], rng: np.random.Generator
) -> Lesson:
    """A picture with a random caption.

    Args:
        known: attribute → the values that a wrong phrase may have.
    """
    shows = picture.shows
    kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
    is_photo = rng.random() >= _MEDIUM_SHARE and kind != "style"
    medium = "photo" if is_photo else str(rng.choice(MEDIA[picture.style]))
    said = [] if is_photo else ["style"]
    if kind == "sentence":
        said = draw_names(3, rng)
        text = word_sentence(shows, said, rng)
    elif kind == "style":
        text = f"a {medium}"
    elif kind == "phrase":
        phrase, named = draw_phrase(shows, (0.75, 0.6, 0.45), rng)
        text, said = f"a {medium} of {phrase}", said + named
    elif kind == "phrase and sentence":
        phrase, named = draw_phrase(shows, (0.4, 0.3, 0.2), rng)
        names = draw_names(3, rng)
        text = f"a {medium} of {phrase} , {word_sentence(shows, names, rng)}"
        said = said + named + names
    else:
        names = draw_names(2, rng)
        wrong = {
            name: str(rng.choice([value for value in known[name] if value != shows[name]]))
            for name in names
        }
        phrase, named = draw_phrase({**shows, **wrong}, (0.9, 0.8, 0.6), rng)
        text = f"a {medium} of {phrase} , {word_sentence(shows, names, rng)}"
        said = said + named + names
    return Lesson(
        picture=picture.ref, shows=shows, text=text, said={name: shows[name] for name in said}
    )
