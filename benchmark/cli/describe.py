"""Descriptions of tasks, methods and backbones, for `bench info`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.registry import backbone_entry, find_method, find_task, methods, tasks
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.cli.options import as_text
from cirbench.benchmark.evaluation.plan import shipped_checkpoints
from cirbench.benchmark.runtime.errors import UsageError


def describe(name: str) -> Mapping[str, Any]:
    """A task with its protocols, a method, or a backbone, as plain data.

    Raises:
        UsageError: nothing has that name.
    """
    if name in tasks():
        return _describe_task(find_task(name))
    if name in methods():
        return _describe_method(find_method(name))
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


def _describe_task(task: type[Task]) -> Mapping[str, Any]:
    return {
        "task": task.name,
        "about": _read_about(task),
        "splits": list(task.splits),
        "default backbone": task.default_backbone,
        "protocols": {
            name: {**protocol.as_dict(), "hash": protocol.hash}
            for name, protocol in task.protocols.items()
        },
    }


def _describe_method(method: type[Method]) -> Mapping[str, Any]:
    return {
        "method": method.name,
        "about": _read_about(method),
        "zero-shot": method.zero_shot,
        "needs a checkpoint": method.needs_checkpoint,
        "shipped for": list(shipped_checkpoints(method.name)),
    }


def _read_about(thing: type) -> str:
    """Its own words: the module's, unless that holds several."""
    module = inspect.getmodule(thing)
    several = (
        sum(
            getattr(other, "__module__", "") == thing.__module__ and hasattr(other, "name")
            for other in vars(module).values()
        )
        > 1
    )
    words = thing.__doc__ if several or not module else module.__doc__
    return inspect.cleandoc(words or thing.__doc__ or "")


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
