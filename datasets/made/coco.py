"""Made data of COCO: photos with up to five things on them, and their annotations.

`bench data prepare coco` makes the query list and the masked images of them, as of the real ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cirbench.benchmark.api.values import MadeData
from cirbench.datasets.emoji.pictures import SOURCE_STYLE
from cirbench.datasets.made.pictures import CREDIT, Concept, Sticker, draw, shuffle_concepts

_WIDTH, _HEIGHT = 640, 480
_MOST_OBJECTS = 5
_TOO_LARGE = 440
"""Pixels a side: more than half of the image, so that nothing of it may be cut out."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    """Images by what is on them: something to cut out, only too large a thing, or nothing."""

    classes: int
    queries: int
    too_large: int
    empty: int


_FULL = _Counts(classes=80, queries=4_766, too_large=186, empty=48)
_SMALL = _Counts(classes=12, queries=20, too_large=2, empty=2)


def make(*, full: bool, seed: int) -> MadeData:
    """Make up val2017 and its instances file."""
    counts = _FULL if full else _SMALL
    rng = np.random.default_rng(seed)
    concepts = shuffle_concepts(seed)[: counts.classes]
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    pictures: dict[str, Callable[[], bytes]] = {}
    for number in range(1, counts.queries + counts.too_large + counts.empty + 1):
        name = f"{number:012}.jpg"
        image = {"id": number, "file_name": name, "width": _WIDTH, "height": _HEIGHT}
        classes, stickers = _place_objects(rng, concepts, counts, number)
        for label, sticker in zip(classes, stickers, strict=True):
            own = {"id": len(annotations) + 1, "image_id": number, "category_id": label + 1}
            annotations.append({**own, **_outline(sticker)})
        images.append(image)
        draw_it = partial(draw, stickers, (_WIDTH, _HEIGHT), (seed, number), ".jpg")
        pictures[f"coco/val2017/{name}"] = draw_it
    categories = [{"id": i, "name": c[SOURCE_STYLE].name} for i, c in enumerate(concepts, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path = "coco/annotations/instances_val2017.json"
    return MadeData(files={path: json.dumps(content)}, pictures=pictures, credit=CREDIT)


def _place_objects(
    rng: np.random.Generator, concepts: Sequence[Concept], counts: _Counts, number: int
) -> tuple[list[int], list[Sticker]]:
    """Place things on an image by its number; give their classes beside them."""
    if number > counts.queries + counts.too_large:
        return [], []
    sides = [_TOO_LARGE]
    if number <= counts.queries:
        sides = rng.integers(80, 240, rng.integers(1, _MOST_OBJECTS + 1)).tolist()
    classes = rng.integers(len(concepts), size=len(sides)).tolist()
    stickers = [
        Sticker(
            concepts[label][SOURCE_STYLE],
            int(rng.integers(_WIDTH - side + 1)),
            int(rng.integers(_HEIGHT - side + 1)),
            side,
        )
        for label, side in zip(classes, sides, strict=True)
    ]
    return classes, stickers


def _outline(sticker: Sticker) -> dict[str, Any]:
    """Annotate a thing by its square, as a box and as a polygon."""
    left, top, side = sticker.left, sticker.top, sticker.side
    right, lower = left + side, top + side
    return {
        "bbox": [left, top, side, side],
        "area": side * side,
        "segmentation": [[left, top, right, top, right, lower, left, lower]],
        "iscrowd": 0,
    }
