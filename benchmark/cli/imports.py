"""`bench import`, and `bench run -m vectors`. Nothing heavy is imported before it is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import (
    AsJson,
    DataRoot,
    Device,
    Quiet,
    Results,
    complete,
    print_json,
)
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.paths import to_text

if TYPE_CHECKING:
    from cirbench.benchmark.evaluation.plan import Request

importer = typer.Typer()
VECTORS = "vectors"
Producer = Annotated[
    str | None, typer.Option(help="Who or what made the file: model, weights, settings.")
]


@importer.command(
    "import",
    epilog='Examples: bench import run.trec -t emoji --producer "E5-V, fp16"'
    ' · bench import recall.json subset.json -t cirr --split test1 --producer "LDRE, released"',
)
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Vectors (.safetensors, .npz, .parquet), a TREC run, or a server's answers: "
            "CIRCO's file, or CIRR's one or two."
        ),
    ],
    task: Annotated[
        str,
        typer.Option("--task", "-t", help="bench ls tasks.", autocompletion=complete("tasks")),
    ],
    producer: Producer = None,
    split: Annotated[str | None, typer.Option(help="Default: the task's first.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="What they were made for; default: the task's first.")
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    output: Results = Path("results"),
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Store a record of what was computed elsewhere.

    It is scored as everything is, and tables call it imported.
    """
    from cirbench.benchmark.evaluation.plan import Request

    request = Request(
        methods=(),
        task=task,
        split=split,
        protocol=protocol,
        data_root=data_root,
        device=device,
        output=output,
    )
    store_import(request, files, producer, as_json=as_json, quiet=quiet)


def store_import(
    request: "Request", files: list[Path], producer: str | None, *, as_json: bool, quiet: bool
) -> None:
    """Import files, and print their records.

    Raises:
        UsageError, MissingData, CorruptData: as `import_vectors` and `import_answers`.
    """
    if not producer or not producer.strip():
        raise UsageError('an import must say who or what made it: --producer "MODEL, WEIGHTS"')
    from rich.console import Console

    from cirbench.benchmark.cli.terminal import print_record
    from cirbench.benchmark.data.vector_files import ENDINGS
    from cirbench.benchmark.evaluation.imports.answers import import_answers
    from cirbench.benchmark.evaluation.imports.vectors import import_vectors
    from cirbench.benchmark.runtime.progress import Reporter

    said, reporter = to_text(producer.strip()), Reporter(quiet=quiet)
    if any(path.suffix in ENDINGS for path in files):
        if len(files) > 1:
            raise UsageError(f"vectors must be in one file, got {len(files)}")
        records = list(import_vectors(request, files[0], said, reporter))
    else:
        records = [import_answers(request, files, said, reporter)]
    if as_json:
        shown = [record.to_json() for record in records]
        print_json(shown[0] if len(shown) == 1 else shown)
        return
    for record in records:
        if record.metrics:
            print_record(record, Console())
        print(f"record: {record.path}")
