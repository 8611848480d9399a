"""Retrieval metrics, per query first; a mean over queries is the second step.

A metric is written as the tables write it: `R@10`, `HR@10`, `mAP@10`, `Rs@1` (recall in CIRR's
subsets), `target R@10` (recall of the one positive that a text was written for), `SR@10` and
`SRs@1` (recall of graded answers), `(R@5+Rs@1)/2`. All are in percent.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.runtime.errors import UsageError

Hits = NDArray[np.bool_]
"""(Q, K): whether the item at each rank is a positive."""
Grades = NDArray[np.float64]
"""(Q, K): how well the item at each rank answers; see `Query.grades`."""
Counts = NDArray[np.int64]
"""(Q,): how many positives the gallery has for a query."""
Values = NDArray[np.float64]
"""(Q,) percent."""


def recall(hits: Hits, positives: Counts, k: int, epsilon: float = 0.0) -> Values:
    """Share of the positives among the first k; 0 where there are none.

    With several positives this is not the hit rate, and its ceiling is below 100 where a query has
    more than k. Pic2Word's released evaluation divides by (positives + 1e-5): `epsilon`.
    """
    found = hits[:, :k].sum(axis=1)
    share: Values = found / np.where(positives > 0, positives + epsilon, 1.0)
    return 100.0 * share


def hit_rate(hits: Hits, positives: Counts, k: int, epsilon: float = 0.0) -> Values:
    """100 where a positive is among the first k, else 0."""
    return np.where(hits[:, :k].any(axis=1), 100.0, 0.0)


def average_precision(hits: Hits, positives: Counts, k: int, epsilon: float = 0.0) -> Values:
    """Precision at the ranks ≤ k that are hits, summed, over min(positives, k) (CIRCO's AP@k)."""
    first = hits[:, :k]
    precision = first.cumsum(axis=1) / np.arange(1, first.shape[1] + 1)
    best_possible = np.clip(np.minimum(positives, k), 1, None)
    average: Values = (precision * first).sum(axis=1) / best_possible
    return 100.0 * average


def soft_recall(grades: Grades, positives: Counts, k: int, epsilon: float = 0.0) -> Values:
    """The greatest grade among the first k, and 0 where all are below it.

    What CIRPLANT and ARTEMIS report on CIRR's val split under its soft targets.
    """
    best: Values = grades[:, :k].max(axis=1, initial=0.0)
    return 100.0 * best


_KINDS: dict[str, Callable[[NDArray[Any], Counts, int, float], Values]] = {
    "R": recall,
    "Rs": recall,
    "HR": hit_rate,
    "mAP": average_precision,
    "target R": recall,
    "SR": soft_recall,
    "SRs": soft_recall,
}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric with its cutoff."""

    name: str
    kind: str
    k: int

    @property
    def of_members(self) -> bool:
        """Whether it looks at a query's members alone."""
        return self.kind in {"Rs", "SRs"}

    @property
    def of_target(self) -> bool:
        """Whether it looks for a query's target alone, where the others look for all positives."""
        return self.kind == "target R"

    @property
    def graded(self) -> bool:
        """Whether it looks at grades, where the others look at hits."""
        return self.kind in {"SR", "SRs"}

    def per_query(self, found: Hits | Grades, positives: Counts, epsilon: float = 0.0) -> Values:
        """(Q, K ≥ k) hits, or grades for a graded one, and (Q,) counts → (Q,) percent."""
        return _KINDS[self.kind](found, positives, self.k, epsilon)


def parse_metric(name: str) -> Metric:
    """Parse a metric's name, such as `R@10`.

    Raises:
        UsageError: it is no metric.
    """
    match = re.fullmatch(r"([A-Za-z ]+)@([1-9][0-9]*)", name)
    if not match or match[1] not in _KINDS:
        raise UsageError(f"unknown metric {name!r}; known: {', '.join(f'{k}@K' for k in _KINDS)}")
    return Metric(name=name, kind=match[1], k=int(match[2]))


def parse_metrics(name: str) -> list[Metric]:
    """Parse the metrics that a name is the mean of: two of `(R@5+Rs@1)/2`, else one.

    Raises:
        UsageError: one of them is no metric.
    """
    mean = re.fullmatch(r"\((.+)\+(.+)\)/2", name)
    return [parse_metric(part) for part in (mean.groups() if mean else (name,))]


def find_hits(top: NDArray[np.int32], positives: Sequence[Sequence[int]]) -> Hits:
    """Find which of (Q, K) gallery rows in rank order are positives of their query."""
    if top.shape[1] == 0 or not positives:
        return np.zeros(top.shape, dtype=bool)
    query = np.repeat(np.arange(len(positives)), [len(row) for row in positives])
    item = np.array([item for row in positives for item in row], dtype=np.int64)
    width = max(int(top.max(initial=0)), int(item.max(initial=0))) + 2
    wanted = np.unique(query * width + item)
    ranked = np.arange(len(positives))[:, None] * width + top.astype(np.int64)
    return (top >= 0) & np.isin(ranked, wanted)


def find_grades(top: NDArray[np.int32], grades: Sequence[Mapping[int, float]]) -> Grades:
    """Find the grades of (Q, K) gallery rows in rank order; 0 where a row has none."""
    found = np.zeros(top.shape)
    for ranked, row_of_found, of_row in zip(top, found, grades, strict=True):
        for row, grade in of_row.items():
            row_of_found[ranked == row] = grade
    return found
