"""Made data of CIRR: sets of six pictures, two things in three drawing styles each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from cirbench.benchmark.api.values import MadeData
from cirbench.datasets.emoji.pictures import CORE_STYLES, EmojiPicture
from cirbench.datasets.made.pictures import CREDIT, Concept, describe, draw_one, shuffle_concepts

_SIZE = (640, 480)
_MEMBERS = 6
_STYLES = 3
"""So many styles of each of two things fill a set."""
_TRAIN_FOLDERS = 100

_FULL = {"train": (16_939, 28_225), "val": (2_297, 4_181), "test1": (2_315, 4_148)}
"""Split → pictures and queries."""
_SMALL = {"train": (48, 60), "val": (24, 40), "test1": (24, 40)}


def make(folders: Mapping[str, str], *, full: bool, seed: int) -> MadeData:
    """Make up three splits, of which `test1` has no targets.

    Args:
        folders: split → the folder of its pictures.
    """
    concepts = shuffle_concepts(seed)
    files: dict[str, str] = {}
    pictures: dict[str, Callable[[], bytes]] = {}
    pair = 0
    for split, (count, queries) in (_FULL if full else _SMALL).items():
        shown = [_choose_emoji(concepts, number) for number in range(count)]
        names = [
            f"{folders[split]}-{number // _MEMBERS}-0-img{number % _MEMBERS}"
            for number in range(count)
        ]
        paths = {}
        for number, name in enumerate(names):
            below = f"{number % _TRAIN_FOLDERS}/" if split == "train" else ""
            paths[name] = f"./{folders[split]}/{below}{name}.png"
            draw = partial(draw_one, shown[number], _SIZE, (seed, len(pictures)), ".png")
            pictures[f"cirr/img_raw/{paths[name][2:]}"] = draw
        rows = []
        for number in range(queries):
            rows.append(_make_row(pair, number, names, shown, labelled=split != "test1"))
            pair += 1
        files[f"cirr/image_splits/split.rc2.{split}.json"] = json.dumps(paths)
        files[f"cirr/captions/cap.rc2.{split}.json"] = json.dumps(rows)
    return MadeData(files=files, pictures=pictures, credit=CREDIT)


def _choose_emoji(concepts: Sequence[Concept], number: int) -> EmojiPicture:
    """Choose what a picture shows by its number: a set's two things, in turn."""
    of_set, place = divmod(number, _MEMBERS)
    thing, style = divmod(place, _STYLES)
    style += of_set % (len(CORE_STYLES) - _STYLES + 1)  # so that every style is seen
    return concepts[(2 * of_set + thing) % len(concepts)][CORE_STYLES[style]]


def _make_row(
    pair: int, number: int, names: Sequence[str], shown: Sequence[EmojiPicture], *, labelled: bool
) -> dict[str, Any]:
    """Make a query of a set; queries go round the sets, and then to another pair in each."""
    sets = -(-len(names) // _MEMBERS)
    turn, of_set = divmod(number, sets)
    members = [(of_set * _MEMBERS + place) % len(names) for place in range(_MEMBERS)]
    reference, target = _PAIRS[turn % len(_PAIRS)]
    phrase, name = describe(shown[members[target]])
    image_set: dict[str, Any] = {
        "id": of_set,
        "members": [names[row] for row in members],
        "reference_rank": reference,
    }
    row = {
        "pairid": pair,
        "reference": names[members[reference]],
        "caption": f"show {name} as a {phrase}",
        "img_set": image_set,
    }
    if not labelled:
        return row
    image_set["target_rank"] = target
    grades = {names[members[target]]: 1.0, names[members[reference]]: -1.0}
    return {**row, "target_hard": names[members[target]], "target_soft": grades}


_PAIRS = [pair for pair in product(range(_MEMBERS), repeat=2) if pair[0] != pair[1]]
"""Places of reference and target in their set."""
