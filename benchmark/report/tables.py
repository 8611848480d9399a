"""Tables as values, which the page, CSV and LaTeX each write in their own way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cirbench.benchmark.analysis.board_statistics import Score, Statistics
from cirbench.benchmark.analysis.boards import Board, row_names
from cirbench.benchmark.analysis.published import Verdict
from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.records.fields import slug


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A score's difference to the best of the table; the best itself has none."""

    score: Score


Value = str | float | Score | Difference
"""A float is a plain number, written with two decimals."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; the first `names` columns say what a row is.

    Attributes:
        stem: file name without its ending, and the table's id on the page.
    """

    stem: str
    caption: str
    headers: tuple[str, ...]
    names: int
    rows: tuple[tuple[Value, ...], ...]


NAMES = ("method", "supervision", "trained on", "backbone")


def board_slug(board: Board) -> str:
    """Names a board's files and its section."""
    return f"{slug(board.first.cell.task)}--{slug(board.stem)}"


def board_tables(board: Board, shown: Statistics, verdicts: Sequence[Verdict]) -> list[Table]:
    """Every table of a board: one an average, the headline by group, published numbers."""
    tables = [_average_table(board, shown, name) for name in board.averages]
    if len(board.groups) > 1:
        tables.append(_group_table(board, shown))
    if verdicts:
        tables.append(_published_table(board, verdicts))
    return tables


def _average_table(board: Board, shown: Statistics, average: str) -> Table:
    headline = shown.scores[average, board.headline]
    columns = [shown.scores[average, metric] for metric in board.metrics]
    rows: list[tuple[Value, ...]] = [
        (
            *row_names(board, board.records[i]),
            *(c[i] for c in columns),
            Difference(score=headline[i]),
        )
        for i in _ranked(headline)
    ]
    members = ", ".join(board.averages[average])
    return Table(
        stem=f"{board_slug(board)}--{slug(average)}",
        caption=f"{board.title}: {average} ({members})",
        headers=(*NAMES, *board.metrics, f"{board.headline} minus the best"),
        names=len(NAMES),
        rows=tuple(rows),
    )


def _group_table(board: Board, shown: Statistics) -> Table:
    columns = [shown.scores[group, board.headline] for group in board.groups]
    rows: list[tuple[Value, ...]] = [
        (*row_names(board, record), *(column[i] for column in columns))
        for i, record in enumerate(board.records)
    ]
    return Table(
        stem=f"{board_slug(board)}--groups",
        caption=f"{board.title}: {board.headline} by group",
        headers=(*NAMES, *board.groups),
        names=len(NAMES),
        rows=tuple(rows),
    )


def _published_table(board: Board, verdicts: Iterable[Verdict]) -> Table:
    rows = [
        (
            v.name,
            v.published.group,
            v.published.metric,
            v.published.value,
            v.measured or 0.0,
            v.difference or 0.0,
            v.state,
            v.published.source,
        )
        for v in verdicts
    ]
    return Table(
        stem=f"{board_slug(board)}--published",
        caption=f"{board.title}: against published numbers",
        headers=(
            "method",
            "group",
            "metric",
            "published",
            "ours",
            "difference",
            "verdict",
            "source",
        ),
        names=3,
        rows=tuple(rows),
    )


def _ranked(scores: Sequence[Score]) -> list[int]:
    """Best first; equal values keep the board's order."""
    return sorted(range(len(scores)), key=lambda i: -scores[i].value.value)


def interval_text(interval: Interval) -> str:
    """`[58.9, 63.4]`"""
    return f"[{interval.low:.1f}, {interval.high:.1f}]"


def signed_interval_text(interval: Interval) -> str:
    """`[-2.4, +0.1]`"""
    return f"[{interval.low:+.1f}, {interval.high:+.1f}]"
