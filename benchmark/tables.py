"""A record as a table on the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cirbench.benchmark.bootstrap import Interval
from cirbench.benchmark.records import Record


def print_record(record: Record, console: Console) -> None:
    """One row a group and an average, one column a metric, each with its 95 % interval."""
    cell, protocol = record.data["cell"], record.data["protocol"]
    partial = record.data["run"]["limit"]
    note = f"PARTIAL: {partial} queries a group. " if partial else ""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("group")
    for metric in protocol["metrics"]:
        table.add_column(metric, justify="right", no_wrap=True)
    for name in _rows(record):
        values = [Interval(**record.data["metrics"][name][m]) for m in protocol["metrics"]]
        style = "bold" if name == "average" else None
        texts = (f"{v.value:.1f}\n[{v.low:.1f}, {v.high:.1f}]" for v in values)
        table.add_row(name, *texts, style=style)
    console.print(f"{record.method_label} on {cell['task']} ({cell['split']}), {cell['backbone']}")
    console.print(table)
    console.print(
        f"{note}Percent [95 % interval]; protocol {protocol['name']} v{protocol['version']}, "
        f"hash {protocol['hash']}"
    )


def _rows(record: Record) -> list[str]:
    """The groups, then, where there are several, their averages."""
    groups = record.data["groups"]
    averages = [name for name in record.data["metrics"] if name not in groups]
    return [*groups, *averages] if len(groups) > 1 else groups
