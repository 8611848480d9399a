"""`bench compare`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cirbench.benchmark.cli_options import AsJson, Results, print_json


def compare(
    a: Annotated[str, typer.Argument(help="A record's file, a method, its label, or a glob.")],
    b: Annotated[str, typer.Argument(help="What A is held against.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Repeatable; default: the protocol's headline.")
    ] = None,
    output: Results = Path("results"),
    as_json: AsJson = False,
) -> None:
    """Test whether A and B differ: paired over references, corrected for the cells shown."""
    from cirbench.benchmark import compare as comparing
    from cirbench.benchmark.tables import print_comparisons

    found = comparing.pairs(comparing.chosen(output, a), comparing.chosen(output, b))
    cells = [
        cell
        for x, y in found
        for cell in comparing.compare(x, y, metric or [x.data["protocol"]["headline"]])
    ]
    cells = comparing.corrected(cells)
    if as_json:
        print_json([cell.as_dict() for cell in cells])
    else:
        print_comparisons(cells)


def register(app: typer.Typer) -> None:
    """Adds the command to `bench`."""
    app.command(
        epilog="Examples: bench compare pic2word image-text"
        " · bench compare 'pic2word*' 'image*' --metric R@1 --metric R@10 --json"
    )(compare)
