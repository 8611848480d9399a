"""Packs the people and draws the queries: `python -P -m cirbench.datasets.kin.build DIR`.

Needs npm and the build extra (resvg-py). The result is a function of the sources: the same
pictures.safetensors, pictures.csv and queries.csv, byte for byte, with the same versions of resvg,
Pillow and NumPy.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np

from cirbench.datasets.embedded.drawing import NEAR, encode, make_thumbnail, write_pack, write_table
from cirbench.datasets.embedded.sources import (
    Files,
    IconifySet,
    ShippedPictures,
    fetch_files,
    strip_selectors,
)
from cirbench.datasets.emoji.build import SOURCES
from cirbench.datasets.kin.pictures import GALLERY_STYLES, GENDERS, STYLES, TONES, KinPicture
from cirbench.datasets.kin.queries import TABLE, draw_queries

SIDE = 64
SPLIT_SEED = 1
TEST_ACTIVITIES, VAL_ACTIVITIES = 32, 14
MODIFIERS = dict(zip(TONES, ("", "-1f3fb", "-1f3fd", "-1f3ff"), strict=True))
"""Skin tone → what follows the first code point."""


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A person in one style, as webp bytes and as pixels for comparison.

    Attributes:
        row: its columns in pictures.csv, but for the split.
        thumbnail: (768,) float32 in 0..1.
    """

    row: Mapping[str, str]
    webp: bytes
    thumbnail: np.ndarray

    @property
    def held_out_style(self) -> bool:
        """Whether it stands in a gallery where its activity is held out."""
        return self.row["style"] in GALLERY_STYLES


def read_activities(names: Files) -> Mapping[str, Mapping[str, str]]:
    """Activity → gender → code in yellow, of all that the three genders do with any skin tone.

    Left out are those that only look the other way.
    """
    found: dict[str, dict[str, str]] = {}
    for emoji, entry in json.loads(names["data-by-emoji.json"]).items():
        if entry["skin_tone_support"] and not entry["name"].endswith("facing right"):
            match = re.fullmatch(rf"(?:({'|'.join(GENDERS)})(?: |$))?(.*)", entry["name"])
            gender, activity = match.groups() if match else (None, "")
            code = strip_selectors("-".join(f"{ord(character):04x}" for character in emoji))
            found.setdefault(activity, {})[gender or "person"] = code
    return {
        activity: codes
        for activity, codes in sorted(found.items())
        if activity and set(codes) == set(GENDERS)
    }


def draw_all(packages: Mapping[str | None, Files]) -> Iterator[Drawing]:
    """Every person in every style that has a drawing of them."""
    sets = {
        style: (ShippedPictures if style == "3d" else IconifySet)(packages[style])
        for style in STYLES
    }
    for activity, codes in read_activities(packages[None]).items():
        for gender, tone, style in product(GENDERS, TONES, STYLES):
            first, *rest = codes[gender].split("-")
            code = "-".join([first + MODIFIERS[tone], *rest])
            if image := sets[style].draw(code, "", SIDE):
                row = {
                    "activity": activity,
                    "gender": gender,
                    "tone": tone,
                    "style": style,
                    "code": code,
                }
                webp = encode(image)
                yield Drawing(row=row, webp=webp, thumbnail=make_thumbnail(webp))


def drop_twins(drawings: Sequence[Drawing]) -> list[Drawing]:
    """Leave out a person whom a style draws byte for byte as it draws an earlier one."""
    return list({drawing.webp: drawing for drawing in reversed(drawings)}.values())[::-1]


def split_activities(drawings: Sequence[Drawing]) -> Mapping[str, str]:
    """Test and val activities by a fixed seed."""
    activities = sorted({drawing.row["activity"] for drawing in drawings})
    order = np.random.default_rng(SPLIT_SEED).permutation(activities).tolist()
    held_out = TEST_ACTIVITIES + VAL_ACTIVITIES
    return {
        **dict.fromkeys(order[:TEST_ACTIVITIES], "test"),
        **dict.fromkeys(order[TEST_ACTIVITIES:held_out], "val"),
        **dict.fromkeys(order[held_out:], "train"),
    }


def drop_leaks(drawings: Sequence[Drawing], splits: Mapping[str, str]) -> list[Drawing]:
    """Leave out training pictures that are (nearly) the drawing of a held-out picture."""
    held = [d.held_out_style and splits[d.row["activity"]] != "train" for d in drawings]
    evaluation = np.stack(
        [d.thumbnail for d, is_held in zip(drawings, held, strict=True) if is_held]
    )
    return [
        d
        for d, is_held in zip(drawings, held, strict=True)
        if is_held or np.abs(evaluation - d.thumbnail).mean(axis=1).min() >= NEAR
    ]


def build(output: Path, cache: Path) -> None:
    """Fetch, draw, split, pack."""
    packages = {style: fetch_files(SOURCES[style], cache) for style in (None, *STYLES)}
    drawn = list(draw_all(packages))
    distinct = drop_twins(drawn)
    splits = split_activities(distinct)
    kept = drop_leaks(distinct, splits)
    rows = [{**d.row, "split": splits[d.row["activity"]]} for d in kept]
    write_pack(output, rows, [d.webp for d in kept])
    pictures = [KinPicture(index=i, sha256="", **row) for i, row in enumerate(rows)]
    write_table(output / TABLE, [query.as_row() for query in draw_queries(pictures)])
    print(
        f"{len(kept)} pictures in {output}; left out: {len(drawn) - len(distinct)} drawn like "
        f"another, {len(distinct) - len(kept)} training pictures like a held-out one"
    )


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(tempfile.gettempdir()) / "cirbench-emoji-sources")
