"""Exact ranking: float32, ties broken by gallery order and counted, a block of queries at a time.

Nothing here knows files or tasks. Scores come from a function of query rows, so a score that is no
dot product needs no other ranking.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK_BYTES = 64 * 2**20
"""Size of one block of scores; a few such blocks are alive at a time."""

Scores = Callable[[slice], Tensor]
"""Query rows → their scores against the whole gallery, (rows, N) float32, free to be changed."""


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

    def scores(rows: slice) -> Tensor:
        return queries[rows] @ gallery.T

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
    """Ranks the gallery for each query.

    Args:
        positives: per query, the gallery rows that count as found.
        depth: K, how many of the best to keep.
        removed: per query, the gallery row left out of its ranking, or None.
        members: per query, the gallery rows that are also ranked among themselves.
    """
    members = members or [()] * len(positives)
    width = max((len(rows) for rows in members), default=0)
    size = max(1, BLOCK_BYTES // (4 * max(1, gallery_size)))
    blocks = [slice(start, min(start + size, len(positives)))
              for start in range(0, len(positives), size)]  # fmt: skip
    parts = [_rank_block(scores(rows), positives[rows], removed and removed[rows], depth,
                         members[rows], width)
             for rows in blocks]  # fmt: skip
    return joined(parts, np.arange(len(positives)))


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


def _rank_block(
    scores: Tensor,
    positives: Sequence[Sequence[int]],
    removed: Sequence[int | None] | None,
    depth: int,
    members: Sequence[Sequence[int]],
    members_width: int,
) -> Ranking:
    if removed is not None:
        rows = [row for row, item in enumerate(removed) if item is not None]
        scores[rows, [item for item in removed if item is not None]] = -torch.inf
    values, items = top_k(scores, min(depth, scores.shape[1]))
    items = torch.where(values.isneginf(), -1, items)
    first_rank, tied = _first_ranks(scores, positives)
    missing = depth - items.shape[1]
    return Ranking(
        top=np.pad(items.int().cpu().numpy(), ((0, 0), (0, missing)), constant_values=-1),
        similarity=np.pad(values.cpu().numpy(), ((0, 0), (0, missing)), constant_values=-np.inf),
        first_rank=first_rank.cpu().numpy(),
        tied=tied.cpu().numpy(),
        members=_ranked_members(scores, members, members_width),
    )


def _ranked_members(
    scores: Tensor, members: Sequence[Sequence[int]], width: int
) -> NDArray[np.int32]:
    """(B, width) gallery rows of each query's members, best first, equal ones in gallery order."""
    rows = torch.full((len(members), width), -1)
    for i, own in enumerate(members):
        rows[i, : len(own)] = torch.tensor(sorted(own))
    rows = rows.to(scores.device)
    own_scores = scores.gather(1, rows.clamp(min=0)).masked_fill(rows < 0, -torch.inf)
    order = own_scores.sort(dim=1, descending=True, stable=True).indices
    return rows.gather(1, order).int().cpu().numpy()


def top_k(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of each row of (B, N), best first; of equal scores the lower index comes first.

    `torch.topk` leaves open which of several equal scores it takes. So rows where it had a choice
    at the k-th place are sorted whole, and all others only within the k.
    """
    values, items = scores.topk(k, dim=1, sorted=False)
    worst = values.amin(dim=1, keepdim=True)
    chose = _count(scores >= worst) > k
    if chose.any():
        order = scores[chose].sort(dim=1, descending=True, stable=True)
        values[chose], items[chose] = order.values[:, :k], order.indices[:, :k]
    items, by_index = items.sort(dim=1)
    values, by_value = values.gather(1, by_index).sort(dim=1, descending=True, stable=True)
    return values, items.gather(1, by_value)


def _first_ranks(scores: Tensor, positives: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """(B,) rank of the best-ranked positive, and (B,) whether a non-positive ties with it."""
    padded, real = _padded(positives, scores.device)
    own = scores.gather(1, padded).masked_fill(~real, -torch.inf)
    best = own.amax(dim=1, keepdim=True)
    is_best = (own == best) & real
    ranked = real.any(1) & ~best.squeeze(1).isneginf()
    before = _count(scores > best)
    tied = ranked & (_count(scores >= best) - before > is_best.sum(1))
    item = padded.masked_fill(~is_best, scores.shape[1]).amin(dim=1, keepdim=True)
    index = torch.arange(scores.shape[1], device=scores.device)
    before[tied] += ((scores[tied] == best[tied]) & (index < item[tied])).sum(1)
    return torch.where(ranked, before + 1, 0), tied


def _count(mask: Tensor) -> Tensor:
    """(B, N) bool → (B,) int64. On the CPU NumPy counts four times as fast as torch."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(mask.numpy(), axis=1))
    return mask.sum(1)


def _padded(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ragged rows → (B, longest) int64 padded with 0, and (B, longest) bool where they are real."""
    lengths = torch.tensor([len(row) for row in rows])
    width = max(1, int(lengths.max()))
    real = torch.arange(width) < lengths[:, None]
    padded = torch.zeros(real.shape, dtype=torch.long)
    padded[real] = torch.tensor([item for row in rows for item in row], dtype=torch.long)
    return padded.to(device), real.to(device)
