"""`bench train NAME` for registered trainings: the options are made from the recipe's fields."""

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.core import TyperGroup

from cirbench.benchmark.cli.options import DataRoot, Device, Precision, Quiet, Track, Workers
from cirbench.benchmark.cli.seeds import repeat_over_seeds
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
    "checkpoint_every": (
        Annotated[int, typer.Option(help="Steps between states that are saved within an epoch.")],
        500,
    ),
    "resume": (
        Annotated[
            bool, typer.Option("--resume", help="Continue from the saved state, if there is one.")
        ],
        False,
    ),
    "track": (Track, None),
    "quiet": (Quiet, False),
}
"""Option of every training → its annotation and its default."""
_NAMES: Mapping[str, tuple[str, str]] = {
    "learning_rate": ("--learning-rate", "--lr"),
    "weight_decay": ("--weight-decay", "--wd"),
}
"""Fields whose options have a second name, as those of the other trainings have."""


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
    hints = get_type_hints(training.recipe, include_extras=True)
    recipe = {
        field.name: _make_option(field, hints[field.name]) for field in fields(training.recipe)
    }
    source = typer.Option(
        f"--{training.source}", f"-{training.source[0]}", help="What it is trained on."
    )
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
    command = repeat_over_seeds(train) if "seed" in recipe else train
    app.command(name, help=inspect.cleandoc(training.__doc__ or name))(command)
    return typer.main.get_command(app)


def _make_option(field: Any, kind: Any) -> tuple[Any, Any]:
    """The annotation and the default of a recipe's field.

    An option that is not given is None, since the recipe's default may depend on what is trained
    on; what the help shows is that of the recipe itself.
    """
    words = next((said for said in getattr(kind, "__metadata__", ()) if isinstance(said, str)), "")
    bare = get_args(kind)[0] if words else kind
    if field.default is MISSING:
        return Annotated[bare, typer.Option(help=words)], inspect.Parameter.empty
    unsaid = field.default is None or field.default == "" or field.default is False
    help_text = words if unsaid else f"{words} [default: {field.default}]".strip()
    return Annotated[bare | None, typer.Option(*_NAMES.get(field.name, ()), help=help_text)], None


def _train(name: str, recipe: Mapping[str, Any], given: dict[str, Any]) -> None:
    from cirbench.benchmark.api.registry import find_training
    from cirbench.benchmark.api.training import Training, TrainingRequest
    from cirbench.benchmark.records.record import check_writable
    from cirbench.benchmark.runtime.progress import Reporter
    from cirbench.benchmark.trackers.hook import tracking

    output: Path = given["output"]
    if output.is_dir():
        raise UsageError(f"--output must be a file, got the folder {output}")
    check_writable(output.parent)
    resume, reporter = given.pop("resume"), Reporter(quiet=given.pop("quiet"))
    track = given.pop("track") or ()
    training: Training = find_training(name)()
    asked = {key: value for key, value in recipe.items() if value is not None}
    settings = {**asked, "backbone": given["backbone"], training.source: given["source"]}
    with tracking(reporter, track, training=name, output=output, settings=settings):
        training.train(TrainingRequest(**given, recipe=asked), reporter, resume=resume)
    print(output)
