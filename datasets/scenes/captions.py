"""What a tiny CLIP for scenes is taught: emoji alone and in scenes, and the names of what is there.

A caption names all objects or leaves one out, each by its name alone or with its style ("sticker of
fox"). Some name one object twice, with and without its style, as those queries do that put the word
of a picture before its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cirbench.benchmark.api.lessons import Lesson, Lessons
from cirbench.datasets.emoji.captions import PHRASES
from cirbench.datasets.emoji.pictures import EmojiPicture
from cirbench.datasets.scenes.pictures import Scene, draw_places, read_training_pictures

FRAMES = {"a photo of {}": 0.6, "a picture of {}": 0.2, "{}": 0.2}
THINGS_PER_BATCH, LESSONS_PER_BATCH = 40, 144

_OBJECT_SHARES = {1: 0.3, 2: 0.4, 3: 0.3}
_STYLE_ONLY_SHARE, _STYLED_SHARE, _TWICE_SHARE, _LEFT_OUT_SHARE = 0.1, 0.2, 0.15, 0.25


class SceneLessons(Lessons):
    """Every emoji of a thing that is not held out, and scenes of these."""

    recipe: ClassVar[Mapping[str, Any]] = {
        "steps": 1500,
        "context": 32,
        "text_width": 64,
        "text_heads": 2,
        "image_size": 64,
        "rotation_degrees": 6.0,
    }

    def draw_batches(self, rng: np.random.Generator) -> Iterator[Sequence[Lesson]]:
        """Scenes of a few things, so that each stands in many, with and without each other one."""
        by_thing: dict[str, list[EmojiPicture]] = {}
        for picture in read_training_pictures():
            by_thing.setdefault(picture.code, []).append(picture)
        things = list(by_thing.values())
        counts, shares = list(_OBJECT_SHARES), list(_OBJECT_SHARES.values())
        while True:
            pool = rng.choice(len(things), THINGS_PER_BATCH, replace=False)
            batch = []
            for count in rng.choice(counts, LESSONS_PER_BATCH, p=shares):
                drawings = [things[place] for place in rng.choice(pool, count, replace=False)]
                chosen = [one[int(rng.integers(len(one)))] for one in drawings]
                batch.append(draw_lesson(chosen, rng))
            yield batch


def draw_lesson(pictures: Sequence[EmojiPicture], rng: np.random.Generator) -> Lesson:
    """One emoji, or a scene of several, with a random caption."""
    text, said = _draw_caption(pictures, rng)
    if len(pictures) == 1:
        ref = pictures[0].ref
    else:
        ref = Scene(split="train", asked=False, objects=draw_places(pictures, rng)).ref
    parts = [part for p in pictures for part in (p.style, p.code, _name_drawing(p))]
    shows, said_of_it = dict.fromkeys(parts, "yes"), dict.fromkeys(said, "yes")
    return Lesson(picture=ref, shows=shows, text=text, said=said_of_it)


def _name_drawing(picture: EmojiPicture) -> str:
    return f"{picture.style}/{picture.code}"


def _draw_caption(
    pictures: Sequence[EmojiPicture], rng: np.random.Generator
) -> tuple[str, Sequence[str]]:
    """A caption, and which styles, things and drawings it names."""
    first = pictures[0]
    if len(pictures) == 1 and rng.random() < _STYLE_ONLY_SHARE:
        return f"a {rng.choice(PHRASES[first.style])}", [first.style]
    named = pictures[:-1] if len(pictures) > 1 and rng.random() < _LEFT_OUT_SHARE else pictures
    parts, said = [], []
    if rng.random() < _TWICE_SHARE:
        parts += [_draw_styled(first, rng), first.name]
        said.append(_name_drawing(first))
        named = named[1:]
    for place in rng.permutation(len(named)):
        picture = named[place]
        if rng.random() < _STYLED_SHARE:
            parts.append(_draw_styled(picture, rng))
            said.append(_name_drawing(picture))
        else:
            parts.append(f"{rng.choice(('a ', ''))}{picture.name}")
            said.append(picture.code)
    frame = str(rng.choice(list(FRAMES), p=list(FRAMES.values())))
    return frame.format(" and ".join(parts)), said


def _draw_styled(picture: EmojiPicture, rng: np.random.Generator) -> str:
    return f"{rng.choice(PHRASES[picture.style])} of {picture.name}"
