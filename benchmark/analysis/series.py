"""What a chart of a board shows, whichever way it is drawn: a series of intervals a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.record import Record

Place = TypeVar("Place", str, int)


@dataclass(frozen=True, kw_only=True)
class Series(Generic[Place]):
    """Intervals of R records along one axis.

    Attributes:
        at: the P places of the axis: rows of the board, or values of k.
        values: R tuples of P intervals, in percent.
    """

    at: tuple[Place, ...]
    values: tuple[tuple[Interval, ...], ...]

    @property
    def top(self) -> float:
        """The highest end of an interval."""
        return max(interval.high for values in self.values for interval in values)


def collect_bars(board: Board, records: Sequence[Record]) -> Series[str]:
    """The metric by group, and last on average where there are several groups."""
    rows = [*board.groups, "average"] if len(board.groups) > 1 else ["average"]
    return Series(
        at=tuple(rows),
        values=tuple(
            tuple(record.metrics[row][board.group_metric] for row in rows) for record in records
        ),
    )


def collect_metrics(board: Board, records: Sequence[Record]) -> Series[str]:
    """The average in each metric of the headline's kind, such as recall at every k."""
    kind, _, _ = board.headline.partition("@")
    metrics = [metric for metric in board.metrics if metric.partition("@")[0] == kind]
    return Series(
        at=tuple(metrics),
        values=tuple(
            tuple(record.metrics["average"][metric] for metric in metrics) for record in records
        ),
    )
