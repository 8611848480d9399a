"""Evaluation from Python: what `bench run` does, for a script or a notebook."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from cirbench.benchmark.api.method import Method
from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.evaluation.plan import Request, plan_each
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.record_list import RecordList


def evaluate(
    methods: str | type[Method] | Sequence[str | type[Method]],
    task: str | Task,
    *,
    output: str | Path | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> RecordList:
    """Evaluate methods on a task.

    Args:
        methods: names that `bench ls methods` lists, "all", or classes of your own.
        task: a name that `bench ls tasks` lists, the FILE.toml or folder of a task from files, or a
            task of your own.
        output: the folder that the records are written into; None keeps them until Python ends.
        progress: whether to show it; None shows it in a notebook and on a terminal.
        settings: the other fields of `Request`, as the options of `bench run`: backbone (a name,
            or what `load_backbone` gave), split, protocol (a name, or "all"), checkpoints (method
            → file), data_root, device, precision, batch_size, workers, seed, label, limit,
            allow_missing, cache.

    Returns:
        A record a method and protocol, in their order.

    Raises:
        UsageError: a setting or a name is not known, or can't be combined with another.
        MissingData: weights, annotations or pictures are not there.
        CorruptData: one of them is damaged.

    Examples:
        >>> import cirbench
        >>> records = cirbench.evaluate("image-only", "emoji", backbone="fake", limit=2)
        >>> frame = records.to_frame()
        >>> frame[frame.group == "average"].metric.tolist()
        ['R@1', 'R@5', 'R@10', 'R@50']
    """
    backbone = settings.get("backbone")
    if not isinstance(backbone, str | None):
        # where it is and how it computes was decided when it was loaded
        settings |= {"device": str(backbone.device), "precision": backbone.precision}
    request = Request.parse(
        {
            **settings,
            "methods": (methods,) if isinstance(methods, str | type) else methods,
            "task": task,
            "output": tempfile.mkdtemp(dir=_scratch().name) if output is None else output,
        }
    )
    reporter = Reporter.for_python() if progress is None else Reporter(quiet=not progress)
    return RecordList(record for plan in plan_each(request) for record in run(plan, reporter))


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """Removed when Python ends."""
    return tempfile.TemporaryDirectory(prefix="cirbench-")


def load_task(name: str) -> Task:
    """Make a task ready; its `load` reads the annotations.

    Raises:
        UsageError: no task has that name.

    Examples:
        >>> import cirbench
        >>> cirbench.load_task("emoji").default_backbone
        'emoji-clip'
    """
    task: Task = find_task(name)()
    return task
