"""Descriptions of tasks, methods and backbones, for `bench info`."""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.abc import InspectLoader
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.registry import (
    Entry,
    backbone_entry,
    find_task,
    is_task,
    is_zero_shot,
    methods,
    needs_checkpoint,
    tasks,
)
from cirbench.benchmark.cli.options import as_text
from cirbench.benchmark.evaluation.weights import shipped_checkpoints
from cirbench.benchmark.runtime.errors import UsageError


def describe(name: str) -> Mapping[str, Any]:
    """A task with its protocols, a method, or a backbone, as plain data.

    Raises:
        UsageError: nothing has that name.
    """
    if name in methods():
        return _describe_method(name)
    if is_task(name) or Path(name).is_dir():
        return _describe_task(name)
    if found := _find_protocols(name):
        return found
    with suppress(UsageError):
        entry = backbone_entry(name)
        return {"backbone": name, "summary": entry.summary, "from": entry.origin}
    raise UsageError(f"unknown name {name!r}; bench ls lists all names")


def _find_protocols(name: str) -> Mapping[str, Any]:
    """The protocols of that name by task."""
    found = {}
    for task in tasks():
        if protocol := find_task(task).protocols.get(name):
            found[f"protocol {name} of {task}"] = {**protocol.as_dict(), "hash": protocol.hash}
    return found


def _describe_task(name: str) -> Mapping[str, Any]:
    task = find_task(name)
    return {
        "task": name,
        "about": _read_about(tasks()[name]) if name in tasks() else task.__doc__,
        "splits": list(task.splits),
        "default backbone": task.default_backbone,
        "protocols": {
            name: {**protocol.as_dict(), "hash": protocol.hash}
            for name, protocol in task.protocols.items()
        },
    }


def _describe_method(name: str) -> Mapping[str, Any]:
    return {
        "method": name,
        "about": _read_about(methods()[name]),
        "zero-shot": is_zero_shot(name),
        "needs a checkpoint": needs_checkpoint(name),
        "shipped for": list(shipped_checkpoints(name)),
    }


def _read_about(entry: Entry) -> str:
    """Its own words: the module's, unless that holds several.

    They are read from the source: our own methods import torch, which takes seconds.
    """
    module, _, name = entry.target.partition(":")
    if entry.origin != "cirbench":  # it may be defined elsewhere than where it is offered
        found = entry.load()
        module, name = found.__module__, found.__name__
    spec = importlib.util.find_spec(module)
    loader = spec and spec.loader
    source = loader.get_source(module) if isinstance(loader, InspectLoader) else None
    tree = ast.parse(source or "")
    named = {
        part.name: part for part in tree.body if isinstance(part, ast.ClassDef) and _has_name(part)
    }
    words = ast.get_docstring(tree) if len(named) == 1 else None
    return words or (ast.get_docstring(named[name]) if name in named else None) or ""


def _has_name(part: ast.ClassDef) -> bool:
    """Whether a class says what it is called here, as methods and tasks do."""
    targets: list[ast.expr] = []
    for line in part.body:
        if isinstance(line, ast.AnnAssign):
            targets.append(line.target)
        elif isinstance(line, ast.Assign):
            targets += line.targets
    return any(isinstance(one, ast.Name) and one.id == "name" for one in targets)


def as_markdown(description: Mapping[str, Any]) -> Iterator[str]:
    """Lines of a section of a page: a heading, the words, a list of facts, and any protocols."""
    for name, value in description.items():
        if name in ("task", "method", "backbone"):
            yield from (f"## {value}", "")
        elif name == "about":
            yield from (*map(_escape, value.splitlines()), "")
        elif name == "protocols":
            for protocol, fields in value.items():
                yield from _fenced(f"protocol {protocol}", fields)
        elif isinstance(value, Mapping):
            yield from _fenced(name, value)
        else:
            yield from (f"- {line}" for line in as_text({name: value}))


def _fenced(title: str, fields: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"### {title}", "", "```text", *as_text(fields), "```")


def _escape(line: str) -> str:
    """A docstring's line as Markdown; what is indented or in backticks is code in both."""
    if line.startswith("    "):
        return line
    return re.sub(r"(`[^`]*`)|([*_<|])", lambda found: found[1] or f"\\{found[2]}", line)
