"""`bench search` and `bench serve`. Nothing heavy is imported before a command needs it."""

import gc
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, DataRoot, Device, Quiet, Workers
from cirbench.benchmark.runtime.errors import CirbenchError, UsageError
from cirbench.benchmark.runtime.paths import to_text

if TYPE_CHECKING:
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.search.pages import MethodAnswer
    from cirbench.benchmark.search.search import Gallery

searcher = typer.Typer(**HELP)  # type: ignore[arg-type]  # one dict for all apps

GalleryName = Annotated[
    str, typer.Option(help="A folder, or a task (emoji); ./emoji is a folder of that name.")
]
BackboneName = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        help="Default: the task's own, or emoji-clip where the method has weights for it.",
    ),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave unreadable gallery pictures out.")
]


@searcher.command(
    epilog="Examples: bench search -m pic2word --image dog.jpg --text 'a cartoon of *' --gallery"
    " photos -b ViT-L-14/openai --checkpoint pic2word_model.pt · bench search -m pic2word --image"
    " a.png --image b.png --text 'a * beside a *' --gallery emoji --top 5 --html found.html"
)
def search(
    methods: Annotated[list[str], typer.Option("--method", "-m", help="One; bench ls methods.")],
    gallery: GalleryName,
    image: Annotated[list[Path] | None, typer.Option(help="Repeatable.")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable; * as a word of its own stands for the picture."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
    backbone: BackboneName = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The method's weights; default: the shipped ones.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page that stands alone.")] = None,
    png: Annotated[Path | None, typer.Option(help="Write a grid of pictures.")] = None,
    as_json: AsJson = False,
    skip_unreadable: SkipUnreadable = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Workers = 2,
    quiet: Quiet = False,
) -> None:
    """Search a folder or a gallery with pictures and a text.

    Several --image and --text pair by position; one --image goes with every --text. A text with two
    placeholders takes two pictures. Exit 4 if a gallery picture can't be read.
    """
    from cirbench.benchmark.api.registry import find_method
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.evaluation.weights import find_weights
    from cirbench.benchmark.images.reading import describe_deep_greys, find_deep_greys
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.search import search as searching
    from cirbench.benchmark.search.pages import MethodAnswer
    from cirbench.benchmark.search.query import pair_queries, read_picture

    if methods[1:]:
        raise UsageError("search takes one --method; bench serve shows several side by side")
    [method] = methods
    find_method(method)
    queries = pair_queries([read_picture(path) for path in image or ()], text or ())
    _check_output(html, "--html", (".html", ".htm"))
    _check_output(png, "--png", (".png",))
    reporter = Reporter(quiet=quiet)
    refs, of_gallery = searching.find_gallery(gallery, data_root, reporter.say)
    name = searching.choose_backbone(backbone, of_gallery, methods, checkpoint)
    searching.check_checkpoint(checkpoint, methods)
    find_weights(method, name, {method: checkpoint} if checkpoint else {})
    towers = load_backbone(name, device=choose_device(device))
    gc.freeze()  # nothing of a model is garbage, and each look for some takes 0.1 s
    composer = searching.build_method(method, towers, name, checkpoint, reporter)
    opened = searching.open_gallery(
        towers, refs, skip_unreadable=skip_unreadable, workers=workers, reporter=reporter
    )
    _report_pictures(opened, reporter)
    asked = {image.id: image for query in queries for image in query.images}.values()
    if deep := find_deep_greys(asked):
        reporter.say(describe_deep_greys(deep, len(asked)))
    finder = searching.Searcher(backbone=towers, gallery=opened, workers=workers)
    answers = [
        MethodAnswer(method=method, query=q, hits=finder.find(composer, q, finder.embed(q), top))
        for q in queries
    ]
    about = f"{method}, {name}, {len(opened.pictures):,} pictures of {to_text(gallery)}"
    _write(answers, about, html, png)
    if as_json:
        found = [searching.as_dict(answer.query, answer.hits) for answer in answers]
        data = {
            "method": method,
            "backbone": name,
            "gallery": to_text(gallery),
            "pictures": len(opened.pictures),
            "unreadable": dict(opened.unreadable),
            "queries": found,
        }
        print(json.dumps(data, indent=2, sort_keys=True))
    elif html is None and png is None:
        _print_answers(answers, about)
    else:
        for path in filter(None, (html, png)):
            print(to_text(path))


@searcher.command(
    epilog="Examples: bench serve --gallery emoji · bench serve --gallery photos -m image-text -m"
    " pic2word -b ViT-L-14/openai --checkpoint pic2word_model.pt --port 8080"
)
def serve(
    gallery: GalleryName,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", help="Repeatable; default: all that have weights."),
    ] = None,
    backbone: BackboneName = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="The methods' weights; default: the shipped ones.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="The port; 0 picks a free one.")
    ] = 8765,
    skip_unreadable: SkipUnreadable = False,
    data_root: DataRoot = None,
    device: Device = "auto",
    workers: Workers = 2,
    quiet: Quiet = False,
) -> None:
    """Serve a page, to this machine, to try methods side by side.

    It is bound to 127.0.0.1. Uploads of up to 10 MB are kept in memory and nowhere else.
    """
    from cirbench.benchmark.api.registry import find_method, loadable_methods
    from cirbench.benchmark.backbones.load import load_backbone
    from cirbench.benchmark.evaluation.plan import choose_device
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.search import search as searching
    from cirbench.benchmark.search.app import HOST, SearchApp, listen, run

    names = method or loadable_methods()
    for one in names:
        find_method(one)
    reporter = Reporter(quiet=quiet)
    refs, of_gallery = searching.find_gallery(gallery, data_root, reporter.say)
    name = searching.choose_backbone(backbone, of_gallery, names, checkpoint)
    searching.check_checkpoint(checkpoint, names)
    listener = listen(port)
    towers = load_backbone(name, device=choose_device(device))
    composers = {}
    for one in names:
        try:
            composers[one] = searching.build_method(
                one, towers, name, checkpoint, reporter if method else None
            )
        except CirbenchError as error:
            if method:
                raise
            reporter.say(f"{one} is left out: {error}")
    opened = searching.open_gallery(
        towers, refs, skip_unreadable=skip_unreadable, workers=workers, reporter=reporter
    )
    _report_pictures(opened, reporter)
    about = f"{len(opened.pictures):,} pictures of {to_text(gallery)}, backbone {name}"
    if opened.unreadable:
        about += f"; {len(opened.unreadable)} more cannot be read"
    finder = searching.Searcher(backbone=towers, gallery=opened, workers=workers)
    print(f"http://{HOST}:{listener.getsockname()[1]}/  (Ctrl-C ends it)", flush=True)
    run(SearchApp(searcher=finder, methods=composers, about=about), listener)


def _check_output(path: Path | None, option: str, endings: tuple[str, ...]) -> None:
    """Find out before the work whether a page or a grid can be written.

    Raises:
        UsageError: it can't, or another kind of file is asked for.
    """
    from cirbench.benchmark.records.record import check_writable

    if path is None:
        return
    if path.suffix.lower() not in endings or path.is_dir():
        raise UsageError(f"{option} must be a file that ends in {endings[0]}, got {to_text(path)}")
    check_writable(path.parent)


def _report_pictures(gallery: "Gallery", reporter: "Reporter") -> None:
    """Report what was left out of a gallery, and what is lost of the rest."""
    from cirbench.benchmark.images.reading import describe_deep_greys
    from cirbench.benchmark.search.search import name_unreadable

    if gallery.unreadable:
        reporter.say(
            _strip_controls(f"left out as unreadable: {name_unreadable(gallery.unreadable)}")
        )
    if gallery.deep_greys:
        reporter.say(describe_deep_greys(gallery.deep_greys, len(gallery.pictures)))


def _write(
    answers: "Sequence[MethodAnswer]", about: str, html: Path | None, png: Path | None
) -> None:
    from cirbench.benchmark.runtime.files import write_whole
    from cirbench.benchmark.search.pages import render_grid, render_page

    if html is not None:
        page = render_page(answers, about)
        with write_whole(html) as temporary:
            temporary.write_text(page, encoding="utf-8")
    if png is not None:
        drawn = render_grid(answers)
        with write_whole(png) as temporary:
            temporary.write_bytes(drawn)


def _print_answers(answers: "Sequence[MethodAnswer]", about: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    console.print(about, soft_wrap=True)
    for answer in answers:
        images = " + ".join(_strip_controls(image.id) for image in answer.query.images)
        asked = (images, answer.query.prompt and f'"{answer.query.prompt}"')
        console.print(f"\n{', '.join(filter(None, asked))}", soft_wrap=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("rank", justify="right")
        table.add_column("similarity", justify="right")
        table.add_column("path", overflow="fold")
        titled = any(hit.picture.title for hit in answer.hits)
        if titled:
            table.add_column("name", overflow="fold")
        for hit in answer.hits:
            names = [hit.picture.id, hit.picture.title][: 1 + titled]
            table.add_row(str(hit.rank), f"{hit.similarity:.4f}", *map(_strip_controls, names))
        console.print(table)


def _strip_controls(name: str) -> str:
    """Remove control characters from a name, which would move the terminal's cursor."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
