"""From a ranking to a record's metrics: per query, then per group, then their averages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter

from cirbench.benchmark.api.per_query import PerQuery, Scores
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import Interval, TaskData
from cirbench.benchmark.records.fields import Metrics
from cirbench.benchmark.records.record import Record, read_records
from cirbench.benchmark.runtime.errors import CorruptData, UsageError
from cirbench.benchmark.runtime.kept import keep
from cirbench.benchmark.scoring.bootstrap import Design, make_intervals
from cirbench.benchmark.scoring.metrics import (
    Counts,
    Metric,
    Values,
    find_grades,
    find_hits,
    parse_metrics,
)

if TYPE_CHECKING:  # a report, which summarises too, need not wait for torch
    from cirbench.benchmark.ranking.rank import Ranking

_ROUNDING = 1e-6


def find_depth(protocol: EvaluationProtocol) -> int:
    """Find how many of the best a protocol's metrics look at."""
    metrics = [metric for name in protocol.metrics for metric in parse_metrics(name)]
    return max(metric.k for metric in metrics if not metric.of_members)


def score(data: TaskData, ranking: Ranking, protocol: EvaluationProtocol) -> PerQuery:
    """Score a ranking, query by query."""
    positives = [query.positives for query in data.queries]
    targets = [() if query.target is None else (query.target,) for query in data.queries]
    counts = _count(positives)
    hits = find_hits(ranking.top, positives)
    member_hits = find_hits(ranking.members, positives)

    def values_of(metric: Metric) -> Values:
        if metric.graded:
            rows = ranking.members if metric.of_members else ranking.top
            grades = find_grades(rows, [query.grades for query in data.queries])
            return metric.per_query(grades, counts, protocol.recall_epsilon)
        if metric.of_target:
            found = find_hits(ranking.top, targets)
            return metric.per_query(found, _count(targets), protocol.recall_epsilon)
        found = member_hits if metric.of_members else hits
        return metric.per_query(found, counts, protocol.recall_epsilon)

    values = [
        np.mean([values_of(metric) for metric in parse_metrics(name)], axis=0)
        for name in protocol.metrics
    ]
    aspects = list(dict.fromkeys(aspect for query in data.queries for aspect in query.aspects))
    return PerQuery(
        query=np.array([query.id for query in data.queries]),
        reference=np.array([query.reference.id for query in data.queries]),
        group=np.array([query.group for query in data.queries]),
        aspects=np.array(aspects, dtype=np.str_),
        has_aspect=np.array(
            [[aspect in query.aspects for aspect in aspects] for query in data.queries], dtype=bool
        ),
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


def _count(items: Sequence[Sequence[int]]) -> Counts:
    return np.array([len(own) for own in items], dtype=np.int64)


def check_averages(groups: Sequence[str], protocol: EvaluationProtocol) -> None:
    """Check that a protocol's averages can be made of these groups.

    Raises:
        UsageError: an average has the name of a group, or is over a group without queries.
    """
    averages = protocol.averages_over(groups)
    if shared := sorted(averages.keys() & set(groups)):
        raise UsageError(
            f"protocol {protocol.name}: an average must not have the name of a group, got "
            f"{shared[0]!r}"
        )
    for name, members in averages.items():
        if empty := [group for group in members if group not in groups]:
            raise UsageError(
                f"protocol {protocol.name}: {name!r} must be over groups that have queries, got "
                f"{empty[0]!r}"
            )


def make_design(scores: Scores, groups: Sequence[str], protocol: EvaluationProtocol) -> Design:
    """Make the design of a record's queries."""
    averages = protocol.averages_over(groups)
    aspects = dict(zip(scores.aspects.tolist(), scores.has_aspect.T, strict=True))
    return Design.of(scores.reference, scores.group, groups, averages, aspects)


def read_scored(root: Path) -> list[Record]:
    """Read every whole record of a results folder, and check it against its per-query data.

    Raises:
        CorruptData: one was edited or cut, or is a copy of another.
    """
    found = list(read_records(root))
    first: dict[Path, Path] = {}
    for record in found:
        check_scored(record)
        if (other := first.setdefault(record.home, record.path)) != record.path:
            raise CorruptData(
                f"{record.path} and {other} are records of the same cell; remove one of them"
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
    record.check_arrays()
    facts = find_facts(record)
    if facts.queries != record.counts.queries:
        raise CorruptData(
            f"{record.path} was edited: counts.queries must be {facts.queries} as in its "
            f"per-query data, got {record.counts.queries}; run the cell again"
        )
    for name, means in facts.means.items():
        for metric, mean in means.items():
            place = f"{record.path} was edited: metrics.{name}.{metric}"
            _check_interval(record.metrics[name][metric], mean, place)


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a record's per-query data says of the whole.

    Attributes:
        queries: how many there are.
        order: sha256 of the queries, in their order.
        means: row (average or group) → metric → mean, in percent.
    """

    queries: int
    order: str
    means: Mapping[str, Mapping[str, float]]


_FACTS = TypeAdapter(Facts)


def find_facts(record: Record) -> Facts:
    """Find the facts of a record's per-query data, which is read once and not again.

    Raises:
        CorruptData: the data is missing or altered, or has other groups than the record.
    """
    return keep(_FACTS, ("facts", *record.identity), lambda: _read_facts(record))


def _read_facts(record: Record) -> Facts:
    scores = record.scores
    if unknown := {*scores.group.tolist(), *scores.aspects.tolist()} ^ set(record.groups):
        raise CorruptData(
            f"{record.path} was edited: its groups and those of its per-query data differ in "
            f"{min(unknown)!r}; run the cell again"
        )
    design = make_design(scores, record.groups, record.protocol)
    metrics = list(map(str, scores.metrics))
    order = hashlib.sha256(json.dumps(scores.query.tolist()).encode()).hexdigest()
    return Facts(
        queries=len(scores.query),
        order=order,
        means={
            name: dict(zip(metrics, map(float, row), strict=True))
            for name, row in zip(design.rows, design.means(scores.values), strict=True)
        },
    )


def _check_interval(interval: Interval, mean: float, place: str) -> None:
    if not abs(interval.value - mean) <= _ROUNDING:
        raise CorruptData(
            f"{place}.value must be {mean} as in its per-query data, got {interval.value}; run the "
            f"cell again"
        )
    if interval.low > interval.high:
        raise CorruptData(
            f"{place}.low must be at most its high, {interval.high}, got {interval.low}; run the "
            f"cell again"
        )


def summarise(scores: Scores, groups: Sequence[str], protocol: EvaluationProtocol) -> Metrics:
    """Average over queries, with 95 % intervals, by group or average and by metric.

    Raises:
        UsageError: the protocol's averages can't be made of these groups.
    """
    check_averages(groups, protocol)
    design = make_design(scores, groups, protocol)
    means, draws = design.means(scores.values), design.draws(scores.values)
    metrics = [str(name) for name in scores.metrics]
    found = {}
    for i, (name, n) in enumerate(zip(design.rows, design.row_sizes, strict=True)):
        intervals = make_intervals(means[i], draws[:, i], [n] * len(metrics))
        found[name] = dict(zip(metrics, intervals, strict=True))
    return found
