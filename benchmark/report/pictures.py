"""A task's pictures and texts beside its records, where the page may show them."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, TaskData
from cirbench.benchmark.images.boxes import cut
from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of thumbnails: pixels of the longer side, and WebP's quality in percent."""

    side: int = 64
    quality: int = 75


SIZES = ((2_500, Size()), (5_000, Size(side=48, quality=50)), (None, Size(side=32, quality=20)))
"""By how many pictures a page has at most. Photos of 1, 0.5 and 0.25 kB keep it below 5 MB."""
SMALL_BYTES = 4096
"""A picture that is no larger in either respect is taken as it is, without another encoding."""

_MIME = {"WEBP": "image/webp", "PNG": "image/png", "JPEG": "image/jpeg"}


@dataclass(frozen=True, kw_only=True)
class Permission:
    """Whether licensed pictures may be embedded, and where they are."""

    embed: bool = False
    data_root: Path | None = None

    def covers(self, task: str) -> bool:
        """Whether the task's pictures and texts may stand in a page."""
        return self.embed or bool(find_credit(task))


def find_credit(task: str) -> str:
    """Find what must be said beside a task's pictures; empty where they may not be shown."""
    try:
        return str(find_task(task).credit)
    except (UsageError, MissingData):  # records can be read without their task
        return ""


def load_task_data(board: Board, data_root: Path | None) -> TaskData:
    """Load the gallery and queries that a board's records were made with.

    Raises:
        UsageError: no such task is installed.
        MissingData: the task's data is not below `data_root`.
        CorruptData: its annotations are others than the records'.
    """
    cell = board.first.cell
    task: Task = find_task(cell.task)()
    data = task.load(protocol=board.first.protocol, split=cell.split, data_root=data_root)
    gallery = [ref.id for ref in data.gallery]
    arrays = board.per_query[0]
    queries = [query.id for query in data.queries]
    if gallery != arrays.gallery.tolist() or queries != arrays.query.tolist():
        raise CorruptData(
            f"{board.records[0].path} was made with other annotations of {cell.task} than those "
            f"below --data-root; run its cells again"
        )
    return data


def open_picture(ref: ImageRef) -> Image.Image:
    """Decode a picture; of one with a box, the box alone, at its own proportions.

    Raises:
        MissingData: its file can't be read.
        CorruptData: it can't be decoded.
    """
    return _cut(ref, _decode(ref, _read(ref)))


def make_thumbnail(ref: ImageRef, size: Size = Size()) -> str:
    """Make a data URI of a small picture; raises as `open_picture` does."""
    content = _read(ref)
    # a draft's pixels are others than the box's
    draft = (2 * size.side, 2 * size.side) if ref.box is None else None
    image = _decode(ref, content, draft)
    small = max(image.size) <= size.side and len(content) <= SMALL_BYTES
    if small and image.format in _MIME and ref.box is None:
        return _make_data_uri(content, _MIME[image.format])
    part = _cut(ref, image)
    part.thumbnail((size.side, size.side))
    buffer = io.BytesIO()
    part.convert("RGB").save(buffer, "WEBP", quality=size.quality)
    return _make_data_uri(buffer.getvalue(), "image/webp")


def _read(ref: ImageRef) -> bytes:
    try:
        return ref.read()
    except OSError as error:
        raise MissingData(f"picture {ref.id} can't be read ({error}); check --data-root") from error


def _decode(ref: ImageRef, content: bytes, draft: tuple[int, int] | None = None) -> Image.Image:
    try:
        return decode(content, draft=draft)
    except CorruptData as error:
        raise CorruptData(f"picture {ref.id} can't be decoded ({error}); fetch it again") from error


def _cut(ref: ImageRef, image: Image.Image) -> Image.Image:
    """Cut out what a tower sees."""
    try:
        return cut(image, ref.box)
    except CorruptData as error:
        raise CorruptData(f"picture {ref.id}: {error}") from error


def _make_data_uri(content: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


class Album:
    """A page's pictures by number, each once, in the order in which they are first asked for."""

    def __init__(self) -> None:
        self._number: dict[str, int] = {}
        self._refs: list[ImageRef] = []

    def number(self, ref: ImageRef) -> int:
        """Give the picture's number, a new one if it is new."""
        if ref.id not in self._number:
            self._number[ref.id] = len(self._refs)
            self._refs.append(ref)
        return self._number[ref.id]

    def thumbnails(self) -> list[str]:
        """Make data URIs by number, smaller where there are many; raises as `open_picture` does."""
        count = len(self._refs)
        size = next(size for most, size in SIZES if most is None or count <= most)
        return [make_thumbnail(ref, size) for ref in self._refs]
