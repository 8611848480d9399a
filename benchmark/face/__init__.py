"""Composed image retrieval, measured one way.

    import cirbench

    records = cirbench.evaluate(["image-only", "text-only"], "emoji")
    records.to_frame()

Everything that is meant for use from Python is here, and is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cirbench.benchmark.analysis.compare import compare as compare
    from cirbench.benchmark.api.backbone import Backbone as Backbone
    from cirbench.benchmark.api.method import Method as Method
    from cirbench.benchmark.api.method import Queries as Queries
    from cirbench.benchmark.api.protocol import EvaluationProtocol as EvaluationProtocol
    from cirbench.benchmark.api.task import Task as Task
    from cirbench.benchmark.api.training import Training as Training
    from cirbench.benchmark.api.training import TrainingRequest as TrainingRequest
    from cirbench.benchmark.api.values import ImageRef as ImageRef
    from cirbench.benchmark.api.values import Query as Query
    from cirbench.benchmark.api.values import TaskData as TaskData
    from cirbench.benchmark.backbones.load import load_backbone as load_backbone
    from cirbench.evaluation import evaluate as evaluate
    from cirbench.evaluation import load_task as load_task
    from cirbench.record_list import RecordList as RecordList
    from cirbench.record_list import read_records as read_records

_HOMES = {
    "evaluate": "cirbench.evaluation",
    "load_task": "cirbench.evaluation",
    "load_backbone": "cirbench.benchmark.backbones.load",
    "read_records": "cirbench.record_list",
    "RecordList": "cirbench.record_list",
    "compare": "cirbench.benchmark.analysis.compare",
    "Method": "cirbench.benchmark.api.method",
    "Queries": "cirbench.benchmark.api.method",
    "Backbone": "cirbench.benchmark.api.backbone",
    "Task": "cirbench.benchmark.api.task",
    "TaskData": "cirbench.benchmark.api.values",
    "Query": "cirbench.benchmark.api.values",
    "ImageRef": "cirbench.benchmark.api.values",
    "EvaluationProtocol": "cirbench.benchmark.api.protocol",
    "Training": "cirbench.benchmark.api.training",
    "TrainingRequest": "cirbench.benchmark.api.training",
}
"""Name → the module that has it; type checkers read the imports above, and a test holds both to
each other."""

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("cirbench")
    if name not in _HOMES:
        raise AttributeError(f"module 'cirbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
