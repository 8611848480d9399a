"""A sweep as a table on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from cirbench.slurm.status import CellStatus


def make_table(rows: Sequence[CellStatus]) -> Table:
    """Make a table with a row for each cell."""
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "state", "job", "node", "time", "reason"):
        least = 30 if column == "reason" else None  # on a narrow terminal the cell's name folds
        table.add_column(column, overflow="fold", min_width=least)
    for row in rows:
        state = row.state
        time = "" if row.seconds is None else _format_duration(row.seconds)
        cells = (row.cell.id, state.status, state.job, state.node, time, state.reason)
        table.add_row(*(_escape(value) for value in cells))
    return table


def _escape(value: str | None) -> str:
    """Escape what rich would take for markup."""
    return (value or "").replace("[", "\\[")


def _format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def count_states(rows: Sequence[CellStatus]) -> str:
    """Count the cells in each state, in a line."""
    counted = Counter(row.state.status for row in rows)
    return ", ".join(f"{count} {status}" for status, count in counted.items())
