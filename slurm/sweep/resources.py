"""What a cell asks a cluster for, in submitit's own names: a profile, then a sweep."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import submitit
from pydantic import ConfigDict, Field

from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.runtime.parsing import read_toml as read_toml_file
from cirbench.benchmark.runtime.validation import Table, ValidationErrors

DEFAULTS: Mapping[str, Any] = {
    "timeout_min": 60,
    "cpus_per_task": 2,
    "mem_gb": 8,
    "gpus_per_node": 0,
}
ON_OOM = ("halve-batch", "double-memory")

PositiveNumber = Annotated[float, Field(gt=0, description="a positive number")]


class Axes(Table):
    """What a cell is found by; a glob an axis."""

    method: Annotated[str | int, Field(description="a name or a glob")] = ""
    task: Annotated[str | int, Field(description="a name or a glob")] = ""
    backbone: Annotated[str | int, Field(description="a name or a glob")] = ""
    protocol: Annotated[str | int, Field(description="a name or a glob")] = ""
    seed: Annotated[str | int, Field(description="a number or a glob")] = ""


AXES = tuple(Axes.model_fields)


class ResourceTables(Table):
    """The tables that a sweep file and a profile share."""

    resources: Annotated[dict[str, Any], Field(description="a table")] = Field(default={})
    override: Annotated[
        list[dict[str, Any]], Field(description="tables, each under a line [[override]]")
    ] = Field(default=[])


class ProfileFile(ResourceTables):
    """A profile as it is written."""

    on_oom: Annotated[
        Literal["halve-batch", "double-memory"], Field(description=" or ".join(map(repr, ON_OOM)))
    ] = "halve-batch"


class Resources(Table):
    """What must be a positive number; submitit checks the other names and values."""

    model_config = ConfigDict(extra="allow")

    timeout_min: PositiveNumber = 1
    cpus_per_task: PositiveNumber = 1
    mem_gb: PositiveNumber = 1
    nodes: PositiveNumber = 1
    tasks_per_node: PositiveNumber = 1
    slurm_array_parallelism: PositiveNumber = 1
    gpus_per_node: Annotated[int, Field(ge=0, description="an integer, 0 or more")] = 0


@dataclass(frozen=True, kw_only=True)
class ResourceRequests:
    """Resources for all cells, and for those whose names match an override's globs."""

    base: Mapping[str, Any] = field(default_factory=dict)
    overrides: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A cluster: what its jobs ask for, and how a retry answers an out-of-memory."""

    resources: ResourceRequests = field(default_factory=ResourceRequests)
    on_oom: str = "halve-batch"


def matches(globs: Mapping[str, Any], names: Mapping[str, Any]) -> bool:
    """Whether every axis that is spoken of has a name that fits its glob."""
    return all(
        fnmatchcase(str(names.get(axis, "")), str(globs[axis])) for axis in AXES if axis in globs
    )


def choose_resources(names: Mapping[str, Any], *requests: ResourceRequests) -> dict[str, Any]:
    """Ask for what a cell needs: a later request wins, and an override over every base."""
    asked = dict(DEFAULTS)
    for request in requests:
        asked |= request.base
    for request in requests:
        for override in request.overrides:
            if matches(override, names):
                asked |= {key: value for key, value in override.items() if key not in AXES}
    return asked


def read_resources(written: ResourceTables, errors: ValidationErrors) -> ResourceRequests:
    """The tables [resources] and [[override]] of a file, checked by submitit itself."""
    _check_resources(written.resources, "[resources]", errors)
    for override in written.override:
        if not any(axis in override for axis in AXES):
            errors.add(f"[[override]] names none of {', '.join(AXES)}; put it in [resources]")
        asked = {key: value for key, value in override.items() if key not in AXES}
        _check_resources(asked, "[[override]]", errors)
    return ResourceRequests(base=written.resources, overrides=written.override)


def _check_resources(asked: Mapping[str, Any], where: str, errors: ValidationErrors) -> None:
    """Note names that submitit does not know, and values that nothing can mean."""
    sound = errors.validate(Resources, asked, where).model_fields_set
    names = {k: v for k, v in asked.items() if k in sound - {"slurm_max_num_timeout"}}
    with tempfile.TemporaryDirectory() as folder:
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster="debug")
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # of names that are spelled slurm_... now
                executor.update_parameters(**names)
        except (NameError, ValueError, TypeError, AssertionError, UserWarning) as error:
            errors.add(f"{where}: {' '.join(str(error).split())}")


def read_profile(name: str | None) -> Profile:
    """Read a profile by path, or a shipped one by name; the defaults where none is asked for.

    Raises:
        MissingData: there is neither.
        UsageError: all that is wrong in it.
    """
    if name is None:
        return Profile()
    errors = ValidationErrors(f"profile {name}")
    written = errors.validate(ProfileFile, read_toml(name, "clusters"))
    profile = Profile(resources=read_resources(written, errors), on_oom=written.on_oom)
    errors.raise_if_any()
    return profile


def read_toml(name: str, shipped: str) -> dict[str, Any]:
    """A TOML file by path, or one that comes with the package by its name.

    Raises:
        MissingData: there is no such file.
        UsageError: it is not valid TOML.
    """
    folder = Path(str(files("cirbench.slurm") / shipped))
    path = Path(name)
    if not path.is_file():
        path = folder / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise MissingData(f"no file {name}; give a path, or a shipped name: {known}")
    return read_toml_file(path)
