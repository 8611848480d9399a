"""Categories of queries as rows that others can join: CIRCUS's, and ours in its columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.composition import SOLVABLE, Pool
from cirbench.benchmark.data.answers import strip_zeros
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.benchmark.runtime.parsing import read_text
from cirbench.benchmark.runtime.paths import to_text

_NAMED = 10
_SPLITS = {"validation": "val", "valid": "val", "dev": "val"}
"""Names of splits elsewhere → ours."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """The fields of a row that are read; others may stand beside them.

    Attributes:
        group: ours, where query ids are unique within a group only.
    """

    __pydantic_config__ = ConfigDict(extra="ignore", coerce_numbers_to_str=True)

    dataset: str
    source_split: str
    query_id: str
    reference_image_id: str
    audit_category: Literal["shortcut_solvable", "composition_required", "unresolved"]
    is_shortcut_free: bool | None = None
    audit_k: int | None = None
    group: str | None = None

    @property
    def home(self) -> tuple[str, str]:
        """The data set and the split that it is of."""
        return _strip_marks(self.dataset), _SPLITS.get(self.source_split, self.source_split)

    @property
    def key(self) -> tuple[str, ...]:
        return _make_key(self.group, self.query_id, self.reference_image_id)


_ROW = TypeAdapter(_Row)


def _make_key(group: str | None, query: str, reference: str) -> tuple[str, ...]:
    """What a query is known by; a number is the same with and without leading zeros."""
    return ("" if group is None else group, *map(strip_zeros, (query, reference)))


@dataclass(frozen=True, kw_only=True)
class FrozenLabels:
    """Categories that were read from a file, in the order of a board's queries.

    Attributes:
        k: what they were decided with, where the file says so.
    """

    file: str
    sha256: str
    k: int | None
    category: NDArray[np.str_]

    @property
    def identity(self) -> tuple[object, ...]:
        return ("labels", self.sha256)

    def as_dict(self) -> dict[str, Any]:
        return {"labels": self.file, "sha256": self.sha256, "k": self.k}


def read_labels(path: Path, board: Board) -> FrozenLabels:
    """Read the categories of a board's queries from JSON Lines or Parquet.

    Rows of other data sets and splits are passed over.

    Raises:
        MissingData: there is no such file, or Parquet can't be read here.
        CorruptData: a row is not such a row, contradicts itself, or labels a query a second time.
        UsageError: the file has no row of the task's split, or its queries are not the board's.
    """
    rows = _choose_rows([_parse(row, place) for place, row in _read(path)], path, board)
    category: dict[tuple[str, ...], str] = {}
    for row in rows:
        if category.setdefault(row.key, row.audit_category) != row.audit_category:
            raise CorruptData(f"{to_text(path)}: query {row.query_id} has two categories")
    grouped = all(row.group is not None for row in rows)
    known = _list_keys(board, grouped=grouped)
    if len(set(known)) < len(known):
        raise UsageError(
            f"{to_text(path)}: its rows need a column `group`, since query ids of "
            f"{board.title} are unique within a group only"
        )
    _check_same(set(known), set(category), path, board)
    return FrozenLabels(
        file=path.name,
        sha256=sha256_of_file(path),
        k=next((row.audit_k for row in rows), None),
        category=np.array([category[key] for key in known]),
    )


def _read(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row and where it stands."""
    if path.suffix == ".parquet":
        if find_spec("pyarrow") is None:
            raise MissingData(f"reading {to_text(path)} needs pyarrow; pip install pyarrow")
        import pandas as pd

        try:
            frame = pd.read_parquet(path, engine="pyarrow")
        except FileNotFoundError as error:
            raise MissingData(f"no file at {to_text(path)}") from error
        except (OSError, ValueError) as error:
            raise CorruptData(f"{to_text(path)} is not valid Parquet ({error})") from error
        read = frame[[field.name for field in fields(_Row) if field.name in frame]]
        for number, row in enumerate(read.to_dict("records"), start=1):
            yield f"{to_text(path)}, row {number}", {k: v for k, v in row.items() if not pd.isna(v)}
        return
    # a caption may hold characters that str.splitlines takes for the end of a line
    for number, line in enumerate(read_text(path).rstrip("\n").split("\n"), start=1):
        place = f"{to_text(path)}, line {number}"
        try:
            yield place, json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CorruptData(f"{place} is not valid JSON ({error})") from error


def _parse(row: Any, place: str) -> _Row:
    try:
        found = _ROW.validate_python(row)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        field = ".".join(map(str, fault["loc"])) or "the row"
        raise CorruptData(f"{place}: {field} {fault['msg']}, got {fault['input']!r:.60}") from error
    if found.is_shortcut_free not in (None, found.audit_category != SOLVABLE):
        raise CorruptData(
            f"{place}: is_shortcut_free must be {found.audit_category != SOLVABLE} where the "
            f"category is {found.audit_category}"
        )
    return found


def _choose_rows(rows: Sequence[_Row], path: Path, board: Board) -> list[_Row]:
    task, split = board.first.task_label, board.first.cell.split
    found = [row for row in rows if row.home == (_strip_marks(task), split)]
    if not found:
        known = ", ".join(sorted({f"{row.dataset} {row.source_split}" for row in rows})) or "none"
        raise UsageError(f"{to_text(path)} must have rows of {task} {split}, got {known}")
    return found


def _strip_marks(name: str) -> str:
    """Leave out of a data set's name what people write differently: FashionIQ, fashion-iq."""
    return re.sub(r"[\W_]", "", name).lower()


def _list_keys(board: Board, *, grouped: bool) -> list[tuple[str, ...]]:
    queries = board.queries
    groups: Sequence[str | None] = (
        queries.group.tolist() if grouped else [None] * len(queries.query)
    )
    triples = zip(groups, queries.query.tolist(), queries.reference.tolist(), strict=True)
    return [_make_key(*triple) for triple in triples]


def _check_same(
    ours: set[tuple[str, ...]], theirs: set[tuple[str, ...]], path: Path, board: Board
) -> None:
    for one, other, what in ((ours, theirs, "lacks"), (theirs, ours, "has, unlike the records,")):
        if odd := sorted(one - other):
            named = ", ".join(f"{query} ({reference})" for _, query, reference in odd[:_NAMED])
            raise UsageError(
                f"{to_text(path)} must label the {len(ours):,} queries of {board.title}, got "
                f"{len(theirs):,}; it {what} {len(odd):,} (reference behind): {named}"
            )


def list_rows(board: Board, pool: Pool) -> Iterator[Mapping[str, Any]]:
    """List what a pool decided as rows with CIRCUS's columns, and `group`, `protocol`.

    What a record does not hold has no column: texts, targets, what people said.
    """
    first, queries = board.first, board.queries
    alone = np.where(pool.found["image"], "image", "text")
    alone = np.where(pool.found["image"] & pool.found["text"], "image_and_text", alone)
    for i, category in enumerate(pool.category.tolist()):
        yield {
            "dataset": first.task_label,
            "source_split": first.cell.split,
            "protocol": first.cell.protocol,
            "query_index": i,
            "query_id": str(queries.query[i]),
            "group": str(queries.group[i]),
            "reference_image_id": str(queries.reference[i]),
            "audit_category": category,
            "shortcut_type": str(alone[i]) if category == SOLVABLE else None,
            "is_shortcut_free": category != SOLVABLE,
            **{
                f"best_{_COLUMNS[side]}_rank": int(ranks[i]) or None
                for side, ranks in pool.ranks.items()
            },
            **{
                f"{_COLUMNS[side]}_hit_at_{pool.k}": bool(found[i])
                for side, found in pool.found.items()
            },
            "audit_k": pool.k,
        }


_COLUMNS = {"image": "image", "text": "text", "composed": "multimodal"}
"""Side of a pool → what CIRCUS calls it."""
