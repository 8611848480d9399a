"""Tables of Hugging Face data sets, as they lie on a disk: parquet, or Arrow of `save_to_disk`.

Nothing but columns of texts, numbers and bytes is read; no Python object is ever made of bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from cirbench.benchmark.runtime.errors import CorruptData, MissingData
from cirbench.benchmark.runtime.paths import to_text

if TYPE_CHECKING:
    import pyarrow

ENDINGS = (".parquet", ".arrow")
_GROUPS_KEPT = 4


def find_tables(path: Path) -> list[Path]:
    """The table, those of a folder at any depth, or those of a pattern: `data/val-*.parquet`.

    Returns:
        They in the order of their names; none where the path is something else.
    """
    if path.is_dir():
        return sorted(found for found in path.rglob("*") if found.suffix in ENDINGS)
    if path.suffix not in ENDINGS:
        return []
    return [path] if path.is_file() else sorted(path.parent.glob(path.name))


class Columns:
    """The tables of one data set, one after the other.

    Raises:
        MissingData: pyarrow is not installed.
        CorruptData: a table is damaged, or has other columns than the first.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        if find_spec("pyarrow") is None:
            raise MissingData(f"reading {to_text(paths[0])} needs pyarrow; pip install pyarrow")
        self._parts = [_open(path) for path in paths]
        self.paths = tuple(paths)
        self.schema = self._parts[0].schema
        for part, path in zip(self._parts, paths, strict=True):
            if part.schema.names != self.schema.names:
                raise CorruptData(
                    f"{to_text(path)} must have the columns of {to_text(paths[0])}, "
                    f"{', '.join(self.schema.names)}, got {', '.join(part.schema.names)}"
                )
        self._lock = Lock()  # a file is read by one thread at a time
        self._read_group = lru_cache(_GROUPS_KEPT)(self._read_images)

    @property
    def names(self) -> list[str]:
        return list(self.schema.names)

    def read_rows(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row, with where it stands; columns of pictures are not read unless named."""
        for part, path in zip(self._parts, self.paths, strict=True):
            with _explain_damage(path):
                rows = part.read(columns).to_pylist()
            for number, row in enumerate(rows, start=1):
                yield f"{to_text(path)}, row {number}", row

    def is_images(self, column: str) -> bool:
        """Whether a column holds encoded pictures: bytes, alone or beside a path."""
        return _is_images(self.schema.field(column).type)

    def locate(self) -> Iterator[tuple[int, int, int]]:
        """Of each row its table, the row group in it, and the row in that."""
        for number, part in enumerate(self._parts):
            for group, count in enumerate(part.group_rows):
                for row in range(count):
                    yield number, group, row

    def read_image(self, column: str, place: tuple[int, int, int]) -> bytes:
        """An encoded picture; the last few groups of rows are kept.

        Raises:
            CorruptData: the table is damaged, or has no bytes there.
        """
        number, group, row = place
        with self._lock:
            cell = self._read_group(column, number, group)[row].as_py()
        content = cell["bytes"] if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise CorruptData(
                f"{to_text(self.paths[number])}: `{column}` must hold the bytes of each picture, "
                f"got none in row {row + 1} of group {group}; save the data set with its pictures"
            )
        return content

    def _read_images(self, column: str, number: int, group: int) -> Any:
        with _explain_damage(self.paths[number]):
            return self._parts[number].read_group(group, column)


class _Part:
    """One file: a Parquet file's groups of rows, or an Arrow stream's batches."""

    def __init__(self, path: Path) -> None:
        self._parquet: Any = None
        self._batches: list[Any] = []
        if path.suffix == ".parquet":
            from pyarrow import parquet

            self._parquet = parquet.ParquetFile(path)
            self.schema: pyarrow.Schema = self._parquet.schema_arrow
            kept = self._parquet.metadata
            self.group_rows = [kept.row_group(i).num_rows for i in range(kept.num_row_groups)]
        else:
            import pyarrow as arrow

            with arrow.ipc.open_stream(arrow.memory_map(str(path))) as stream:
                self.schema = stream.schema
                self._batches = list(stream)
            self.group_rows = [batch.num_rows for batch in self._batches]

    def read(self, columns: Sequence[str]) -> Any:
        if self._parquet:
            return self._parquet.read(columns=list(columns))
        import pyarrow as arrow

        return arrow.Table.from_batches(self._batches, self.schema).select(list(columns))

    def read_group(self, group: int, column: str) -> Any:
        if self._parquet:
            return self._parquet.read_row_group(group, columns=[column]).column(column)
        return self._batches[group].column(column)


def _open(path: Path) -> _Part:
    with _explain_damage(path):
        return _Part(path)


class _explain_damage:  # noqa: N801 - a context manager, named as one
    """Turn what Arrow raises into an error that names the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        from pyarrow import ArrowException

        if isinstance(error, ArrowException | OSError | ValueError):
            raise CorruptData(
                f"{to_text(self._path)} cannot be read ({type(error).__name__}: {error}); it may "
                f"be truncated: fetch it again"
            ) from error


def _is_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind))
