"""Finding, reading and decoding pictures."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

from PIL import Image

from cirbench.benchmark.decoding import EXTENSIONS, decode, is_deep_grey, open_picture
from cirbench.benchmark.errors import CorruptData, MissingData
from cirbench.benchmark.interfaces import ImageRef

T = TypeVar("T")
_NAMED = 5


def file_ref(path: Path, name: str, box: tuple[int, int, int, int] | None = None) -> ImageRef:
    """A picture in a file, or a part of one."""
    return ImageRef(id=name, read=partial(Path.read_bytes, path), path=path, box=box)


def images_in_folder(folder: Path) -> tuple[ImageRef, ...]:
    """Every picture below a folder, in the order of their paths.

    Raises:
        MissingData: there is no such folder, or no picture in it.
    """
    found = sorted(
        (*inside, name)
        for parent, _, names in os.walk(folder)
        for inside in [Path(parent).relative_to(folder).parts]
        for name in names
        if Path(name).suffix.lower() in EXTENSIONS
    )
    paths = ((folder.joinpath(*parts), "/".join(parts)) for parts in found)
    pictures = tuple(file_ref(path, name) for path, name in paths if path.is_file())
    if not pictures:
        raise MissingData(f"no pictures below {folder} (endings: {', '.join(sorted(EXTENSIONS))})")
    return pictures


def images_in_table(
    table: Path, column: str = "filepath", separator: str | None = None
) -> tuple[ImageRef, ...]:
    """The pictures of a table with a column of paths, relative to the table's folder.

    Tab-separated, or comma-separated where the file ends in .csv, unless `separator` is given.

    Raises:
        MissingData: there is no such file.
        CorruptData: it has no such column, no row, or a row without a value.
    """
    if not table.is_file():
        raise MissingData(f"no file at {table}")
    delimiter = separator or ("," if table.suffix == ".csv" else "\t")
    try:
        with table.open(newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter=delimiter)
            if column not in (rows.fieldnames or ()):
                raise CorruptData(
                    f"{table} has no column `{column}`; its header is {rows.fieldnames or 'empty'}"
                )
            names = [row[column] for row in rows]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CorruptData(f"{table} is no table in UTF-8 ({error})") from error
    if None in names:
        raise CorruptData(f"{table}, row {names.index(None) + 1}: no value for `{column}`")
    if not names:
        raise CorruptData(f"{table} lists no pictures")
    return tuple(file_ref(table.parent / name, name) for name in names)


def load_picture(ref: ImageRef, transform: Callable[[Image.Image], T], row: int) -> tuple[T, str]:
    """What `transform` makes of the picture, and the sha256 of its file; `row` is for errors.

    Raises:
        MissingData: its file is gone, or can't be opened.
        CorruptData: it can't be decoded; see `decode`.
    """
    try:
        content = ref.read()
    except OSError as error:
        raise MissingData(
            f"picture {ref.id} (row {row}): {error.filename} can't be read ({error.strerror})"
        ) from error
    try:
        pixels = transform(decode(content))
    except (CorruptData, OSError, ValueError) as error:  # of a transform: a mode it can't convert
        raise CorruptData(
            f"picture {ref.id} (row {row}, {len(content)} bytes) can't be decoded: {error}"
        ) from error
    return pixels, hashlib.sha256(content).hexdigest()


def find_deep_greys(refs: Iterable[ImageRef]) -> list[str]:
    """The ids of the pictures with files of their own that `is_deep_grey`, by their headers."""
    return [ref.id for ref in refs if ref.path and _has_deep_grey(ref.path)]


def _has_deep_grey(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(26)
    if header.startswith(b"\x89PNG"):
        return header[24:] == b"\x10\0"  # 16 bits, grey
    if header.startswith((b"II*\0", b"MM\0*")):
        return is_deep_grey(open_picture(path.read_bytes()))
    return False


def describe_deep_greys(names: Sequence[str], count: int) -> str:
    """What is said of them: some of a person's `count` pictures."""
    return (
        f"{len(names):,} of {count:,} pictures have 16 bits of grey, and come out white where they "
        f"exceed 255; convert them to 8 bits: {', '.join(names[:_NAMED])}"
    )


def prefetched(jobs: Iterable[Callable[[], T]], *, workers: int, ahead: int) -> Iterator[T]:
    """Runs jobs in threads and gives their results in order, at most `ahead` of the taker."""
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


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Successive lists of `size` items, the last one shorter."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
