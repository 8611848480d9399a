"""`bench export`. Nothing heavy is imported before a command needs it."""

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import HELP, DataRoot, Results, complete
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.paths import to_line, to_text

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


@exporter.command(
    epilog="Examples: bench export hf --namespace my-lab"
    " · bench export hf --namespace my-lab -m pic2word --out ~/my-model"
)
def hf(
    namespace: Annotated[
        str, typer.Option(help="Who owns the data sets on the Hub; their ids are NAMESPACE/TASK.")
    ],
    task: Tasks = None,
    method: Methods = None,
    out: Out = None,
    output: Results = Path("results"),
) -> None:
    """Write Hugging Face's .eval_results and model-index.

    A folder a model, for its repository and its card. Records of made data are left out.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # documented

    from cirbench.benchmark.export.hugging_face import write_hugging_face

    try:
        validate_repo_id(f"{namespace}/data")
    except HFValidationError as error:
        raise UsageError(
            f"--namespace must be a name that the Hub allows, got {to_line(namespace)!r}"
        ) from error
    boards = _leave_out_made(_choose_boards(output, task, method))
    records = [record for board in boards for record in board.records]
    _print_paths(write_hugging_face(records, out or output / FOLDER / "hf", namespace))


@exporter.command(
    epilog="Examples: bench export eee --by 'Example University'"
    " · bench export eee -t circo --data-root ~/data --by Jo --out every_eval_ever"
)
def eee(
    by: Annotated[str, typer.Option(help="Who hands the results on: an organization, a person.")],
    task: Tasks = None,
    method: Methods = None,
    data_root: DataRoot = None,
    out: Out = None,
    output: Results = Path("results"),
) -> None:
    """Write logs of Every Eval Ever.

    Schema 0.3.0: a log a record, and a row a query and metric. Records of made data are left out.
    """
    import time

    from cirbench.benchmark.export.every_eval import Provider, write_every_eval

    boards = _leave_out_made(_choose_boards(output, task, method))
    provider = Provider(name=to_line(by), time=int(time.time()))
    _print_paths(write_every_eval(boards, out or output / FOLDER / "eee", data_root, provider))


@exporter.command(
    epilog="Examples: bench export croissant · bench export croissant -t kin -t cirr --out data"
)
def croissant(task: Tasks = None, out: Out = None, output: Results = Path("results")) -> None:
    """Write Croissant pages of tasks' files.

    A folder a task: embedded tasks' files too, and of others the addresses of what may be fetched.
    """
    from cirbench.benchmark.export.croissant import choose_tasks, write_croissant

    _print_paths(write_croissant(choose_tasks(task or ()), out or output / FOLDER / "croissant"))


@exporter.command(epilog="Examples: bench export ro-crate · bench export ro-crate --output results")
def ro_crate(output: Results = Path("results")) -> None:
    """Write the RO-Crate page of the results folder.

    It lies in the folder itself, and lists each file with its sha256, and what each record is of.
    """
    import datetime

    from cirbench.benchmark.export.ro_crate import write_ro_crate

    _print_paths([write_ro_crate(output, datetime.datetime.now(datetime.UTC).date())])


@exporter.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True}
)  # whatever is asked for has one answer
def mteb() -> None:
    """Say why there is no MTEB TaskResult."""
    raise UsageError(
        "a TaskResult must be of a protocol of MTEB's own, which is nDCG@10 on its corpus, and no "
        "protocol of cirbench is one: not the metric, nor M-BEIR's galleries with the reference in "
        "them (CIRRIT2IRetrieval, FashionIQIT2IRetrieval); bench export trec writes rankings for "
        "other tools to score"
    )


def _leave_out_made(boards: "list[Board]") -> "list[Board]":
    """Leave out records of made data, where a reader would take them for the task's own.

    Raises:
        UsageError: there are no others.
    """
    real = [board for board in boards if not board.first.made]
    if not real:
        raise UsageError(
            "a record of made data must not be exported in a format that can't say so, and there is"
            " no other"
        )
    if made := sum(len(board.records) for board in boards if board.first.made):
        print(f"bench: left out {made} records of made data", file=sys.stderr)
    return real


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
