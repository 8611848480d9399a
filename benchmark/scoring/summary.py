"""From a ranking to a record's metrics: per query, then per group, then their averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.api.per_query import PerQuery, Scores
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import TaskData
from cirbench.benchmark.records.record import Cell, Record, read_records
from cirbench.benchmark.records.shape import find_field
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.scoring.bootstrap import (
    Design,
    Interval,
    group_means,
    intervals,
    resampled_means,
)
from cirbench.benchmark.scoring.metrics import SUBSET, Metric, Values, hits_at, parse_metrics

if TYPE_CHECKING:  # a report, which summarises too, need not wait for torch
    from cirbench.benchmark.ranking.rank import Ranking

_ROUNDING = 1e-6


def depth(protocol: EvaluationProtocol) -> int:
    """How many of the best a protocol's metrics look at."""
    metrics = [metric for name in protocol.metrics for metric in parse_metrics(name)]
    return max(metric.k for metric in metrics if metric.kind != SUBSET)


def score(data: TaskData, ranking: Ranking, protocol: EvaluationProtocol) -> PerQuery:
    """Per-query data of a ranking."""
    positives = [query.positives for query in data.queries]
    counts = np.array([len(items) for items in positives], dtype=np.int64)
    hits = hits_at(ranking.top, positives)
    member_hits = hits_at(ranking.members, positives)

    def values_of(metric: Metric) -> Values:
        found = member_hits if metric.kind == SUBSET else hits
        return metric.per_query(found, counts, protocol.recall_epsilon)

    values = [
        np.mean([values_of(metric) for metric in parse_metrics(name)], axis=0)
        for name in protocol.metrics
    ]
    return PerQuery(
        query=np.array([query.id for query in data.queries]),
        reference=np.array([query.reference.id for query in data.queries]),
        group=np.array([query.group for query in data.queries]),
        gallery=np.array([ref.id for ref in data.gallery]),
        top=ranking.top,
        similarity=ranking.similarity,
        hits=hits,
        positives=counts,
        first_rank=ranking.first_rank,
        tied=ranking.tied,
        fragile=ranking.fragile,
        metrics=np.array(protocol.metrics),
        values=np.stack(values, axis=1),
        members=ranking.members,
        member_hits=member_hits,
    )


Averages = Mapping[str, Sequence[str]]


def averages_of(groups: Sequence[str], protocol: EvaluationProtocol) -> Averages:
    """Average name → its groups; "average" is over all, unless the protocol says otherwise.

    Raises:
        UsageError: an average has the name of a group.
    """
    averages = {"average": groups, **protocol.averages}
    if shared := sorted(averages.keys() & set(groups)):
        raise UsageError(f"protocol {protocol.name}: {shared[0]!r} names a group and an average")
    for name, members in averages.items():
        if empty := [group for group in members if group not in groups]:
            raise UsageError(
                f"protocol {protocol.name}: {name!r} must be over groups that have queries, got "
                f"{empty[0]!r}"
            )
    return averages


def with_averages(
    means: NDArray[np.float64], groups: Sequence[str], averages: Averages
) -> NDArray[np.float64]:
    """(..., G, M) group means → (..., A + G, M), the plain means over groups first."""
    rows = [
        means[..., [groups.index(group) for group in members], :].mean(axis=-2, keepdims=True)
        for members in averages.values()
    ]
    return np.concatenate([*rows, means], axis=-2)


_SCORED = (
    "method.zero_shot",
    "groups",
    "counts.queries",
    "counts.references",
    "counts.gallery",
    "fingerprints.gallery",
    "fingerprints.annotations",
    "annotations.released",
    *(
        f"protocol.{name}"
        for name in (
            "name",
            "version",
            "hash",
            "metrics",
            "headline",
            "averages",
            "gallery",
            "reference_removed",
            "preprocess",
            "recall_epsilon",
        )
    ),
)
"""What tables, tests and verdicts read of a record."""


def read_scored(root: Path) -> list[Record]:
    """Every whole record of a results folder, held to its own per-query data.

    Raises:
        CorruptData: one was edited or cut, or is a copy of another.
    """
    found = list(read_records(root))
    first: dict[Cell, Path] = {}
    for record in found:
        check_scored(record)
        if (other := first.setdefault(record.cell, record.path)) != record.path:
            raise CorruptData(
                f"{record.path} and {other} are records of one cell, so that one is a copy of the "
                f"other; remove it"
            )
    return found


def check_scored(record: Record) -> None:
    """Holds a record's fields to each other and to its per-query data.

    Raises:
        CorruptData: a field lacks, or a metric is another than its per-query values make.
    """
    if lacking := [name for name in _SCORED if find_field(record.data, name) is None]:
        raise CorruptData(f"{record.path} lacks {', '.join(lacking)}; run the cell again")
    groups, protocol = record.data["groups"], record.data["protocol"]
    averages: Averages = {"average": groups, **protocol["averages"]}
    wanted = {
        f"metrics.{name}.{metric}"
        for name in (*averages, *groups)
        for metric in (*protocol["metrics"], protocol["headline"])
    }
    said = {
        f"metrics.{name}.{metric}"
        for name, values in record.data["metrics"].items()
        for metric, interval in values.items()
        if interval.keys() == {"value", "low", "high", "n"}
    }
    rows = {f"metrics.{name}" for name in {*averages, *groups} ^ record.data["metrics"].keys()}
    if odd := sorted(rows | (wanted ^ said)):
        raise CorruptData(f"{record.path} was edited or cut: {odd[0]}; run the cell again")
    _check_means(record, record.scores, averages)


def _check_means(record: Record, scores: Scores, averages: Averages) -> None:
    """Holds a record's metrics to the per-query values that they were computed from.

    Raises:
        CorruptData: one is another; says which.
    """
    groups, said = record.data["groups"], record.data["metrics"]
    if unknown := set(scores.group.tolist()) ^ set(groups):
        raise CorruptData(f"{record.path} was edited: the group {min(unknown)!r}; run it again")
    if len(scores.query) != record.data["counts"]["queries"]:
        raise CorruptData(
            f"{record.path} was edited: {record.data['counts']['queries']} queries, and "
            f"{len(scores.query)} in its per-query data; run the cell again"
        )
    design = Design.of(scores.reference, scores.group, groups)
    means = with_averages(group_means(scores.values, design), groups, averages)
    for name, row in zip([*averages, *groups], means, strict=True):
        for metric, mean in zip(map(str, scores.metrics), row, strict=True):
            found = said[name][metric]
            if not abs(found["value"] - mean) <= _ROUNDING or found["low"] > found["high"]:
                raise CorruptData(
                    f"{record.path} was edited: {name} {metric} is {found['value']}, and {mean} by "
                    f"its per-query data; run the cell again"
                )


def summarise(
    scores: Scores, groups: Sequence[str], averages: Averages
) -> dict[str, dict[str, Interval]]:
    """Group or average → metric → its mean over queries with a 95 % interval."""
    design = Design.of(scores.reference, scores.group, groups)
    means = with_averages(group_means(scores.values, design), groups, averages)
    draws = with_averages(resampled_means(scores.values, design), groups, averages)
    group_sizes = dict(zip(groups, design.sizes, strict=True))
    sizes = {name: sum(group_sizes[g] for g in members) for name, members in averages.items()}
    metrics = [str(name) for name in scores.metrics]
    return {
        name: dict(zip(metrics, intervals(means[i], draws[:, i], [n] * len(metrics)), strict=True))
        for i, (name, n) in enumerate({**sizes, **group_sizes}.items())
    }
