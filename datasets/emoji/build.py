"""Packs the emoji pictures from pinned sources: `python -P -m cirbench.datasets.emoji.build DIR`.

Needs npm and the build extra (resvg-py). The result is a function of the sources: the same
pictures.safetensors and pictures.csv, byte for byte, with the same versions of resvg and Pillow.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cirbench.datasets.embedded.drawing import NEAR, encode, make_thumbnail, write_pack
from cirbench.datasets.embedded.sources import (
    Files,
    IconifySet,
    Package,
    ShippedPictures,
    fetch_files,
    strip_selectors,
)
from cirbench.datasets.emoji.pictures import CORE_STYLES, HINT_STYLES

TEST_CONCEPTS, VAL_CONCEPTS = 600, 150
SPLIT_SEED = 0
SIDE = dict.fromkeys(CORE_STYLES, 64) | dict.fromkeys(HINT_STYLES, 48)
"""Pixels. Hint styles are only ever seen by the tiny CLIP, whose input is 48."""


SOURCES: Mapping[str | None, Package] = {
    None: Package(
        package="unicode-emoji-json",
        version="0.9.0",
        sha256="ae7efacb55533385bf8767d613dbd36c71226669759d95919a6e9059f5e4c401",
    ),
    "3d": Package(
        package="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "flat": Package(
        package="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha256="7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    ),
    "mono": Package(
        package="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        sha256="0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
    ),
    "noto": Package(
        package="@iconify-json/noto",
        version="1.2.9",
        sha256="3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    ),
    "twemoji": Package(
        package="@iconify-json/twemoji",
        version="1.2.5",
        sha256="19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    ),
    "noto1": Package(
        package="@iconify-json/noto-v1",
        version="1.2.5",
        sha256="2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    ),
    "eo": Package(
        package="@iconify-json/emojione",
        version="1.2.3",
        sha256="26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    ),
    "eo_mono": Package(
        package="@iconify-json/emojione-monotone",
        version="1.2.1",
        sha256="40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e",
    ),
}
"""Style → its pictures; None → the names."""


@dataclass(frozen=True, kw_only=True)
class Concept:
    """An emoji: its code points without variation selectors, and its English name."""

    code: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A concept in one style, as webp bytes and as pixels for comparison."""

    concept: Concept
    style: str
    webp: bytes
    thumbnail: np.ndarray
    """(768,) float32 in 0..1"""


def read_concepts(names: Files) -> Iterator[tuple[Concept, str]]:
    """Every emoji but flags, each with its slug; skin tones are not listed in the source."""
    for emoji, entry in json.loads(names["data-by-emoji.json"]).items():
        if entry["group"] != "Flags":
            code = strip_selectors("-".join(f"{ord(character):04x}" for character in emoji))
            yield Concept(code=code, name=entry["name"]), entry["slug"].replace("_", "-")


def pack(concept: Concept, style: str, image: Image.Image) -> Drawing:
    """Pack a picture; what is compared later are the decoded pixels."""
    webp = encode(image)
    return Drawing(concept=concept, style=style, webp=webp, thumbnail=make_thumbnail(webp))


def draw_all(packages: Mapping[str | None, Files]) -> list[Drawing]:
    """Every concept that has all core styles, in all styles it has."""
    sets = {
        style: (ShippedPictures if style == "3d" else IconifySet)(files)
        for style, files in packages.items()
        if style is not None
    }
    drawings: list[Drawing] = []
    for concept, slug in read_concepts(packages[None]):
        images = {style: s.draw(concept.code, slug, SIDE[style]) for style, s in sets.items()}
        if all(images[style] is not None for style in CORE_STYLES):
            drawings += [pack(concept, s, image) for s, image in images.items() if image]
    return drawings


def drop_twins(drawings: Sequence[Drawing]) -> list[Drawing]:
    """Leave out concepts that some core style draws just like an earlier concept."""
    seen: dict[bytes, str] = {}
    twins = set()
    for drawing in drawings:
        if drawing.style in CORE_STYLES:
            code = seen.setdefault(drawing.webp, drawing.concept.code)
            if code != drawing.concept.code:
                twins.add(drawing.concept)
    return [drawing for drawing in drawings if drawing.concept not in twins]


def split_concepts(drawings: Sequence[Drawing]) -> dict[Concept, str]:
    """Test and val concepts by a fixed seed, of those whose name a hint style can teach."""
    hinted = sorted({d.concept.code for d in drawings if d.style in HINT_STYLES})
    order = np.random.default_rng(SPLIT_SEED).permutation(hinted)
    test = set(order[:TEST_CONCEPTS])
    val = set(order[TEST_CONCEPTS : TEST_CONCEPTS + VAL_CONCEPTS])
    return {
        d.concept: "test" if d.concept.code in test else "val" if d.concept.code in val else "train"
        for d in drawings
    }


def drop_leaks(drawings: Sequence[Drawing], splits: Mapping[Concept, str]) -> list[Drawing]:
    """Leave out training pictures that are (nearly) the drawing of a held-out picture."""
    held_out = [d.style in CORE_STYLES and splits[d.concept] != "train" for d in drawings]
    evaluation = np.stack([d.thumbnail for d, held in zip(drawings, held_out, strict=True) if held])
    return [
        d
        for d, held in zip(drawings, held_out, strict=True)
        if held or np.abs(evaluation - d.thumbnail).mean(axis=1).min() >= NEAR
    ]


def write(drawings: Sequence[Drawing], splits: Mapping[Concept, str], output: Path) -> None:
    """The pack, in the order of the drawings."""
    rows = [
        {
            "style": d.style,
            "code": d.concept.code,
            "name": d.concept.name,
            "split": splits[d.concept],
        }
        for d in drawings
    ]
    write_pack(output, rows, [d.webp for d in drawings])


def build(output: Path, cache: Path) -> None:
    """Fetch, draw, splits, pack."""
    packages = {style: fetch_files(source, cache) for style, source in SOURCES.items()}
    drawn = draw_all(packages)
    distinct = drop_twins(drawn)
    splits = split_concepts(distinct)
    kept = drop_leaks(distinct, splits)
    write(kept, splits, output)
    print(
        f"{len(kept)} pictures in {output}; left out: {len(drawn) - len(distinct)} of concepts "
        f"drawn like another, {len(distinct) - len(kept)} training pictures like a held-out one"
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(tempfile.gettempdir()) / "cirbench-emoji-sources")
