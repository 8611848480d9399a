"""Ranks each query against candidates of its own: few pairs, each scored exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from cirbench.benchmark.ranking.dot_product import DotProduct, Scored
from cirbench.benchmark.ranking.equal_vectors import Rows
from cirbench.benchmark.ranking.own_score import OwnScore
from cirbench.benchmark.ranking.parts import BLOCK_BYTES, FRAGILE, to_pairs
from cirbench.benchmark.ranking.rank import Ranking
from cirbench.benchmark.runtime.torch_state import full_float32


@full_float32()
def rank_candidates(
    queries: Tensor,
    gallery: Tensor,
    candidates: Sequence[Sequence[int]],
    positives: Sequence[Sequence[int]],
    *,
    depth: int,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Ranking:
    """Rank some of (N, D) gallery vectors for each of Q queries.

    Args:
        candidates: per query, rows of the gallery in the order by which equal scores go; a row may
            stand there more than once.
        positives: per query, the rows that count as found.
        score: as `rank_vectors` has it.

    Raises:
        CorruptData: a vector or a score is not finite.
    """
    query, row = to_pairs(candidates)
    place = np.concatenate([np.arange(len(own)) for own in candidates])
    pairs = query, place
    shape = len(candidates), max(depth, *map(len, candidates))
    rows = np.full(shape, -1, dtype=np.int32)
    scores = np.full(shape, -np.inf, dtype=np.float32)
    hits = np.zeros(shape, dtype=bool)
    rows[pairs] = row
    scores[pairs] = _score_pairs(queries, gallery, query, row, score)
    hits[pairs] = [r in own for own, c in zip(positives, candidates, strict=True) for r in c]
    order = np.argsort(-scores, axis=1, kind="stable")
    rows, scores, hits = (
        np.take_along_axis(table, order, axis=1) for table in (rows, scores, hits)
    )

    found, first = hits.any(axis=1), hits.argmax(axis=1)
    best = np.where(found, scores[np.arange(len(scores)), first], np.inf)
    apart = np.where(hits, np.inf, np.abs(scores.astype(np.float64) - best[:, None]))
    return Ranking(
        top=rows[:, :depth],
        similarity=scores[:, :depth],
        first_rank=np.where(found, 1 + first, 0),
        tied=np.any(apart == 0, axis=1),
        fragile=np.any(apart <= FRAGILE, axis=1),
        members=np.zeros((len(candidates), 0), dtype=np.int32),
    )


def _score_pairs(
    queries: Tensor,
    gallery: Tensor,
    query: Rows,
    row: Rows,
    score: Callable[[Tensor, Tensor], Tensor] | None,
) -> Scored:
    """(P,) scores of pairs of a query and a row, the queries in their order."""
    if score is None:
        return DotProduct(queries, gallery).exact_of_rows(query, row)
    scores = OwnScore(score, queries, gallery)
    vector, found = scores.copies.vector[row], [np.zeros(0, dtype=np.float32)]
    height = max(1, BLOCK_BYTES // (4 * len(gallery)))
    for start in range(0, len(queries), height):
        first, end = np.searchsorted(query, [start, start + height])
        block = scores(slice(start, start + height))
        own = torch.from_numpy(query[first:end] - start), torch.from_numpy(vector[first:end])
        found.append(block[own].cpu().numpy())
    return np.concatenate(found)
