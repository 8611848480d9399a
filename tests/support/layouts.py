"""Data sets in their real layouts, of empty pictures: enough for a plan, which opens none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cirbench.datasets.cirr import FOLDERS
from cirbench.datasets.fashion_iq import CATEGORIES


def write_fashion_iq(root: Path) -> None:
    """Two triplets a category, for training and for val."""
    names = ["B1", "B2", "B3"]
    rows = [
        {"candidate": "B1", "target": target, "captions": ["is longer", "has a star"]}
        for target in ("B2", "B3")
    ]
    folder = root / "fashion-iq"
    for category in CATEGORIES:
        for split in ("train", "val"):
            _write_json(folder / f"captions/cap.{category}.{split}.json", rows)
            _write_json(folder / f"image_splits/split.{category}.{split}.json", names)
    _write_empty(folder / "images", [f"{name}.jpg" for name in names])


def write_cirr(root: Path) -> None:
    """Two queries of one image set, for training and for val."""
    for split in ("train", "val"):
        names = [f"{split}-{i}-0-img0" for i in range(6)]
        folder = write_cirr_split(root, split, names, [(0, 5), (1, 5)], range(6))
        _write_empty(folder, [f"{name}.npy" for name in names])


def write_cirr_split(
    root: Path,
    split: str,
    names: Sequence[str],
    pairs: Sequence[tuple[int, int]],
    members: Sequence[int],
) -> Path:
    """The annotations of a split, and the empty folder of its pictures, which is given.

    Args:
        pairs: rows of `names`, each query's reference and target.
        members: rows of the image set that all queries share.
    """
    folder = root / "cirr"
    rows = [
        {
            "pairid": number,
            "reference": names[reference],
            "target_hard": names[target],
            "target_soft": {names[target]: 1.0},
            "caption": "more of it",
            "img_set": {"id": 1, "members": [names[row] for row in members]},
        }
        for number, (reference, target) in enumerate(pairs)
    ]
    paths = {name: f"./{FOLDERS[split]}/{name}.png" for name in names}
    _write_json(folder / f"captions/cap.rc2.{split}.json", rows)
    _write_json(folder / f"image_splits/split.rc2.{split}.json", paths)
    pictures = folder / "img_raw" / FOLDERS[split]
    pictures.mkdir(parents=True)
    return pictures


def _write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_empty(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
