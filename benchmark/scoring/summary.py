"""From a ranking to a record's metrics: per query, then per group, then their averages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cirbench.benchmark.api.per_query import PerQuery, Scores
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import TaskData
from cirbench.benchmark.records.fields import Cell, Metrics
from cirbench.benchmark.records.record import Record, read_records
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.scoring.bootstrap import Design, make_intervals
from cirbench.benchmark.scoring.metrics import SUBSET, Metric, Values, find_hits, parse_metrics

if TYPE_CHECKING:  # a report, which summarises too, need not wait for torch
    from cirbench.benchmark.ranking.rank import Ranking

_ROUNDING = 1e-6


def find_depth(protocol: EvaluationProtocol) -> int:
    """How many of the best a protocol's metrics look at."""
    metrics = [metric for name in protocol.metrics for metric in parse_metrics(name)]
    return max(metric.k for metric in metrics if metric.kind != SUBSET)


def score(data: TaskData, ranking: Ranking, protocol: EvaluationProtocol) -> PerQuery:
    """Per-query data of a ranking."""
    positives = [query.positives for query in data.queries]
    counts = np.array([len(items) for items in positives], dtype=np.int64)
    hits = find_hits(ranking.top, positives)
    member_hits = find_hits(ranking.members, positives)

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


def check_averages(groups: Sequence[str], protocol: EvaluationProtocol) -> None:
    """Check that a protocol's averages can be made of these groups.

    Raises:
        UsageError: an average has the name of a group, or is over a group without queries.
    """
    averages = protocol.averages_over(groups)
    if shared := sorted(averages.keys() & set(groups)):
        raise UsageError(f"protocol {protocol.name}: {shared[0]!r} names a group and an average")
    for name, members in averages.items():
        if empty := [group for group in members if group not in groups]:
            raise UsageError(
                f"protocol {protocol.name}: {name!r} must be over groups that have queries, got "
                f"{empty[0]!r}"
            )


def make_design(scores: Scores, groups: Sequence[str], protocol: EvaluationProtocol) -> Design:
    """Make the design of a record's queries."""
    averages = protocol.averages_over(groups)
    return Design.of(scores.reference, scores.group, groups, averages)


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
    """Check a record's metrics against each other and against its per-query data.

    Raises:
        CorruptData: a metric is missing, or is another than its per-query values make.
    """
    protocol = record.protocol
    names = {*record.averages, *record.groups}
    metrics = {*protocol.metrics, protocol.headline}
    rows = {f"metrics.{name}" for name in names ^ record.metrics.keys()}
    cells = {
        f"metrics.{name}.{metric}"
        for name, values in record.metrics.items()
        for metric in metrics ^ values.keys()
    }
    if odd := sorted(rows | cells):
        raise CorruptData(f"{record.path} was edited or cut: {odd[0]}; run the cell again")
    _check_means(record, record.scores)


def _check_means(record: Record, scores: Scores) -> None:
    """Check that a record's metrics equal those of its per-query data.

    Raises:
        CorruptData: one is another; says which.
    """
    if unknown := set(scores.group.tolist()) ^ set(record.groups):
        raise CorruptData(f"{record.path} was edited: the group {min(unknown)!r}; run it again")
    if len(scores.query) != record.counts.queries:
        raise CorruptData(
            f"{record.path} was edited: {record.counts.queries} queries, and "
            f"{len(scores.query)} in its per-query data; run the cell again"
        )
    design = make_design(scores, record.groups, record.protocol)
    for name, row in zip(design.rows, design.means(scores.values), strict=True):
        for metric, mean in zip(map(str, scores.metrics), row, strict=True):
            found = record.metrics[name][metric]
            if not abs(found.value - mean) <= _ROUNDING or found.low > found.high:
                raise CorruptData(
                    f"{record.path} was edited: {name} {metric} is {found.value}, and {mean} by "
                    f"its per-query data; run the cell again"
                )


def summarise(scores: Scores, groups: Sequence[str], protocol: EvaluationProtocol) -> Metrics:
    """Group or average → metric → its mean over queries with a 95 % interval.

    Raises:
        UsageError: the protocol's averages can't be made of these groups.
    """
    check_averages(groups, protocol)
    design = make_design(scores, groups, protocol)
    means, draws = design.means(scores.values), design.draws(scores.values)
    metrics = [str(name) for name in scores.metrics]
    return {
        name: dict(
            zip(metrics, make_intervals(means[i], draws[:, i], [n] * len(metrics)), strict=True)
        )
        for i, (name, n) in enumerate(zip(design.rows, design.row_sizes, strict=True))
    }
