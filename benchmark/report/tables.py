"""Tables as values; markdown, CSV, LaTeX and the page are views of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cirbench.benchmark.analysis.board_statistics import Standing, Statistics
from cirbench.benchmark.analysis.boards import Board, name_row
from cirbench.benchmark.analysis.composition import SUBSETS, Audit, audit_board
from cirbench.benchmark.analysis.published import Verdict
from cirbench.benchmark.analysis.seeds import find_spread
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.fields import slug


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A number with its interval, and whether it is the best of its column or tied with it.

    Attributes:
        sd: over seeds; None where there is one.
    """

    interval: Interval
    sd: float | None = None
    best: bool = False
    tied: bool = False


@dataclass(frozen=True, kw_only=True)
class MeasuredDifference(Measured):
    """A difference to a row of the table; `best` where it is that row's own."""


class SignedNumber(float):
    """A plain difference, written with its sign."""


class Printed(str):
    """A number as somebody printed it."""


SEEDS = "± is the standard deviation over seeds; value and interval are those of their mean."
"""What a page says where a row is of several seeds."""
Value = str | float | Measured
"""A float is a plain number, written with two decimals."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of a board.

    Attributes:
        stem: file name without its ending, and the table's id on the page.
        title: what it shows.
        board: what it is of.
        names: so many of the first columns say what a row is.
    """

    stem: str
    title: str
    board: str
    headers: tuple[str, ...]
    names: int
    rows: tuple[tuple[Value, ...], ...]

    @property
    def caption(self) -> str:
        """What a reader needs where the table stands alone."""
        return f"{self.board}: {self.title}"


def is_number(value: Value) -> bool:
    """Whether a value is aligned to the right."""
    return isinstance(value, Printed) or not isinstance(value, str)


NAMES = ("method", "supervision", "trained on", "backbone")


def name_board(board: Board) -> str:
    """Name a board's files and its section."""
    return f"{slug(board.first.task_label)}--{slug(board.stem)}"


def make_report_tables(board: Board, shown: Statistics, verdicts: Sequence[Verdict]) -> list[Table]:
    """Make every table of a board, each with its own best and what is tied with it.

    One an average, one metric by group, the composition audit, published numbers.
    """
    tables = []
    for average in board.averages:
        headline = shown.scores[average, board.headline]
        columns: dict[str, Sequence[Value]] = {
            metric: _make_column(shown.scores[average, metric]) for metric in board.metrics
        }
        columns[f"{board.headline} minus the best"] = [
            MeasuredDifference(interval=s.difference, best=s.best, tied=s.tied) for s in headline
        ]
        best_first = sorted(range(len(headline)), key=lambda i: -headline[i].value.value)
        tables.append(_make_average_table(board, average, columns, best_first))
    if len(board.groups) > 1:
        by_group = {g: _make_column(shown.scores[g, board.group_metric]) for g in board.groups}
        tables.append(_make_group_table(board, by_group))
    return tables + _make_audit_tables(board) + _make_published_tables(board, verdicts)


def make_leaderboard_tables(board: Board, verdicts: Sequence[Verdict]) -> list[Table]:
    """Make the same tables without a test of every column: best is what is printed as the best.

    The rows are in the board's order, and differences are to its first.
    """
    tables = []
    for average in board.averages:
        columns: dict[str, Sequence[Value]] = {
            metric: _make_printed_column(board, average, metric) for metric in board.metrics
        }
        columns[f"{board.headline} minus the first row's"] = [
            MeasuredDifference(interval=d, best=d.value == d.low == d.high == 0)
            for d in board.differences(average)
        ]
        tables.append(_make_average_table(board, average, columns, range(len(board.rows))))
    if len(board.groups) > 1:
        by_group = {
            group: _make_printed_column(board, group, board.group_metric) for group in board.groups
        }
        tables.append(_make_group_table(board, by_group))
    return tables + _make_audit_tables(board) + _make_published_tables(board, verdicts)


def _make_audit_tables(board: Board) -> list[Table]:
    """Make one table, or none where the board can't be audited."""
    audit = audit_board(board)
    return [make_audit_table(audit, board.headline, ("all", "shortcut-free"))] if audit else []


def make_audit_table(audit: Audit, metric: str, subsets: Sequence[str] = tuple(SUBSETS)) -> Table:
    """Make a table of one metric over all queries and over some of their subsets."""
    columns: dict[str, Sequence[Value]] = {}
    for subset in (name for name in subsets if name in audit.findings.scores):
        scores = audit.findings.scores[subset][metric]
        columns[f"{subset} ({scores[0].value.n:,})"] = _make_column(scores)
        columns[f"{subset}, minus the best"] = [
            MeasuredDifference(interval=s.difference, best=s.best, tied=s.tied) for s in scores
        ]
    order = range(len(audit.board.rows))
    title = f"{metric} by composition audit"
    return _make_table(audit.board, f"audit {metric}", title, columns, order)


def _make_column(scores: Iterable[Standing]) -> list[Measured]:
    return [Measured(interval=s.value, sd=s.sd, best=s.best, tied=s.tied) for s in scores]


def _make_printed_column(board: Board, row: str, metric: str) -> list[Measured]:
    """Make a column in which whatever rounds to the best is the best."""
    column = [(r.metrics[row][metric], find_spread(r, row, metric)) for r in board.rows]
    best = max(round(interval.value, 1) for interval, _ in column)
    return [Measured(interval=v, sd=sd, best=round(v.value, 1) == best) for v, sd in column]


def _make_average_table(
    board: Board, average: str, columns: Mapping[str, Sequence[Value]], order: Iterable[int]
) -> Table:
    members = ", ".join(board.averages[average])
    return _make_table(board, average, f"{average} ({members})", columns, order)


def _make_group_table(board: Board, columns: Mapping[str, Sequence[Value]]) -> Table:
    order = range(len(board.rows))
    return _make_table(board, "groups", f"{board.group_metric} by group", columns, order)


def _make_table(
    board: Board,
    name: str,
    title: str,
    columns: Mapping[str, Sequence[Value]],
    order: Iterable[int],
) -> Table:
    """Make a row for each of the board's in `order`; a column has a value for each."""
    return Table(
        stem=f"{name_board(board)}--{slug(name)}",
        title=title,
        board=board.title,
        headers=(*NAMES, *columns),
        names=len(NAMES),
        rows=tuple(
            (*name_row(board, board.rows[i]), *(column[i] for column in columns.values()))
            for i in order
        ),
    )


def _make_published_tables(board: Board, verdicts: Sequence[Verdict]) -> list[Table]:
    """Make one table, or none where no published number has a record here."""
    rows = [
        (
            v.name,
            v.published.group,
            v.published.metric,
            Printed(v.published.value),
            v.measured,
            SignedNumber(v.difference),
            v.state,
            v.published.source,
        )
        for v in verdicts
        if v.measured is not None and v.difference is not None
    ]
    names = ("method", "group", "metric")
    numbers = ("published", "ours", "difference")
    table = Table(
        stem=f"{name_board(board)}--published",
        title="against published numbers",
        board=board.title,
        headers=(*names, *numbers, "verdict", "source"),
        names=len(names),
        rows=tuple(rows),
    )
    return [table] if rows else []


def format_interval(interval: Interval) -> str:
    """`[58.9, 63.4]`"""
    return f"[{interval.low:.1f}, {interval.high:.1f}]"


def format_spread(value: Measured) -> str:
    """` ± 0.4`, or nothing for one seed."""
    return "" if value.sd is None else f" ± {value.sd:.1f}"


def format_signed_interval(interval: Interval) -> str:
    """`[-2.4, +0.1]`"""
    return f"[{interval.low:+.1f}, {interval.high:+.1f}]"
