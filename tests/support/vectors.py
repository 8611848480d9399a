"""A CIRR in small whose pictures are given as frozen features."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cirbench.datasets.cirr import FOLDERS

WIDTH = 8
NAMES = [f"dev-{i}-0-img0" for i in range(12)]
PAIRS = [(0, 1), (3, 2), (6, 11)]
"""Rows of each query's reference and target."""


def draw_vectors(seed: int = 0, width: int = WIDTH) -> dict[str, np.ndarray]:
    """Name → vector, of every picture."""
    values = np.random.default_rng(seed).standard_normal((len(NAMES), width), dtype=np.float32)
    return dict(zip(NAMES, values, strict=True))


def write_annotations(root: Path) -> Path:
    """The val split, with the folder where its pictures are looked for; gives that folder."""
    members = [NAMES[row] for row in (*range(7), 11)]
    rows = [
        {
            "pairid": number,
            "reference": NAMES[reference],
            "target_hard": NAMES[target],
            "target_soft": {NAMES[target]: 1.0},
            "caption": "more of it",
            "img_set": {"id": 1, "members": members},
        }
        for number, (reference, target) in enumerate(PAIRS)
    ]
    paths = {name: f"./{FOLDERS['val']}/{name}.png" for name in NAMES}
    for path, content in (
        ("captions/cap.rc2.val.json", rows),
        ("image_splits/split.rc2.val.json", paths),
    ):
        file = root / "cirr" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content), encoding="utf-8")
    pictures = root / "cirr" / "img_raw" / FOLDERS["val"]
    pictures.mkdir(parents=True)
    return pictures


def write_vectors(folder: Path, vectors: Mapping[str, np.ndarray]) -> None:
    """An .npy file a picture."""
    for name, values in vectors.items():
        np.save(folder / f"{name}.npy", values)


def to_npy(values: object, **options: bool) -> bytes:
    """What `numpy.save` writes."""
    buffer = io.BytesIO()
    np.save(buffer, values, **options)
    return buffer.getvalue()
