"""`bench train NAME` for trainings of plug-ins: the options are made from the recipe's fields."""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from typer.core import TyperGroup

from cirbench.benchmark.cli.options import DataRoot, Device, Precision, Quiet, Seed, Workers
from cirbench.benchmark.runtime.errors import UsageError

_SHARED: Mapping[str, tuple[Any, Any]] = {
    "backbone": (
        Annotated[str, typer.Option("--backbone", "-b", help="bench ls backbones.")],
        inspect.Parameter.empty,
    ),
    "output": (
        Annotated[Path, typer.Option("--output", "-o", help="FILE to write.")],
        inspect.Parameter.empty,
    ),
    "data_root": (DataRoot, None),
    "device": (Device, "auto"),
    "precision": (Precision, "fp32"),
    "workers": (Workers, 2),
    "checkpoint_every": (Annotated[int, typer.Option(help="Steps between saved states.")], 500),
    "resume": (
        Annotated[
            bool, typer.Option("--resume", help="Continue from the saved state, if there is one.")
        ],
        False,
    ),
    "quiet": (Quiet, False),
}
"""Option of every training → its annotation and its default."""


class TrainGroup(TyperGroup):
    """The trainings that come with cirbench, and those that plug-ins register."""

    # typer brings click along under a name of its own, so that its classes have no public name
    def list_commands(self, ctx: Any) -> list[str]:
        built_in = super().list_commands(ctx)
        return [*built_in, *(name for name in _registered() if name not in built_in)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        built_in = super().get_command(ctx, cmd_name)
        if built_in is None and cmd_name in _registered():
            return _make_command(cmd_name)
        return built_in


def _registered() -> Mapping[str, Any]:
    from cirbench.benchmark.api.registry import trainings

    return trainings()


def _make_command(name: str) -> Any:
    """A command whose options are those of every training and the fields of its recipe."""
    from cirbench.benchmark.api.registry import find_training

    training = find_training(name)
    hints = get_type_hints(training.recipe)
    recipe = {
        field.name: (
            Seed if field.name == "seed" else hints[field.name],
            inspect.Parameter.empty if field.default is MISSING else field.default,
        )
        for field in fields(training.recipe)
    }
    source = typer.Option(f"--{training.source}", help="What it is trained on.")
    options = {"source": (Annotated[str, source], inspect.Parameter.empty), **_SHARED, **recipe}

    def train(**given: Any) -> None:
        _train(name, {key: given.pop(key) for key in recipe}, given)

    train.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what typer reads
        [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for key, (kind, default) in options.items()
        ]
    )
    train.__annotations__ = {key: kind for key, (kind, _) in options.items()}
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=inspect.cleandoc(training.__doc__ or name))(train)
    return typer.main.get_command(app)


def _train(name: str, recipe: Mapping[str, Any], given: dict[str, Any]) -> None:
    from cirbench.benchmark.api.registry import find_training
    from cirbench.benchmark.api.training import Training, TrainingRequest
    from cirbench.benchmark.records.record import check_writable
    from cirbench.benchmark.runtime.progress import Reporter

    output: Path = given["output"]
    if output.is_dir():
        raise UsageError(f"--output must be a file, got the folder {output}")
    check_writable(output.parent)
    resume, reporter = given.pop("resume"), Reporter(quiet=given.pop("quiet"))
    training: Training = find_training(name)()
    training.train(TrainingRequest(**given, recipe=recipe), reporter, resume=resume)
    print(output)
