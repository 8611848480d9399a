"""Ranks a task's queries, each against its own candidates or its group's span of the gallery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.api.values import Query, TaskData
from cirbench.benchmark.ranking.candidates import rank_candidates
from cirbench.benchmark.ranking.parts import RankRequest
from cirbench.benchmark.ranking.rank import Ranking, join_queries, rank_vectors


def rank_queries(
    data: TaskData,
    vectors: Tensor,
    gallery: Tensor,
    depth: int,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Ranking:
    """Rank Q composed queries against (N, D) gallery vectors, or the part that each is asked of.

    Args:
        score: as `rank_vectors` has it.
    """
    everything = range(len(gallery))
    of_span: dict[range | None, list[int]] = {}
    for i, query in enumerate(data.queries):
        span = None if query.candidates else data.spans.get(query.group, everything)
        of_span.setdefault(span, []).append(i)
    parts = []
    for span, rows in of_span.items():
        queries, own = [data.queries[i] for i in rows], vectors[rows]
        if span is None:
            candidates, positives = zip(
                *((q.candidates, q.positives) for q in queries), strict=True
            )
            part = rank_candidates(own, gallery, candidates, positives, depth=depth, score=score)
        else:
            part = _rank_span(queries, own, gallery, span, depth, score)
        parts.append(part)
    return join_queries(parts, np.concatenate(list(of_span.values())))


def _rank_span(
    queries: Sequence[Query],
    vectors: Tensor,
    gallery: Tensor,
    span: range,
    depth: int,
    score: Callable[[Tensor, Tensor], Tensor] | None,
) -> Ranking:
    wanted = RankRequest(
        depth=depth,
        positives=[[row - span.start for row in query.positives] for query in queries],
        removed=[None if q.removed is None else q.removed - span.start for q in queries],
        members=[[row - span.start for row in query.members] for query in queries],
    )
    found = rank_vectors(vectors, gallery[span.start : span.stop], wanted, score)
    return replace(
        found,
        top=_shift_rows(found.top, span.start),
        members=_shift_rows(found.members, span.start),
    )


def _shift_rows(rows: NDArray[np.int32], start: int) -> NDArray[np.int32]:
    """Turn rows of a span into rows of the whole gallery."""
    return np.where(rows < 0, -1, rows + np.int32(start))
