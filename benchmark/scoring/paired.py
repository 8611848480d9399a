"""Tests and intervals of paired differences, clustered by reference picture.

Everything is over per-query differences d = a - b. Queries that share a reference are not
independent, so signs are flipped, and pictures drawn, a reference at a time, and jointly for all
groups and metrics. Nothing here knows records or files.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from cirbench.benchmark.api.values import Interval
from cirbench.benchmark.scoring.bootstrap import LEVEL, Array, Design, make_intervals

DRAWS = 10_000
SEED = 0
EXACT_CLUSTERS = 12
"""Up to here all 2^C sign flips are tried."""
POWER = 0.8
DETECTABLE_FACTOR = NormalDist().inv_cdf((1 + LEVEL) / 2) + NormalDist().inv_cdf(POWER)
"""2.80: a true difference of so many standard errors is found with 80 % power at the 5 % level."""
_CHUNK = 128
_ROUNDING = 1e-9


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What the queries say about A minus B in one metric and group, or average of groups.

    Attributes:
        interval: of the difference, in points, by the paired bootstrap.
        p: of the randomisation test, two-sided.
        detectable: the smallest true difference, in points, that this many queries would show,
            `DETECTABLE_FACTOR` × the bootstrap's standard error; None where no query differs.
        wins, ties, losses: queries in which A is better than, equal to, worse than B.
    """

    interval: Interval
    p: float
    detectable: float | None
    wins: int
    ties: int
    losses: int


def find_differences(values: Array, design: Design) -> dict[str, list[Difference]]:
    """Test (Q, M) values of A minus B: by row (average or group), a `Difference` a metric."""
    p = find_p(values, design)
    draws = design.draws(values)
    errors = np.nanstd(draws, axis=0, ddof=1)
    means = design.means(values)
    found = {}
    for i, (name, members) in enumerate(zip(design.rows, design.members, strict=True)):
        own = values[design.query[np.isin(design.group, members)]]
        spans = make_intervals(means[i], draws[:, i], [len(own)] * values.shape[1])
        found[name] = [
            Difference(
                interval=spans[m],
                p=float(p[i, m]),
                detectable=DETECTABLE_FACTOR * float(errors[i, m]) or None,
                wins=int((own[:, m] > 0).sum()),
                ties=int((own[:, m] == 0).sum()),
                losses=int((own[:, m] < 0).sum()),
            )
            for m in range(values.shape[1])
        ]
    return found


def find_p(values: Array, design: Design) -> Array:
    """Find the two-sided p-values of "no difference": (Q, M) differences → (A + G, M).

    Under the null hypothesis A and B could change places in any reference, so the sign of all its
    differences is flipped by a coin, and p is how often the mean gets as far from 0 as it is. Where
    at most `EXACT_CLUSTERS` references differ at all, every combination of signs is tried; else
    10,000 drawn ones, and the observed one, which keeps p above 0 and the test valid.
    """
    shares = design.sums(values) / design.sizes[:, None]  # (C, G, M): what each adds to the mean
    shares = shares[np.abs(shares).any(axis=(1, 2))]
    slack = _ROUNDING * design.add_averages(np.abs(shares).sum(axis=0))
    bound = np.abs(design.add_averages(shares.sum(axis=0))) - slack
    exact = len(shares) <= EXACT_CLUSTERS
    blocks = _list_signs(len(shares)) if exact else _draw_signs(len(shares))
    as_far, tried = np.zeros(bound.shape), 0
    for signs in blocks:
        means = design.add_averages(np.tensordot(signs, shares, axes=1))
        as_far += (np.abs(means) >= bound).sum(axis=0)
        tried += len(signs)
    p: Array = as_far / tried if exact else (as_far + 1) / (tried + 1)
    return p


def _list_signs(clusters: int) -> Iterator[Array]:
    """Give all combinations of signs, (2^C, C) of -1 and 1, the observed one among them."""
    rows = list(itertools.product((1.0, -1.0), repeat=clusters))
    yield np.array(rows, dtype=np.float64).reshape(len(rows), clusters)


def _draw_signs(clusters: int) -> Iterator[Array]:
    """Draw `DRAWS` combinations of signs, (≤ _CHUNK, C) at a time."""
    rng = np.random.default_rng(SEED)
    for start in range(0, DRAWS, _CHUNK):
        size = (min(_CHUNK, DRAWS - start), clusters)
        yield 2 * rng.integers(0, 2, size=size, dtype=np.int8).astype(np.float64) - 1


def adjust_by_holm(p: Sequence[float]) -> list[float]:
    """Adjust p-values by Holm's step-down procedure, which bounds the family-wise error."""
    adjusted = [0.0] * len(p)
    highest = 0.0
    for place, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted
