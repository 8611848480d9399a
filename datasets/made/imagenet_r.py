"""Made data of ImageNet-R: a class is a thing, a domain a drawing style, photos are its 3D renders.

Renditions of other domains than those that are asked for are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from cirbench.benchmark.api.values import MadeData
from cirbench.datasets.emoji.pictures import SOURCE_STYLE, TARGET_STYLES
from cirbench.datasets.made.pictures import CREDIT, draw_one, shuffle_concepts

_SIZE = (500, 375)
_PHOTO_BLOCK = 6000
"""What the target list adds to a photo's class; a rendition's has 1000 × its domain."""


@dataclass(frozen=True, kw_only=True)
class _Counts:
    classes: int
    photos: int
    renditions: int


_FULL = _Counts(classes=200, photos=10_000, renditions=6_983)
_SMALL = _Counts(classes=8, photos=32, renditions=60)


def make(domains: Sequence[str], *, full: bool, seed: int) -> MadeData:
    """Make up photos, renditions and both released lists; a class may lack a domain."""
    counts = _FULL if full else _SMALL
    rng = np.random.default_rng(seed)
    concepts = shuffle_concepts(seed)[: counts.classes]
    pictures: dict[str, Callable[[], bytes]] = {}
    targets, photos = [], []
    for number in range(counts.renditions):
        label, domain = int(rng.integers(counts.classes)), int(rng.integers(len(domains)))
        path = f"imgnet/imagenet-r/{_name_class(label)}/{domains[domain]}_{number}.jpg"
        emoji = concepts[label][TARGET_STYLES[domain]]
        pictures[path] = partial(draw_one, emoji, _SIZE, (seed, len(pictures)), ".jpg")
        targets.append(f"{path} {label + 1000 * domain} ")
    for number in range(counts.photos):
        label = number % counts.classes
        path = f"imgnet/real/{_name_class(label)}/ILSVRC2012_val_{number + 1:08}.JPEG"
        emoji = concepts[label][SOURCE_STYLE]
        pictures[path] = partial(draw_one, emoji, _SIZE, (seed, len(pictures)), ".jpg")
        photos.append(f"{path} {label} ")
        targets.append(f"{path} {label + _PHOTO_BLOCK} ")
    lists = {"imgnet_real_query.txt": photos, "imgnet_targets.txt": targets}
    return MadeData(
        files={f"imgnet/{name}": "\n".join(lines) + "\n" for name, lines in lists.items()},
        pictures=pictures,
        credit=CREDIT,
    )


def _name_class(label: int) -> str:
    """Name a class as a wnid that no class of ImageNet has."""
    return f"n{90_000_000 + label}"
