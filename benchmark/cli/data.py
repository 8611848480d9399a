"""`bench data`. Nothing heavy is imported before a command needs it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, DataRoot, Quiet, print_json
from cirbench.benchmark.runtime.errors import MissingData, UsageError

if TYPE_CHECKING:
    from cirbench.benchmark.api.task import Place

data = typer.Typer(help="Find, check, prepare or make up data sets.", **HELP)  # type: ignore[arg-type]  # one dict for all apps


@data.command(epilog="Examples: bench data where imagenet-r --data-root ~/data")
def where(
    task: Annotated[
        str | None, typer.Argument(help="bench ls tasks; default: all of them.")
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Print what a task looks for, and what is there."""
    from cirbench.benchmark.api.registry import find_task, tasks
    from cirbench.benchmark.data.layout import check_root

    check_root(data_root)
    chosen = (task,) if task else tasks()
    looked = {name: _find_places(find_task(name).places, data_root) for name in chosen}
    if as_json:
        print_json(looked[task] if task else looked)
        return
    for name, places in looked.items():
        print(f"{name}: {'embedded, reads nothing' if not places else data_root or 'no data root'}")
        for place in places:
            wanted = " or ".join(place["looked for"])
            missing = "not there, optional" if place["optional"] else "MISSING"
            print(f"  {place['name']}: {place['found'] or missing} (looked for {wanted})")


def _find_places(places: "Sequence[Place]", data_root: Path | None) -> list[dict[str, Any]]:
    """List what a task looks for, and what of it is there."""
    return [
        {
            "name": place.name,
            "looked for": list(place.candidates),
            "found": str(place.find(data_root) or ""),
            "optional": place.optional,
        }
        for place in places
    ]


@data.command(
    epilog="Examples: bench data check fashion-iq --data-root ~/data · bench data check cirr --deep"
)
def check(
    task: Annotated[str, typer.Argument(help="bench ls tasks.")],
    data_root: DataRoot = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every picture, too.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Count a data set against the released numbers.

    Exit 3 if it is incomplete, 4 if it is corrupt.
    """
    from dataclasses import asdict

    from cirbench.benchmark.api.registry import find_task
    from cirbench.benchmark.cli.terminal import print_checks
    from cirbench.benchmark.data.check import check_split, choose_exit_code
    from cirbench.benchmark.runtime.progress import Reporter

    found, reporter = find_task(task)(), Reporter(quiet=quiet)
    checks = [
        check_split(found, split, data_root, deep=deep, reporter=reporter) for split in found.splits
    ]
    whole = [] if any(c.error for c in checks) else found.collections(data_root=data_root)
    if as_json:
        print_json(
            {"splits": [asdict(c) for c in checks], "collections": [asdict(c) for c in whole]}
        )
    else:
        print_checks(checks, whole)
    # what only a training or another split reads may be absent, but not be something else
    codes = [choose_exit_code((), collection.changed) for collection in whole]
    if code := max([check.exit_code for check in checks] + codes):
        sys.exit(code)


@data.command(
    epilog="Examples: bench data convert-features img_feat_res152 ~/features/cirr/img_raw"
    " · bench data convert-features vectors.npz ~/features/fashion-iq/images"
)
def convert_features(
    source: Annotated[
        Path, typer.Argument(help="A folder of .pkl files; an .npz, .safetensors or .parquet file.")
    ],
    output: Annotated[
        Path, typer.Argument(help="Folder of the .npy files: where the task has its pictures.")
    ],
    quiet: Quiet = False,
) -> None:
    """Make released features into vector files.

    Each stands for its picture where the backbone is features:WIDTH.
    """
    from cirbench.benchmark.data.features import convert_features
    from cirbench.benchmark.runtime.paths import to_text
    from cirbench.benchmark.runtime.progress import Reporter

    made = convert_features(source, output, Reporter(quiet=quiet))
    print(
        f"{made.count:,} vectors of {made.width:,} numbers are in {to_text(output)}; their "
        f"backbone is features:{made.width}"
    )


@data.command(
    epilog="Examples: bench data prepare imagenet-r --data-root ~/data"
    " · bench data prepare coco --seed 1"
)
def prepare(
    task: Annotated[str, typer.Argument(help="bench ls tasks.")],
    data_root: DataRoot = None,
    seed: Annotated[
        int, typer.Option(help="Seed of what is drawn at random (coco's queries).")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Fetch and make what can be, and say how to get the rest."""
    from cirbench.benchmark.api.registry import find_task
    from cirbench.benchmark.data.downloads import fetch
    from cirbench.benchmark.runtime.progress import Reporter

    found, reporter = find_task(task)(), Reporter(quiet=quiet)
    if data_root is None:
        print(found.how_to_get or f"{task} needs nothing")
        raise UsageError("preparing data needs a data root; pass --data-root, or set CIRBENCH_DATA")
    failed = []
    for download in found.downloads:
        try:
            print(fetch(download, data_root, reporter))
        except MissingData as error:
            failed.append(str(error))
    print(found.how_to_get or f"{task} needs nothing")
    for line in found.prepare(data_root=data_root, seed=seed, reporter=reporter):
        print(line)
    if failed:
        raise MissingData("\n  ".join([f"{len(failed)} files are missing:", *failed]))


@data.command(
    epilog="Examples: bench data make cirr --output ~/made"
    " · bench data make imagenet-r --output /scratch/made --full"
)
def make(
    task: Annotated[str, typer.Argument(help="bench ls tasks.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder to write, then a --data-root; new, empty, or of made data.",
        ),
    ],
    full: Annotated[
        bool, typer.Option("--full", help="As many pictures and queries as are released.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Make up a task's data in its official layout.

    So that all else can be tried before the real ones are here. Pictures are of the embedded emoji;
    records of made data say so, and meet no others in a table.
    """
    from cirbench.benchmark.api.registry import find_task, tasks
    from cirbench.benchmark.api.task import Task
    from cirbench.benchmark.data.made import write_made
    from cirbench.benchmark.runtime.progress import Reporter

    found, reporter = find_task(task)(), Reporter(quiet=quiet)
    if type(found).make is Task.make:
        able = [name for name in tasks() if find_task(name).make is not Task.make]
        raise UsageError(f"{task} has no made data; those that have: {', '.join(able)}")
    for path in write_made(found, output, full=full, seed=seed, reporter=reporter):
        print(path)
