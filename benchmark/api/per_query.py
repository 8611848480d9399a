"""What each query of a record came to, as arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

ADDED_LATER = frozenset({"aspects", "has_aspect"})
"""Arrays that a record has only where they hold something, so that others stay as they were."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What tables, intervals and tests want of Q queries.

    Attributes:
        query, reference, group: (Q,) names.
        metrics: (M,) names; values: (Q, M) percent.
        aspects: (A,) names of further groups, which may overlap; has_aspect: (Q, A) bool, which
            queries are in each.
    """

    query: NDArray[np.str_]
    reference: NDArray[np.str_]
    group: NDArray[np.str_]
    metrics: NDArray[np.str_]
    values: NDArray[np.float64]
    aspects: NDArray[np.str_] = field(default_factory=lambda: np.zeros(0, dtype=np.str_))
    has_aspect: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """What the arrays' shapes must be beyond Q."""
        names = dict.fromkeys(("query", "reference", "group"), ())
        aspects = (
            {"has_aspect": self.aspects.shape} if len(self.has_aspect) or len(self.aspects) else {}
        )
        return {**names, **aspects, "values": (len(self.metrics),)}

    def find_fault(self) -> str | None:
        """What is wrong with the arrays' shapes or values, if anything."""
        for name, rest in self.shapes().items():
            array = getattr(self, name)
            if array.shape != (len(self.query), *rest):
                return f"{name} must have the shape {(len(self.query), *rest)}, got {array.shape}"
        if self.values.dtype.kind != "f":
            return "values must be floating-point numbers"
        if self.has_aspect.dtype.kind != "b" or not self.has_aspect.any(axis=0).all():
            return "has_aspect must be true or false, and each aspect some query's"
        return None if np.isfinite(self.values).all() else "values must be finite"


@dataclass(frozen=True, kw_only=True)
class RankedScores(Scores):
    """What an audit wants beside the scores.

    Attributes:
        first_rank: (Q,) as in `PerQuery`.
    """

    first_rank: NDArray[np.int64]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {**super().shapes(), "first_rank": ()}


@dataclass(frozen=True, kw_only=True)
class PerQuery(Scores):
    """What each of Q queries came to; plain arrays, stored without pickle.

    Attributes:
        gallery: (N,) names.
        top, similarity: (Q, K) gallery rows and scores, best first.
        hits: (Q, K) bool.
        positives: (Q,) how many there are.
        first_rank: (Q,) rank of the best-ranked positive, 0 where there is none.
        tied, fragile: (Q,) bool, as in `Ranking`; records of before have no `fragile`.
        members: (Q, S) gallery rows of the members alone, best first; member_hits: (Q, S) bool.
    """

    gallery: NDArray[np.str_]
    top: NDArray[np.int32]
    similarity: NDArray[np.float32]
    hits: NDArray[np.bool_]
    positives: NDArray[np.int64]
    first_rank: NDArray[np.int64]
    tied: NDArray[np.bool_]
    members: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))
    member_hits: NDArray[np.bool_] = field(default_factory=lambda: np.zeros((0, 0), dtype=bool))
    fragile: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {
            **super().shapes(),
            **dict.fromkeys(("positives", "first_rank", "tied"), ()),
            **dict.fromkeys(("top", "similarity", "hits"), self.top.shape[1:2]),
        }

    def find_fault(self) -> str | None:
        numbers = self.similarity.dtype.kind == "f"
        return super().find_fault() if numbers else "similarity must be floating-point numbers"
