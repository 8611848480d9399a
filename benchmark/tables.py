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
    title = f"{record.method_label} on {cell['task']} ({cell['split']}), {cell['backbone']}"
    partial = record.data["run"]["limit"]
    note = f"PARTIAL: {partial} queries a group. " if partial else ""
    table = Table(
        box=SIMPLE_HEAD,
        pad_edge=False,
        title=title,
        caption=f"{note}Percent [95 % interval]; protocol {protocol['name']} "
        f"v{protocol['version']}, hash {protocol['hash']}",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("group")
    for metric in protocol["metrics"]:
        table.add_column(metric, justify="right", no_wrap=True)
    for name in [*record.data["groups"], *_averages(record)]:
        values = [Interval(**record.data["metrics"][name][m]) for m in protocol["metrics"]]
        style = "bold" if name == "average" else None
        table.add_row(name, *(f"{v.value:.1f}\n[{v.low:.1f}, {v.high:.1f}]" for v in values), style=style)
    console.print(table)


def _averages(record: Record) -> list[str]:
    return [name for name in record.data["metrics"] if name not in record.data["groups"]]
