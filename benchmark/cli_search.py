"""`bench search`. Nothing heavy is imported before it is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cirbench.benchmark.cli_options import AsJson, Backbone, Device, Quiet, print_json


def search(
    image: Annotated[list[Path], typer.Option("--image", "-i", help="Repeatable.")],
    text: Annotated[
        list[str], typer.Option("--text", help="Repeatable; * is the picture: 'a cartoon of *'.")
    ],
    gallery: Annotated[str, typer.Option("--gallery", "-g", help="A folder, or emoji.")],
    method: Annotated[list[str] | None, typer.Option("--method", "-m", help="Repeatable.")] = None,
    backbone: Backbone = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="METHOD=FILE, repeatable, or FILE for the one.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    device: Device = "auto",
    cache: Annotated[str, typer.Option(help="use, refresh, read-only or off.")] = "use",
    html: Annotated[Path | None, typer.Option(help="FILE.html to write.")] = None,
    png: Annotated[Path | None, typer.Option(help="FILE.png to write.")] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Search a folder of pictures by a picture and a text. Commas in a text are just text."""
    from cirbench.benchmark import search as searching
    from cirbench.benchmark.checkpoints import written_whole
    from cirbench.benchmark.plan import Request, parse_checkpoints
    from cirbench.benchmark.progress import Reporter
    from cirbench.benchmark.tables import print_answers

    methods = tuple(dict.fromkeys(method or ["pic2word"]))
    request = Request(
        methods=methods, task="search", backbone=backbone, device=device, cache=cache,
        checkpoints=parse_checkpoints(checkpoint or (), methods),
    )  # fmt: skip
    plan = searching.plan_search(
        request, searching.gallery_of(gallery), searching.queries_of(image, text)
    )
    found = searching.search(plan, top, Reporter(quiet=quiet))
    for path, made in ((html, searching.as_html), (png, searching.as_png)):
        if path:
            content = made(found)
            with written_whole(path) as temporary:
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            print(path)
    if as_json:
        print_json(
            [
                {
                    "method": a.method, "image": a.image.id, "text": a.text,
                    "hits": [{"rank": h.rank, "picture": h.picture.id,
                              "similarity": h.similarity} for h in a.hits],
                }
                for a in found
            ]
        )  # fmt: skip
    elif not (html or png):
        print_answers(found)


def register(app: typer.Typer) -> None:
    """Adds the command to `bench`."""
    app.command(
        epilog="Examples: bench search -i dog.jpg --text 'a cartoon of *' -g ~/pictures"
        " · bench search -i cat.png --text 'a flat icon of *' -g emoji -m pic2word -m image-text"
        " --html found.html"
    )(search)
