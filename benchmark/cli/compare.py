"""`bench compare` and `bench diff`. Nothing heavy is imported before a command needs it."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, Results
from cirbench.benchmark.runtime.errors import CheckFailed
from cirbench.benchmark.runtime.paths import to_line

if TYPE_CHECKING:
    from rich.table import Table

    from cirbench.benchmark.analysis.compare import Comparison, Pair
    from cirbench.benchmark.analysis.diff import Diff
    from cirbench.benchmark.records.record import Record

comparer = typer.Typer(**HELP)  # type: ignore[arg-type]  # one dict for all apps

_ONE = "A record's file, a method, or a glob over records' paths."


@comparer.command(
    epilog="Examples: bench compare pic2word image-text · bench compare pic2word '*' --metric R@1"
    " --group average · bench compare A.json B.json --json"
)
def compare(
    a: Annotated[str, typer.Argument(help=_ONE)],
    b: Annotated[str, typer.Argument(help=_ONE)],
    metric: Annotated[
        list[str] | None, typer.Option(help="Repeatable; default: the protocol's headline.")
    ] = None,
    group: Annotated[
        list[str] | None, typer.Option(help="Repeatable, averages too; default: all.")
    ] = None,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Say whether A is better than B, query by query.

    Each row is a mean over queries and its paired difference A - B, in points, with a 95 %
    bootstrap interval. p is of a randomisation test that flips signs by reference picture; Holm's
    is adjusted for all rows shown. "Can show" is the smallest true difference that these queries
    would show with 80 % power at the 5 % level: 2.80 × the bootstrap's standard error. Records of
    several seeds are one: their mean, query by query, ± the standard deviation over seeds.
    """
    from cirbench.benchmark.analysis.compare import compare as compared
    from cirbench.benchmark.analysis.compare import find_pairs
    from cirbench.benchmark.scoring.paired import DETECTABLE_FACTOR, DRAWS, SEED

    pairs = compared(find_pairs(a, b, output), metrics=metric or (), groups=group or ())
    if as_json:
        settings = {"draws": DRAWS, "seed": SEED, "detectable_factor": DETECTABLE_FACTOR}
        data = {**settings, "pairs": [pair.as_dict() for pair in pairs]}
        print(json.dumps(data, indent=2, sort_keys=True))
    else:
        _print_pairs(pairs)


def _print_pairs(pairs: "list[Pair]") -> None:
    from rich.console import Console

    console = Console(markup=False, emoji=False, highlight=False)
    names = _name_records(pairs)
    for pair in pairs:
        cell, protocol = pair.a.cell, pair.a.protocol
        partial = "PARTIAL: " if pair.a.run.partial else ""
        about = f"{cell.task} ({cell.split}), protocol {protocol.title}"
        console.print(
            f"{partial}{to_line(about)}\nA: {names[pair.a.path]}\nB: {names[pair.b.path]}",
            soft_wrap=True,
        )
        console.print(_make_table(pair))
    count = sum(len(pair.cells) for pair in pairs)
    console.print(
        f"Percent; points [95 % interval]; p, and Holm's over {count} cells; the "
        "smallest difference the data can show (80 % power at 5 %: 2.80 standard errors)."
    )


def _name_records(pairs: "list[Pair]") -> dict[Path, str]:
    """Name each record by its path, with its weights where two names would be the same."""
    records = {record.path: record for pair in pairs for record in (pair.a, pair.b)}
    count = Counter(map(_label, records.values()))
    return {
        path: to_line(f"{name}, weights {record.checkpoint_label}" if count[name] > 1 else name)
        for path, record in records.items()
        for name in [_label(record)]
    }


def _label(record: "Record") -> str:
    return ", ".join(filter(None, (record.method_label, record.cell.backbone, record.seed_label)))


def _make_table(pair: "Pair") -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("group")
    table.add_column("metric", no_wrap=True)
    for name in ("A\nB", "A - B", "p\nHolm's", "can\nshow", "won/tied/lost"):
        table.add_column(name, justify="right", no_wrap=True)
    averages = {cell.group for cell in pair.cells} - set(pair.a.groups)
    for cell in pair.cells:
        table.add_row(*_make_row(cell), style="bold" if cell.group in averages else None)
    return table


def _make_row(cell: "Comparison") -> list[str]:
    found, span = cell.difference, cell.difference.interval
    return [
        to_line(cell.group),
        cell.metric,
        f"{_format_mean(cell.a, cell.a_sd)}\n{_format_mean(cell.b, cell.b_sd)}",
        f"{span.value:+.1f}\n[{span.low:+.1f}, {span.high:+.1f}]",
        f"{_format_p(found.p)}\n{_format_p(cell.p_holm)}",
        "–" if found.detectable is None else f"{found.detectable:.1f}",
        f"{found.wins}/{found.ties}/{found.losses}",
    ]


def _format_mean(value: float, sd: float | None) -> str:
    return f"{value:.1f}" if sd is None else f"{value:.1f} ± {sd:.1f}"


def _format_p(p: float) -> str:
    return f"{p:.4f}" if p >= 0.0001 else "<0.0001"


@comparer.command(epilog="Examples: bench diff · bench diff HEAD~3 --tolerance 0.5 --json")
def diff(
    revision: Annotated[str, typer.Argument(metavar="[REV]", help="What git knows.")] = "HEAD",
    tolerance: Annotated[float, typer.Option(min=0, help="In points.")] = 0.05,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Show what changed in the results against a commit.

    Exit 1 if a metric moved too far.
    """
    from cirbench.benchmark.analysis.diff import diff as compared

    found = compared(output, revision)
    if as_json:
        print(json.dumps(asdict(found), indent=2, sort_keys=True))
    else:
        _print_diff(found)
    if moved := [change for change in found.changes if change.beyond(tolerance)]:
        raise CheckFailed(
            f"{len(moved)} metrics in {len({c.record for c in moved})} records differ from "
            f"{revision} by more than {tolerance:g} points"
        )


def _print_diff(found: "Diff") -> None:
    for sign, names in (("+", found.added), ("-", found.removed)):
        for name in names:
            print(f"{sign} {name}")
    for change in found.changes:
        before, after = (
            "–" if value is None else f"{value:.2f}" for value in (change.before, change.after)
        )
        print(f"~ {change.record}  {change.group}  {change.metric}  {before} → {after}")
    print(
        f"{len(found.added)} records added, {len(found.removed)} removed, "
        f"{len(found.changes)} metrics changed"
    )
