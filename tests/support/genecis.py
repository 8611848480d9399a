"""GeneCIS' files in their real layout, small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cirbench.datasets.genecis import GROUPS


def whole(number: int) -> dict[str, Any]:
    """A photo of an object task."""
    return {"val_image_id": number}


def around(number: int, box: Sequence[float]) -> dict[str, Any]:
    """An object of an attribute task; further keys are there, too."""
    return {"image_id": number, "instance_bbox": list(box), "object_name": "cup"}


def make_template(condition: str, *images: Mapping[str, Any]) -> dict[str, Any]:
    """A template of a reference, a target, and its distractors."""
    reference, target, *gallery = images
    return {"condition": condition, "gallery": gallery, "reference": reference, "target": target}


def write_genecis(
    root: Path,
    templates: Mapping[str, Sequence[Mapping[str, Any]]],
    genome: Mapping[str, Mapping[int, bytes]],
    val2017: Mapping[int, bytes],
) -> None:
    """Four files, and the pictures of both data sets.

    Args:
        genome: folder → the pictures of Visual Genome in it.
    """
    for group in GROUPS:
        path = root / f"genecis/{group}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(templates[group], indent=4), encoding="utf-8")
    files = {f"{folder}/{i}.jpg": data for folder, own in genome.items() for i, data in own.items()}
    files |= {f"coco/val2017/{i:012}.jpg": content for i, content in val2017.items()}
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
