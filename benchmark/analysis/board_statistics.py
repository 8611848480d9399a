"""What the tables and charts of a board show: values, ties with the best, and recall over k."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cirbench.benchmark.analysis.boards import INTERVALS, Board
from cirbench.benchmark.analysis.seeds import find_spread, list_seeds
from cirbench.benchmark.analysis.series import Series
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.kept import keep
from cirbench.benchmark.scoring.bootstrap import make_intervals
from cirbench.benchmark.scoring.metrics import recall

CURVE_POINTS = 24
"""At most so many values of k, evenly spaced on a logarithmic axis."""

Array = NDArray[np.float64]
_FROM_BEST = TypeAdapter(dict[str, list[Interval]])


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One metric of one row of a board in one row of the task (an average or a group).

    Attributes:
        sd: over seeds, where the row is of several and it is known.
        difference: to the best of the same column, paired over references.
        best: whether this is that one, or has its value.
    """

    value: Interval
    sd: float | None = None
    difference: Interval
    best: bool

    @property
    def tied(self) -> bool:
        """Whether it is not the best, yet not told apart from it at 95 %."""
        return not self.best and self.difference.low <= 0 <= self.difference.high


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is computed for a board of R rows.

    Attributes:
        scores: (average or group, metric) → one score a row, in the board's order.
        curves: recall at some k, averaged over groups.
    """

    scores: Mapping[tuple[str, str], tuple[Standing, ...]]
    curves: Series[int]


def compute_statistics(board: Board) -> Statistics:
    """Compute scores and curves, drawing the same references for every record of the board.

    Raises:
        CorruptData: per-query data is missing or damaged, or of other queries than the first's.
    """
    scores = {
        (name, metric): found
        for metric in board.metrics
        for name, found in _compare_in(board, metric).items()
    }
    ks = choose_ks(board.per_query[0].hits.shape[1])
    return Statistics(scores=scores, curves=collect_curves(board, board.rows, ks))


def choose_ks(depth: int) -> list[int]:
    """Choose whole numbers from 1 to depth, evenly on a logarithmic axis."""
    spaced = np.geomspace(1, depth, CURVE_POINTS) if depth else np.zeros(0)
    return sorted({round(float(k)) for k in spaced})


def collect_curves(
    board: Board, records: Sequence[Record], ks: Sequence[int] | None = None
) -> Series[int]:
    """Compute recall averaged over groups at each k; None is every k that was kept."""
    curves = []
    for record in records:
        compute = partial(_compute_curve, board, record, ks)
        curves.append(keep(INTERVALS, ("curve", ks, *record.identity), compute))
    return Series(at=tuple(ks or range(1, len(curves[0]) + 1)), values=tuple(map(tuple, curves)))


def _compute_curve(board: Board, record: Record, ks: Sequence[int] | None) -> list[Interval]:
    found = np.mean([_find_recall(board, one, ks) for one in list_seeds(record)], axis=0)
    row = board.design.rows.index("average")
    means, draws = board.design.means(found)[row], board.design.draws(found)[:, row]
    return make_intervals(means, draws, [len(found)] * found.shape[1])


def _find_recall(board: Board, record: Record, ks: Sequence[int] | None) -> Array:
    """(Q, K) recall of each query at each k."""
    arrays, epsilon = record.read_per_query(), board.first.protocol.recall_epsilon
    if ks is None:
        ks = range(1, arrays.hits.shape[1] + 1)
    return np.stack([recall(arrays.hits, arrays.positives, k, epsilon) for k in ks], axis=1)


def _compare_in(board: Board, metric: str) -> dict[str, tuple[Standing, ...]]:
    """Compare the rows in one metric: average or group → a standing for each row."""
    kept = ("differences from the best", metric, *board.identity)
    found = keep(_FROM_BEST, kept, partial(_find_differences_from_best, board, metric))
    return {
        name: make_standings(
            [row.metrics[name][metric] for row in board.rows],
            differences,
            [find_spread(row, name, metric) for row in board.rows],
        )
        for name, differences in found.items()
    }


def make_standings(
    values: Sequence[Interval],
    differences: Sequence[Interval],
    spreads: Iterable[float | None] = repeat(None),
) -> tuple[Standing, ...]:
    """Make a standing of each value, its difference to the best and its spread over seeds."""
    return tuple(
        Standing(value=value, sd=sd, difference=difference, best=difference.value == 0)
        for value, difference, sd in zip(values, differences, spreads, strict=False)
    )


def _find_differences_from_best(board: Board, metric: str) -> dict[str, list[Interval]]:
    means, draws = board.sample(metric)
    size = board.first.counts.queries
    return {
        name: subtract_best(means[row], draws[:, row], size)
        for row, name in enumerate(board.design.rows)
    }


def subtract_best(means: Array, draws: Array, size: int) -> list[Interval]:
    """Subtract the best of (R,) means from each, with intervals of (resamples, R) paired draws."""
    best = int(means.argmax())
    return make_intervals(means - means[best], draws - draws[:, [best]], [size] * len(means))
