"""`bench weights`. Nothing heavy is imported before a command needs it."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cirbench.benchmark.cli.options import HELP, AsJson, as_text, complete, print_json
from cirbench.benchmark.runtime.errors import UsageError

if TYPE_CHECKING:
    from cirbench.benchmark.api.weights import ReleasedWeights

weights = typer.Typer(
    help="List the weights that are shipped or released.",
    epilog="Examples: bench weights · bench weights where searle",
    invoke_without_command=True,
    **{**HELP, "no_args_is_help": False},  # type: ignore[arg-type]  # one dict for all apps
)


@weights.callback()
def _list(context: typer.Context, as_json: AsJson = False) -> None:
    """List the weights that are shipped, and those that authors released."""
    if context.invoked_subcommand:
        return
    from tabulate import tabulate

    from cirbench.benchmark.api.registry import methods

    found = [one for name in methods() for one in _find(name)]
    if as_json:
        print_json(found)
        return
    columns = ("method", "backbones", "file", "from", "trained on", "licence")
    rows = [[_as_cell(one[name]) for name in columns] + [_say_here(one)] for one in found]
    print(tabulate(rows, [*columns, "here"], disable_numparse=True))
    print()
    for one in found:
        if one["caveat"]:
            print(f"{one['file']}: {one['caveat']}")
    print("bench weights where METHOD says where each is published, and where it is looked for")


def _as_cell(value: str | list[str]) -> str:
    return "\n".join(value) if isinstance(value, list) else value


def _say_here(one: dict[str, Any]) -> str:
    return "yes" if one["here"] else "no"


@weights.command(epilog="Examples: bench weights where pic2word")
def where(
    method: Annotated[
        str, typer.Argument(help="bench ls methods.", autocompletion=complete("methods"))
    ],
    as_json: AsJson = False,
) -> None:
    """Print where a method's weights are looked for, and what was found."""
    from cirbench.benchmark.api.registry import needs_checkpoint

    if not needs_checkpoint(method):
        raise UsageError(f"{method} takes no weights")
    found = _find(method)
    if as_json:
        print_json(found)
        return
    for one in found:
        print(f"{one.pop('file')}:")
        told = {name: value for name, value in one.items() if value} | {"here": one["here"] or "no"}
        print("\n".join(as_text(told, "  ")))
    if not found:
        print(f"none are shipped or known; bench train {method} --help, or --checkpoint FILE")


def _name_origin(row: "ReleasedWeights") -> str:
    """The host that has it; a person must go there where a program may not."""
    host = row.url.split("/")[2] if row.url else row.page.split("/")[2]
    return host if row.hub or row.url else f"{host}, by hand"


def _find(method: str) -> list[dict[str, Any]]:
    """A method's weights as plain data, the shipped ones first."""
    from cirbench.benchmark.evaluation import released
    from cirbench.benchmark.evaluation.weights import read_header, shipped_checkpoints

    shipped = [
        {
            "method": method,
            "file": path.name,
            "backbones": [backbone],
            "from": "cirbench",
            "trained on": str(read_header(path).get("trained_on", "")),
            "licence": "Apache-2.0",
            "here": str(path),
            "caveat": "",
        }
        for backbone, path in shipped_checkpoints(method).items()
    ]
    return shipped + [
        {
            "method": method,
            "file": row.file,
            "backbones": list(row.backbones),
            "from": _name_origin(row),
            "trained on": row.trained_on,
            "licence": row.licence,
            "here": str(released.find_file(row) or ""),
            "looked for in": released.tell_places(row),
            "size": row.size,
            "sha256": released.find_sha256(row),
            "fetched from": row.hub or row.url,
            "page": row.page,
            "caveat": row.caveat,
        }
        for row in released.read_released()
        if row.method == method
    ]
