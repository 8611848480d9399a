"""Records of one method that differ in their seed become one: means, and how far seeds spread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from statistics import stdev

import numpy as np
from pydantic import TypeAdapter

from cirbench.benchmark.api.per_query import Scores
from cirbench.benchmark.records.fields import Metrics
from cirbench.benchmark.records.record import Record
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.kept import keep
from cirbench.benchmark.scoring.summary import summarise

_METRICS = TypeAdapter(Metrics)


@dataclass(frozen=True, kw_only=True)
class SeedMean(Record):
    """The mean over seeds, which tables show as one record; other fields are the first seed's.

    A query's value is its mean over seeds, so the intervals are those of the mean, over references.

    Attributes:
        of: the records, by seed.
    """

    of: tuple[Record, ...]

    @property
    def seed_label(self) -> str:
        return f"{len(self.of)} seeds"

    @property
    def method_label(self) -> str:
        return f"{self.of[0].method_label}, {self.seed_label}"

    @cached_property
    def scores(self) -> Scores:
        return _average(self.of)

    @cached_property
    def identity(self) -> tuple[object, ...]:
        return _identify(self.of)


def merge_seeds(records: Sequence[Record]) -> list[Record]:
    """Merge the records that differ in their seed and their seed's weights alone.

    Where two of them have one seed they are of different weights, and all stay apart.

    Raises:
        CorruptData: per-query data is missing or altered, or of other queries than the first's.
    """
    together: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        together.setdefault(_describe(record), []).append(record)
    return [merged for own in together.values() for merged in _merge(own)]


def _describe(record: Record) -> tuple[object, ...]:
    """Give what records must share to be of one row."""
    cell, prints = record.cell, record.fingerprints
    return (
        *(record.task_label, cell.split, cell.protocol, cell.method, cell.trained_on, cell.label),
        *(prints.gallery, prints.references, prints.annotations),
        *_describe_towers(record),
    )


def _describe_towers(record: Record) -> tuple[str | None, str | None]:
    """Give backbone and weights; of what was trained along, kind and what it began with."""
    kind, _, own = record.cell.backbone.partition("+")
    if kind.startswith("trained:") and own and record.checkpoint:
        return kind, record.checkpoint.backbone
    return record.cell.backbone, record.fingerprints.weights


def _merge(records: Sequence[Record]) -> Iterator[Record]:
    seeds = {record.cell.seed for record in records}
    if len(records) == 1 or len(seeds) < len(records) or not all(r.metrics for r in records):
        yield from records
        return
    of = tuple(sorted(records, key=lambda record: record.cell.seed))
    first = of[0]

    def summarise_mean() -> Metrics:
        return summarise(_average(of), first.groups, first.protocol)

    own = {f.name: getattr(first, f.name) for f in fields(Record)}
    yield SeedMean(**{**own, "metrics": keep(_METRICS, _identify(of), summarise_mean)}, of=of)


def _identify(of: Sequence[Record]) -> tuple[object, ...]:
    return ("mean over seeds", *(record.identity for record in of))


def _average(of: Sequence[Record]) -> Scores:
    first = of[0].scores
    for record in of[1:]:
        if record.scores.query.tolist() != first.query.tolist():
            raise CorruptData(
                f"{record.path} and {of[0].path} must have the same queries, as they share a "
                f"protocol and annotations; run both cells again"
            )
    return replace(first, values=np.mean([record.scores.values for record in of], axis=0))


def list_seeds(record: Record) -> tuple[Record, ...]:
    """List the records that one stands for: itself, where it is no mean."""
    return record.of if isinstance(record, SeedMean) else (record,)


def find_spread(record: Record, row: str, metric: str) -> float | None:
    """Find the standard deviation over seeds, in points; None for a record of one seed."""
    values = [one.metrics[row][metric].value for one in list_seeds(record)]
    return stdev(values) if len(values) > 1 else None
