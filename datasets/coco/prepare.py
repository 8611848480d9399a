"""`bench data prepare coco`: a seeded query list and the masked images of its objects.

As prepare_data.py of google-research/composed_image_retrieval, which draws one object of each
val2017 image without a seed. A candidate's box is smaller than half the image; the lower limit of
the released code, 0.05 of the image, is compared with square pixels there and thus excludes
nothing that has an area. Crowds are not excluded. Images without a candidate are left out.

The draw depends on the seed and the image alone, so that a list does not change when images are
added. Pixels outside the object's mask are white; the result is stored as JPEG in Pillow's default
quality, as there.
"""

from __future__ import annotations

import csv
import io
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cirbench.benchmark.data.annotations import check_rows, number_names
from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.archives import unpack
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import read_regular_file, sha256_of_file, write_whole
from cirbench.benchmark.runtime.parsing import read_json
from cirbench.benchmark.runtime.paths import check_inside
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.datasets.coco.query_list import COLUMNS, ObjectQuery

LOWEST_BOX_AREA = 0.05
"""Square pixels: a bug of the released code that is part of the protocol."""
HIGHEST_BOX_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Photo:
    """An image, its annotated objects in the file's order, and the names of its classes."""

    name: str
    width: int
    height: int
    objects: Sequence[Mapping[str, Any]]

    def candidates(self) -> list[Mapping[str, Any]]:
        """The objects that may be cut out."""
        half = HIGHEST_BOX_SHARE * self.width * self.height
        return [o for o in self.objects if LOWEST_BOX_AREA < o["bbox"][2] * o["bbox"][3] < half]


def prepare(root: Path, *, seed: int, reporter: Reporter) -> list[str]:
    """Write coco_eval.csv and val2017_masked/ below `root`/coco; files that are there stay.

    Returns:
        Lines about what was made.

    Raises:
        MissingData: the annotations or images are not there.
        CorruptData: an annotation contradicts itself, or an image can't be decoded.
    """
    folder = next((root / n for n in ("coco", "COCO") if (root / n).is_dir()), root / "coco")
    for archive in sorted(folder.glob("*.zip")):
        if not (folder / _CONTENT.get(archive.name, archive.name)).exists():
            unpack(archive, folder)
    path = folder / "annotations" / "instances_val2017.json"
    table, masked = folder / "coco_eval.csv", folder / "val2017_masked"
    if table.exists():
        return [f"{table} exists and is kept; remove it to draw another list"]
    photos, names = read_photos(path)
    chosen = [(photo, o) for photo in photos if (o := draw_object(photo, seed)) is not None]
    masked.mkdir(exist_ok=True)
    with reporter.stage("masked images", len(chosen)) as stage:
        for photo, instance in chosen:
            target = masked / photo.name
            if not target.exists():
                with write_whole(target) as temporary:
                    temporary.write_bytes(cut_out(folder / "val2017" / photo.name, photo, instance))
            stage.advance(1)
    rows = [to_row(photo, instance, names) for photo, instance in chosen]
    write_queries(table, rows)
    black = sum(row.is_black for row in rows)
    return [
        f"{table}: {len(rows):,} queries of {len(photos):,} annotated images, seed {seed}, "
        f"sha256 {sha256_of_file(table)}",
        f"{masked}: {len(rows):,} masked images; {black} boxes have no whole pixel (black queries)",
    ]


_CONTENT = {
    "val2017.zip": "val2017",
    "annotations_trainval2017.zip": "annotations/instances_val2017.json",
}
"""Archive → what it holds of interest; other archives are always unpacked."""


def read_photos(path: Path) -> tuple[list[Photo], Mapping[int, str]]:
    """The images that have annotations, by file name, and class id → class name.

    Raises:
        CorruptData: it is no COCO instances file; names the row.
    """
    content = read_json(path)
    parts = content if isinstance(content, dict) else {}
    categories, images, annotations = (
        list(check_rows(parts.get(part), fields, f"{path}, {part}"))
        for part, fields in _FIELDS.items()
    )
    names = {row["id"]: row["name"] for _, row in categories}
    objects: dict[int, list[Mapping[str, Any]]] = {row["id"]: [] for _, row in images}
    for number, row in annotations:
        if not _is_box(row["bbox"]):
            raise CorruptData(f"{path}, annotations, row {number}: `bbox` must be four numbers")
        if row["category_id"] not in names or row["image_id"] not in objects:
            raise CorruptData(
                f"{path}, annotations, row {number}: its category or image must be in the file"
            )
        objects[row["image_id"]].append(row)
    files = []
    for number, row in images:
        origin = f"{path}, images, row {number}"
        files.append(check_inside(row["file_name"], origin))
        if min(row["width"], row["height"]) < 1:
            raise CorruptData(f"{origin}: `width` and `height` must be numbers of pixels")
    number_names(files, path)
    photos = [
        Photo(name=name, width=row["width"], height=row["height"], objects=objects[row["id"]])
        for name, (_, row) in zip(files, images, strict=True)
        if objects[row["id"]]
    ]
    return sorted(photos, key=lambda photo: photo.name), names


_FIELDS: Mapping[str, Mapping[str, type]] = {
    "categories": {"id": int, "name": str},
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
}


def _is_box(values: Sequence[object]) -> bool:
    return len(values) == 4 and all(
        isinstance(value, int | float) and math.isfinite(value) for value in values
    )


def draw_object(photo: Photo, seed: int) -> Mapping[str, Any] | None:
    """One of a photo's candidates, or None where it has none."""
    candidates = photo.candidates()
    return random.Random(f"{seed}/{photo.name}").choice(candidates) if candidates else None


def to_row(photo: Photo, instance: Mapping[str, Any], names: Mapping[int, str]) -> ObjectQuery:
    """The object as a row of the query list; other classes in the order of their annotation."""
    x, y, width, height = map(float, instance["bbox"])
    own = names[instance["category_id"]]
    classes = dict.fromkeys(names[o["category_id"]] for o in photo.objects)
    others = tuple(name for name in classes if name != own)
    region = (x, y, x + width, y + height)
    return ObjectQuery(image=photo.name, region=region, query_class=own, others=others)


def draw_mask(photo: Photo, instance: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(H, W) the object's pixels, from polygons or run lengths.

    Raises:
        CorruptData: it is neither.
    """
    try:
        segmentation = instance["segmentation"]
        if isinstance(segmentation, dict) and segmentation["size"] != [photo.height, photo.width]:
            raise ValueError(f"of an image of {segmentation['size']} pixels")
        if isinstance(segmentation, list):
            parts = coco_mask.frPyObjects(segmentation, photo.height, photo.width)
            lengths = coco_mask.merge(parts)
        elif isinstance(segmentation["counts"], list):
            lengths = coco_mask.frPyObjects(segmentation, photo.height, photo.width)
        else:
            lengths = segmentation
        mask: NDArray[np.bool_] = coco_mask.decode(lengths).astype(bool)
    except Exception as error:  # pycocotools raises plain exceptions, too
        raise CorruptData(
            f"{photo.name}: `segmentation` must be polygons or run lengths ({error!r})"
        ) from error
    return mask


def cut_out(path: Path, photo: Photo, instance: Mapping[str, Any]) -> bytes:
    """The photo as JPEG, white outside the object.

    Raises:
        MissingData: the photo is not there.
        CorruptData: it is unreadable, or its size is not the annotated one.
    """
    try:
        pixels = np.array(decode(read_regular_file(path)).convert("RGB"))
    except OSError as error:
        raise MissingData(
            f"the image {path} cannot be read; bench data prepare coco says how to get it"
        ) from error
    except CorruptData as error:
        raise CorruptData(f"{path} cannot be decoded ({error}); fetch it again") from error
    height, width, _ = pixels.shape
    mask = draw_mask(photo, instance) if (width, height) == (photo.width, photo.height) else None
    if mask is None or mask.shape != (height, width):
        raise CorruptData(
            f"{path} must have the size of its annotation, {photo.width} × {photo.height} pixels, "
            f"got {width} × {height}"
        )
    pixels[~mask] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_queries(path: Path, rows: Sequence[ObjectQuery]) -> None:
    """A query list in the released layout, sorted by image."""
    with (
        write_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_format_cells(row) for row in sorted(rows, key=lambda row: row.image))


def _format_cells(row: ObjectQuery) -> Iterator[str]:
    yield row.image
    yield ";".join(map(str, row.region)) + " "
    yield row.query_class
    yield ";".join(row.others)
