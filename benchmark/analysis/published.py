"""Published numbers, and whether ours agree with them.

`published.csv` keeps, for every number, where it was read. `confirmed` says how: "yes" in a paper
or in several reprints, "derived" computed from confirmed ones, "no" recalled, read in one reprint,
or printed otherwise by others. A number is reproduced when ours lies within its own rounding plus a
fixed tolerance; the bootstrap interval is about other queries and plays no part.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from cirbench.benchmark.api.registry import find_task
from cirbench.benchmark.records.record import Record, label_records

TOLERANCE = 0.1
"""Points, beside half a unit of the last printed digit."""
REPRODUCED, DIFFERS, NOT_RUN, NOT_COMPARABLE = (
    "reproduced",
    "differs",
    "not run",
    "not comparable",
)
STATES = (REPRODUCED, DIFFERS, NOT_RUN, NOT_COMPARABLE)
UNKNOWN = "protocol unknown"
PRINTED_NAMES = {
    "torchvision:resnet18": "RN18",
    "torchvision:resnet50": "RN50",
    "torchvision:resnet152": "RN152",
}
"""Backbone of ours → as `published.csv` has it, where that is not the same."""
RELEASED_FEATURES = {("cirr", "features:2048"): "RN152"}
"""Task and backbone → the tower whose vectors the task's authors release."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One printed number, as a row of `published.csv`.

    Attributes:
        variant: which of the method's numbers it is, where it isn't the authors' own.
        trained_on: what the record must be trained on; empty where any will do.
        protocol: the protocol of ours that it was measured under; empty where we have none, or
            where it is not known to be one of ours.
        gallery: what was ranked, as an `EvaluationProtocol` says it, or that "without the
            reference", where that is known and no protocol of ours is.
        value: as printed, so that its rounding is known.
        known_cause: why a right evaluation may give another number, if that is known.
    """

    method: str
    variant: str
    trained_on: str = ""
    backbone: str
    task: str
    split: str
    protocol: str = ""
    gallery: str = ""
    group: str
    metric: str
    value: str
    source: str
    confirmed: str
    known_cause: str = ""

    @property
    def rounding(self) -> float:
        """Half a unit of the last printed digit."""
        return 0.5 * 10.0 ** -len(self.value.partition(".")[2])

    @property
    def protocol_hash(self) -> str:
        """The protocol's hash as it is here now, or `UNKNOWN`."""
        if not self.protocol:
            return UNKNOWN
        return str(find_task(self.task).protocols[self.protocol].hash)

    @property
    def gates(self) -> bool:
        """Whether a difference is a failure: confirmed, comparable, and the authors' own row."""
        own = self.variant in ("", self.trained_on)
        return self.confirmed == "yes" and bool(self.protocol) and own


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A published number beside ours; `measured` and `record` are None where there is none.

    Attributes:
        label: the record's name, where several answer the number.
    """

    published: Published
    state: str
    measured: float | None = None
    record: str | None = None
    label: str = ""
    reason: str = ""

    @property
    def name(self) -> str:
        """The method as a table names it."""
        of = f"[{self.label}]" if self.label else ""
        return " ".join(filter(None, (self.published.method, self.published.variant, of)))

    @property
    def difference(self) -> float | None:
        """Ours minus the published one."""
        return None if self.measured is None else self.measured - float(self.published.value)

    def as_dict(self) -> dict[str, Any]:
        """Give plain data."""
        return {
            **vars(self.published),
            "protocol_hash": self.published.protocol_hash,
            "state": self.state,
            "measured": self.measured,
            "difference": self.difference,
            "record": self.record,
            "reason": self.reason,
            "gates": self.published.gates,
        }


def read_published() -> list[Published]:
    """Read every published number."""
    text = (files("cirbench.benchmark.analysis") / "published.csv").read_text(encoding="utf-8")
    return [Published(**row) for row in csv.DictReader(text.splitlines())]


def verify(rows: Sequence[Published], records: Sequence[Record]) -> list[Verdict]:
    """Give a verdict on each number, one for every record that answers it."""
    return [verdict for row in rows for verdict in _judge(row, records)]


def _judge(row: Published, records: Sequence[Record]) -> Iterator[Verdict]:
    ours = [r for r in records if (r.cell.method, r.task_label) == (row.method, row.task)]
    if not ours:
        yield Verdict(published=row, state=NOT_RUN)
        return
    comparable = [record for record in ours if not _find_obstacles(row, record)]
    if not comparable:
        nearest = min(ours, key=lambda record: len(_find_obstacles(row, record)))
        reason = ", ".join(_find_obstacles(row, nearest))
        yield Verdict(published=row, state=NOT_COMPARABLE, record=nearest.path.name, reason=reason)
    several = label_records(comparable) if len(comparable) > 1 else [""]
    for record, label in zip(comparable, several, strict=False):
        yield _compare(row, record, label)


def _find_obstacles(row: Published, record: Record) -> list[str]:
    """Find why a record does not answer a published number."""
    cell, protocol = record.cell, record.protocol.name
    tower, _ = find_tower(record)
    wanted: dict[str, tuple[str, str | None]] = {
        "backbone": (row.backbone, tower),
        "split": (row.split, cell.split),
        "protocol": (row.protocol or "one that is not built here", protocol),
    }
    if row.gallery:
        wanted["gallery"] = (row.gallery, record.protocol.gallery)
    if row.trained_on:
        wanted["trained on"] = (row.trained_on, cell.trained_on)
    found = [
        f"{name} {ours}, published {theirs}"
        for name, (theirs, ours) in wanted.items()
        if theirs != ours
    ]
    if not record.annotations.released:
        found.append("custom annotations")
    if row.metric not in record.metrics.get(row.group, {}):
        found.append(f"no {row.metric} of {row.group}")
    return found


def find_tower(record: Record) -> tuple[str, str]:
    """Find what a paper would call a record's backbone, and say how it came to be that.

    Towers that were trained along are called what they began with, as papers do.
    """
    cell, file = record.cell, record.checkpoint
    if cell.backbone.startswith("trained:") and file and file.backbone in PRINTED_NAMES:
        return PRINTED_NAMES[file.backbone], f"{file.backbone} was trained along"
    if released := RELEASED_FEATURES.get((cell.task, cell.backbone)):
        return released, f"{cell.backbone} is taken for the vectors that {cell.task} comes with"
    if printed := PRINTED_NAMES.get(cell.backbone):
        return printed, f"{cell.backbone} was not trained along"
    return cell.backbone, ""


def _compare(row: Published, record: Record, label: str) -> Verdict:
    measured = record.metrics[row.group][row.metric].value
    agrees = abs(measured - float(row.value)) <= row.rounding + TOLERANCE + 1e-9
    notes = [*([] if agrees else _explain(row)), find_tower(record)[1]]
    return Verdict(
        published=row,
        state=REPRODUCED if agrees else DIFFERS,
        measured=measured,
        record=record.path.name,
        label=label,
        reason="; ".join(filter(None, notes)),
    )


def _explain(row: Published) -> Iterator[str]:
    yield f"tolerance {row.rounding + TOLERANCE:g}"
    if row.known_cause:
        yield f"known cause: {row.known_cause}"
