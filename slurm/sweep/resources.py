"""What a cell asks a cluster for, in submitit's own names: a profile, then a sweep's wishes."""

from __future__ import annotations

import tempfile
import tomllib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Any

import submitit

from cirbench.benchmark.runtime.errors import MissingData, UsageError
from cirbench.slurm.sweep.mistakes import Mistakes

DEFAULTS: Mapping[str, Any] = {
    "timeout_min": 60,
    "cpus_per_task": 2,
    "mem_gb": 8,
    "gpus_per_node": 0,
}
AXES = ("method", "task", "backbone", "protocol", "seed")
ON_OOM = ("halve-batch", "double-memory")
_NEEDS_A_POSITIVE = (
    "timeout_min",
    "cpus_per_task",
    "mem_gb",
    "nodes",
    "tasks_per_node",
    "slurm_array_parallelism",
)


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """Resources for all cells, and for those whose names match an override's globs."""

    base: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A cluster: what its jobs ask for, and how a retry answers an out-of-memory."""

    wishes: Wishes = field(default_factory=Wishes)
    on_oom: str = "halve-batch"


def matches(globs: Mapping[str, Any], names: Mapping[str, Any]) -> bool:
    """Whether every axis that is spoken of has a name that fits its glob."""
    return all(
        fnmatchcase(str(names.get(axis, "")), str(globs[axis])) for axis in AXES if axis in globs
    )


def resources_for(names: Mapping[str, Any], *wishes: Wishes) -> dict[str, Any]:
    """The later wish wins, and an override over every base."""
    asked = dict(DEFAULTS)
    for wish in wishes:
        asked |= wish.base
    for wish in wishes:
        for override in wish.overrides:
            if matches(override, names):
                asked |= {key: value for key, value in override.items() if key not in AXES}
    return asked


def read_wishes(content: Mapping[str, Any], mistakes: Mistakes) -> Wishes:
    """The tables [resources] and [[override]] of a file, checked by submitit itself."""
    base, overrides = content.get("resources", {}), content.get("override", [])
    if not isinstance(base, dict) or not isinstance(overrides, list):
        mistakes.add("resources are a table [resources], overrides are tables [[override]]")
        return Wishes()
    check_resources(base, "[resources]", mistakes)
    for override in overrides:
        if not any(axis in override for axis in AXES):
            mistakes.add(f"[[override]] names none of {', '.join(AXES)}; put it in [resources]")
        asked = {key: value for key, value in override.items() if key not in AXES}
        check_resources(asked, "[[override]]", mistakes)
    return Wishes(base=base, overrides=overrides)


def check_resources(asked: Mapping[str, Any], where: str, mistakes: Mistakes) -> None:
    """Notes names that submitit does not know, and values that nothing can mean."""
    for name in _NEEDS_A_POSITIVE:
        value = asked.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            mistakes.add(f"{where}: {name} = {value!r} is no positive number")
    gpus = asked.get("gpus_per_node", 0)
    if not isinstance(gpus, int) or gpus < 0:
        mistakes.add(f"{where}: gpus_per_node = {gpus!r} is no count")
    names = {k: v for k, v in asked.items() if k != "slurm_max_num_timeout"}
    with tempfile.TemporaryDirectory() as folder:
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="debug")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of names that are spelled slurm_... now
                executor.update_parameters(**names)
        except (NameError, ValueError, TypeError, AssertionError, UserWarning) as error:
            mistakes.add(f"{where}: {' '.join(str(error).split())}")


def read_profile(name: str | None) -> Profile:
    """A profile by path, or a shipped one by name; the defaults where none is asked for.

    Raises:
        MissingData: there is neither.
        UsageError: all its mistakes.
    """
    if name is None:
        return Profile()
    content = read_toml(name, "clusters")
    mistakes = Mistakes(f"profile {name}")
    mistakes.unknown_keys(content, ("resources", "override", "on_oom"), "top level")
    on_oom = content.get("on_oom", ON_OOM[0])
    if on_oom not in ON_OOM:
        mistakes.add(f"on_oom = {on_oom!r}; known: {', '.join(ON_OOM)}")
    profile = Profile(wishes=read_wishes(content, mistakes), on_oom=on_oom)
    mistakes.tell()
    return profile


def read_toml(name: str, shipped: str) -> dict[str, Any]:
    """A TOML file by path, or one that comes with the package by its name.

    Raises:
        MissingData: there is no such file.
        UsageError: it is no TOML.
    """
    folder = Path(str(files("cirbench.slurm") / shipped))
    path = Path(name)
    if not path.is_file():
        path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise MissingData(f"no file {name}; give a path, or a shipped name: {known}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no TOML: {error}") from error
