"""Which records may be compared, and what their per-query values say about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cirbench.benchmark.analysis.seeds import SeedMean, find_spread, merge_seeds
from cirbench.benchmark.api.per_query import Scores
from cirbench.benchmark.records.record import Record, read_record
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.runtime.kept import keep
from cirbench.benchmark.scoring.paired import Difference, adjust_by_holm, find_differences
from cirbench.benchmark.scoring.summary import check_scored, make_design, read_scored

_DIFFERENCES = TypeAdapter(dict[str, list[Difference]])


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One metric in one group, or average of groups, of a pair of records.

    Attributes:
        a, b: the two means, in percent.
        a_sd, b_sd: over seeds, in points; None where there is one.
        p_holm: the test's p, adjusted for all cells that are shown together.
    """

    group: str
    metric: str
    a: float
    b: float
    difference: Difference
    p_holm: float
    a_sd: float | None = None
    b_sd: float | None = None


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two records, or means over seeds, over the same queries, and the cells that were asked."""

    a: Record
    b: Record
    cells: tuple[Comparison, ...]

    def as_dict(self) -> dict[str, Any]:
        """Give plain data, for --json."""
        return {
            "task": self.a.task_label,
            "split": self.a.cell.split,
            "protocol": self.a.cell.protocol,
            "a": identify(self.a),
            "b": identify(self.b),
            "cells": [asdict(cell) for cell in self.cells],
        }


def identify(record: Record) -> dict[str, Any]:
    """Give what tells a record from others, as plain data."""
    kept = ("method", "trained_on", "backbone", "checkpoint", "seed")
    named = {"record": str(record.path), **{name: getattr(record.cell, name) for name in kept}}
    if isinstance(record, SeedMean):
        return {**named, "seeds": list(map(identify, record.of))}
    return named


def compare(
    pairs: Sequence[tuple[Record, Record]],
    *,
    metrics: Sequence[str] = (),
    groups: Sequence[str] = (),
) -> list[Pair]:
    """Compare each pair; p is adjusted over all cells of all pairs.

    Args:
        metrics: names; none means the protocol's headline.
        groups: names of groups or averages; none means all.

    Raises:
        UsageError: two records are not over the same queries, or have no such metric or group.
        CorruptData: a record's per-query data is missing or altered.

    Examples:
        >>> import cirbench
        >>> methods = ["image-only", "text-only"]
        >>> image, text = cirbench.evaluate(methods, "emoji", backbone="fake", split="val")
        >>> [pair] = cirbench.compare([(image, text)], groups=["average"])
        >>> pair.cells[0].metric, pair.cells[0].p_holm < 0.05
        ('R@10', True)
    """
    found = [Pair(a=a, b=b, cells=_compare_cells(a, b, metrics, groups)) for a, b in pairs]
    adjusted = iter(adjust_by_holm([cell.difference.p for pair in found for cell in pair.cells]))
    return [
        replace(pair, cells=tuple(replace(cell, p_holm=next(adjusted)) for cell in pair.cells))
        for pair in found
    ]


def _compare_cells(
    a: Record, b: Record, metrics: Sequence[str], groups: Sequence[str]
) -> tuple[Comparison, ...]:
    check_comparable(a, b)
    protocol = a.protocol
    rows = [*a.averages, *a.groups]
    told_apart = rows if len(a.groups) > 1 else a.groups  # one group is its own average
    shown_rows = _check_known("group", groups, rows) or told_apart
    shown_metrics = _check_known("metric", metrics, protocol.metrics) or [protocol.headline]
    columns = [protocol.metrics.index(metric) for metric in shown_metrics]
    kept = ("paired differences", columns, a.identity, b.identity)
    found = keep(_DIFFERENCES, kept, partial(_find_differences, a, b, columns))
    return tuple(
        Comparison(
            group=row,
            metric=metric,
            a=a.metrics[row][metric].value,
            b=b.metrics[row][metric].value,
            difference=found[row][column],
            p_holm=1.0,
            a_sd=find_spread(a, row, metric),
            b_sd=find_spread(b, row, metric),
        )
        for row in shown_rows
        for column, metric in enumerate(shown_metrics)
    )


def _find_differences(a: Record, b: Record, columns: Sequence[int]) -> dict[str, list[Difference]]:
    of_a, of_b = align(a, b)
    design = make_design(of_a, a.groups, a.protocol)
    return find_differences((of_a.values - of_b.values)[:, columns], design)


def _check_known(kind: str, wanted: Sequence[str], known: Sequence[str]) -> Sequence[str]:
    for name in wanted:
        if name not in known:
            raise UsageError(f"no {kind} {name!r} in these records; known: {', '.join(known)}")
    return wanted


def check_comparable(a: Record, b: Record) -> None:
    """Check that two records share protocol, gallery and queries.

    Raises:
        UsageError: they differ; names the first such field, and both values.
    """
    for record in (a, b):
        if not record.metrics:
            raise UsageError(f"{record.path} has no metrics: its split has no public labels")
    fields_a, fields_b = _list_shared(a), _list_shared(b)
    if a.cell.backbone == b.cell.backbone:  # one name, one set of weights
        for fields, record in ((fields_a, a), (fields_b, b)):
            fields["weights of the backbone"] = record.fingerprints.weights
    for name in fields_a | fields_b:
        if fields_a.get(name) != fields_b.get(name):
            raise UsageError(
                f"{a.path} and {b.path} can't be compared: {name} differs, "
                f"{fields_a.get(name)!r} and {fields_b.get(name)!r}"
            )


def _list_shared(record: Record) -> dict[str, Any]:
    """Give what two records must share, by the name a person knows it by."""
    prints = record.fingerprints
    return {
        "task": record.task_label,
        "split": record.cell.split,
        **{f"protocol {name}": value for name, value in record.protocol.as_dict().items()},
        "annotations": prints.annotations,
        "gallery": prints.gallery,
        "references": prints.references,
        "groups": record.groups,
        "number of queries": record.counts.queries,
    }


def align(a: Record, b: Record) -> tuple[Scores, Scores]:
    """Bring the scores of two records into one order of queries.

    Raises:
        UsageError: they hold different queries; names the first.
        CorruptData: a record's per-query data is missing or altered.
    """
    one, other = _sort(a.scores), _sort(b.scores)
    if len(one.query) != len(other.query):
        raise CorruptData(
            f"{a.path} and {b.path} must have as many queries as their counts say, got "
            f"{len(one.query)} and {len(other.query)}; run both cells again"
        )
    for field in ("query", "reference", "group"):
        ours, theirs = getattr(one, field), getattr(other, field)
        if differing := np.flatnonzero(ours != theirs).tolist():
            raise UsageError(
                f"{a.path} and {b.path} can't be compared: queries differ, {len(differing)} in "
                f"their {field}, the first {ours[differing[0]]!s} and {theirs[differing[0]]!s}"
            )
    return one, other


def _sort(scores: Scores) -> Scores:
    order: NDArray[np.int64] = np.lexsort((scores.reference, scores.group, scores.query))
    names = ("query", "reference", "group", "values", "has_aspect")
    kept = {name: getattr(scores, name) for name in names}
    return replace(scores, **{name: array[order] for name, array in kept.items() if len(array)})


def find_pairs(a: str, b: str, root: Path) -> list[tuple[Record, Record]]:
    """Find the pairs that two names stand for.

    Two files are a pair; else, of the records that each name stands for, those of one task, split,
    protocol and backbone, with the mean over seeds in place of seeds.

    Raises:
        MissingData: a name stands for no record.
        UsageError: nothing can be paired.
    """
    ours, theirs = find_records(a, b, root=root)
    as_given = Path(a).is_file() and Path(b).is_file()
    if not as_given:
        ours, theirs = merge_seeds(ours), merge_seeds(theirs)
    alone = {
        setting
        for side in (ours, theirs)
        for setting, count in Counter(map(_setting, side)).items()
        if count == 1
    }
    found: dict[frozenset[Path], tuple[Record, Record]] = {}
    for one, other in product(ours, theirs):
        paths = frozenset((one.path.resolve(), other.path.resolve()))
        if len(paths) == 2 and (as_given or _pair_up(one, other, alone)):
            found.setdefault(paths, (one, other))
    if not found:
        settings = (
            ", ".join(sorted({" ".join(_setting(r)) for r in side})) for side in (ours, theirs)
        )
        raise UsageError(
            f"nothing of {a} can be compared with {b}: two different records of one task, split, "
            f"protocol and backbone are needed; there are {' / '.join(settings)}"
        )
    return list(found.values())


def _pair_up(one: Record, other: Record, alone: Set[tuple[str, ...]]) -> bool:
    """Whether two records are of one setting and seed; a record alone there meets every seed."""
    same = one.cell.seed == other.cell.seed
    return _setting(one) == _setting(other) and (same or _setting(one) in alone)


def _setting(record: Record) -> tuple[str, ...]:
    cell = record.cell
    return record.task_label, cell.split, record.protocol.name, cell.backbone


def find_records(*names: str, root: Path) -> list[list[Record]]:
    """Find the records of each name: a file, or below `root` a method, its label or a glob.

    Raises:
        MissingData: there is none.
    """
    below = [] if all(Path(name).is_file() for name in names) else read_scored(root)
    return [_find(name, root, below) for name in names]


def _find(name: str, root: Path, below: Sequence[Record]) -> list[Record]:
    if Path(name).is_file():
        record = read_record(Path(name))
        if record.metrics:
            check_scored(record)
        return [record]
    found = [record for record in below if matches(record, name, root)]
    if not found:
        known = ", ".join(sorted({record.method_label for record in below})) or "none"
        raise MissingData(f"no record {name!r} in {root}; methods that have one there: {known}")
    return found


def matches(record: Record, name: str, root: Path) -> bool:
    """Whether a name is a record's method, its label, or a glob over these or its path."""
    path = record.path.relative_to(root)
    names = (record.cell.method, record.method_label, path.as_posix(), path.stem)
    return any(fnmatchcase(known, name) or known == name for known in names)
