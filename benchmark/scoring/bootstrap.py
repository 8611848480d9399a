"""Honest error bars: percentile bootstrap over reference pictures, joint over all groups.

A cluster bootstrap: queries that share a reference are not independent, so references are drawn,
not queries. One draw serves all groups, metrics and methods: that makes the intervals of an average
and of a difference right, and the same seed gives the same draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.api.values import Interval

RESAMPLES = 2000
SEED = 0
LEVEL = 0.95
_CHUNK = 128

Array = NDArray[np.float64]
Names = Sequence[str] | NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class Design:
    """Which reference and groups each of Q queries is of, and the rows of a table over them.

    Attributes:
        reference: (Q,) int, 0..C-1.
        query, group: (P,) int, 0..Q-1 and 0..G-1: pairs of a query and a group that it counts in;
            every group has a query.
        groups: G names.
        averages: A names → the groups whose plain mean each is.
    """

    reference: NDArray[np.int64]
    query: NDArray[np.int64]
    group: NDArray[np.int64]
    groups: tuple[str, ...]
    averages: Mapping[str, Sequence[str]]

    @classmethod
    def of(
        cls,
        references: Names,
        group_of_each: Names,
        groups: Sequence[str],
        averages: Mapping[str, Sequence[str]],
        aspects: Mapping[str, NDArray[np.bool_]] = MappingProxyType({}),
    ) -> Design:
        """Make a design from the names of each query's reference and group.

        Args:
            groups: all names, those of the aspects among them.
            aspects: further group → (Q,) whether a query counts in it, too.
        """
        _, reference = np.unique(np.asarray(references), return_inverse=True)
        number = {name: index for index, name in enumerate(groups)}
        own = [np.flatnonzero(has) for has in aspects.values()]
        in_aspects = np.repeat([number[name] for name in aspects], [len(rows) for rows in own])
        return cls(
            reference=reference,
            query=np.concatenate([np.arange(len(reference)), *own]),
            group=np.concatenate([[number[name] for name in group_of_each], in_aspects]).astype(
                int
            ),
            groups=tuple(groups),
            averages=averages,
        )

    @property
    def rows(self) -> tuple[str, ...]:
        """A + G names: averages, then groups."""
        return (*self.averages, *self.groups)

    @cached_property
    def members(self) -> tuple[list[int], ...]:
        """For each row the numbers of its groups."""
        averaged = ([self.groups.index(name) for name in own] for own in self.averages.values())
        return (*averaged, *([number] for number in range(len(self.groups))))

    @property
    def clusters(self) -> int:
        return int(self.reference.max()) + 1

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(G,) queries per group."""
        return np.bincount(self.group, minlength=len(self.groups))

    @property
    def row_sizes(self) -> list[int]:
        """Queries per row."""
        return [int(self.sizes[own].sum()) for own in self.members]

    def sums(self, values: Array) -> Array:
        """Sum (Q, M) values per query to (C, G, M) per reference and group."""
        groups = len(self.groups)
        total = np.zeros((self.clusters * groups, values.shape[1]))
        np.add.at(total, self.reference[self.query] * groups + self.group, values[self.query])
        return total.reshape(self.clusters, groups, -1)

    def add_averages(self, means: Array) -> Array:
        """Put the plain means over groups before (..., G, M) group means: (..., A + G, M)."""
        averaged = [
            means[..., own, :].mean(axis=-2, keepdims=True)
            for own in self.members[: len(self.averages)]
        ]
        return np.concatenate([*averaged, means], axis=-2)

    def means(self, values: Array) -> Array:
        """Average (Q, M) values per query to (A + G, M) rows."""
        return self.add_averages(self.sums(values).sum(axis=0) / self.sizes[:, None])

    def draws(self, values: Array, resamples: int = RESAMPLES) -> Array:
        """Average (Q, M) values under resampled references: (resamples, A + G, M).

        A draw that leaves a group without a query (possible only in tiny data) gives NaN there.
        """
        sums = self.sums(values)
        counts = self.sums(np.ones((len(values), 1)))
        clusters, groups, metrics = sums.shape
        flat = np.concatenate([sums.reshape(clusters, -1), counts.reshape(clusters, -1)], axis=1)
        weights = _draw_weights(clusters, resamples)
        drawn = np.concatenate([chunk.astype(float) @ flat for chunk in weights])
        total = drawn[:, : groups * metrics].reshape(-1, groups, metrics)
        with np.errstate(invalid="ignore"):
            return self.add_averages(total / drawn[:, groups * metrics :, None])


@lru_cache(maxsize=1)  # the records of a board have the same references: one draw for all
def _draw_weights(clusters: int, resamples: int) -> tuple[NDArray[np.uint16], ...]:
    """Count how often each reference is drawn, (≤ _CHUNK, C) at a time."""
    rng = np.random.default_rng(SEED)
    return tuple(
        _count_draws(rng.integers(0, clusters, size=(min(_CHUNK, resamples - start), clusters)))
        for start in range(0, resamples, _CHUNK)
    )


def _count_draws(drawn: NDArray[np.int64]) -> NDArray[np.uint16]:
    """Count (R, C) references, C drawn a row → (R, C) how often each is in its row."""
    rows, clusters = drawn.shape
    offset = drawn + clusters * np.arange(rows)[:, None]
    counts = np.bincount(offset.reshape(-1), minlength=rows * clusters)
    return counts.reshape(rows, clusters).astype(np.uint16)


def make_intervals(estimates: Array, draws: Array, sizes: Sequence[int]) -> list[Interval]:
    """Make an interval for each of A estimates from (resamples, A) draws, but for NaN draws."""
    tail = 100 * (1 - LEVEL) / 2
    percentile = np.nanpercentile if np.isnan(draws).any() else np.percentile  # twice as fast
    low, high = percentile(draws, [tail, 100 - tail], axis=0)
    return [
        Interval(value=float(v), low=float(lo), high=float(hi), n=int(n))
        for v, lo, hi, n in zip(estimates, low, high, sizes, strict=True)
    ]
