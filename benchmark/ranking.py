"""Exact ranking: float32, ties broken by gallery order and counted, a block of queries at a time.

A gallery may come in parts (slices of a memory-mapped file, shards of several jobs): each part is
ranked alone, and `merged` parts are what the whole would have given.

Nothing here knows files or tasks. Scores come from a function of query rows, so a score that is no
dot product needs no other ranking.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.errors import CorruptData
from cirbench.benchmark.ranking_parts import (
    BLOCK_BYTES,
    MARGIN,
    Part,
    Scores,
    Wanted,
    beside,
    rank_part,
)

PART_ROWS = 2**16
"""Gallery rows that are scored at once."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """What a ranking of Q queries against N gallery items came to.

    Attributes:
        top: (Q, K) int32, gallery rows, best first; -1 where fewer than K items are ranked.
        similarity: (Q, K) float32, their scores; -inf beside -1.
        first_rank: (Q,) int64, 1-based rank of the best-ranked positive; 0 where there is none.
        tied: (Q,) bool, whether an item that is no positive scores exactly what the best-ranked
            positive does, so that gallery order decided.
        members: (Q, M) int32, the query's members alone, best first; -1 beyond their number.
    """

    top: NDArray[np.int32]
    similarity: NDArray[np.float32]
    first_rank: NDArray[np.int64]
    tied: NDArray[np.bool_]
    members: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))


def dot_product(queries: Tensor, gallery: Tensor) -> Scores:
    """Scores of (Q, D) unit vectors against (N, D) unit vectors, in float32 on their device."""
    queries, gallery = queries.float(), gallery.float()
    block = queries.new_empty(0)

    def scores(rows: slice) -> Tensor:
        block.resize_(len(queries[rows]), len(gallery))  # new memory costs a fifth of the product
        return torch.mm(queries[rows], gallery.T, out=block)

    return scores


def rank(
    scores: Scores,
    positives: Sequence[Sequence[int]],
    gallery_size: int,
    *,
    depth: int,
    removed: Sequence[int | None] | None = None,
    members: Sequence[Sequence[int]] | None = None,
) -> Ranking:
    """Ranks the gallery for each query; see `Wanted` for what is asked."""
    wanted = Wanted(depth=depth, positives=positives, removed=removed, members=members)
    return merged([rank_part(scores, wanted, range(gallery_size))], wanted)


def rank_vectors(queries: Tensor, gallery: Tensor, wanted: Wanted) -> Ranking:
    """Ranks (N, D) unit vectors by dot product for (Q, D) unit vectors.

    A gallery of more than `PART_ROWS` is read once, a part at a time, so it may be a memory-mapped
    file that is larger than memory.
    """
    if len(gallery) <= PART_ROWS:
        return merged(
            [rank_part(dot_product(queries, gallery), wanted, range(len(gallery)))], wanted
        )
    around = best_positive(queries, gallery, wanted)
    parts = (
        rank_part(dot_product(queries, gallery[start : start + PART_ROWS]), wanted,
                  range(start, min(start + PART_ROWS, len(gallery))), around)
        for start in range(0, len(gallery), PART_ROWS)
    )  # fmt: skip
    return merged(parts, wanted, around)


def best_positive(queries: Tensor, gallery: Tensor, wanted: Wanted) -> Tensor:
    """(Q,) float32: each query's best score of a positive, within `MARGIN`; -inf without one."""
    removed = wanted.removed or [None] * len(queries)
    pairs = torch.tensor(
        [(query, row) for query, rows in enumerate(wanted.positives) for row in rows
         if row != removed[query]], dtype=torch.long,
    ).reshape(-1, 2)  # fmt: skip
    best = torch.full((len(queries),), -torch.inf)
    size = max(1, BLOCK_BYTES // (8 * queries.shape[1]))
    for start in range(0, len(pairs), size):
        chunk = pairs[start : start + size]
        query, row = chunk.to(queries.device).T
        products = (queries[query].float() * gallery[row].float()).sum(1)
        best.scatter_reduce_(0, query.cpu(), products.cpu(), "amax")
    return best


def merged(parts: Iterable[Part], wanted: Wanted, around: Tensor | None = None) -> Ranking:
    """The ranking of the whole gallery from its parts in their order, wherever these were made.

    Raises:
        CorruptData: a positive's score is not what `around` says, so that parts were counted wrong.
    """
    whole = reduce(beside, parts)
    if around is not None and (off := _off(whole.best, around.numpy())).any():
        raise CorruptData(
            f"query {int(np.flatnonzero(off)[0])}: the score of its best positive differs between "
            f"two computations by more than {MARGIN}; are all vectors finite and of unit length?"
        )
    level = whole.near.score == whole.best[whole.near.query]
    earlier = level & (whole.near.row < whole.best_item[whole.near.query])
    before = whole.near.query[(whole.near.score > whole.best[whole.near.query]) | earlier]
    queries = len(whole.best)
    first_rank = 1 + whole.above + np.bincount(before, minlength=queries)
    return Ranking(
        top=whole.top.astype(np.int32),
        similarity=whole.similarity,
        first_rank=np.where(np.isneginf(whole.best), 0, first_rank),
        tied=np.bincount(whole.near.query[level], minlength=queries) > 0,
        members=_ranked_members(whole.member_scores, wanted.members or [()] * queries),
    )


def _off(best: NDArray[np.float32], around: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where two scores of the best positive differ by more than the margin, or one is missing."""
    with np.errstate(invalid="ignore"):
        near: NDArray[np.bool_] = np.abs(best - around) <= MARGIN
    return ~near & ~(np.isneginf(best) & np.isneginf(around))


def _ranked_members(
    scores: NDArray[np.float32], members: Sequence[Sequence[int]]
) -> NDArray[np.int32]:
    """(Q, M) gallery rows of each query's members, best first, equal ones in gallery order."""
    rows = np.full(scores.shape, -1, dtype=np.int32)
    for query, own in enumerate(members):
        rows[query, : len(own)] = sorted(own)
    return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def joined(parts: Sequence[Ranking], order: NDArray[np.int64]) -> Ranking:
    """Rankings of parts of the queries as one; `order` lists their queries, part after part."""
    back = np.argsort(order, kind="stable")
    return Ranking(
        top=np.concatenate([part.top for part in parts])[back],
        similarity=np.concatenate([part.similarity for part in parts])[back],
        first_rank=np.concatenate([part.first_rank for part in parts])[back],
        tied=np.concatenate([part.tied for part in parts])[back],
        members=_stacked([part.members for part in parts])[back],
    )


def _stacked(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Arrays one above the other, the narrower ones filled up with -1."""
    width = max(part.shape[1] for part in parts)
    filled = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in parts
    ]
    return np.concatenate(filled)
