"""A sweep as a table on the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from cirbench.slurm.cells.manifest import RUNNING
from cirbench.slurm.status import CellStatus

_SUMMED_UP = 5
"""So many equal rows at least become one."""


def make_table(rows: Sequence[CellStatus], *, each: bool = False) -> Table:
    """Make a table of cells; many that ended, or wait, for one reason are one row.

    A cell that runs has a row of its own, since its node is wanted.

    Args:
        each: a row for each cell.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("cell", "state", "job", "node", "time", "reason"):
        least = 30 if column == "reason" else None  # on a narrow terminal the cell's name folds
        table.add_column(column, overflow="fold", min_width=least)
    equal = Counter(_find_kin(row) for row in rows if row.state.status != RUNNING)
    told = set()
    for row in rows:
        kin = _find_kin(row)
        if each or equal[kin] < _SUMMED_UP:
            _add_cell(table, row)
        elif kin not in told:
            told.add(kin)
            name = f"{row.cell.id} and {equal[kin] - 1:,} more"
            table.add_row(*map(_escape, (name, row.state.status, "", "", "", row.state.reason)))
    return table


def _find_kin(row: CellStatus) -> tuple[str, str]:
    return row.state.status, row.state.reason


def _add_cell(table: Table, row: CellStatus) -> None:
    state = row.state
    time = "" if row.seconds is None else _format_duration(row.seconds)
    cells = (row.cell.id, state.status, state.job, state.node, time, state.reason)
    table.add_row(*map(_escape, cells))


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
