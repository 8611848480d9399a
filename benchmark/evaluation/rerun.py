"""A record made again from its own fingerprints, and held against itself."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from cirbench.benchmark.api.backbone import Backbone
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.backbones.load import load_backbone
from cirbench.benchmark.evaluation.plan import Plan, Request, choose_device, plan
from cirbench.benchmark.evaluation.run import run
from cirbench.benchmark.evaluation.weights import shipped_checkpoints
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.records.reruns import DIFFERENT, IDENTICAL, WITHIN, Rerun
from cirbench.benchmark.runtime.errors import CheckFailed, MissingData, UsageError
from cirbench.benchmark.runtime.files import sha256_of_file
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.runtime.provenance import Environment, describe_environment

TOLERANCE = 0.05
"""Points by which a metric may differ on another processor, GPU or version."""
_BESIDE = ("trained:", "tuned:")
"""Backbones in whose own files a method's weights may be."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something that is not as it was when a record was made.

    Attributes:
        decides: whether it is part of what the record is about; the rest is where it was made.
    """

    what: str
    then: str | None
    now: str | None
    decides: bool

    def __str__(self) -> str:
        return f"{self.what}: {_short(self.then)}, now {_short(self.now)}"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A record, what would make it again here, and what differs; no picture is opened yet."""

    record: Record
    plan: Plan
    differences: tuple[Difference, ...]


def prepare(
    record: Record,
    *,
    checkpoint: Path | None = None,
    backbone: str | None = None,
    data_root: Path | None = None,
    device: str = "auto",
    cache: str = "use",
) -> Prepared:
    """Find everything that a record was made of, and say what is not as it was.

    Args:
        checkpoint, backbone: where the method's weights and the backbone are here, if elsewhere.

    Raises:
        MissingData: weights or data are not here; says which.
        UsageError: the record was imported, or its method, task, split or protocol are not known
            any more.
    """
    cell, made = record.cell, record.run
    if record.imported:
        raise UsageError(
            f"{record.path.name} was imported, and what was computed elsewhere cannot be made "
            f"again here; bench import scores its file anew"
        )
    loaded = load_backbone(
        backbone or cell.backbone, device=choose_device(device), precision=made.precision
    )
    found = plan(
        Request(
            methods=(cell.method,),
            task=cell.task,
            split=cell.split,
            protocol=record.protocol.name,
            backbone=loaded,
            checkpoints=_find_weights(record, checkpoint),
            data_root=data_root,
            device=device,
            precision=made.precision,
            batch_size=made.batch_size,
            workers=made.workers,
            seed=cell.seed,
            label=cell.label,
            limit=made.limit,
            cache=cache,
        )
    )
    return Prepared(record=record, plan=found, differences=tuple(_differ(record, found, loaded)))


def _find_weights(record: Record, given: Path | None) -> dict[str, Path]:
    """The method's own weights, by content where they are shipped."""
    cell, file = record.cell, record.checkpoint
    if cell.checkpoint is None:
        return {}
    if given is None:
        shipped = shipped_checkpoints(cell.method).values()
        given = next((p for p in shipped if sha256_of_file(p) == cell.checkpoint), None)
    if given is None and file and file.released:
        given = Path(file.released)
    if given is not None:
        return {cell.method: given}
    if cell.backbone.startswith(_BESIDE):
        return {}
    raise MissingData(
        f"{record.path.name} cannot be made again: its weights, {record.checkpoint_label}…, are "
        f"neither shipped nor released; name their file with --checkpoint"
    )


def _differ(record: Record, found: Plan, backbone: Backbone) -> Iterator[Difference]:
    then, protocol = record.fingerprints, found.protocol
    file = found.methods[0].checkpoint
    now: dict[str, tuple[str | None, str | None]] = {
        "protocol": (record.protocol.hash, protocol.hash),
        "annotations": (then.annotations, found.data.annotations_sha256),
        "backbone's weights": (then.weights, backbone.weights_sha256),
        "tokenizer": (then.tokenizer, backbone.tokenizer_sha256),
        "preprocessing": (then.preprocess, backbone.image_spec.fingerprint(protocol.preprocess)),
    }
    if isinstance(file, Path):
        now["method's weights"] = (then.checkpoint, sha256_of_file(file))
    yield from _list(now, decides=True)
    here = describe_environment(found.device)
    yield from _list(_pair(record.environment, here), decides=False)


def _pair(then: Environment, now: Environment) -> dict[str, tuple[str | None, str | None]]:
    names = ("python", "platform", "cpu", "gpu")
    return {
        "commit": (then.code.commit, now.code.commit),
        "uncommitted changes": (then.code.dirty, now.code.dirty),
        **{name: (getattr(then, name), getattr(now, name)) for name in names},
        **{
            name: (version, now.packages.get(name))
            for name, version in then.packages.items()
            if name != "cirbench"  # its commit says more
        },
    }


def _list(pairs: dict[str, tuple[str | None, str | None]], *, decides: bool) -> list[Difference]:
    return [
        Difference(what=what, then=then, now=now, decides=decides)
        for what, (then, now) in pairs.items()
        if then != now
    ]


def _short(value: str | None) -> str:
    is_hash = value and len(value) >= 40 and set(value) <= set("0123456789abcdef")
    return value[:12] if value and is_hash else value or "none"


def rerun(prepared: Prepared, *, by: str, reporter: Reporter) -> Rerun:
    """Evaluate again, in a folder that is thrown away, and say how it compares.

    Raises:
        CheckFailed: weights, data or protocol are not the record's.
    """
    record = prepared.record
    _refuse([one for one in prepared.differences if one.decides], record)
    with tempfile.TemporaryDirectory() as folder:
        request = replace(prepared.plan.request, output=Path(folder) / "rerun")
        [again] = run(replace(prepared.plan, request=request), reporter)
        names = ("gallery", "references", "checkpoint")
        then, now = record.fingerprints, again.fingerprints
        pairs = {name: (getattr(then, name), getattr(now, name)) for name in names}
        _refuse(_list(pairs, decides=True), record)
        same = _equal(record.read_per_query(), again.read_per_query())
    moves = [
        abs(again.metrics[group][metric].value - value.value)
        for group, values in record.metrics.items()
        for metric, value in values.items()
    ]
    largest = max(moves, default=0.0)  # a split without public labels has no metrics
    if same and largest == 0:
        verdict = IDENTICAL
    else:
        verdict = WITHIN if moves and largest <= TOLERANCE else DIFFERENT
    return Rerun(
        by=by,
        environment=again.environment,
        record=record.per_query.sha256,
        arrays=again.per_query.sha256,
        verdict=verdict,
        largest=round(largest, 6),
    )


def _refuse(differences: list[Difference], record: Record) -> None:
    if differences:
        told = "; ".join(map(str, differences))
        raise CheckFailed(f"{record.path.name} is of something else than what is here: {told}")


def _equal(one: PerQuery, other: PerQuery) -> bool:
    """Whether every per-query number and name is the same."""
    pairs: list[tuple[Any, Any]] = [
        (getattr(one, field.name), getattr(other, field.name)) for field in fields(PerQuery)
    ]
    return all(np.array_equal(a, b) for a, b in pairs)
