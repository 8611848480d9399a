"""What the tiny CLIP is taught: which pictures stand in a batch, and what is said of one.

A caption may name the concept, the style, both, or neither word by word of the other; which of the
two it names decides which other pictures of a batch it is also true of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cirbench.benchmark.api.lessons import Lesson, Lessons
from cirbench.datasets.emoji.pictures import EmojiPicture, read_training_pictures

PHRASES = {
    "3d": ("photo", "3d emoji", "glossy render"),
    "flat": ("flat icon", "flat emoji", "flat drawing"),
    "mono": ("black and white icon", "black outline", "monochrome emoji"),
    "noto": ("noto emoji", "cartoon", "noto drawing"),
    "twemoji": ("twemoji", "sticker", "twitter emoji"),
    "noto1": ("blob emoji", "blob drawing"),
    "eo": ("emojione picture", "emojione drawing"),
    "eo_mono": ("stencil", "black stencil"),
}
"""Style → the phrases that fit "a {phrase} of {name}"."""

_WITH_STYLE = ("a {phrase} of {name}", "a {phrase} of a {name}", "{name}, {phrase}")
_STYLE_ONLY = ("a {phrase}", "a {phrase} of something", "a {phrase} of")
_NAME_ONLY = ("{name}", "an emoji of {name}", "a picture of {name}")
_SHARES = {"both": 0.6, "name": 0.28, "style": 0.12}


CONCEPTS_PER_BATCH, STYLES_PER_CONCEPT = 64, 4


class EmojiLessons(Lessons):
    """Every emoji picture that is not held out."""

    def draw_batches(self, rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
        """Some concepts, each in some styles, so that both have hard negatives."""
        by_concept: dict[str, list[EmojiPicture]] = {}
        for picture in read_training_pictures():
            by_concept.setdefault(picture.code, []).append(picture)
        codes = sorted(by_concept)
        while True:
            order = rng.permutation(len(codes))
            for start in range(0, len(order) - CONCEPTS_PER_BATCH + 1, CONCEPTS_PER_BATCH):
                chosen = [
                    by_concept[codes[concept]][place]
                    for concept in order[start : start + CONCEPTS_PER_BATCH]
                    for place in _choose_styles(len(by_concept[codes[concept]]), rng)
                ]
                yield [draw_lesson(picture, rng) for picture in chosen]


def _choose_styles(count: int, rng: np.random.Generator) -> Sequence[int]:
    places: list[int] = rng.permutation(count)[:STYLES_PER_CONCEPT].tolist()
    return places


def draw_lesson(picture: EmojiPicture, rng: np.random.Generator) -> Lesson:
    """A picture with a random caption."""
    name, style = picture.name, picture.style
    kind = rng.choice(list(_SHARES), p=list(_SHARES.values()))
    phrase = str(rng.choice(PHRASES[style]))
    if kind == "style":
        text, said = str(rng.choice(_STYLE_ONLY)).format(phrase=phrase), {"style": style}
    elif kind == "name":
        text, said = str(rng.choice(_NAME_ONLY)).format(name=name), {"name": name}
    else:
        text = str(rng.choice(_WITH_STYLE)).format(phrase=phrase, name=name)
        said = {"name": name, "style": style}
    shows = {"name": name, "style": style}
    return Lesson(picture=picture.ref, shows=shows, text=text, said=said)
