"""Published numbers that do not fit each other.

Four kinds: sources that print different numbers for one measurement, two columns that are swapped
in one of two tables, a number that stands under another metric elsewhere, and numbers of one
column that were measured under different protocols.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from cirbench.benchmark.analysis.published import UNKNOWN, Published

KINDS = DISAGREE, SWAPPED, RENAMED, MIXED = (
    "sources disagree",
    "columns swapped",
    "under another metric",
    "other protocols",
)
_LEAST_DIGITS = 4
"""So many digits a number must have before its standing elsewhere too is no accident."""


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Published rows that do not fit each other.

    Attributes:
        kind: one of the four above.
        about: what they are numbers of.
        rows: in the order of `published.csv`.
        reads: what each row says, in the same order, and for most kinds where.
    """

    kind: str
    about: str
    rows: tuple[Published, ...]
    reads: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return {**vars(self), "rows": [vars(row) for row in self.rows]}


def find_conflicts(rows: Sequence[Published]) -> list[Conflict]:
    """Find every conflict among published numbers, one kind after the other."""
    finders = (_find_disagreements, _find_swaps, _find_renamed, _find_mixed)
    return [conflict for find in finders for conflict in find(rows)]


def _find_disagreements(rows: Sequence[Published]) -> Iterator[Conflict]:
    """One measurement, and values that differ by more than their rounding."""
    for same in _group(rows, lambda row: (*_name_system(row), row.group, row.metric, _say(row))):
        if any(_differ(a, b) for a, b in combinations(same, 2)):
            about = f"{_name(same[0])}, {same[0].metric} of {same[0].group}"
            yield _tell(DISAGREE, about, same, lambda row: _cite(row, row.value))


def _find_swaps(rows: Sequence[Published]) -> Iterator[Conflict]:
    """Two tables of one system, where two groups' numbers stand in each other's place."""
    for same in _group(rows, lambda row: (*_name_system(row), row.metric)):
        tables = _group(same, lambda row: row.source)
        for one, other in combinations([_index(table, "group") for table in tables], 2):
            for a, b in combinations(sorted(one.keys() & other.keys()), 2):
                four = (one[a], one[b], other[a], other[b])
                values = [float(row.value) for row in four]
                if values[0] == values[3] != values[1] == values[2]:
                    about = f"{_name(four[0])}, {four[0].metric} of {a} and {b}"
                    yield _tell(SWAPPED, about, four, _read_group)


def _find_renamed(rows: Sequence[Published]) -> Iterator[Conflict]:
    """Two tables of one method, where a number of one stands under another metric in the other."""
    long = [row for row in rows if sum(map(str.isdigit, row.value)) >= _LEAST_DIGITS]
    for same in _group(long, lambda row: (row.method, row.task, row.split, row.group, row.value)):
        for one, other in combinations(same, 2):
            apart = (_name(one), one.source) != (_name(other), other.source)
            if apart and one.metric != other.metric:
                about = f"{one.method} {one.task} {one.split}, {one.value} of {one.group}"
                yield _tell(RENAMED, about, (one, other), _read_metric)


def _find_mixed(rows: Sequence[Published]) -> Iterator[Conflict]:
    """One column of papers' tables, and several protocols in it."""
    known = [row for row in rows if row.protocol or row.gallery]
    for column in _group(known, lambda row: (row.task, row.split, row.metric, row.group)):
        firsts = [systems[0] for systems in _group(column, _say)]
        if len(firsts) > 1:
            first = firsts[0]
            about = f"{first.task} {first.split}, {first.metric} of {first.group}"
            yield _tell(MIXED, about, firsts, lambda row: f"{_say(row)} ({row.method})")


def _say(row: Published) -> str:
    """Say what is known of a row's protocol."""
    return row.protocol or row.gallery or UNKNOWN


def _name_system(row: Published) -> tuple[str, ...]:
    return (row.method, row.variant, row.trained_on, row.backbone, row.task, row.split)


def _name(row: Published) -> str:
    return " ".join(filter(None, _name_system(row)))


def _differ(a: Published, b: Published) -> bool:
    return abs(float(a.value) - float(b.value)) > a.rounding + b.rounding + 1e-9


def _index(rows: Iterable[Published], field: str) -> Mapping[str, Published]:
    return {getattr(row, field): row for row in rows}


def _group(
    rows: Iterable[Published], key: Callable[[Published], Hashable]
) -> list[list[Published]]:
    groups: dict[Hashable, list[Published]] = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return list(groups.values())


def _tell(
    kind: str, about: str, rows: Sequence[Published], read: Callable[[Published], str]
) -> Conflict:
    return Conflict(kind=kind, about=about, rows=tuple(rows), reads=tuple(map(read, rows)))


def _read_group(row: Published) -> str:
    return _cite(row, f"{row.group} {row.value}")


def _read_metric(row: Published) -> str:
    return _cite(row, f"{row.metric} of {_name(row)}")


def _cite(row: Published, what: str) -> str:
    return f"{what} ({row.source})"
