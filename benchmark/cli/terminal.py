"""Records, verdicts and checks as tables on the terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from tabulate import tabulate

from cirbench.benchmark.analysis.conflicts import KINDS, Conflict
from cirbench.benchmark.analysis.published import NOT_RUN, STATES, Verdict
from cirbench.benchmark.api.values import Collection
from cirbench.benchmark.data.check import Count, SplitCheck, count_collection
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.paths import to_line

_NAMED = 20
"""How many missing or unreadable pictures are named; JSON has them all."""


def print_record(record: Record, console: Console) -> None:
    """Print a row for each group and average, a column for each metric, with 95 % intervals."""
    cell, protocol = record.cell, record.protocol
    console.print(
        to_line(f"{record.method_label} on {record.task_label} ({cell.split}), {cell.backbone}")
    )
    if not record.metrics:
        files = [str(record.path.parent / name) for name in record.submission]
        console.print("no public labels; for the server:", *files, soft_wrap=True, highlight=False)
        return
    limit, missing = record.run.limit, record.counts.missing
    note = f"PARTIAL: {limit} queries a group. " if limit else ""
    note += f"PARTIAL: {missing} pictures left out. " if missing else ""
    for metrics in _arrange_metrics(record, console.width):
        console.print(_make_table(record, metrics))
    console.print(f"{note}Percent [95 % interval]; protocol {protocol.title}, hash {protocol.hash}")


def _arrange_metrics(record: Record, width: int) -> list[Sequence[str]]:
    """Arrange the metrics in as few tables as fit the width, of about the same length."""
    metrics, groups = record.protocol.metrics, _list_rows(record)
    widest = max(len(line) for g in groups for m in metrics for line in _format_cell(record, g, m))
    fitting = max(1, (width - max(map(len, groups)) - 2) // (max(widest, *map(len, metrics)) + 3))
    per_row = math.ceil(len(metrics) / math.ceil(len(metrics) / fitting))
    return [metrics[i : i + per_row] for i in range(0, len(metrics), per_row)]


def _make_table(record: Record, metrics: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("group", no_wrap=True)
    for metric in metrics:
        table.add_column(metric, justify="right", no_wrap=True)
    for group in _list_rows(record):
        cells = ("\n".join(_format_cell(record, group, metric)) for metric in metrics)
        table.add_row(group, *cells, style="bold" if group == "average" else None)
    return table


def _format_cell(record: Record, group: str, metric: str) -> tuple[str, str]:
    found = record.metrics[group][metric]
    return f"{found.value:.1f}", f"[{found.low:.1f}, {found.high:.1f}]"


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Print a line for each verdict, one for each task not run, and the counts."""
    rows = [
        [
            " ".join((v.published.task, v.published.split, v.published.group, v.published.metric)),
            to_line(v.name),
            v.published.value,
            "–" if v.measured is None else f"{v.measured:.2f}",
            v.state + ("" if v.published.gates else " (not gated)"),
        ]
        for v in verdicts
        if v.state != NOT_RUN
    ]
    if rows:
        headers = ["number", "method", "published", "ours", "verdict"]
        widths = [28, 18, 9, 7, 14]
        print(tabulate(rows, headers, maxcolwidths=widths, disable_numparse=True))
    for reason, count in Counter(v.reason for v in verdicts if v.reason).items():
        print(f"\n{count} × {reason}")
    waiting = Counter(v.published.task for v in verdicts if v.state == NOT_RUN)
    for task, count in waiting.items():
        print(f"{task}: {count} numbers are not run")
    counts = Counter(v.state for v in verdicts)
    print("\n" + " · ".join(f"{counts[state]} {state}" for state in STATES))
    if waiting:
        print("bench verify --json lists them all")


def print_conflicts(conflicts: Sequence[Conflict]) -> None:
    """Print each conflict, with a line for each number in it, and how many there are of a kind."""
    for conflict in conflicts:
        print(f"{conflict.kind}: {conflict.about}", *conflict.reads, sep="\n    ")
    counts = Counter(conflict.kind for conflict in conflicts)
    print("\n" + " · ".join(f"{counts[kind]} {kind}" for kind in KINDS))


def print_checks(checks: Sequence[SplitCheck], collections: Sequence[Collection]) -> None:
    """Print the findings about each split and collection, and which pictures are not right."""
    rows = [
        [check.split, count.name, f"{count.found:,}", *_format_expectation(count)]
        for check in checks
        for count in check.counts
    ]
    rows += [
        ["all", count.name, f"{count.found:,}", *_format_expectation(count)]
        for count in map(count_collection, collections)
    ]
    if rows:
        print(tabulate(rows, ["split", "what", "found", "expected", ""], disable_numparse=True))
    for check in checks:
        print(f"\n{check.split}: {check.error or _describe_check(check)}")
        for name, sha256 in check.annotations.items():
            print(f"  {sha256}  {name}")
        for remark in check.remarks:
            print(f"  {remark}")
        for kind, faults in (("missing", check.missing), ("unreadable", check.unreadable)):
            _print_first(kind, [f"{name} ({why})" for name, why in faults.items()])
    for collection in collections:
        if collection.missing or collection.changed:
            print(f"\n{collection.name}:")
        _print_first("missing", collection.missing)
        _print_first("changed since it was fetched", collection.changed)


def _print_first(kind: str, names: Sequence[str]) -> None:
    for name in names[:_NAMED]:
        print(f"  {kind}: {name}")
    if len(names) > _NAMED:
        print(f"  … and {len(names) - _NAMED:,} more {kind}; --json names all")


def _format_expectation(count: Count) -> tuple[str, str]:
    if count.expected is None:
        return "–", ""
    return f"{count.expected:,}", "ok" if count.agrees else "DIFFERS"


def _describe_check(check: SplitCheck) -> str:
    annotations = "released annotations" if check.released else "custom annotations"
    if check.shipped:
        annotations = "the shipped data"
    if check.made:
        annotations = "made data"
    if not check.missing and not check.unreadable:
        return f"complete, {annotations}"
    return f"{len(check.missing):,} missing, {len(check.unreadable):,} unreadable, {annotations}"


def _list_rows(record: Record) -> list[str]:
    """The groups, then, where there are several, their averages."""
    groups = record.groups
    return [*groups, *record.averages] if len(groups) > 1 else [*groups]
