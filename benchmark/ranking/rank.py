"""Exact ranking: ties broken by gallery order and counted, a block of queries at a time.

A score is the dot product of float32 vectors, added in one order and rounded once to float32 (see
`dot_product`): the same on every processor and GPU, with any number of threads and any blocks.

A gallery may come in parts (slices of a memory-mapped file, shards of several jobs): each part is
ranked alone, and `merge_parts` gives what the whole would have given.

Nothing here knows files or tasks. Scores come from a function of query rows, so a score that is no
dot product needs no other ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.ranking.dot_product import DotProduct, Scored
from cirbench.benchmark.ranking.equal_vectors import Rows
from cirbench.benchmark.ranking.own_score import OwnScore
from cirbench.benchmark.ranking.parts import (
    BestPositives,
    PartialRanking,
    RankRequest,
    ScoredPairs,
    ScoreFunction,
    merge,
    rank_part,
)
from cirbench.benchmark.runtime.torch_state import full_float32

PART_ROWS = 2**16
"""Gallery rows that are scored at once."""
GPU_PARTS = 4
"""A GPU scores so many times as many: it has the memory, and fewer are nominated in all."""
_TARGETS_AT_ONCE = 2**15


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """The ranking of N gallery items for each of Q queries.

    Attributes:
        top: (Q, K) int32, gallery rows, best first; -1 where fewer than K items are ranked.
        similarity: (Q, K) float32, their scores; -inf beside -1.
        first_rank: (Q,) int64, 1-based rank of the best-ranked positive; 0 where there is none.
        tied: (Q,) bool, whether an item that is no positive scores exactly what the best-ranked
            positive does, so that gallery order decided.
        fragile: (Q,) bool, whether one scores within 1e-6 of it, so that embeddings which differ
            in their last digits could give another first rank.
        members: (Q, M) int32, the query's members alone, best first; -1 beyond their number.
    """

    top: NDArray[np.int32]
    similarity: NDArray[np.float32]
    first_rank: NDArray[np.int64]
    tied: NDArray[np.bool_]
    fragile: NDArray[np.bool_]
    members: NDArray[np.int32] = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int32))


def dot_product(queries: Tensor, gallery: Tensor) -> DotProduct:
    """Scores of (Q, D) unit vectors against (N, D) unit vectors, on the device of the queries."""
    return DotProduct(queries, gallery)


def rank(
    scores: ScoreFunction,
    positives: Sequence[Sequence[int]],
    gallery_size: int,
    *,
    depth: int,
    removed: Sequence[int | None] | None = None,
    members: Sequence[Sequence[int]] | None = None,
) -> Ranking:
    """Rank the gallery for each query; see `RankRequest` for what is asked."""
    wanted = RankRequest(depth=depth, positives=positives, removed=removed, members=members)
    return merge_parts([rank_part(scores, wanted, range(gallery_size))], wanted)


@full_float32()
def rank_vectors(
    queries: Tensor,
    gallery: Tensor,
    wanted: RankRequest,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Ranking:
    """Rank (N, D) unit vectors by dot product for (Q, D) unit vectors, or by another score.

    A gallery of more than `PART_ROWS` is read once, a part at a time, so it may be a memory-mapped
    file that is larger than memory, or lie in the CPU's memory where the queries are on a GPU.

    Args:
        score: (B, …) of the queries and (N, D) → (B, N) float32; None is the dot product.

    Raises:
        CorruptData: a vector or a score is not finite.
    """
    size = len(gallery)
    if score is not None:
        whole = rank_part(OwnScore(score, queries, gallery), wanted, range(size))
        return merge_parts([whole], wanted)
    at_once = PART_ROWS if queries.device.type == "cpu" else GPU_PARTS * PART_ROWS
    if size <= at_once:
        whole = rank_part(DotProduct(queries, gallery), wanted, range(size))
        return merge_parts([whole], wanted)
    best = find_best_positives(queries, gallery, wanted)
    parts: list[
        PartialRanking
    ] = []  # one, which the next merges into: it says what that must reach
    for rows, scores in _score_parts(queries, gallery, at_once):
        floor = parts[0].floor if parts else None
        parts = [reduce(merge, [*parts, rank_part(scores, wanted, rows, best, floor)])]
    return merge_parts(parts, wanted)


def _score_parts(
    queries: Tensor, gallery: Tensor, at_once: int
) -> Iterator[tuple[range, DotProduct]]:
    """Parts of the gallery; for a GPU each is copied and prepared while it ranks the one before."""
    parts = [
        range(start, min(start + at_once, len(gallery)))
        for start in range(0, len(gallery), at_once)
    ]

    def prepare(rows: range) -> tuple[range, DotProduct]:
        return rows, DotProduct(queries, gallery[rows.start : rows.stop])

    if queries.device.type == "cpu":
        yield from map(prepare, parts)
        return
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(prepare, parts[0])
        for rows in parts[1:]:
            ready, following = following, pool.submit(prepare, rows)
            yield ready.result()
        yield following.result()


def find_best_positives(queries: Tensor, gallery: Tensor, wanted: RankRequest) -> BestPositives:
    """Find each query's best-ranked positive, reading only the rows of the positives."""
    query, row = wanted.targets
    scores = [np.zeros(0, dtype=np.float32)]
    for start in range(0, len(row), _TARGETS_AT_ONCE):
        part = slice(start, start + _TARGETS_AT_ONCE)
        scores.append(_score_pairs(queries, gallery, query[part], row[part]))
    return BestPositives.choose(ScoredPairs(query, row, np.concatenate(scores)), len(queries))


def _score_pairs(queries: Tensor, gallery: Tensor, query: Rows, row: Rows) -> Scored:
    """(P,) exact scores; no other rows of the gallery are read."""
    used, place = np.unique(row, return_inverse=True)
    return DotProduct(queries, gallery[used.tolist()]).exact_of_rows(query, place)


def merge_parts(parts: Iterable[PartialRanking], wanted: RankRequest) -> Ranking:
    """Merge the partial rankings of a gallery in their order, wherever these were made."""
    whole = reduce(merge, parts)
    found = np.zeros(len(whole.before), dtype=bool)
    found[wanted.targets[0]] = True
    return Ranking(
        top=whole.top,
        similarity=whole.similarity,
        first_rank=np.where(found, 1 + whole.before, 0),
        tied=whole.tied,
        fragile=whole.fragile,
        members=_rank_members(whole.member_scores, wanted.members or [()] * len(found)),
    )


def _rank_members(
    scores: NDArray[np.float32], members: Sequence[Sequence[int]]
) -> NDArray[np.int32]:
    """(Q, M) gallery rows of each query's members, best first, equal ones in gallery order."""
    rows = np.full(scores.shape, -1, dtype=np.int32)
    for query, own in enumerate(members):
        rows[query, : len(own)] = sorted(own)
    return np.take_along_axis(rows, np.argsort(-scores, axis=1, kind="stable"), axis=1)


def join_queries(parts: Sequence[Ranking], order: NDArray[np.int64]) -> Ranking:
    """Join rankings of parts of the queries; `order` lists their queries, part after part."""
    back = np.argsort(order, kind="stable")
    return Ranking(
        top=np.concatenate([part.top for part in parts])[back],
        similarity=np.concatenate([part.similarity for part in parts])[back],
        first_rank=np.concatenate([part.first_rank for part in parts])[back],
        tied=np.concatenate([part.tied for part in parts])[back],
        fragile=np.concatenate([part.fragile for part in parts])[back],
        members=_stack([part.members for part in parts])[back],
    )


def _stack(parts: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """Stack arrays, the narrower ones filled up with -1."""
    width = max(part.shape[1] for part in parts)
    filled = [
        np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in parts
    ]
    return np.concatenate(filled)
