"""What one part of a gallery comes to for each query, and how two parts become one.

Exact whatever the parts are: the score that a query's best positive will turn out to have is known
within a margin before, so a part counts what lies above that margin and keeps what lies within.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.scan import Scan, scan

BLOCK_BYTES = 128 * 2**20
"""Size of one block of scores; a few such blocks are alive at a time."""
MARGIN = 1e-5
"""How far two computations of one dot product of unit vectors may lie apart: a hundred times what
float32 usually rounds off."""

Scores = Callable[[slice], Tensor]
"""Query rows → their scores against the gallery's rows, (rows, N) float32, free to be changed, and
read before the next are asked for."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for Q queries, in rows of the whole gallery.

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

    def block(self, queries: slice) -> Wanted:
        """The same of some queries."""
        return replace(
            self,
            positives=self.positives[queries],
            removed=self.removed and self.removed[queries],
            members=self.members and self.members[queries],
        )


@dataclass(frozen=True, slots=True)
class Near:
    """Some scores, as equally long arrays: of which query, with which gallery row."""

    query: NDArray[np.int64]
    row: NDArray[np.int64]
    score: NDArray[np.float32]

    @classmethod
    def none(cls) -> Self:
        """No score."""
        empty = np.zeros(0, dtype=np.int64)
        return cls(empty, empty, np.zeros(0, dtype=np.float32))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The scores of all parts."""
        return cls(
            np.concatenate([part.query for part in parts]),
            np.concatenate([part.row for part in parts]),
            np.concatenate([part.score for part in parts]),
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one part of the gallery came to; parts merge into what the whole comes to.

    Attributes:
        top, similarity: (Q, K), as in `Ranking`.
        best, best_item: (Q,) the best score of a positive, -inf where none is here, and its row.
        above: (Q,) how many items score higher than the best positive of the whole gallery can.
        near: items that are no positives and may score just what that one does.
        member_scores: (Q, M), -inf for those elsewhere.
    """

    top: NDArray[np.int64]
    similarity: NDArray[np.float32]
    best: NDArray[np.float32]
    best_item: NDArray[np.int64]
    above: NDArray[np.int64]
    near: Near
    member_scores: NDArray[np.float32]


def rank_part(scores: Scores, wanted: Wanted, rows: range, around: Tensor | None = None) -> Part:
    """Ranks those rows of the gallery; `scores` are against them alone.

    Args:
        around: (Q,) what `best_positive` gave; None where the rows are the whole gallery.
    """
    queries = len(wanted.positives)
    size = max(1, BLOCK_BYTES // (4 * max(1, len(rows))))
    blocks = [
        slice(start, min(start + size, queries)) for start in range(0, queries, size)
    ]  # fmt: skip
    width = max((len(own) for own in wanted.members or ()), default=0)
    parts = [
        _rank_block(scores(block), wanted.block(block), rows, width,
                    None if around is None else around[block])
        for block in blocks
    ]  # fmt: skip
    return _below_each_other(parts, [block.start for block in blocks])


def _rank_block(
    scores: Tensor, wanted: Wanted, rows: range, members_width: int, around: Tensor | None
) -> Part:
    for query, row in enumerate(wanted.removed or ()):
        if row is not None and row in rows:
            scores[query, row - rows.start] = -torch.inf
    positives, real = _padded([_within(own, rows) for own in wanted.positives], scores.device)
    own = scores.gather(1, positives).masked_fill(~real, -torch.inf)
    best = own.amax(dim=1)
    best_item = positives.masked_fill((own < best[:, None]) | ~real, len(rows)).amin(dim=1)
    level, margin = (best, 0.0) if around is None else (around.to(scores.device), MARGIN)
    level = level.masked_fill(level.isneginf(), torch.inf)  # without a positive, no rivals
    depth = min(wanted.depth, scores.shape[1])
    low, high = level - margin, level + margin
    found = scan(scores, depth, low, high)
    query, place = ((own >= low[:, None]) & (own <= high[:, None])).nonzero().T
    items = np.where(np.isneginf(found.values), -1, found.columns + rows.start)
    missing = ((0, 0), (0, wanted.depth - depth))
    return Part(
        top=np.pad(items, missing, constant_values=-1),
        similarity=np.pad(found.values, missing, constant_values=-np.inf),
        best=best.cpu().numpy(),
        best_item=best_item.cpu().numpy() + rows.start,
        above=found.above,
        near=_rivals(scores, found, query, positives[query, place], rows.start),
        member_scores=_member_scores(scores, wanted.members, rows, members_width),
    )


def _rivals(scores: Tensor, found: Scan, query: Tensor, column: Tensor, first_row: int) -> Near:
    """What is near a query's best positive, but for its positives, in these places."""
    width = scores.shape[1]
    own = (query * width + column).cpu().numpy()
    others = ~np.isin(found.near_row * width + found.near_column, own)
    rows, columns = found.near_row[others], found.near_column[others]
    return Near(rows, columns + first_row, scores[rows, columns].cpu().numpy())


def _member_scores(
    scores: Tensor, members: Sequence[Sequence[int]] | None, rows: range, width: int
) -> NDArray[np.float32]:
    """(B, width) scores of each query's members in the order of their rows; -inf if elsewhere."""
    found = np.full((len(scores), width), -np.inf, dtype=np.float32)
    for query, own in enumerate(members or ()):
        for place, row in enumerate(sorted(own)):
            if row in rows:
                found[query, place] = scores[query, row - rows.start]
    return found


def _within(items: Sequence[int], rows: range) -> list[int]:
    """Those among the rows, each once, counted from the first of the rows."""
    return [item - rows.start for item in dict.fromkeys(items) if item in rows]


def beside(left: Part, right: Part) -> Part:
    """Two parts of the gallery as one; all rows of the left come before those of the right."""
    similarity = np.concatenate([left.similarity, right.similarity], axis=1)
    best_first = torch.from_numpy(similarity).sort(dim=1, descending=True, stable=True)
    places = best_first.indices[:, : left.top.shape[1]].numpy()
    right_is_best = right.best > left.best
    return Part(
        top=np.take_along_axis(np.concatenate([left.top, right.top], axis=1), places, axis=1),
        similarity=best_first.values[:, : left.top.shape[1]].numpy(),
        best=np.maximum(left.best, right.best),
        best_item=np.where(right_is_best, right.best_item, left.best_item),
        above=left.above + right.above,
        near=Near.joined([left.near, right.near]),
        member_scores=np.maximum(left.member_scores, right.member_scores),
    )


def _below_each_other(parts: Sequence[Part], starts: Sequence[int]) -> Part:
    """Blocks of queries against the same rows as one part."""
    near = [replace(part.near, query=part.near.query + start)
            for part, start in zip(parts, starts, strict=True)]  # fmt: skip

    def stacked(name: str) -> NDArray[Any]:
        return np.concatenate([getattr(part, name) for part in parts])

    return Part(
        top=stacked("top"), similarity=stacked("similarity"), best=stacked("best"),
        best_item=stacked("best_item"), above=stacked("above"), near=Near.joined(near),
        member_scores=stacked("member_scores"),
    )  # fmt: skip


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ragged rows → (B, longest) int64 padded with 0, and (B, longest) bool where they are real."""
    lengths = torch.tensor([len(row) for row in rows])
    width = max(1, int(lengths.max()))
    real = torch.arange(width) < lengths[:, None]
    padded = torch.zeros(real.shape, dtype=torch.long)
    padded[real] = torch.tensor([item for row in rows for item in row], dtype=torch.long)
    return padded.to(device), real.to(device)
