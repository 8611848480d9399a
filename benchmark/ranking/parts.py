"""Partial rankings of consecutive parts of a gallery, and how they merge.

Fast scores nominate, exact ones decide: what the fast product can't have wrong, being further than
its margin from the score in question, is counted; the rest is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.ranking.dot_product import DotProduct, Scored
from cirbench.benchmark.ranking.equal_vectors import Copies, Rows
from cirbench.benchmark.ranking.own_score import OwnScore
from cirbench.benchmark.ranking.scan import Scan, scan
from cirbench.benchmark.runtime.errors import CorruptData
from cirbench.benchmark.runtime.threads import map_in_threads

BLOCK_BYTES = 128 * 2**20
"""Size of the blocks of scores that all threads hold; a few arrays of that size are beside them."""
LEAST_BLOCK_BYTES = 32 * 2**20
"""One thread's: a matmul of fewer rows is slower."""
GPU_THREADS = 3
"""While one of them looks at what was nominated, the GPU scores the others' blocks."""
GPU_BLOCK_BYTES = 256 * 2**20
FRAGILE = 1e-6
"""A query is fragile where scores that were off by so much could move its first rank."""
_BAND = 1.25 * FRAGILE
"""What is looked at around a best positive besides the margin: a little more, since the bounds of
the band are rounded."""

ScoreFunction = Callable[[slice], Tensor]
"""Query rows → their scores against the gallery's rows, (rows, N) float32, read before the next are
asked for. They are taken as they are, but for those of a `DotProduct`; those of an `OwnScore` are
against its distinct vectors."""


@dataclass(frozen=True, kw_only=True)
class RankRequest:
    """A request to rank Q queries, in rows of the whole gallery.

    Attributes:
        depth: K, how many of the best to keep.
        positives: per query, the rows that count as found.
        removed: per query, the row left out of its ranking, or None.
        members: per query, the rows that are also ranked among themselves.
    """

    depth: int
    positives: Sequence[Sequence[int]]
    removed: Sequence[int | None] | None = None
    members: Sequence[Sequence[int]] | None = None

    def select(self, queries: slice) -> RankRequest:
        """Select some of the queries."""
        return replace(
            self,
            positives=self.positives[queries],
            removed=self.removed and self.removed[queries],
            members=self.members and self.members[queries],
        )

    @cached_property
    def targets(self) -> tuple[Rows, Rows]:
        """(P,) queries and rows of the positives that are ranked, each once."""
        removed = self.removed or [None] * len(self.positives)
        return to_pairs(
            [
                [row for row in dict.fromkeys(rows) if row != gone]
                for rows, gone in zip(self.positives, removed, strict=True)
            ]
        )

    @property
    def removed_rows(self) -> tuple[Rows, Rows]:
        """(P,) queries and the rows removed from their rankings."""
        return to_pairs([[] if row is None else [row] for row in self.removed or ()])


@dataclass(frozen=True)
class ScoredPairs:
    """Exact scores of P pairs of a query and a row of the gallery."""

    query: Rows
    row: Rows
    score: Scored


@dataclass(frozen=True)
class VectorPairs:
    """Exact scores of P pairs of a query and a vector that some rows hold.

    Attributes:
        rows, earlier: (P,) how many rows do, and how many of these stand before the query's best
            positive.
    """

    query: Rows
    score: Scored
    rows: Rows
    earlier: Rows


@dataclass(frozen=True)
class BestPositives:
    """Each query's best-ranked positive.

    Attributes:
        score: (Q,) float32, exact; inf where there is none, which nothing reaches.
        row: (Q,) int64, of equal ones the first.
    """

    score: Scored
    row: Rows

    @classmethod
    def choose(cls, targets: ScoredPairs, queries: int) -> BestPositives:
        """Choose each query's best-ranked positive."""
        best = np.full(queries, -np.inf, dtype=np.float32)
        np.maximum.at(best, targets.query, targets.score)
        first = np.full(queries, np.iinfo(np.int64).max)
        level = targets.score == best[targets.query]
        np.minimum.at(first, targets.query[level], targets.row[level])
        return cls(np.where(np.isneginf(best), np.float32(np.inf), best), first)

    def select(self, queries: slice) -> BestPositives:
        """Select those of some queries."""
        return BestPositives(self.score[queries], self.row[queries])

    def check(self, targets: ScoredPairs, first: int) -> None:
        """Hold them to positives of one part; `first` is the number of the first query.

        Raises:
            CorruptData: one of these has another score.
        """
        own = self.row[targets.query] == targets.row
        off = targets.query[own][targets.score[own] != self.score[targets.query[own]]]
        if len(off):
            raise CorruptData(
                f"query {first + off[0]}: the score of its best positive must be that of the "
                "ranked vectors; do not change the vectors while they are ranked"
            )

    def place(self, pairs: ScoredPairs) -> VectorPairs:
        """Place each pair before or after its query's best positive."""
        earlier = (pairs.row < self.row[pairs.query]).astype(np.int64)
        return VectorPairs(pairs.query, pairs.score, np.ones_like(pairs.query), earlier)

    def count_before(self, found: VectorPairs) -> Rows:
        """(Q,) how many rows are ranked before each best positive."""
        level = self.score[found.query]
        even = np.where(found.score == level, found.earlier, 0)
        return self._sum(found.query, np.where(found.score > level, found.rows, even))

    def count_close(self, found: VectorPairs, distance: float) -> Rows:
        """(Q,) how many rows score at most so much more or less."""
        apart = np.abs(found.score.astype(np.float64) - self.score[found.query])
        return self._sum(found.query, np.where(apart <= distance, found.rows, 0))

    def _sum(self, query: Rows, rows: Rows) -> Rows:
        return np.bincount(query, weights=rows, minlength=len(self.score)).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class PartialRanking:
    """The ranking of one part of the gallery; `merge` makes one of two.

    Attributes:
        top, similarity: (Q, K), as in `Ranking`.
        before: (Q,) how many items are ranked before the best positive.
        tied, fragile: (Q,) as in `Ranking`.
        member_scores: (Q, M), -inf for those elsewhere.
    """

    top: NDArray[np.int32]
    similarity: Scored
    before: NDArray[np.int64]
    tied: NDArray[np.bool_]
    fragile: NDArray[np.bool_]
    member_scores: Scored

    @property
    def floor(self) -> Scored:
        """(Q,) what a row of a later part must reach to be kept."""
        return self.similarity[:, -1]


@dataclass(frozen=True)
class _Block:
    """Scores of B queries against the distinct vectors of some rows.

    Attributes:
        fast: (B, V) float32.
        margin: (B,) float32 beside them: how far they may lie from the exact ones.
        exact, exact_of_rows: (P,) queries of the block and (P,) vectors, or rows → (P,) float32.
        copies: which of the rows hold which of the V vectors.
        start: the first of the rows, in the whole gallery.
        first: the first of the queries, among all.
    """

    fast: Tensor
    margin: Tensor
    exact: Callable[[Rows, Rows], Scored]
    exact_of_rows: Callable[[Rows, Rows], Scored]
    copies: Copies
    start: int
    first: int

    @classmethod
    def score(cls, scores: ScoreFunction, queries: slice, rows: range) -> _Block:
        fast = scores(queries)
        if isinstance(scores, DotProduct):
            return cls(
                fast=fast,
                margin=scores.margin[queries],
                exact=lambda query, vector: scores.exact(query + queries.start, vector),
                exact_of_rows=lambda query, row: scores.exact_of_rows(query + queries.start, row),
                copies=scores.copies,
                start=rows.start,
                first=queries.start,
            )

        copies = scores.copies if isinstance(scores, OwnScore) else Copies.single(len(rows))

        def given(query: Rows, vector: Rows) -> Scored:
            return fast[torch.from_numpy(query), torch.from_numpy(vector)].cpu().numpy()

        return cls(
            fast=fast,
            margin=fast.new_zeros(len(fast)),
            exact=given,
            exact_of_rows=lambda query, row: given(query, copies.vector[row]),
            copies=copies,
            start=rows.start,
            first=queries.start,
        )

    def score_pairs(self, query: Rows, row: Rows) -> ScoredPairs:
        """Score exactly those of the pairs whose rows are here."""
        here = (row >= self.start) & (row < self.start + len(self.copies.vector))
        query, row = query[here], row[here]
        return ScoredPairs(query, row, self.exact_of_rows(query, row - self.start))

    def score_near(self, found: Scan, best: BestPositives) -> VectorPairs:
        """Score exactly what may tie with the best positives."""
        query, vector = found.near_row, found.near_column
        row = np.clip(best.row[query] - self.start, 0, len(self.copies.vector))
        earlier = self.copies.count_before(vector, row)
        return VectorPairs(query, self.exact(query, vector), self.copies.count[vector], earlier)

    def count_above(self, found: Scan, high: Tensor) -> Rows:
        """(B,) how many rows score more than `high`, by fast scores."""
        if not self.copies.any:
            return found.above
        several = np.flatnonzero(self.copies.count > 1)
        above = self.fast[:, torch.from_numpy(several)] > high[:, None]
        others = torch.from_numpy(self.copies.count[several] - 1).to(above.device)
        return found.above + (above.double() @ others.double()).cpu().numpy().astype(np.int64)


def rank_part(
    scores: ScoreFunction,
    wanted: RankRequest,
    rows: range,
    best: BestPositives | None = None,
    floor: Scored | None = None,
) -> PartialRanking:
    """Rank those rows of the gallery; `scores` are against them alone.

    Args:
        best: what `find_best_positives` gave; None where the rows are the whole gallery.
        floor: (Q,) the `floor` of the parts before, which only spares work.

    Raises:
        CorruptData: `best` is not of these vectors, or a fast score differs from the exact one by
            more than the margin.
    """
    queries = len(wanted.positives)
    members_width = max((len(own) for own in wanted.members or ()), default=0)
    floor = np.full(queries, -np.inf, dtype=np.float32) if floor is None else floor
    threads, block_bytes = _share_work(scores)
    size = _choose_block_height(queries, len(rows), threads, block_bytes)

    def rank_block(start: int) -> PartialRanking:
        part = slice(start, min(start + size, queries))
        block = _Block.score(scores, part, rows)
        own = best.select(part) if best else None
        return _rank_block(block, wanted.select(part), own, floor[part], members_width)

    starts = range(0, queries, size)
    parts = map_in_threads(rank_block, starts, threads)
    return PartialRanking(
        **{
            f.name: np.concatenate([getattr(part, f.name) for part in parts])
            for f in fields(PartialRanking)
        }
    )


def _share_work(scores: ScoreFunction) -> tuple[int, int]:
    """How many threads rank blocks, each one block at a time, and the bytes of a block."""
    if isinstance(scores, DotProduct) and not scores.on_cpu:
        return GPU_THREADS, GPU_BLOCK_BYTES
    if not (isinstance(scores, DotProduct | OwnScore) and scores.on_cpu):
        return 1, BLOCK_BYTES
    threads = torch.get_num_threads()
    return threads, max(BLOCK_BYTES // threads, min(LEAST_BLOCK_BYTES, BLOCK_BYTES))


def _choose_block_height(queries: int, columns: int, threads: int, block_bytes: int) -> int:
    """Choose how many queries a block has: all, or as many as give each thread as many blocks."""
    highest = max(1, block_bytes // (4 * max(1, columns)))
    if queries <= highest:
        return highest
    return math.ceil(queries / (threads * math.ceil(queries / (threads * highest))))


def _rank_block(
    block: _Block,
    wanted: RankRequest,
    best: BestPositives | None,
    floor: Scored,
    members_width: int,
) -> PartialRanking:
    device = block.fast.device
    targets = block.score_pairs(*wanted.targets)
    if best is None:
        best = BestPositives.choose(targets, len(block.fast))
    else:
        best.check(targets, block.first)
    removed = block.score_pairs(*wanted.removed_rows)
    level, band = torch.from_numpy(best.score).to(device), block.margin + _BAND
    depth = min(wanted.depth + 1, block.fast.shape[1])  # one more, since one may be removed
    reach = torch.from_numpy(floor).to(device) - block.margin
    found = scan(block.fast, depth, 2 * block.margin, reach, level - band, level + band)
    near, own, gone = block.score_near(found, best), best.place(targets), best.place(removed)
    above = block.count_above(found, level + band)
    top, similarity = _order_best(block, found, wanted)

    def has_rival(distance: float) -> NDArray[np.bool_]:
        close = [best.count_close(pairs, distance) for pairs in (near, own, gone)]
        return close[0] > close[1] + close[2]

    return PartialRanking(
        top=top,
        similarity=similarity,
        before=above + best.count_before(near) - best.count_before(gone),
        tied=has_rival(0),
        fragile=has_rival(FRAGILE),
        member_scores=_score_members(block, wanted, members_width),
    )


def _order_best(
    block: _Block, found: Scan, wanted: RankRequest
) -> tuple[NDArray[np.int32], Scored]:
    """(B, depth) rows and exact scores of the best, equal ones by row; -1 and -inf beyond."""
    query, vector = found.row, found.column
    exact = block.exact(query, vector)
    _check_margin(block, found, exact)
    if block.copies.any:
        query, vector, exact = _keep_needed(block, query, vector, exact, wanted.depth + 1)
        vector, place = block.copies.expand(vector, wanted.depth + 1)
        query, exact = query[place], exact[place]
    row = vector + block.start
    gone = np.array([-1 if own is None else own for own in wanted.removed or ()], dtype=np.int64)
    if len(gone):
        kept = row != gone[query]
        query, exact, row = query[kept], exact[kept], row[kept]
    keys = np.sort(
        _make_table(query, _make_keys(exact, row), len(block.fast), wanted.depth), axis=1
    )
    keys = keys[:, : wanted.depth]
    real = keys != _LAST
    rows = (keys & _LOWER).astype(np.int32)
    return np.where(real, rows, np.int32(-1)), np.where(
        real, _read_scores(keys), np.float32(-np.inf)
    )


def _keep_needed(
    block: _Block, query: Rows, vector: Rows, exact: Scored, depth: int
) -> tuple[Rows, Rows, Scored]:
    """Drop the pairs that at least `depth` better rows of their query stand before."""
    keys = np.sort(_make_table(query, _make_keys(exact, vector), len(block.fast), 1), axis=1)
    real, score = keys != _LAST, _read_scores(keys)
    count = np.where(real, block.copies.count[np.where(real, keys & _LOWER, 0)], 0)
    before = np.cumsum(count, axis=1) - count
    begins = np.ones_like(real)
    begins[:, 1:] = score[:, 1:] != score[:, :-1]
    better = np.maximum.accumulate(np.where(begins, before, 0), axis=1)
    chosen = real & (better < depth)
    return np.nonzero(chosen)[0], (keys & _LOWER)[chosen].astype(np.int64), score[chosen]


def _make_table(
    query: Rows, keys: NDArray[np.uint64], queries: int, width: int
) -> NDArray[np.uint64]:
    """(Q, ≥ width) keys by query, which come in their order, filled up with the last of all."""
    count = np.bincount(query, minlength=queries)
    table = np.full((queries, max(width, count.max())), _LAST, dtype=np.uint64)
    table[np.arange(table.shape[1]) < count[:, None]] = keys
    return table


def _check_margin(block: _Block, found: Scan, exact: Scored) -> None:
    off = np.abs(found.score - exact)
    if (off > block.margin.cpu().numpy()[found.row]).any():
        raise CorruptData(
            f"matrix products must be computed in float32, and a score is off by {off.max():.1e}; "
            f"torch.set_float32_matmul_precision('highest') mends it"
        )


_LOWER = np.uint64(2**32 - 1)
_LAST = np.uint64(2**64 - 1)
_SIGN = np.uint32(2**31)


def _make_keys(score: Scored, row: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Make integers that sort by falling score, equal ones by rising row.

    The bits of a positive float, read as a number, are in its order; those of a negative one in the
    opposite order (as radix sorts of floats have it; Knuth, TAOCP 3, section 5.2.5).
    """
    bits = (score + np.float32(0)).view(np.uint32)  # -0 and 0 are equal
    falling = np.where(bits & _SIGN, bits, ~(bits | _SIGN))
    return falling.astype(np.uint64) << np.uint64(32) | row.astype(np.uint64)


def _read_scores(key: NDArray[np.uint64]) -> Scored:
    """The score in a key."""
    falling = (key >> np.uint64(32)).astype(np.uint32)
    bits: NDArray[np.uint32] = np.where(falling & _SIGN, falling, ~(falling | _SIGN))
    return bits.view(np.float32)


def _score_members(block: _Block, wanted: RankRequest, width: int) -> Scored:
    """(B, width) exact scores of each query's members in the order of their rows; -inf elsewhere,
    and for the removed one."""
    found = np.full((len(block.fast), width), -np.inf, dtype=np.float32)
    members = [sorted(own) for own in wanted.members or ()]
    pairs = block.score_pairs(*to_pairs(members))
    place = {(query, row): i for query, own in enumerate(members) for i, row in enumerate(own)}
    for query, row, score in zip(
        pairs.query.tolist(), pairs.row.tolist(), pairs.score, strict=True
    ):
        if not wanted.removed or wanted.removed[query] != row:
            found[query, place[query, row]] = score
    return found


def to_pairs(rows: Sequence[Sequence[int]]) -> tuple[Rows, Rows]:
    """Ragged rows → (P,) the number of each one's query, and (P,) the rows themselves."""
    query = np.repeat(np.arange(len(rows)), [len(own) for own in rows])
    return query, np.array([row for own in rows for row in own], dtype=np.int64)


def merge(left: PartialRanking, right: PartialRanking) -> PartialRanking:
    """Merge two partial rankings; all rows of the left come before those of the right."""
    similarity = np.concatenate([left.similarity, right.similarity], axis=1)
    best_first = torch.from_numpy(similarity).sort(dim=1, descending=True, stable=True)
    places = best_first.indices[:, : left.top.shape[1]].numpy()
    return PartialRanking(
        top=np.take_along_axis(np.concatenate([left.top, right.top], axis=1), places, axis=1),
        similarity=best_first.values[:, : left.top.shape[1]].numpy(),
        before=left.before + right.before,
        tied=left.tied | right.tied,
        fragile=left.fragile | right.fragile,
        member_scores=np.maximum(left.member_scores, right.member_scores),
    )
