"""Finding, reading and decoding pictures."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

from PIL import Image

from cirbench.benchmark.api.values import Box, ImageRef
from cirbench.benchmark.images.decoding import EXTENSIONS, decode, is_deep_grey, open_picture
from cirbench.benchmark.images.leftovers import SkippedFiles, walk_pictures
from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.files import read_regular_file
from cirbench.benchmark.runtime.parsing import read_table, say_nothing
from cirbench.benchmark.runtime.paths import check_path, to_text

T = TypeVar("T")
_NAMED = 5


def make_file_ref(path: Path, name: str, box: Box | None = None) -> ImageRef:
    """A picture in a file, or a part of one."""
    return ImageRef(id=name, read=partial(read_regular_file, path), path=path, box=box)


Say = Callable[[str], object]
"""Takes a sentence for the person, such as `Reporter.say`."""


def find_images_in_folder(folder: Path, say: Say = say_nothing) -> tuple[ImageRef, ...]:
    """Every picture below a folder, in the order of their paths.

    Args:
        say: is told what was skipped, with its number.

    Raises:
        MissingData: there is no such folder, or no picture in it.
    """
    skipped = SkippedFiles()
    names = list(walk_pictures(folder, skipped))
    for remark in skipped.remarks():
        say(f"{to_text(folder)}: {remark}")
    if not names:
        endings = ", ".join(sorted(EXTENSIONS))
        raise MissingData(
            f"no pictures below {to_text(folder)}; a picture's name must end in one of {endings}"
        )
    return tuple(make_file_ref(folder / name, to_text(name)) for name in names)


def read_image_table(
    table: Path,
    column: str = "filepath",
    separator: str | None = None,
    say: Say = say_nothing,
) -> tuple[ImageRef, ...]:
    """The pictures of a table with a column of paths, relative to the table's folder.

    Raises:
        MissingData: there is no such file.
        CorruptData: it has no row, or a path is none; or as `read_table`.
    """
    names = [
        check_path(row[column], f"{table}, row {number}, `{column}`")
        for number, row in enumerate(read_table(table, [column], separator, say), start=1)
    ]
    if not names:
        raise CorruptData(f"{table} lists no pictures")
    return tuple(make_file_ref(table.parent / name, name) for name in names)


@dataclass(frozen=True)
class EncodedPicture:
    """A picture's file, decoded once its pixels are asked for."""

    content: bytes

    @cached_property
    def image(self) -> Image.Image:
        """The picture with its pixels; raises as `decode` does."""
        return decode(self.content)


def load_picture(ref: ImageRef, transform: Callable[[Image.Image], T], row: int) -> tuple[T, str]:
    """What `transform` makes of the picture, and the sha256 of its file; `row` is for errors.

    Raises:
        MissingData: its file is gone, or can't be opened.
        CorruptData: it can't be decoded; see `decode`.
    """
    return load_encoded(ref, lambda picture: transform(picture.image), row)


def load_encoded(ref: ImageRef, work: Callable[[EncodedPicture], T], row: int) -> tuple[T, str]:
    """What `work` makes of a picture's file, and the file's sha256; raises as `load_picture`."""
    try:
        content = ref.read()
    except OSError as error:
        raise MissingData(
            f"picture {ref.id} (row {row}): {error.filename} cannot be read ({error.strerror})"
        ) from error
    try:
        made = work(EncodedPicture(content))
    except (CorruptData, OSError, ValueError) as error:  # of a transform: a mode it can't convert
        raise CorruptData(
            f"picture {ref.id} (row {row}, {len(content)} bytes) cannot be decoded: {error}"
        ) from error
    return made, hashlib.sha256(content).hexdigest()


def find_deep_greys(refs: Iterable[ImageRef]) -> list[str]:
    """The ids of the pictures that `is_deep_grey`, by their headers."""
    return [ref.id for ref in refs if _has_deep_grey(ref)]


def _has_deep_grey(ref: ImageRef) -> bool:
    try:
        if ref.path:
            with ref.path.open("rb") as file:
                header = file.read(26)
        else:
            header = ref.read()[:26]
    except OSError:  # its vector came from the store, and nothing needs the file
        return False
    if header.startswith(b"\x89PNG"):
        return header[24:] == b"\x10\0"  # 16 bits, grey
    if header.startswith((b"II*\0", b"MM\0*")):
        return is_deep_grey(open_picture(ref.read()))
    return False


def describe_deep_greys(names: Sequence[str], count: int) -> str:
    """Say which of a person's `count` pictures are 16-bit grey, and what mends it."""
    return (
        f"{len(names):,} of {count:,} pictures have 16 bits of grey, and come out white where they "
        f"exceed 255; convert them to 8 bits: {', '.join(names[:_NAMED])}"
    )


def prefetch(jobs: Iterable[Callable[[], T]], *, workers: int, ahead: int) -> Iterator[T]:
    """Run jobs in threads and give their results in order, at most `ahead` of the taker."""
    with ThreadPoolExecutor(max_workers=workers) as pool:
        waiting: deque[Future[T]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def split_into_chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Successive lists of `size` items, the last one shorter."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
