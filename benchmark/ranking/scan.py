"""One pass over a block of fast scores: candidates for the best, and what lies around one score.

On a CPU this costs about a quarter of the matmul that made the scores, since each piece of the
block is looked at while it is in the cache; `torch.topk` and the counting would cost more than it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

PIECE_BYTES = 8 * 2**20
"""What is looked at, at once: small for a cache, large for Python's lock."""
GROUPS_PER_PLACE = 4
"""More groups leave fewer candidates to look at, and more maxima to choose among."""
_FEW = 4
"""So many times k candidates are chosen among as they are."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The result of a scan of (B, N) scores; pairs are in the order of rows, then of columns.

    Attributes:
        row, column, score: those that reach `floor` and lie at most `slack` below the k-th best of
            their row.
        above: (B,) how many are above `high`.
        near_row, near_column: of those that reach `low` and are not above `high`.
    """

    row: NDArray[np.int64]
    column: NDArray[np.int64]
    score: NDArray[np.float32]
    above: NDArray[np.int64]
    near_row: NDArray[np.int64]
    near_column: NDArray[np.int64]

    @classmethod
    def stack(cls, pieces: Sequence[Self], starts: Sequence[int]) -> Self:
        """Pieces of a block, each from a row on, as one."""

        def join(name: str, offsets: Sequence[int] | None = None) -> NDArray[Any]:
            parts = [getattr(piece, name) for piece in pieces]
            return np.concatenate(
                [part + start for part, start in zip(parts, starts, strict=True)]
                if offsets
                else parts
            )

        return cls(
            row=join("row", starts),
            column=join("column"),
            score=join("score"),
            above=join("above"),
            near_row=join("near_row", starts),
            near_column=join("near_column"),
        )


def scan(scores: Tensor, k: int, slack: Tensor, floor: Tensor, low: Tensor, high: Tensor) -> Scan:
    """Scan (B, N) float32, B ≥ 1 and N ≥ k ≥ 1.

    Scores of -inf are nobody's. The others are (B,) float32 beside the scores; `floor` is -inf
    where nothing is known of what the best reach.
    """
    if scores.device.type != "cpu":
        return scan_block(scores, k, slack, floor, low, high)
    rows = max(1, PIECE_BYTES // (4 * max(1, scores.shape[1])))
    starts = range(0, len(scores), rows)
    arrays = [array.numpy() for array in (scores, slack, floor, low, high)]

    def scan_one(start: int) -> Scan:
        piece, *bounds = (array[start : start + rows] for array in arrays)
        return _scan_piece(piece, k, *bounds)

    return Scan.stack(list(map(scan_one, starts)), starts)


def _scan_piece(
    scores: NDArray[np.float32],
    k: int,
    slack: NDArray[np.float32],
    floor: NDArray[np.float32],
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> Scan:
    over = np.packbits(scores > high[:, None], axis=1)
    near = np.packbits(scores >= low[:, None], axis=1) ^ over
    above = np.bitwise_count(over).sum(axis=1, dtype=np.int64)
    return Scan(*_nominate(scores, k, slack, floor), above, *_find_ones(near))


def _find_ones(bits: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the ones among (B, N / 8) packed bits, which are few."""
    flat = bits.reshape(-1)
    byte = np.flatnonzero(flat != 0)
    bit = np.flatnonzero(np.unpackbits(flat[byte]).view(bool))
    byte = byte[bit >> 3]
    row = byte // bits.shape[1]
    return row, 8 * (byte - row * bits.shape[1]) + (bit & 7)


def _mark_reaching(scores: NDArray[np.float32], floor: NDArray[np.float32]) -> NDArray[np.uint8]:
    """(B, N / 8) packed bits: what reaches its row's floor."""
    return np.packbits(scores >= floor[:, None], axis=1)


def _nominate(
    scores: NDArray[np.float32], k: int, slack: NDArray[np.float32], floor: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Rows, columns and scores of what `Scan` says."""
    reached = _mark_reaching(scores, floor) if np.isfinite(floor).all() else None
    if reached is None or np.bitwise_count(reached).sum() > _FEW * k * len(scores):
        reached = _mark_reaching(scores, np.maximum(floor, _choose_floor(scores, k) - slack))
    row, column = _find_ones(reached)
    return _keep_best(row, column, scores[row, column], k, slack)


def _keep_best(
    row: NDArray[np.int64],
    column: NDArray[np.int64],
    score: NDArray[np.float32],
    k: int,
    slack: NDArray[np.float32],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Keep of pairs in the order of rows those at most `slack` below the k-th best of their row."""
    found = np.bincount(row, minlength=len(slack))
    table = np.full((len(slack), max(k, found.max())), -np.inf, dtype=np.float32)
    table[np.arange(table.shape[1]) < found[:, None]] = score
    worst = np.partition(table, -k, axis=1)[:, -k] - slack
    chosen = (score >= worst[row]) & (score > -np.inf)
    return row[chosen], column[chosen], score[chosen]


def _choose_floor(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Choose (B,) bounds that the k best of each row reach, and not many more.

    The maxima of disjoint groups are as many different scores, so at least k scores reach the k-th
    best maximum (bins as in TPU-KNN, Chern et al., NeurIPS 2022; here they only bound). Groups are
    interleaved, since neighbours in a gallery are often alike.
    """
    groups = GROUPS_PER_PLACE * k
    each = scores.shape[1] // groups
    if each > 1:
        scores = scores[:, : each * groups].reshape(-1, each, groups).max(axis=1)
    floor: NDArray[np.float32] = np.partition(scores, -k, axis=1)[:, -k]
    return floor


def scan_block(
    scores: Tensor, k: int, slack: Tensor, floor: Tensor, low: Tensor, high: Tensor
) -> Scan:
    """`scan` on any device, which reads the block as seldom as it can."""
    reached = scores >= floor[:, None]
    if not floor.isfinite().all() or reached.sum() > _FEW * k * len(scores):
        reached = scores >= floor.maximum(_bound_best(scores, k) - slack)[:, None]
    row, column = reached.nonzero().T
    over = scores > high[:, None]
    near_row, near_column = ((scores >= low[:, None]) ^ over).nonzero().T
    rows, columns, score = _to_arrays(row, column, scores[row, column])
    best = _keep_best(rows, columns, score, k, slack.cpu().numpy())
    return Scan(*best, *_to_arrays(over.sum(1), near_row, near_column))


def _to_arrays(*found: Tensor) -> list[NDArray[Any]]:
    return [part.cpu().numpy() for part in found]


def _bound_best(scores: Tensor, k: int) -> Tensor:
    """`_choose_floor` on any device."""
    groups = GROUPS_PER_PLACE * k
    each = scores.shape[1] // groups
    if each > 1:
        scores = scores[:, : each * groups].view(-1, each, groups).amax(dim=1)
    return scores.topk(k, dim=1).values[:, -1]
