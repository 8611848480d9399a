"""Made data of Fashion-IQ: a garment is a thing in a drawing style."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from cirbench.benchmark.api.values import MadeData
from cirbench.datasets.emoji.pictures import CORE_STYLES, EmojiPicture
from cirbench.datasets.made.pictures import CREDIT, describe, draw_one, shuffle_concepts

_SIZE = (300, 400)

_Counts = Mapping[tuple[str, str], tuple[int, int]]
"""Category and split → queries and pictures."""
_FULL: _Counts = {
    ("dress", "train"): (5_985, 11_452),
    ("dress", "val"): (2_017, 3_817),
    ("dress", "test"): (2_024, 3_818),
    ("shirt", "train"): (5_988, 19_036),
    ("shirt", "val"): (2_038, 6_346),
    ("shirt", "test"): (2_038, 6_346),
    ("toptee", "train"): (6_027, 16_121),
    ("toptee", "val"): (1_961, 5_373),
    ("toptee", "test"): (2_056, 5_374),
}
_FULL_SHARED = 3_302
"""Pictures that two lists name; here all are in the train splits of shirt and toptee."""
_SMALL: _Counts = {
    (category, split): counts
    for category in ("dress", "shirt", "toptee")
    for split, counts in {"train": (12, 16), "val": (8, 12), "test": (4, 8)}.items()
}
_SMALL_SHARED = 2
_SHARED = (("shirt", "train"), ("toptee", "train"))


def make(*, full: bool, seed: int) -> MadeData:
    """Make up nine lists of pictures and nine of triplets, of which the test ones lack targets."""
    counts, shared = (_FULL, _FULL_SHARED) if full else (_SMALL, _SMALL_SHARED)
    rng = np.random.default_rng(seed)
    concepts = shuffle_concepts(seed)
    shown: dict[str, EmojiPicture] = {}
    lists: dict[tuple[str, str], list[str]] = {}
    files: dict[str, str] = {}
    for (category, split), (queries, wanted) in counts.items():
        first, second = _SHARED
        names = lists[first][:shared] if (category, split) == second else []
        for _ in range(wanted - len(names)):
            number = len(shown)
            style = CORE_STYLES[number % len(CORE_STYLES)]
            names.append(f"MADE{number:06}")
            shown[names[-1]] = concepts[number % len(concepts)][style]
        lists[category, split] = names
        rows = [_make_row(rng, names, shown, labelled=split != "test") for _ in range(queries)]
        files[f"fashion-iq/image_splits/split.{category}.{split}.json"] = json.dumps(names)
        files[f"fashion-iq/captions/cap.{category}.{split}.json"] = json.dumps(rows)
    pictures: dict[str, Callable[[], bytes]] = {
        f"fashion-iq/images/{name}.jpg": partial(draw_one, emoji, _SIZE, (seed, number), ".jpg")
        for number, (name, emoji) in enumerate(shown.items())
    }
    return MadeData(files=files, pictures=pictures, credit=CREDIT)


def _make_row(
    rng: np.random.Generator,
    names: Sequence[str],
    shown: Mapping[str, EmojiPicture],
    *,
    labelled: bool,
) -> dict[str, Any]:
    """Make a triplet of two pictures of one list."""
    reference, target = (names[i] for i in rng.choice(len(names), 2, replace=False))
    phrase, name = describe(shown[target])
    row = {"candidate": reference, "captions": [f"shows {name}", f"is a {phrase}"]}
    return {"target": target, **row} if labelled else row
