"""Writes the table of photographs: `python -P -m cirbench.datasets.garments.build PHOTOGRAPHS DIR`.

The table that is part of the project was written from photographs that had been reduced to 128
pixels. Only the table goes into the project, never a photograph.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.images.reading import find_images_in_folder
from cirbench.benchmark.runtime.files import write_whole
from cirbench.datasets.embedded.drawing import NEAR, make_thumbnail
from cirbench.datasets.garments.colours import name_colour
from cirbench.datasets.garments.photographs import TABLE

TEST, VAL = 1000, 350
"""Photographs."""
SPLIT_SEED = 1


def split_photographs(thumbnails: np.ndarray) -> list[str]:
    """Split photographs at random, and set those aside that are nearly a held-out one.

    Args:
        thumbnails: (N, 768) float32 in 0..1.
    """
    order = np.random.default_rng(SPLIT_SEED).permutation(len(thumbnails))
    splits = ["train"] * len(thumbnails)
    for place, row in enumerate(order[: TEST + VAL]):
        splits[row] = "test" if place < TEST else "val"
    held_out = thumbnails[order[: TEST + VAL]]
    for row in order[TEST + VAL :]:
        if np.abs(held_out - thumbnails[row]).mean(axis=1).min() < NEAR:
            splits[row] = "near"
    return splits


def build(photographs: Path, output: Path) -> None:
    """Look at each photograph, split them, and write the table."""
    refs = find_images_in_folder(photographs)
    contents = [ref.read() for ref in refs]
    colours = [name_colour(decode(content)) for content in contents]
    splits = split_photographs(np.stack([make_thumbnail(content) for content in contents]))
    with (
        write_whole(output / TABLE.name) as path,
        path.open("w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "colour", "sureness", "split"))
        for ref, (colour, sureness), split in zip(refs, colours, splits, strict=True):
            table.writerow((ref.id, colour, f"{sureness:.3f}", split))


if __name__ == "__main__":
    build(Path(sys.argv[1]), Path(sys.argv[2]))
