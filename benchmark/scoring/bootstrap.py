"""Honest error bars: percentile bootstrap over reference pictures, joint over all groups.

Queries that share a reference are not independent, so references are drawn, not queries. One draw
serves all groups, metrics and methods: that makes the intervals of an average and of a difference
right, and the same seed gives the same draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    """Which reference and which group each of Q queries belongs to.

    Attributes:
        reference: (Q,) int, 0..C-1.
        group: (Q,) int, 0..G-1; every group has a query.
    """

    reference: NDArray[np.int64]
    group: NDArray[np.int64]

    @classmethod
    def of(cls, references: Names, groups: Names, order: Sequence[str]) -> Design:
        """From names; `order` lists the groups."""
        _, reference = np.unique(np.asarray(references), return_inverse=True)
        number = {name: index for index, name in enumerate(order)}
        return cls(reference=reference, group=np.array([number[group] for group in groups]))

    @property
    def clusters(self) -> int:
        return int(self.reference.max()) + 1

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(G,) queries per group."""
        return np.bincount(self.group, minlength=self.groups)

    def sums(self, values: Array) -> Array:
        """(Q, M) per query → (C, G, M) sums per reference and group."""
        total = np.zeros((self.clusters * self.groups, values.shape[1]))
        np.add.at(total, self.reference * self.groups + self.group, values)
        return total.reshape(self.clusters, self.groups, -1)


def group_means(values: Array, design: Design) -> Array:
    """(Q, M) → (G, M)."""
    means: Array = design.sums(values).sum(axis=0) / design.sizes[:, None]
    return means


def resampled_means(values: Array, design: Design, resamples: int = RESAMPLES) -> Array:
    """(Q, M) → (resamples, G, M): the group means under resampled references.

    A draw that leaves a group without a query (possible only in tiny data) gives NaN there.
    """
    sums = design.sums(values)
    counts = design.sums(np.ones((len(values), 1)))
    clusters, groups, metrics = sums.shape
    flat = np.concatenate([sums.reshape(clusters, -1), counts.reshape(clusters, -1)], axis=1)
    drawn = np.concatenate([chunk.astype(float) @ flat for chunk in _weights(clusters, resamples)])
    total = drawn[:, : groups * metrics].reshape(-1, groups, metrics)
    with np.errstate(invalid="ignore"):
        means: Array = total / drawn[:, groups * metrics :, None]
    return means


@lru_cache(maxsize=1)  # the records of a board have the same references: one draw for all
def _weights(clusters: int, resamples: int) -> tuple[NDArray[np.uint16], ...]:
    """How often each reference is drawn, (≤ _CHUNK, C) at a time."""
    rng = np.random.default_rng(SEED)
    return tuple(
        _times_drawn(rng.integers(0, clusters, size=(min(_CHUNK, resamples - start), clusters)))
        for start in range(0, resamples, _CHUNK)
    )


def _times_drawn(drawn: NDArray[np.int64]) -> NDArray[np.uint16]:
    """(R, C) references, C drawn a row → (R, C) how often each is in its row."""
    rows, clusters = drawn.shape
    offset = drawn + clusters * np.arange(rows)[:, None]
    counts = np.bincount(offset.reshape(-1), minlength=rows * clusters)
    return counts.reshape(rows, clusters).astype(np.uint16)


def intervals(estimates: Array, draws: Array, sizes: Sequence[int]) -> list[Interval]:
    """One interval for each of A estimates, from (resamples, A) draws; NaN draws are left out."""
    tail = 100 * (1 - LEVEL) / 2
    percentile = np.nanpercentile if np.isnan(draws).any() else np.percentile  # twice as fast
    low, high = percentile(draws, [tail, 100 - tail], axis=0)
    return [
        Interval(value=float(v), low=float(lo), high=float(hi), n=int(n))
        for v, lo, hi, n in zip(estimates, low, high, sizes, strict=True)
    ]
