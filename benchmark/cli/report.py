"""`bench report`, `bench show`, `bench figure`.

Nothing heavy is imported before a command needs it.
"""

from pathlib import Path
from typing import Annotated

import typer

from cirbench.benchmark.cli.options import DataRoot, Results
from cirbench.benchmark.runtime.errors import CheckFailed, UsageError

EmbedImages = Annotated[
    bool,
    typer.Option(
        "--embed-images",
        help="Embed the pictures and captions of every task, licensed ones too: for yourself, "
        "not for a repository. Without it, only embedded tasks'.",
    ),
]


def report(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit 1 if a file is stale.")
    ] = False,
    embed_images: EmbedImages = False,
    data_root: DataRoot = None,
    output: Results = Path("results"),
) -> None:
    """Write a report of the results: page, galleries, tables.

    It goes to report/ in the results folder: a page, a gallery a task, tables as CSV and LaTeX.
    """
    from cirbench.benchmark.report.pictures import Permission
    from cirbench.benchmark.report.write import find_stale, write

    permission = Permission(embed=embed_images, data_root=data_root)
    if check:
        if old := find_stale(output, permission):
            raise CheckFailed(f"stale files: {', '.join(map(str, old))}; bench report writes them")
        return
    for path in write(output, permission):
        print(path)


def show(
    task: Annotated[str, typer.Argument(help="bench ls tasks.")],
    methods: Annotated[
        str,
        typer.Option(
            help="Names of methods, separated by commas; a record's file name singles it out."
        ),
    ],
    queries: Annotated[str, typer.Option(help="Ids of queries, separated by commas.")],
    out: Annotated[Path, typer.Option(help="FILE.png to write.")],
    split: Annotated[
        str | None, typer.Option(help="Needed where there are records of several.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Needed where there are records of several.")
    ] = None,
    data_root: DataRoot = None,
    output: Results = Path("results"),
) -> None:
    """Draw queries and what methods found for them as one PNG."""
    from cirbench.benchmark.analysis.boards import read_boards
    from cirbench.benchmark.report.figure import (
        choose_board,
        choose_records,
        choose_rows,
        draw_figure,
    )
    from cirbench.benchmark.report.pictures import load_task_data
    from cirbench.benchmark.runtime.files import write_whole

    if out.suffix != ".png":
        raise UsageError(f"--out {out} must end in .png")
    board = choose_board(read_boards(output), task, split, protocol)
    records = choose_records(board, _split_names(methods, "--methods"))
    rows = choose_rows(board, _split_names(queries, "--queries"))
    content = draw_figure(board, load_task_data(board, data_root), records, rows)
    with write_whole(out) as temporary:
        temporary.write_bytes(content)
    print(out)


def figure(
    name: Annotated[str, typer.Argument(help="domain-conversion, fashion-iq or cirr.")],
    task: Annotated[
        str | None,
        typer.Option("--task", "-t", help="Default: the figure's own, or one that is like it."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Needed where there are records of several.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Needed where there are records of several.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Both files, without their ending; default: figures/NAME in the results."
        ),
    ] = None,
    output: Results = Path("results"),
) -> None:
    """Draw a paper's bar chart of the results, as SVG and PNG.

    By domain, by category or by metric; zero-shot and supervised methods in two shades.
    """
    from cirbench.benchmark.analysis.boards import read_boards
    from cirbench.benchmark.report.paper_figure import (
        choose_paper_board,
        draw_paper_figure,
        find_figure,
    )
    from cirbench.benchmark.runtime.figures import render_png, render_svg
    from cirbench.benchmark.runtime.files import write_whole

    chosen = find_figure(name)
    board = choose_paper_board(
        read_boards(output), chosen, task=task, split=split, protocol=protocol
    )
    drawn = draw_paper_figure(board, chosen)
    base = out or output / "figures" / name
    contents = {".svg": render_svg(drawn, board.digest), ".png": render_png(drawn)}
    for ending, content in contents.items():
        path = base.with_name(f"{base.name.removesuffix('.svg').removesuffix('.png')}{ending}")
        with write_whole(path) as temporary:
            temporary.write_bytes(content)
        print(path)


def _split_names(text: str, option: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"{option} must be names separated by commas, got none")
    return names


def register(app: typer.Typer) -> None:
    """Add these commands to `bench`."""
    app.command(epilog="Examples: bench report · bench report --check")(report)
    app.command(
        epilog="Examples: bench show emoji --methods pic2word,image-text"
        " --queries noto/1f34e,mono/1f63a --out figure.png"
        " · bench show cirr --methods pic2word --queries 12,99 --data-root ~/data --out cirr.png"
    )(show)
    app.command(
        epilog="Examples: bench figure domain-conversion"
        " · bench figure cirr --task cirr --protocol clip4cir --out cirr"
    )(figure)
