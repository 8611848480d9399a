"""Two records of the same queries, held against each other: is the difference real?

Per-query values are paired, and references are the unit: queries that share one are not
independent. With d_c the summed differences of reference c, the randomisation test flips the sign
of every d_c (exactly, where there are few references); the interval is the paired bootstrap of the
leaderboard. p-values are Holm's over the cells shown. The smallest difference that the data could
show with a chance of 80 % is (z_0.975 + z_0.8) standard errors of the bootstrap, 2.80 of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from cirbench.benchmark.bootstrap import (
    Array,
    Design,
    Interval,
    group_means,
    intervals,
    resampled_means,
)
from cirbench.benchmark.errors import MissingData, UsageError
from cirbench.benchmark.records import PerQuery, Record, read_record, read_records
from cirbench.benchmark.scoring import Averages, averages_of_record, with_averages

DRAWS = 10_000
SEED = 0
EXACT_CLUSTERS = 12
"""Up to so many references every combination of signs is tried: 4,096 at most."""
DETECTABLE = 2.80
"""z_0.975 + z_0.8: a true difference of so many standard errors is found 80 times in 100."""
_BLOCK = 500


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One cell: a metric of a group or an average, A minus B, in points.

    Attributes:
        p, p_holm: of the randomisation test, alone and corrected for all cells shown.
        detectable: the smallest difference that the data could show.
        wins, ties, losses: queries on which A is better, equal, worse.
    """

    board: str
    group: str
    metric: str
    a: float
    b: float
    difference: Interval
    p: float
    p_holm: float
    detectable: float
    wins: int
    ties: int
    losses: int

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def chosen(root: Path, wanted: str) -> list[Record]:
    """The records that a path, a method's name or label, or a glob over either names.

    Raises:
        MissingData: none.
    """
    if wanted.endswith(".json") and Path(wanted).is_file():
        return [read_record(Path(wanted))]
    found = [
        record
        for record in read_records(root)
        if any(
            fnmatchcase(name, wanted)
            for name in (record.data["cell"]["method"], record.method_label, record.path.name)
        )
    ]
    if not found:
        raise MissingData(f"no record in {root} is of {wanted!r}; bench leaderboard lists them")
    return found


def pairs(a: Sequence[Record], b: Sequence[Record]) -> list[tuple[Record, Record]]:
    """Each record of A with each of B that it may be compared with.

    Raises:
        UsageError: there is no such pair; names what differs between the two that are nearest.
    """
    both = [(x, y) for x in a for y in b if x.path != y.path]
    if not both:
        raise UsageError("A and B are the same record")
    found = [(x, y) for x, y in both if not obstacles(x, y)]
    if not found:
        x, y = min(both, key=lambda pair: len(obstacles(*pair)))
        raise UsageError(
            f"{x.path.name} and {y.path.name} can't be compared: {'; '.join(obstacles(x, y))}"
        )
    return found


_SAME = (
    ("cell", "task"), ("cell", "split"), ("protocol", "hash"), ("fingerprints", "annotations"),
    ("fingerprints", "gallery"), ("fingerprints", "references"), ("counts", "queries"),
)  # fmt: skip


def obstacles(a: Record, b: Record) -> list[str]:
    """What differs that must not."""
    return [
        f"{part}.{name} {a.data[part].get(name)} and {b.data[part].get(name)}"
        for part, name in _SAME
        if a.data[part].get(name) != b.data[part].get(name)
    ]


def compare(a: Record, b: Record, metrics: Sequence[str]) -> list[Comparison]:
    """Every group and average, in these metrics; `p_holm` is over these alone.

    Raises:
        UsageError: the queries differ, or a metric is not in the records.
        CorruptData: per-query data is damaged.
    """
    ours, theirs = a.per_query(), b.per_query()
    if ours.query.tolist() != theirs.query.tolist():
        raise UsageError(f"{a.path.name} and {b.path.name} are not of the same queries")
    known = [str(name) for name in ours.metrics]
    if unknown := [name for name in metrics if name not in known]:
        raise UsageError(f"no metric {unknown[0]!r} in these records; known: {', '.join(known)}")
    columns = [known.index(name) for name in metrics]
    groups, averages = a.data["groups"], averages_of_record(a.data)
    names = [*averages, *groups] if len(groups) > 1 else list(groups)
    cells = []
    for metric, column in zip(metrics, columns, strict=True):
        found = _cells(ours, theirs, column, groups, averages)
        cells += [_named(a, b, name, metric, found[name]) for name in names]
    return corrected(cells)


@dataclass(frozen=True, kw_only=True)
class _Found:
    a: float
    b: float
    difference: Interval
    error: float
    p: float
    signs: Array


def _cells(
    ours: PerQuery, theirs: PerQuery, column: int, groups: Sequence[str], averages: Averages
) -> dict[str, _Found]:
    """Group or average → its numbers."""
    design = Design.of(ours.reference, ours.group, groups)
    values = np.stack([ours.values[:, column], theirs.values[:, column]], axis=1)
    delta = values[:, :1] - values[:, 1:]
    means = with_averages(group_means(values, design), groups, averages)
    draws = with_averages(resampled_means(delta, design), groups, averages)[:, :, 0]
    observed = means[:, 0] - means[:, 1]
    flipped = with_averages(_flipped_means(delta, design), groups, averages)[:, :, 0]
    found = {}
    for i, name in enumerate([*averages, *groups]):
        members = averages.get(name, [name])
        inside = np.isin(ours.group, list(members))
        found[name] = _Found(
            a=float(means[i, 0]),
            b=float(means[i, 1]),
            difference=intervals(observed[i : i + 1], draws[:, [i]], [int(inside.sum())])[0],
            error=float(np.nanstd(draws[:, i], ddof=1)),
            p=p_value(float(observed[i]), flipped[:, i], exact=_is_exact(design)),
            signs=np.sign(delta[inside, 0]),
        )
    return found


def _is_exact(design: Design) -> bool:
    return design.clusters <= EXACT_CLUSTERS


def p_value(observed: float, flipped: Array, *, exact: bool) -> float:
    """Two-sided: how often signs at random give a difference at least as large.

    Drawn ones count the observed one in, so that p is never 0 and never too small.
    """
    extreme = int((np.abs(flipped) >= abs(observed) - 1e-12).sum())
    return extreme / len(flipped) if exact else (extreme + 1) / (len(flipped) + 1)


def _flipped_means(delta: Array, design: Design) -> Array:
    """(draws, G, 1): group means of the differences with each reference's sign at random."""
    sums = design.sums(delta).reshape(design.clusters, -1)
    blocks = [signs @ sums for signs in _signs(design.clusters)]
    means: Array = np.concatenate(blocks)[:, :, None] / design.sizes[None, :, None]
    return means


def _signs(clusters: int) -> Iterator[Array]:
    """(≤ _BLOCK, C) of ±1: all combinations where they are few, else DRAWS at random."""
    if clusters <= EXACT_CLUSTERS:
        yield np.array(list(itertools.product((1.0, -1.0), repeat=clusters)))
        return
    rng = np.random.default_rng(SEED)
    for start in range(0, DRAWS, _BLOCK):
        rows = min(_BLOCK, DRAWS - start)
        yield rng.choice(np.array([-1.0, 1.0]), (rows, clusters))


def _named(a: Record, b: Record, group: str, metric: str, found: _Found) -> Comparison:
    cell = a.data["cell"]
    return Comparison(
        board=f"{cell['task']} · {cell['split']} · {a.data['protocol']['name']} · "
        f"{a.method_label} minus {b.method_label}",
        group=group, metric=metric, a=found.a, b=found.b, difference=found.difference,
        p=found.p, p_holm=found.p, detectable=DETECTABLE * found.error,
        wins=int((found.signs > 0).sum()), ties=int((found.signs == 0).sum()),
        losses=int((found.signs < 0).sum()),
    )  # fmt: skip


def corrected(cells: Sequence[Comparison]) -> list[Comparison]:
    """With Holm's correction over all these cells."""
    adjusted = holm([cell.p for cell in cells])
    return [replace(cell, p_holm=p) for cell, p in zip(cells, adjusted, strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """Step-down: the i-th smallest of m times m - i + 1, never below the one before, at most 1."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    highest = 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return [float(value) for value in adjusted]
