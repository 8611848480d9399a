"""What the tables and charts of a board show: values, ties with the best, and recall over k."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.bootstrap import (
    Design,
    Interval,
    group_means,
    intervals,
    resampled_means,
)
from cirbench.benchmark.errors import CorruptData
from cirbench.benchmark.leaderboard import Board
from cirbench.benchmark.metrics import recall
from cirbench.benchmark.records import PerQuery
from cirbench.benchmark.scoring import with_averages

CURVE_POINTS = 24
"""At most so many values of k, evenly spaced on a logarithmic axis."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one record in one row of the task (an average or a group).

    Attributes:
        difference: to the best record of the same column, paired over references.
        best: whether this is that record, or has its value.
    """

    value: Interval
    difference: Interval
    best: bool

    @property
    def tied(self) -> bool:
        """Not the best, yet not told apart from it at 95 %."""
        return not self.best and self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of a board with R records.

    Attributes:
        scores: (average or group, metric) → one score a record, in the board's order.
        ks: the values of k of the curves.
        curves: one a record, one interval a k: recall averaged over groups.
    """

    scores: Mapping[tuple[str, str], tuple[Score, ...]]
    ks: tuple[int, ...]
    curves: tuple[tuple[Interval, ...], ...]


def averages(board: Board) -> dict[str, Sequence[str]]:
    """Average name → the groups whose plain mean it is."""
    own: Mapping[str, Sequence[str]] = board.first["protocol"]["averages"]
    return {name: own.get(name, board.groups) for name in board.averages}


def statistics(board: Board) -> Statistics:
    """Draws the same references for every record of the board, so that differences are paired.

    Raises:
        CorruptData: per-query data is missing or damaged, or of other queries than the first's.
    """
    check_queries(board)
    ks = curve_ks(board.per_query[0].hits.shape[1])
    sampled = [_sampled(board, arrays, ks) for arrays in board.per_query]
    names, width = [*board.averages, *board.groups], len(board.metrics)
    scores = {
        (name, metric): _scores(board, name, metric, [(m[i, j], d[:, i, j]) for m, d in sampled])
        for i, name in enumerate(names)
        for j, metric in enumerate(board.metrics)
    }
    row = names.index("average")
    sizes = [len(board.per_query[0].query)] * len(ks)
    curves = [tuple(intervals(m[row, width:], d[:, row, width:], sizes)) for m, d in sampled]
    return Statistics(scores=scores, ks=tuple(ks), curves=tuple(curves))


def check_queries(board: Board) -> None:
    """Raises CorruptData where two records of a board are not of the same queries."""
    first = board.per_query[0]
    for record, arrays in zip(board.records, board.per_query, strict=True):
        if not np.array_equal(arrays.query, first.query):
            raise CorruptData(
                f"{record.path} and {board.records[0].path} share a protocol and annotations, but "
                f"not their queries; run both cells again"
            )


def curve_ks(depth: int) -> list[int]:
    """1 to depth, evenly on a logarithmic axis, whole and without repeats."""
    spaced = np.geomspace(1, depth, CURVE_POINTS) if depth else np.zeros(0)
    return sorted({round(float(k)) for k in spaced})


def _sampled(board: Board, arrays: PerQuery, ks: Sequence[int]) -> tuple[Array, Array]:
    """(A + G, M + k) means and (resamples, A + G, M + k) draws: metrics, then recall at each k."""
    epsilon = float(board.first["protocol"]["recall_epsilon"])
    found = [recall(arrays.hits, arrays.positives, k, epsilon) for k in ks]
    values = np.column_stack([arrays.values, *found])
    design = Design.of(arrays.reference, arrays.group, board.groups)
    members = averages(board)
    means = with_averages(group_means(values, design), board.groups, members)
    return means, with_averages(resampled_means(values, design), board.groups, members)


def _scores(
    board: Board, name: str, metric: str, sampled: Sequence[tuple[float, Array]]
) -> tuple[Score, ...]:
    best = max(range(len(sampled)), key=lambda i: sampled[i][0])
    top, top_draws = sampled[best]
    return tuple(
        Score(
            value=board.value(record, name, metric),
            difference=_difference(mean - top, draws - top_draws, record.data["counts"]["queries"]),
            best=bool(mean == top),
        )
        for record, (mean, draws) in zip(board.records, sampled, strict=True)
    )


def _difference(value: float, draws: Array, queries: int) -> Interval:
    return intervals(np.array([value]), draws[:, None], [queries])[0]
