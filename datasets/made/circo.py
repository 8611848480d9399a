"""Made data of CIRCO: a photo shows one thing in one drawing style, and a query asks for such ones.

Nobody but the answers of a query shows its thing in its style, so that all of them are known. The
sentence of a query says both; its aspects are drawn, as often as in the released annotations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from cirbench.benchmark.api.values import MadeData
from cirbench.datasets.emoji.pictures import CORE_STYLES, EmojiPicture
from cirbench.datasets.made.pictures import CREDIT, describe, draw_one, shuffle_concepts

_SIZE = (640, 480)
_MOST_ANSWERS, _FURTHER_ANSWER = 14, 0.243
"""A query has one answer and up to thirteen more, each with this chance: 4.2 in the mean."""
_HIDDEN = ("target_img_id", "gt_img_ids", "semantic_aspects")
"""What the split without public labels lacks."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    images: int
    queries: Mapping[str, int]
    share: float
    """Of the released val queries that have an aspect."""


_FULL = _Counts(images=123_403, queries={"val": 220, "test": 800}, share=1)
_SMALL = _Counts(images=200, queries={"val": 20, "test": 12}, share=1 / 11)


def make(aspects: Mapping[str, int], *, full: bool, seed: int) -> MadeData:
    """Make up the image list and both splits, of which `test` has no answers.

    Args:
        aspects: what a sentence may be about → how many of the released val queries are.
    """
    counts = _FULL if full else _SMALL
    rng = np.random.default_rng(seed)
    shown = [concept[style] for concept in shuffle_concepts(seed) for style in CORE_STYLES]
    # the first cells of this order are a query's each, the others are nobody's answer
    order = rng.permutation(len(shown)).tolist()
    names = rng.permutation(np.arange(1, 5 * counts.images, 5))[: counts.images].tolist()
    asked = sum(counts.queries.values())
    answers = 1 + rng.binomial(_MOST_ANSWERS - 1, _FURTHER_ANSWER, asked)
    cells = [
        cell for cell, count in zip(order, answers.tolist(), strict=False) for _ in range(count)
    ]
    others = rng.choice(order[asked:], counts.images - len(cells)).tolist()
    of_image = dict(zip(names, [*cells, *others], strict=True))
    # a query's answers are the next names, its reference is one of the pictures behind all answers
    starts = [0, *answers.cumsum().tolist()]
    free = names[len(cells) :]
    rows = [
        _make_row(shown[order[i]], free[i], names[starts[i] : starts[i + 1]]) for i in range(asked)
    ]
    val, test = rows[: counts.queries["val"]], rows[counts.queries["val"] :]
    for aspect, count in aspects.items():
        for i in rng.choice(len(val), round(count * counts.share), replace=False):
            val[i]["semantic_aspects"].append(aspect)
    # the order of the list is not that of the ids, as in the released one
    listed = rng.permutation(names).tolist()
    root = "CIRCO/COCO2017_unlabeled"
    info = {"images": [{"id": name, "file_name": f"{name:012}.jpg"} for name in listed]}
    unlabelled = [{k: v for k, v in row.items() if k not in _HIDDEN} for row in test]
    pictures: dict[str, Callable[[], bytes]] = {
        f"{root}/unlabeled2017/{name:012}.jpg": partial(
            draw_one, shown[of_image[name]], _SIZE, (seed, name), ".jpg"
        )
        for name in listed
    }
    return MadeData(
        files={
            "CIRCO/annotations/val.json": _write(val),
            "CIRCO/annotations/test.json": _write(unlabelled),
            f"{root}/annotations/image_info_unlabeled2017.json": json.dumps(info),
        },
        pictures=pictures,
        credit=CREDIT,
    )


def _make_row(asked: EmojiPicture, reference: int, answers: Sequence[int]) -> dict[str, Any]:
    """Make a query for what its answers show, without its id and aspects."""
    phrase, name = describe(asked)
    return {
        "reference_img_id": reference,
        "relative_caption": f"shows {name} as a {phrase}",
        "shared_concept": "one thing",
        "target_img_id": answers[0],
        "gt_img_ids": list(answers),
        "semantic_aspects": [],
    }


def _write(rows: Sequence[Mapping[str, Any]]) -> str:
    return json.dumps([{"id": i, **row} for i, row in enumerate(rows)])
