"""The query list of COCO: one cut-out object of each image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cirbench.benchmark.images.decoding import MOST_PIXELS
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.parsing import read_table
from cirbench.benchmark.runtime.paths import check_inside

COLUMNS = ("id", "query_regions", "query_class", "classes")


_EMPTY = ("nan", "NaN")
"""What pandas writes for a cell without a value."""


@dataclass(frozen=True, kw_only=True)
class ObjectQuery:
    """A query of COCO: an object of an image.

    Attributes:
        image: the file name.
        region: x1, y1, x2, y2 of its box in pixels, as annotated.
        others: names of the image's other classes, each once.
    """

    image: str
    region: tuple[float, float, float, float]
    query_class: str
    others: tuple[str, ...]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The region cut off to whole pixels, as the released evaluation does."""
        left, upper, right, lower = map(int, self.region)
        return left, upper, right, lower

    @property
    def is_black(self) -> bool:
        """Whether nothing is left of the box."""
        left, upper, right, lower = self.box
        return right <= left or lower <= upper


def read_queries(path: Path) -> list[ObjectQuery]:
    """The rows of a query list.

    Raises:
        CorruptData: a value is missing or wrong, an image occurs twice, or there is none; or as
            `read_table`.
    """
    table = read_table(path, COLUMNS, separator=",")
    rows = [_parse_row(row, path, number) for number, row in enumerate(table, start=1)]
    if not rows:
        raise CorruptData(f"{path} lists no queries")
    seen: set[str] = set()
    for number, row in enumerate(rows, start=1):
        if row.image in seen:
            raise CorruptData(f"{path}, row {number}: {row.image} occurs twice")
        seen.add(row.image)
    return rows


def _parse_row(row: Mapping[str, str], path: Path, number: int) -> ObjectQuery:
    origin = f"{path}, row {number}"
    values = ["" if row[name] in _EMPTY else row[name] for name in COLUMNS]
    image, region, query_class, classes = values
    if not image or not query_class:
        raise CorruptData(f"{origin}: {('query_class' if image else 'id')} must not be empty")
    return ObjectQuery(
        image=check_inside(image, origin),
        region=_parse_region(region, origin),
        query_class=query_class,
        others=tuple(name for name in classes.split(";") if name),
    )


def _parse_region(text: str, origin: str) -> tuple[float, float, float, float]:
    try:
        left, upper, right, lower = map(float, text.strip().split(";"))
    except ValueError as error:
        raise CorruptData(f"{origin}: query_regions must be x1;y1;x2;y2, got {text!r}") from error
    width, height = right - left, lower - upper
    if not (abs(left) + abs(upper) < MOST_PIXELS and abs(width * height) <= MOST_PIXELS):  # nor nan
        raise CorruptData(f"{origin}: query_regions must be a part of a picture, got {text!r}")
    return left, upper, right, lower
