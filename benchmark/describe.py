"""What `bench info NAME` tells."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from cirbench.benchmark.errors import UsageError
from cirbench.benchmark.interfaces import Method, Task
from cirbench.benchmark.registry import backbones, methods, tasks


def describe(name: str) -> Mapping[str, Any]:
    """A task with its protocols, a method, or a backbone, as plain data.

    Raises:
        UsageError: nothing has that name.
    """
    if name in tasks():
        return _task(tasks()[name].load())
    if name in methods():
        return _method(methods()[name].load())
    if name in backbones():
        entry = backbones()[name]
        return {"backbone": name, "summary": entry.summary, "from": entry.origin}
    raise UsageError(f"nothing is called {name!r}; bench ls lists all names")


def _task(task: type[Task]) -> Mapping[str, Any]:
    return {
        "task": task.name,
        "about": _about(task),
        "splits": list(task.splits),
        "default backbone": task.default_backbone,
        "protocols": {
            name: {**protocol.as_dict(), "hash": protocol.hash}
            for name, protocol in task.protocols.items()
        },
    }


def _method(method: type[Method]) -> Mapping[str, Any]:
    return {
        "method": method.name,
        "about": _about(method),
        "zero-shot": method.zero_shot,
        "needs a checkpoint": method.needs_checkpoint,
        "shipped checkpoints": dict(method.shipped_checkpoints),
    }


def _about(thing: type) -> str:
    module = inspect.getmodule(thing)
    return inspect.cleandoc((module and module.__doc__) or thing.__doc__ or "")
