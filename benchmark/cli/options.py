"""What several commands of `bench` share: options, and JSON on stdout.

Start-up time decides two things here. Help is plain text (`rich_markup_mode`), since typer's rich
help takes longer to import than all the rest of `bench --help`. And the cli modules do without
`from __future__ import annotations`, since typer would evaluate each annotation's text, twice.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

HELP = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "no_args_is_help": True,
    "rich_markup_mode": None,
}


def complete(kind: str) -> Callable[[str], list[str]]:
    """Make the shell complete the registry's names of a kind."""

    def completed(incomplete: str) -> list[str]:
        from cirbench.benchmark.api import registry

        names = getattr(registry, kind)()
        return [name for name in names if name.startswith(incomplete)]

    return completed


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Markdown, for a page.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Devices = Annotated[
    str,
    typer.Option(
        help="auto, cpu, cuda, cuda:N or mps, or several: cuda:0,cuda:1 share the pictures."
    ),
]
Precision = Annotated[
    str,
    typer.Option(help="Precision of the towers: fp32, bf16, fp16, or autocast by amp or amp_bf16."),
]
Track = Annotated[
    list[str] | None,
    typer.Option(
        help="Who hears the numbers: tensorboard, wandb, mlflow, trackio or MODULE:CLASS; "
        "repeatable. Nothing is sent off this machine unless the tracker's own settings ask."
    ),
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder of the data sets.", envvar="CIRBENCH_DATA")
]
Results = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        help="Results folder; in a clone of cirbench runs/, which git ignores.",
        envvar="CIRBENCH_RESULTS",
    ),
]
RUNS = "runs"
Backbone = Annotated[
    str | None,
    typer.Option(
        "--backbone",
        "-b",
        help="bench ls backbones; default: the task's own.",
        autocompletion=complete("backbones"),
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="Threads that decode images.")]
Seed = Annotated[
    int,
    typer.Option(
        min=0, max=2**32 - 1, help="Seed of everything random; part of the record's identity."
    ),
]


def is_clone(folder: Path) -> bool:
    """Whether a folder is in a clone of cirbench, whose results/ is the project's own."""
    for parent in (folder, *folder.parents):
        path = parent / "pyproject.toml"
        if path.is_file():
            return 'name = "cirbench"' in path.read_text(encoding="utf-8", errors="replace")
    return False


def as_text(data: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Plain data as lines for a person; nothing where there is nothing."""
    for name, value in data.items():
        if isinstance(value, Mapping):
            if value:
                yield f"{indent}{name}:"
                yield from as_text(value, f"{indent}  ")
        elif isinstance(value, str) or not isinstance(value, Sequence):
            said = ("yes" if value else "no") if isinstance(value, bool) else value
            yield f"{indent}{name}: {'none' if said is None else said}"
        elif value:
            yield f"{indent}{name}: {', '.join(map(str, value))}"


def print_json(data: object) -> None:
    """Print JSON on stdout, for --json."""
    print(json.dumps(data, indent=2, sort_keys=True))
