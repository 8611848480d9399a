"""CIRCO's files in their real layout, small."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def make_row(number: int, reference: int, target: int, **changes: Any) -> dict[str, Any]:
    """A row of val.json, whose one answer is its target unless it is said otherwise."""
    return {
        "id": number,
        "reference_img_id": reference,
        "relative_caption": f"shows  {number} of them",
        "shared_concept": "a dog",
        "target_img_id": target,
        "gt_img_ids": [target],
        "semantic_aspects": ["cardinality"],
        **changes,
    }


def write_circo(
    root: Path,
    images: Mapping[int, bytes],
    rows: Sequence[Mapping[str, Any]],
    annotations: str = "CIRCO/annotations",
    coco: str = "CIRCO/COCO2017_unlabeled",
) -> None:
    """Both splits over the same images, which are listed in the order given."""
    names = {number: f"{number:012}.jpg" for number in images}
    listed = [{"id": i, "file_name": name, "height": 1, "width": 1} for i, name in names.items()]
    hidden = ("target_img_id", "gt_img_ids", "semantic_aspects")
    unlabelled = [{k: v for k, v in row.items() if k not in hidden} for row in rows]
    for path, content in (
        (f"{annotations}/val.json", rows),
        (f"{annotations}/test.json", unlabelled),
        (f"{coco}/annotations/image_info_unlabeled2017.json", {"info": {}, "images": listed}),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(json.dumps(content, indent=4), encoding="utf-8")
    folder = root / coco / "unlabeled2017"
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in images.items():
        (folder / names[number]).write_bytes(picture)
