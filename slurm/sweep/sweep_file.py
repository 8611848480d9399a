"""A sweep file: methods × tasks × backbones × protocols × seeds, in TOML, and its mistakes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from cirbench.benchmark.api.registry import find_training
from cirbench.benchmark.api.registry import methods as known_methods
from cirbench.benchmark.api.registry import tasks as known_tasks
from cirbench.benchmark.api.registry import trainings as known_trainings
from cirbench.benchmark.api.values import HIGHEST_SEED
from cirbench.slurm.sweep.mistakes import Mistakes
from cirbench.slurm.sweep.resources import AXES, Wishes, read_toml, read_wishes

SETTINGS: Mapping[str, type] = {
    "split": str,
    "data_root": str,
    "precision": str,
    "device": str,
    "batch_size": int,
    "workers": int,
    "limit": int,
    "label": str,
}
"""The other fields of a `plan.Request`."""
KEYS = (
    "name",
    "methods",
    "tasks",
    "backbones",
    "protocols",
    "seeds",
    "settings",
    "exclude",
    "checkpoints",
    "train",
    "resources",
    "override",
    "decode_once",
)
DEFAULT = "default"
"""As a backbone or a protocol: the task's own."""


@dataclass(frozen=True, kw_only=True)
class TrainTable:
    """A table [[train]]: weights that the sweep makes before it uses them, one set a seed.

    Attributes:
        source: pictures or a task, as the training's class says.
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
    wishes: Wishes = field(default_factory=Wishes)
    decode_once: bool = False


def read_sweep(name: str) -> tuple[Sweep, Mistakes]:
    """A sweep file by path, or a shipped one by name, and the mistakes found so far.

    Raises:
        MissingData: there is no such file.
        UsageError: it is no TOML.
    """
    content = read_toml(name, "sweeps")
    mistakes = Mistakes(f"sweep file {name}")
    mistakes.unknown_keys(content, KEYS, "top level")
    sweep = Sweep(
        name=_one(content, "name", str, Path(name).stem, mistakes),
        methods=_resolved(
            _many(content, "methods", str, (), mistakes), known_methods(), "method", mistakes
        ),
        tasks=_resolved(
            _many(content, "tasks", str, (), mistakes), known_tasks(), "task", mistakes
        ),
        backbones=_many(content, "backbones", str, (DEFAULT,), mistakes),
        protocols=_many(content, "protocols", str, (DEFAULT,), mistakes),
        seeds=_seeds(content, mistakes),
        settings=_settings(_table(content, "settings", mistakes), mistakes),
        exclude=_exclusions(content, mistakes),
        checkpoints=_checkpoints(_table(content, "checkpoints", mistakes), mistakes),
        trainings=_trainings(content.get("train", []), mistakes),
        wishes=read_wishes(content, mistakes),
        decode_once=_flag(content, "decode_once", mistakes),
    )
    return sweep, mistakes


def _one(table: Mapping[str, Any], key: str, kind: type, default: Any, mistakes: Mistakes) -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        mistakes.add(f"{key} = {value!r} is no {kind.__name__}")
        return default
    return value


def _flag(table: Mapping[str, Any], key: str, mistakes: Mistakes) -> bool:
    value = table.get(key, False)
    if not isinstance(value, bool):
        mistakes.add(f"{key} = {value!r} is neither true nor false")
    return value is True


def _seeds(content: Mapping[str, Any], mistakes: Mistakes) -> tuple[int, ...]:
    seeds: tuple[int, ...] = _many(content, "seeds", int, (0,), mistakes)
    if off := [seed for seed in seeds if not 0 <= seed <= HIGHEST_SEED]:
        mistakes.add(f"seeds must be from 0 to {HIGHEST_SEED}, got {off[0]}")
    return seeds


_PLURALS = {int: "integers", str: "strings"}


def _many(
    table: Mapping[str, Any], key: str, kind: type, default: Sequence[Any], mistakes: Mistakes
) -> tuple[Any, ...]:
    values = table.get(key, list(default))
    sound = isinstance(values, list) and all(type(value) is kind for value in values)
    if not sound or not values:
        mistakes.add(f"{key} must be a non-empty list of {_PLURALS[kind]}, got {values!r}")
        return tuple(default)
    return tuple(dict.fromkeys(values))


def _table(content: Mapping[str, Any], key: str, mistakes: Mistakes) -> Mapping[str, Any]:
    return _one(content, key, dict, {}, mistakes)  # type: ignore[no-any-return]  # checked in _one


def _resolved(
    wanted: Sequence[str], known: Mapping[str, Any], kind: str, mistakes: Mistakes
) -> tuple[str, ...]:
    """Globs as the names they stand for; the registry itself tells of unknown names."""
    from fnmatch import filter as fitting

    from cirbench.benchmark.api import registry

    find = {"method": registry.find_method, "task": registry.find_task}[kind]
    names: list[str] = []
    for pattern in wanted:
        if found := fitting(known, pattern):
            names += found
        elif "*" in pattern or "?" in pattern:
            mistakes.add(f"no {kind} fits {pattern!r}; known: {', '.join(known)}")
        else:
            with mistakes.noted():
                find(pattern)
    return tuple(dict.fromkeys(names))


def _settings(table: Mapping[str, Any], mistakes: Mistakes) -> Mapping[str, Any]:
    mistakes.unknown_keys(table, SETTINGS, "[settings]")
    checked = {}
    for key, kind in SETTINGS.items():
        if key in table:
            checked[key] = _one(table, key, kind, None, mistakes)
    for key in ("batch_size", "workers", "limit"):
        if key in checked and (checked[key] or 0) < 1:
            mistakes.add(f"[settings]: {key} = {table[key]!r} is less than 1")
    if checked.get("data_root"):
        checked["data_root"] = expanded(checked["data_root"])
    return checked


def _exclusions(content: Mapping[str, Any], mistakes: Mistakes) -> tuple[Mapping[str, Any], ...]:
    tables = content.get("exclude", [])
    if not isinstance(tables, list) or not all(isinstance(t, dict) and t for t in tables):
        mistakes.add("exclusions are tables [[exclude]] that name at least one axis")
        return ()
    for table in tables:
        mistakes.unknown_keys(table, AXES, "[[exclude]]")
    return tuple(tables)


def _checkpoints(table: Mapping[str, Any], mistakes: Mistakes) -> Mapping[str, Mapping[str, str]]:
    sound = {}
    for method, by_backbone in table.items():
        _resolved([method], known_methods(), "method", mistakes)
        if isinstance(by_backbone, str):
            by_backbone = {"*": by_backbone}
        if not isinstance(by_backbone, dict) or not all(
            isinstance(path, str) for path in by_backbone.values()
        ):
            mistakes.add(f'[checkpoints]: {method} wants "backbone" = "file"')
            continue
        sound[method] = {backbone: expanded(path) for backbone, path in by_backbone.items()}
        for path in sound[method].values():
            if "$" in path:
                mistakes.add(f"[checkpoints], {method}: {path} has a variable that is not set")
    return sound


def _trainings(tables: Any, mistakes: Mistakes) -> tuple[TrainTable, ...]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        mistakes.add("trainings are tables [[train]]")
        return ()
    return tuple(
        training for table in tables if (training := _training(table, mistakes)) is not None
    )


def _training(table: Mapping[str, Any], mistakes: Mistakes) -> TrainTable | None:
    method: Any = table.get("method")
    if method not in known_trainings():
        mistakes.add(f"[[train]]: method = {method!r}; known: {', '.join(known_trainings())}")
        return None
    training = find_training(method)
    recipe, source = recipe_kinds(training.recipe), training.source
    mistakes.unknown_keys(
        table, ("method", "backbone", source, "checkpoint_every", *recipe), "[[train]]"
    )
    if missing := [key for key in ("backbone", source) if key not in table]:
        mistakes.add(f"[[train]] of {method} lacks {', '.join(missing)}")
        return None
    for key, kind in recipe.items():
        if key in table and not _fits(table[key], kind):
            mistakes.add(f"[[train]]: {key} = {table[key]!r} can't be")
    return TrainTable(
        method=method,
        backbone=table["backbone"],
        source=table[source],
        checkpoint_every=table.get("checkpoint_every", 500),
        recipe={key: table[key] for key in recipe if key in table},
    )


_KINDS: Mapping[Any, tuple[type, ...]] = {
    int: (int,),
    int | None: (int,),
    float: (int, float),
    str: (str,),
    bool: (bool,),
}
"""A field's annotation → what TOML has for it."""


def recipe_kinds(recipe: type[Any]) -> Mapping[str, tuple[type, ...]]:
    """The fields of a recipe that a sweep may set, with their kinds; the seed is the sweep's."""
    hints = get_type_hints(recipe)
    return {
        field.name: _KINDS[hints[field.name]]
        for field in fields(recipe)
        if field.name != "seed" and hints[field.name] in _KINDS
    }


def _fits(value: Any, kinds: tuple[type, ...]) -> bool:
    return type(value) in kinds and (isinstance(value, str) or value >= 0)


def expanded(path: str) -> str:
    """With ~ and $VARIABLES put in, and absolute: jobs start in other folders."""
    return str(Path(os.path.expandvars(path)).expanduser().absolute())
