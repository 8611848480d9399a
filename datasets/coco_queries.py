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
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from cirbench.benchmark.annotations import read_json
from cirbench.benchmark.decoding import decode
from cirbench.benchmark.downloads import unpack
from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.files import sha256_of_file, written_whole
from cirbench.benchmark.paths import check_inside
from cirbench.benchmark.progress import Reporter
from cirbench.datasets.coco import COLUMNS, Row

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
    """Writes coco_eval.csv and val2017_masked/ below `root`/coco; files that are there stay.

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
        return [f"{table} is there and stays as it is; remove it to draw another list"]
    photos, names = read_photos(path)
    chosen = [(photo, o) for photo in photos if (o := draw(photo, seed)) is not None]
    masked.mkdir(exist_ok=True)
    with reporter.stage("masked images", len(chosen)) as stage:
        for photo, instance in chosen:
            target = masked / photo.name
            if not target.exists():
                with written_whole(target) as temporary:
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
        CorruptData: it is no COCO instances file; the message says which field is missing.
    """
    content = read_json(path)
    try:
        names = {int(c["id"]): str(c["name"]) for c in content["categories"]}
        objects: dict[int, list[Mapping[str, Any]]] = {}
        for row in content["annotations"]:
            x, y, width, height = row["bbox"]
            names[row["category_id"]]
            objects.setdefault(row["image_id"], []).append(row)
            0.0 + x + y + width + height  # raises where one is no number
        photos = [
            Photo(
                name=check_inside(str(image["file_name"]), str(path)),
                width=int(image["width"]),
                height=int(image["height"]),
                objects=objects[image["id"]],
            )
            for image in content["images"]
            if image["id"] in objects
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptData(f"{path} must be a COCO instances file: {error!r}") from error
    return sorted(photos, key=lambda photo: photo.name), names


def draw(photo: Photo, seed: int) -> Mapping[str, Any] | None:
    """One of a photo's candidates, or None where it has none."""
    candidates = photo.candidates()
    return random.Random(f"{seed}/{photo.name}").choice(candidates) if candidates else None


def to_row(photo: Photo, instance: Mapping[str, Any], names: Mapping[int, str]) -> Row:
    """The object as a row of the query list; other classes in the order of their annotation."""
    x, y, width, height = map(float, instance["bbox"])
    own = names[instance["category_id"]]
    classes = dict.fromkeys(names[o["category_id"]] for o in photo.objects)
    others = tuple(name for name in classes if name != own)
    region = (x, y, x + width, y + height)
    return Row(image=photo.name, region=region, query_class=own, others=others)


def mask_of(photo: Photo, instance: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(H, W) the object's pixels, from polygons or run lengths."""
    segmentation = instance["segmentation"]
    if isinstance(segmentation, list):
        lengths = coco_mask.merge(coco_mask.frPyObjects(segmentation, photo.height, photo.width))
    elif isinstance(segmentation["counts"], list):
        lengths = coco_mask.frPyObjects(segmentation, photo.height, photo.width)
    else:
        lengths = segmentation
    mask: NDArray[np.bool_] = coco_mask.decode(lengths).astype(bool)
    return mask


def cut_out(path: Path, photo: Photo, instance: Mapping[str, Any]) -> bytes:
    """The photo as JPEG, white outside the object.

    Raises:
        MissingData: the photo is not there.
        CorruptData: it is unreadable, or its size is not the annotated one.
    """
    try:
        pixels = np.array(decode(path.read_bytes()).convert("RGB"))
    except OSError as error:
        raise MissingData(
            f"no image can be read at {path}; bench data prepare coco says how to get it"
        ) from error
    except CorruptData as error:
        raise CorruptData(f"{path} can't be decoded ({error}); fetch it again") from error
    try:
        mask = mask_of(photo, instance)
    except Exception as error:  # pycocotools raises whatever a wrong outline makes of it
        raise CorruptData(f"{path}: its object's segmentation can't be read ({error!r})") from error
    if mask.shape != pixels.shape[:2]:
        raise CorruptData(f"{path} has {pixels.shape[:2]} pixels, its annotation {mask.shape}")
    pixels[~mask] = 255
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def write_queries(path: Path, rows: Sequence[Row]) -> None:
    """A query list in the released layout, sorted by image."""
    with (
        written_whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_cells(row) for row in sorted(rows, key=lambda row: row.image))


def _cells(row: Row) -> Iterator[str]:
    yield row.image
    yield ";".join(map(str, row.region)) + " "
    yield row.query_class
    yield ";".join(row.others)
