"""The contract of a task, tried on each of its splits and protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.registry import backbone_entry, find_task
from cirbench.benchmark.api.task import Task
from cirbench.benchmark.api.values import ImageRef, TaskData
from cirbench.benchmark.conformance.rules import Finding, Rules, try_rules
from cirbench.benchmark.images.decoding import decode
from cirbench.benchmark.images.preprocess import PREPROCESSES
from cirbench.benchmark.runtime.errors import MissingData
from cirbench.benchmark.scoring.metrics import parse_metrics
from cirbench.benchmark.scoring.summary import check_averages

_PICTURES = 8


@dataclass(frozen=True, kw_only=True)
class TaskTrial:
    """A task, and where its files are."""

    task: Task
    data_root: Path | None

    def load(self, protocol: EvaluationProtocol, split: str) -> TaskData:
        """As an evaluation does."""
        return self.task.load(protocol=protocol, split=split, data_root=self.data_root)

    @cached_property
    def loaded(self) -> Sequence[tuple[str, EvaluationProtocol, TaskData]]:
        """Every split under every protocol, with its name."""
        return [
            (f"{split}, {protocol.name}", protocol, self.load(protocol, split))
            for split in self.task.splits
            for protocol in self.task.protocols.values()
        ]


def inspect_task(task: str | Task, *, data_root: Path | None = None) -> list[Finding]:
    """Try a task's contract.

    Args:
        task: its name, or a task of one's own.

    Raises:
        UsageError: no task has that name.
        MissingData: its data are not there.
    """
    found: Task = find_task(task)() if isinstance(task, str) else task
    trial = TaskTrial(task=found, data_root=data_root)
    try:
        _ = trial.loaded
    except MissingData:
        raise
    except Exception:  # each rule that needs the data says what is wrong with them
        pass
    return try_rules(TASK_RULES, trial)


def _has_protocols(trial: TaskTrial) -> str | None:
    task = trial.task
    if not task.splits or not task.protocols:
        return "splits and protocols must each name one at least"
    backbone_entry(task.default_backbone)
    for name, protocol in task.protocols.items():
        if name != protocol.name:
            return f"the protocol {protocol.name!r} must stand under its own name, got {name!r}"
        if not {protocol.preprocess, protocol.preprocess_of_references} <= PREPROCESSES.keys():
            return f"{name}: preprocess must be one of {', '.join(PREPROCESSES)}"
        for metric in (*protocol.metrics, protocol.headline):
            parse_metrics(metric)
        if protocol.headline not in protocol.metrics:
            return f"{name}: the headline {protocol.headline!r} must be one of its metrics"
    return None


def _has_queries(trial: TaskTrial) -> str | None:
    for where, protocol, data in trial.loaded:
        if not data.gallery or not data.queries:
            return f"{where}: there must be a gallery and queries"
        check_averages(data.groups, protocol)
        names = protocol.metrics if data.labelled else ()
        for metric in (metric for name in names for metric in parse_metrics(name)):
            if metric.graded and not any(query.grades for query in data.queries):
                return f"{where}: {metric.name} needs queries that have grades"
            if metric.of_target and any(query.target is None for query in data.queries):
                return f"{where}: {metric.name} needs queries that each have a target"
        if len({query.id for query in data.queries}) < len(data.queries):
            return f"{where}: each query must have an id of its own"
    return None


def _names_one_picture(trial: TaskTrial) -> str | None:
    for where, _, data in trial.loaded:
        seen: dict[str, ImageRef] = {}
        for ref in (*data.gallery, *(query.reference for query in data.queries)):
            first = seen.setdefault(ref.id, ref)
            if (first.path, first.box) != (ref.path, ref.box):
                return f"{where}: the id {ref.id!r} must be one picture's, it is of two"
    return None


def _points_into_the_gallery(trial: TaskTrial) -> str | None:
    for where, _, data in trial.loaded:
        for query in data.queries:
            span = data.spans.get(query.group, range(len(data.gallery)))
            removed = () if query.removed is None else (query.removed,)
            for row in (*query.rows, *removed):
                if row not in span:
                    return f"{where}, query {query.id}: row {row} must be in its gallery, {span}"
            if len(set(query.positives)) < len(query.positives):
                return f"{where}, query {query.id}: a positive must stand there once"
            if query.removed in query.positives:
                return f"{where}, query {query.id}: a positive must not be removed"
            if query.target is not None and query.target not in query.positives:
                return f"{where}, query {query.id}: its target must be one of its positives"
            if query.candidates and not set(query.positives) <= set(query.candidates):
                return f"{where}, query {query.id}: a positive must be one of its candidates"
            if query.candidates and (removed or query.members):
                return f"{where}, query {query.id}: it has candidates, so no `removed` or `members`"
    return None


def _has_texts(trial: TaskTrial) -> str | None:
    for _, protocol, data in trial.loaded:
        for family in protocol.templates:
            for query in data.queries:
                protocol.text(family, query.group, query.fields)
    return None


def _loads_alike(trial: TaskTrial) -> str | None:
    for where, protocol, data in trial.loaded:
        again = trial.load(protocol, where.partition(",")[0])
        if (data.gallery, data.queries) != (again.gallery, again.queries):
            return f"{where}: loading twice must give the same gallery and queries, in order"
    return None


def _has_pictures(trial: TaskTrial) -> str | None:
    for where, _, data in trial.loaded:
        there = [ref for name, ref in data.pictures.items() if name not in data.missing]
        for ref in there[:_PICTURES]:
            decode(ref.read())
        if data.missing:
            name, path = next(iter(data.missing.items()))
            return f"{where}: {len(data.missing):,} pictures are not there, the first is {name}" + (
                f" ({path})" if path else ""
            )
    return None


def _matches_what_is_released(trial: TaskTrial) -> str | None:
    for split, released in trial.task.released.items():
        for protocol in trial.task.protocols.values():
            data = trial.load(protocol, split)
            if not released.matches(data, protocol):
                return f"{split}, {protocol.name}: these are not the released annotations"
    return None


TASK_RULES: Rules[TaskTrial] = {
    "has protocols that can be evaluated": _has_protocols,
    "has a gallery and queries": _has_queries,
    "gives each picture an id of its own": _names_one_picture,
    "points into its gallery": _points_into_the_gallery,
    "has a text for each query": _has_texts,
    "loads the same twice": _loads_alike,
    "has its pictures": _has_pictures,
    "has what it calls released": _matches_what_is_released,
}
