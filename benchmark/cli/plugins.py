"""`bench check` and `bench new`, for those who bring a part of their own. Imports nothing heavy."""

import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, DataRoot, complete, print_json
from cirbench.benchmark.runtime.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from cirbench.benchmark.conformance.rules import Finding

checker = typer.Typer()
maker = typer.Typer(help="Begin a part of your own.", **HELP)  # type: ignore[arg-type]  # one dict for all apps

METHOD = Template(
    '''\
"""$title: say in a line what it does, and where it was published."""

from torch import Tensor
from torch.nn.functional import normalize

import cirbench


class $class_name(cirbench.Method):
    """How a picture and a text become one query vector."""

    name = "$name"

    def compose(self, queries: cirbench.Queries) -> Tensor:
        image = normalize(queries.reference_features, dim=-1)
        text = normalize(queries.text_features(), dim=-1)
        return normalize(image + text, dim=-1)
'''
)
TEST = Template(
    '''\
"""$title keeps the contract of a method, and reaches a record."""

from $module import $class_name

import cirbench
from cirbench.testing import check_method


def test_it_keeps_the_contract():
    check_method($class_name)


def test_it_reaches_a_record():
    [record] = cirbench.evaluate($class_name, "emoji", backbone="fake", limit=2)
    assert record.cell.method == "$name"
'''
)


@checker.command(epilog="Examples: bench check my-method · bench check cirr --data-root ~/data")
def check(
    name: Annotated[str, typer.Argument(help="A method, a task or a backbone.")],
    backbone: Annotated[
        str,
        typer.Option(
            "--backbone",
            "-b",
            help="The backbone that a method is tried on.",
            autocompletion=complete("backbones"),
        ),
    ] = "fake",
    checkpoint: Annotated[Path | None, typer.Option(help="The weights of a method.")] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Hold a method, a task or a backbone to its contract.

    Exit 1 if a rule does not hold.
    """
    findings = _inspect(name, backbone, checkpoint, data_root)
    if as_json:
        print_json([{"rule": found.rule, "fault": found.fault} for found in findings])
    else:
        for found in findings:
            print(f"{'FAILS' if found.fault else 'ok':<6} {found.rule}")
            if found.fault:
                print(f"       {found.fault}")
    if faults := [found for found in findings if found.fault]:
        raise CheckFailed(f"{name} breaks {len(faults)} of {len(findings)} rules")


def _inspect(
    name: str, backbone: str, checkpoint: Path | None, data_root: Path | None
) -> "Sequence[Finding]":
    from cirbench.benchmark.api.registry import backbone_entry, is_task, methods

    if name in methods():
        from cirbench.benchmark.conformance.methods import inspect_method

        return inspect_method(name, backbone=backbone, checkpoint=checkpoint)
    if is_task(name) or Path(name).is_dir():
        from cirbench.benchmark.conformance.tasks import inspect_task

        return inspect_task(name, data_root=data_root)
    try:
        backbone_entry(name)
    except UsageError as error:
        raise UsageError(
            f"{name!r} must be a method, a task or a backbone; bench ls lists all names"
        ) from error
    from cirbench.benchmark.conformance.backbones import inspect_backbone

    return inspect_backbone(name)


@maker.command(epilog="Examples: bench new method my-method")
def method(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
    folder: Annotated[Path, typer.Option(help="Where the two files go.")] = Path(),
) -> None:
    """Write a method that works, and its test."""
    from cirbench.benchmark.api.registry import methods

    _check_name(name, "method", methods())
    module = name.replace("-", "_")
    words = {
        "name": name,
        "module": module,
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        "title": name.replace("-", " ").capitalize(),
    }
    templates = {f"{module}.py": METHOD, f"test_{module}.py": TEST}
    _write({folder / file: made.substitute(words) for file, made in templates.items()})
    print(
        f"try it: pytest {folder / f'test_{module}.py'}\n"
        f"for bench run -m {name}, name it in your package's pyproject.toml:\n"
        f'  [project.entry-points."cirbench.methods"]\n'
        f'  {name} = "{module}:{words["class_name"]}"'
    )


@maker.command(epilog="Examples: bench new task my-task --pictures photos")
def task(
    name: Annotated[str, typer.Argument(help="Small letters, digits and hyphens.")],
    pictures: Annotated[
        Path, typer.Option(help="A folder, a .zip, a .tar, or .parquet tables of pictures.")
    ],
    folder: Annotated[Path, typer.Option(help="Where the two files go.")] = Path(),
) -> None:
    """Write a commented task of your own pictures, and a table of queries to fill in."""
    from cirbench.benchmark.api.registry import tasks
    from cirbench.datasets.own.example import make_example

    _check_name(name, "task", tasks())
    made = make_example(name, pictures, folder)
    _write({folder / file: text for file, text in made.items()})
    described = folder / f"{name}.toml"
    print(
        f"write your queries into {folder / name}.csv, then:\n"
        f"  bench data check {described}\n"
        f"  bench run -m image-text -t {described}"
    )


def _check_name(name: str, kind: str, taken: Container[str]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"a {kind}'s name must be small letters, digits, hyphens, got {name!r}")
    if name in taken:
        raise UsageError(f"the name {name} is taken; choose another")


def _write(made: Mapping[Path, str]) -> None:
    """Write new files, and print their names."""
    from cirbench.benchmark.runtime.files import write_whole

    if there := [path for path in made if path.exists()]:
        raise UsageError(f"{there[0]} exists; choose another name or --folder")
    for path, text in made.items():
        with write_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        print(path)
