"""For the tests of a plug-in: each function raises CheckFailed with what falls short.

from cirbench.testing import check_method

def test_my_method():
    check_method(MyMethod)
"""

from __future__ import annotations

from pathlib import Path

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.conformance.backbones import inspect_backbone
from cirbench.benchmark.conformance.methods import inspect_method
from cirbench.benchmark.conformance.rules import raise_faults
from cirbench.benchmark.conformance.tasks import inspect_task


def check_method(
    method: str | type[Method], *, backbone: str = "fake", checkpoint: Path | None = None
) -> None:
    """Hold a method to its contract.

    Args:
        method: its name, or its class.
        backbone: what it is tried on; "fake" needs no weights.
        checkpoint: the file of its weights.

    Raises:
        CheckFailed: says every rule that does not hold, and why.
        UsageError, MissingData, CorruptData: it can't be made ready at all.
    """
    name = method if isinstance(method, str) else method.__name__
    raise_faults(name, inspect_method(method, backbone=backbone, checkpoint=checkpoint))


def check_task(task: str | Task, *, data_root: Path | None = None) -> None:
    """Hold a task to its contract. Raises as `check_method` does."""
    name = task if isinstance(task, str) else task.name
    raise_faults(name, inspect_task(task, data_root=data_root))


def check_backbone(backbone: str | Backbone) -> None:
    """Hold a backbone to its contract. Raises as `check_method` does."""
    name = backbone if isinstance(backbone, str) else backbone.name
    raise_faults(name, inspect_backbone(backbone))
