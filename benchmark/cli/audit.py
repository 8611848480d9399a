"""`bench audit` and `bench audit-answers`. Nothing heavy is imported before a command needs it."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import (
    HELP,
    AsJson,
    DataRoot,
    Results,
    as_text,
    complete,
    print_json,
)
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.paths import to_line

if TYPE_CHECKING:
    from cirbench.benchmark.analysis.forensics import AnswersAudit

auditor = typer.Typer(**HELP)  # type: ignore[arg-type]  # one dict for all apps

_NAMES = "Repeatable: a method or a glob, as bench compare takes them; default: "


@auditor.command(
    epilog="Examples: bench audit emoji · bench audit emoji --composed pic2word --k 10 --json"
    " · bench audit emoji --export labels.jsonl"
)
def audit(
    task: Annotated[str, typer.Argument(help="A task that has records.")],
    split: Annotated[str | None, typer.Option(help="Default: all.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Its name or hash; default: all.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Found is what is among the first k.")] = 10,
    image: Annotated[
        list[str] | None, typer.Option(help=f"{_NAMES}image-only. They see the picture alone.")
    ] = None,
    text: Annotated[
        list[str] | None, typer.Option(help=f"{_NAMES}text-only. They see the text alone.")
    ] = None,
    composed: Annotated[
        list[str] | None, typer.Option(help=f"{_NAMES}all others. They see both.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="FILE.jsonl or .parquet of frozen labels, as CIRCUS has them."),
    ] = None,
    export: Annotated[
        Path | None, typer.Option(help="FILE.jsonl for the labels of each query.")
    ] = None,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Say which queries need both picture and text.

    A query is a shortcut where the picture alone or the text alone finds a target among the first
    k; it requires composition where only a method that sees both does; else it is unresolved.
    Writes audit-TASK.md beside the leaderboard.
    """
    from cirbench.benchmark.analysis.boards import read_boards, select_boards
    from cirbench.benchmark.analysis.composition import Audit, Pool, choose_pool
    from cirbench.benchmark.analysis.composition_labels import list_rows, read_labels
    from cirbench.benchmark.records.fields import slug
    from cirbench.benchmark.report.audit import render_audits
    from cirbench.benchmark.runtime.files import write_whole

    if labels and (image or text or composed or export):
        raise UsageError("--labels decides alone: leave out --image, --text, --composed, --export")
    boards = select_boards(read_boards(output), task, split, protocol)
    if export and len(boards) > 1:
        titles = "; ".join(board.title for board in boards)
        raise UsageError(f"--export takes one of {titles}; choose by --split and --protocol")
    sides = {"image": image or (), "text": text or (), "composed": composed or ()}
    decided = [
        read_labels(labels, board) if labels else choose_pool(board, output, k=k, **sides)
        for board in boards
    ]
    if export and isinstance(decided[0], Pool):
        with write_whole(export) as temporary:
            rows = (json.dumps(row) for row in list_rows(boards[0], decided[0]))
            temporary.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    audits = [
        Audit(board=board, labels=one, metrics=tuple(board.metrics))
        for board, one in zip(boards, decided, strict=True)
    ]
    if as_json:
        print_json([audit.as_dict() for audit in audits])
        return
    page = render_audits(audits)
    path = output / f"audit-{slug(task)}.md"
    with write_whole(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(page)
    print(path)


@auditor.command(
    epilog="Examples: bench audit-answers circo.json -t circo --data-root ~/data · bench"
    " audit-answers recall.json --subset recall_subset.json --other theirs.json -t cirr"
)
def audit_answers(
    file: Annotated[Path, typer.Argument(help="CIRR's or CIRCO's server file, or a TREC run.")],
    task: Annotated[
        str,
        typer.Option("--task", "-t", help="bench ls tasks.", autocompletion=complete("tasks")),
    ],
    subset: Annotated[
        Path | None, typer.Option(help="CIRR's recall_subset file that goes with FILE.")
    ] = None,
    other: Annotated[
        list[Path] | None, typer.Option(help="Other answers to compare with; repeatable.")
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="The split it must be of; default: that whose queries it has."),
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Whose queries and gallery; default: the task's first.")
    ] = None,
    data_root: DataRoot = None,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Say what a file of answers tells of how it was made.

    Which split it answers; queries and images that are missing or foreign; names that occur twice;
    where the queries' own references stand, and so which protocols it can be of; ties; and what it
    has in common with other files and with the records of that split.
    """
    from cirbench.benchmark.analysis import forensics
    from cirbench.benchmark.api.registry import find_task
    from cirbench.benchmark.data.answers import read_answers

    chosen, found = find_task(task)(), read_answers(file)
    own, splits = forensics.find_split(
        chosen, found, split=split, protocol=protocol, root=data_root
    )
    audit = forensics.audit_answers(
        found,
        chosen,
        own,
        splits,
        subset=read_answers(subset) if subset else None,
        others=[read_answers(path) for path in other or ()],
        records=forensics.find_split_records(output, task, own.name),
    )
    if as_json:
        print_json(audit.as_dict())
        return
    _print_answers(audit)


def _print_answers(audit: "AnswersAudit") -> None:
    from tabulate import tabulate

    data = audit.as_dict()
    conclusions, overlaps = data.pop("conclusions"), data.pop("overlaps")
    if audit.ties is None:
        data["ties"] = "not to be told, the file has no scores"
    print("\n".join(as_text({name: value for name, value in data.items() if value is not None})))
    if overlaps:
        ks = max((overlap.at for overlap in audit.overlaps), key=len)
        rows = [
            [
                to_line(overlap.other),
                f"{overlap.queries:,}",
                *(f"{overlap.at[k]:.1f}" if k in overlap.at else "–" for k in ks),
                f"{overlap.reference.listed:,}",
            ]
            for overlap in audit.overlaps
        ]
        headers = ["in common with, % of the first", "queries", *map(str, ks), "references"]
        align = ["left", *["right"] * (len(headers) - 1)]
        print(f"\n{tabulate(rows, headers, disable_numparse=True, colalign=align)}")
    print("\n".join(["", *conclusions]))
