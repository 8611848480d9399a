"""Draws the tables of scenes: `python -P -m cirbench.datasets.scenes.build DIR`.

Needs npm, for the list of emoji. The result is a function of that list, of emoji's pack and of
NumPy's version: the same things.csv and scenes.csv, byte for byte.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from cirbench.datasets.embedded.drawing import write_table
from cirbench.datasets.embedded.sources import fetch_files, strip_selectors
from cirbench.datasets.emoji.build import SOURCES
from cirbench.datasets.emoji.pictures import EmojiPicture, read_pictures
from cirbench.datasets.scenes.pictures import SCENES, STYLES, THINGS, Scene, draw_places

GROUPS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Objects", "Activities")
MOST_WORDS = 2
CLOCKS = ("o’clock", "thirty")
"""Told apart by small hands; left out."""
SEED = 1
THING_COUNTS = {"test": 120, "val": 60, "train": None}
"""Split, as emoji has it → how many of its things are used; None are all."""
QUERIES = {"test": 600, "val": 300, "train": 2500}

Drawings = Mapping[str, EmojiPicture]
"""Style → the drawing of one thing."""


def read_groups(cache: Path) -> Mapping[str, str]:
    """Code → the group that Unicode lists an emoji in."""
    listed = json.loads(fetch_files(SOURCES[None], cache)["data-by-emoji.json"])
    return {
        strip_selectors("-".join(f"{ord(character):04x}" for character in emoji)): entry["group"]
        for emoji, entry in listed.items()
    }


def choose_things(groups: Mapping[str, str]) -> Mapping[str, Sequence[Drawings]]:
    """Split → its things."""
    things: dict[str, dict[str, EmojiPicture]] = {}
    for picture in read_pictures():
        short = len(picture.name.split()) <= MOST_WORDS
        if groups[picture.code] in GROUPS and short and not picture.name.endswith(CLOCKS):
            things.setdefault(picture.code, {})[picture.style] = picture
    chosen = {}
    for number, (split, count) in enumerate(THING_COUNTS.items()):
        own = [d for _, d in sorted(things.items()) if next(iter(d.values())).split == split]
        order = np.random.default_rng((SEED, number)).permutation(len(own))[:count]
        chosen[split] = [own[place] for place in sorted(order)]
    return chosen


def draw_scenes(
    split: str, things: Sequence[Drawings], rng: np.random.Generator
) -> Iterator[Scene]:
    """Draw the scenes of a split; outside of training each that is asked for has two siblings.

    One has the first object in another drawing, the other another object in its place, unless some
    scene has the same things: so only one scene answers a query.
    """
    drawn = [{s: d[s] for s in STYLES if s in d} for d in things]
    drawn = [drawings for drawings in drawn if len(drawings) > 1]
    known: set[frozenset[str]] = set()

    count = 0
    while count < QUERIES[split]:
        size = int(rng.choice((2, 3)))
        stranger, *chosen = (drawn[i] for i in rng.choice(len(drawn), size + 1, replace=False))
        first, *others = (_draw_style(drawings, rng) for drawings in chosen)
        if (codes := _list_codes([first, *others])) in known:
            continue
        known.add(codes)
        count += 1
        yield Scene(split=split, asked=True, objects=draw_places([first, *others], rng))
        if split == "train":
            continue
        again = _draw_style({s: p for s, p in chosen[0].items() if s != first.style}, rng)
        yield Scene(split=split, asked=False, objects=draw_places([again, *others], rng))
        instead = [_draw_style(stranger, rng), *others]
        if (codes := _list_codes(instead)) not in known:
            known.add(codes)
            yield Scene(split=split, asked=False, objects=draw_places(instead, rng))


def _list_codes(pictures: Sequence[EmojiPicture]) -> frozenset[str]:
    return frozenset(picture.code for picture in pictures)


def _draw_style(drawings: Drawings, rng: np.random.Generator) -> EmojiPicture:
    return drawings[str(rng.choice(list(drawings)))]


def build(output: Path, cache: Path) -> None:
    """Choose things, draw scenes, write both tables."""
    things = choose_things(read_groups(cache))
    codes = sorted(next(iter(d.values())).code for own in things.values() for d in own)
    write_table(output / THINGS.name, [{"code": code} for code in codes])
    scenes = [
        scene
        for number, (split, own) in enumerate(things.items())
        for scene in draw_scenes(split, own, np.random.default_rng((SEED, 10 + number)))
    ]
    write_table(output / SCENES.name, [scene.as_row() for scene in scenes])
    print(f"{len(codes)} things and {len(scenes)} scenes in {output}")


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(tempfile.gettempdir()) / "cirbench-emoji-sources")
