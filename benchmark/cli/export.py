"""`bench export`. Nothing heavy is imported before a command needs it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import HELP, DataRoot, Results, complete
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.paths import to_text

if TYPE_CHECKING:
    from cirbench.benchmark.analysis.boards import Board

FOLDER = "export"

exporter = typer.Typer(help="Write records in the formats of others.", **HELP)  # type: ignore[arg-type]  # one dict for all apps

Tasks = Annotated[
    list[str] | None,
    typer.Option("--task", "-t", help="Only these.", autocompletion=complete("tasks")),
]
Methods = Annotated[
    list[str] | None,
    typer.Option("--method", "-m", help="Only these.", autocompletion=complete("methods")),
]
Out = Annotated[
    Path | None,
    typer.Option(help="Folder to write; default: export/FORMAT in the results folder."),
]


@exporter.command(
    epilog="Examples: bench export trec · bench export trec -t cirr --data-root ~/data --out trec"
)
def trec(
    task: Tasks = None,
    method: Methods = None,
    data_root: DataRoot = None,
    out: Out = None,
    output: Results = Path("results"),
) -> None:
    """Write TREC run and qrels files.

    A folder a board: qrels.txt and a run file a record, as trec_eval and ir_measures read them.
    """
    from cirbench.benchmark.export.trec import write_trec

    boards = _choose_boards(output, task, method)
    _print_paths(write_trec(boards, out or output / FOLDER / "trec", data_root))


def _choose_boards(
    output: Path, tasks: list[str] | None, methods: list[str] | None
) -> "list[Board]":
    """Read the boards of a results folder, with the wanted records alone.

    Raises:
        UsageError: no record is wanted.
    """
    from cirbench.benchmark.analysis.boards import read_boards

    boards = read_boards(output)
    chosen = []
    for board in boards:
        cells = ((record, record.cell) for record in board.records)
        records = tuple(
            record
            for record, cell in cells
            if (not tasks or cell.task in tasks) and (not methods or cell.method in methods)
        )
        if records:
            chosen.append(replace(board, records=records))
    if not chosen:
        known = sorted({f"{r.cell.task} {r.cell.method}" for b in boards for r in b.records})
        raise UsageError(
            f"--task and --method must leave a record, got none; there are: {', '.join(known)}"
        )
    return chosen


def _print_paths(paths: Iterable[Path]) -> None:
    for path in paths:
        print(to_text(path))
