"""A sweep file: methods × tasks × backbones × protocols × seeds, in TOML."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import filter as filter_names
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import Field, create_model

from cirbench.benchmark.api.registry import (
    find_method,
    find_task,
    find_training,
    methods,
    tasks,
    trainings,
)
from cirbench.benchmark.api.values import HIGHEST_SEED
from cirbench.benchmark.evaluation.plan import Request
from cirbench.benchmark.evaluation.released import is_released_name
from cirbench.benchmark.runtime.validation import Table, ValidationErrors
from cirbench.slurm.sweep.resources import (
    Axes,
    ResourceRequests,
    ResourceTables,
    read_resources,
    read_toml,
)

DEFAULT = "default"
"""As a backbone or a protocol: the task's own."""

Names = Annotated[list[str], Field(min_length=1, description="a non-empty list of strings")]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0, le=HIGHEST_SEED)]],
    Field(min_length=1, description=f"a non-empty list of integers from 0 to {HIGHEST_SEED}"),
]
SubTable = Annotated[dict[str, Any], Field(description="a table")]
SubTables = Annotated[list[dict[str, Any]], Field(description="tables, each under a line [[…]]")]
Text = Annotated[str, Field(description="a string")]
Flag = Annotated[bool, Field(description="true or false")]
Positive = Annotated[int, Field(ge=1, description="a positive integer")]
Count = Annotated[int, Field(ge=0, description="an integer, 0 or more")]
Number = Annotated[float, Field(ge=0, description="a number, 0 or more")]


class SweepFile(ResourceTables):
    """The file as it is written."""

    name: Text = ""
    methods: Names = Field(default_factory=list)
    tasks: Names = Field(default_factory=list)
    backbones: Names = Field(default=[DEFAULT])
    protocols: Names = Field(default=[DEFAULT])
    seeds: Seeds = Field(default=[0])
    settings: SubTable = Field(default={})
    exclude: SubTables = Field(default=[])
    checkpoints: SubTable = Field(default={})
    train: SubTables = Field(default=[])
    decode_once: Flag = False
    embed_tasks: Positive = 1


def _make_settings() -> type[Table]:
    """A model of the fields of a request that are neither an axis of a sweep nor its own affair."""
    taken = {"methods", "task", "protocol", "backbone", "seed", "checkpoints"}
    taken |= {"output", "cache", "allow_missing"}
    kinds = {int: Positive, int | None: Positive, Path | None: Text, str: Text, str | None: Text}
    hints = get_type_hints(Request)
    chosen: dict[str, Any] = {
        f.name: (kinds[hints[f.name]], None) for f in fields(Request) if f.name not in taken
    }
    return create_model("Settings", __base__=Table, **chosen)


Settings = _make_settings()


@dataclass(frozen=True, kw_only=True)
class TrainTable:
    """A table [[train]]: weights that the sweep makes before it uses them, one set a seed.

    Attributes:
        source: pictures, texts or a task, as the training's class says.
    """

    method: str
    backbone: str
    source: str
    checkpoint_every: int = 500
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, read; names are checked, globs over methods and tasks are resolved.

    Attributes:
        backbones: full names, or "default".
        protocols: names or globs within each task, or "default".
        decode_once: one embedding job for all backbones of a task; its node holds all of them.
        embed_tasks: how many jobs share the pictures of one embedding.
        checkpoints: method → glob over backbones → file, where {seed} stands for the seed.
    """

    name: str
    methods: tuple[str, ...]
    tasks: tuple[str, ...]
    backbones: tuple[str, ...] = (DEFAULT,)
    protocols: tuple[str, ...] = (DEFAULT,)
    seeds: tuple[int, ...] = (0,)
    settings: Mapping[str, Any] = field(default_factory=dict)
    exclude: tuple[Mapping[str, Any], ...] = ()
    checkpoints: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trainings: tuple[TrainTable, ...] = ()
    resources: ResourceRequests = field(default_factory=ResourceRequests)
    decode_once: bool = False
    embed_tasks: int = 1


def read_sweep(name: str) -> tuple[Sweep, ValidationErrors]:
    """Read a sweep file by path, or a shipped one by name; give what is wrong so far, too.

    Raises:
        MissingData: there is no such file.
        UsageError: it is not valid TOML.
    """
    errors = ValidationErrors(f"sweep file {name}")
    written = errors.validate(SweepFile, read_toml(name, "sweeps"))
    sweep = Sweep(
        name=written.name or Path(name).stem,
        methods=_resolve_names(written.methods, methods(), find_method, "method", errors),
        tasks=_resolve_names(written.tasks, tasks(), find_task, "task", errors),
        backbones=_drop_repeats(written.backbones),
        protocols=_drop_repeats(written.protocols),
        seeds=_drop_repeats(written.seeds),
        settings=_read_settings(written.settings, errors),
        exclude=tuple(_read_exclusion(table, errors) for table in written.exclude),
        checkpoints=_read_checkpoints(written.checkpoints, errors),
        trainings=tuple(
            training
            for table in written.train
            if (training := _read_training(table, errors)) is not None
        ),
        resources=read_resources(written, errors),
        decode_once=written.decode_once,
        embed_tasks=written.embed_tasks,
    )
    for key in ("methods", "tasks"):
        if not getattr(written, key) and not errors.found:
            errors.add(f"{key} must be {SweepFile.model_fields[key].description}, got none")
    return sweep, errors


def _drop_repeats(values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _resolve_names(
    wanted: Sequence[str],
    known: Mapping[str, Any],
    find: Callable[[str], Any],
    kind: str,
    errors: ValidationErrors,
) -> tuple[str, ...]:
    """Globs as the names they stand for; the registry itself tells of unknown names."""
    names: list[str] = []
    for pattern in wanted:
        if found := filter_names(known, pattern):
            names += found
        elif "*" in pattern or "?" in pattern:
            errors.add(f"no {kind} fits {pattern!r}; known: {', '.join(known)}")
        else:
            with errors.collect():
                find(pattern)
                errors.add(f"a sweep's {kind} must be one of {', '.join(known)}, got {pattern!r}")
    return _drop_repeats(names)


def _read_settings(table: Mapping[str, Any], errors: ValidationErrors) -> Mapping[str, Any]:
    settings = errors.validate(Settings, table, "[settings]").model_dump(exclude_unset=True)
    if settings.get("data_root"):
        settings["data_root"] = expand_path(settings["data_root"])
    return settings


def _read_exclusion(table: Mapping[str, Any], errors: ValidationErrors) -> Mapping[str, Any]:
    if not table:
        errors.add(f"[[exclude]] must name one of {', '.join(Axes.model_fields)} at least")
    return errors.validate(Axes, table, "[[exclude]]").model_dump(exclude_unset=True)


def _read_checkpoints(
    table: Mapping[str, Any], errors: ValidationErrors
) -> Mapping[str, Mapping[str, str]]:
    sound = {}
    for method, by_backbone in table.items():
        with errors.collect():
            find_method(method)
        if isinstance(by_backbone, str):
            by_backbone = {"*": by_backbone}
        if not isinstance(by_backbone, dict) or not all(
            isinstance(path, str) for path in by_backbone.values()
        ):
            errors.add(f'[checkpoints]: {method} must be "FILE", or a table of "BACKBONE" = "FILE"')
            continue
        sound[method] = {
            backbone: path if is_released_name(Path(path)) else expand_path(path)
            for backbone, path in by_backbone.items()
        }
        for path in sound[method].values():
            if "$" in path:
                errors.add(f"[checkpoints], {method}: {path} names a variable that is not set")
    return sound


def _read_training(table: Mapping[str, Any], errors: ValidationErrors) -> TrainTable | None:
    method: Any = table.get("method")
    if method not in trainings():
        known = ", ".join(trainings())
        errors.add(f"[[train]]: method must be one that can be trained ({known}), got {method!r}")
        return None
    training = find_training(method)
    recipe = choose_recipe_fields(training.recipe)
    needed = {"method": Text, "backbone": Text, training.source: Text}
    kinds = {**needed, "checkpoint_every": Positive, **recipe}
    model_fields: dict[str, Any] = {key: (kind, None) for key, kind in kinds.items()}
    model = create_model("Train", __base__=Table, **model_fields)
    checked = errors.validate(model, table, "[[train]]").model_dump(exclude_unset=True)
    if missing := [key for key in needed if not isinstance(table.get(key), str)]:
        errors.add(f"[[train]] of {method} lacks {', '.join(missing)}")
        return None
    return TrainTable(
        method=method,
        backbone=table["backbone"],
        source=table[training.source],
        checkpoint_every=checked.get("checkpoint_every", 500),
        recipe={key: checked[key] for key in recipe if key in checked},
    )


def choose_recipe_fields(recipe: type[Any]) -> Mapping[str, Any]:
    """The fields of a recipe that a sweep may set; the seed is the sweep's."""
    kinds = {int: Count, int | None: Count, float: Number, str: Text, bool: Flag}
    hints = get_type_hints(recipe)
    chosen = [name.name for name in fields(recipe) if name.name != "seed"]
    return {name: kinds[hints[name]] for name in chosen if hints[name] in kinds}


def expand_path(path: str) -> str:
    """With ~ and $VARIABLES put in, and absolute: jobs start in other folders."""
    return str(Path(os.path.expandvars(path)).expanduser().absolute())
