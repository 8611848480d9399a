"""What ranking wants of a block of scores: the best of each row, and what lies around one score.

On a CPU this costs a fifth of the matmul that made the scores, since each piece of the block is
looked at while it is in the cache. `torch.topk` would cost half of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE_BYTES = 8 * 2**20
"""What one thread looks at, at once: small for a cache, large for Python's lock."""
GROUPS_PER_PLACE = 4
"""More groups leave fewer candidates to sort, and more maxima to choose among."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What (B, N) scores come to.

    Attributes:
        values, columns: (B, k) the best of each row, best first; of equal ones the lower column.
        above: (B,) how many are above `high`.
        near_row, near_column: of those that reach `low` and are not above `high`.
    """

    values: NDArray[np.float32]
    columns: NDArray[np.int64]
    above: NDArray[np.int64]
    near_row: NDArray[np.int64]
    near_column: NDArray[np.int64]

    @classmethod
    def stacked(cls, pieces: Sequence[Self], starts: Sequence[int]) -> Self:
        """Pieces of a block, each from a row on, as one."""

        def joined(name: str) -> NDArray[Any]:
            return np.concatenate([getattr(piece, name) for piece in pieces])

        rows = [piece.near_row + start for piece, start in zip(pieces, starts, strict=True)]
        return cls(joined("values"), joined("columns"), joined("above"), np.concatenate(rows),
                   joined("near_column"))  # fmt: skip


def scan(scores: Tensor, k: int, low: Tensor, high: Tensor) -> Scan:
    """Scans (B, N) float32, B ≥ 1 and N ≥ k; `low` and `high` are (B,), on the scores' device."""
    if scores.device.type != "cpu":
        return scan_block(scores, k, low, high)
    rows = max(1, PIECE_BYTES // (4 * max(1, scores.shape[1])))
    starts = range(0, len(scores), rows)
    arrays = scores.numpy(), low.numpy(), high.numpy()

    def one(start: int) -> Scan:
        piece, lows, highs = (array[start : start + rows] for array in arrays)
        return _scan_piece(piece, k, lows, highs)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        return Scan.stacked(list(pool.map(one, starts)), starts)


def _scan_piece(
    scores: NDArray[np.float32], k: int, low: NDArray[np.float32], high: NDArray[np.float32]
) -> Scan:
    over = np.packbits(scores > high[:, None], axis=1)
    near = np.packbits(scores >= low[:, None], axis=1) ^ over
    row, byte = np.divmod(np.flatnonzero(near != 0), near.shape[1])
    nth, bit = np.nonzero(np.unpackbits(near[row, byte][:, None], axis=1))
    above = np.bitwise_count(over).sum(axis=1, dtype=np.int64)
    return Scan(*best_of_piece(scores, k), above, row[nth], 8 * byte[nth] + bit)


def best_of_piece(
    scores: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(B, k) values and columns of the best of each row of (B, N), as a stable sort gives them."""
    row, column = np.divmod(np.flatnonzero(scores >= _floor(scores, k)[:, None]), scores.shape[1])
    found = np.bincount(row, minlength=len(scores))
    nth = np.arange(len(row)) - np.repeat(np.cumsum(found) - found, found)
    keys = np.full((len(scores), found.max()), _LAST, dtype=np.uint64)
    keys[row, nth] = _key(scores[row, column], column)
    keys = np.sort(keys, axis=1)[:, :k]
    columns = (keys & _COLUMN).astype(np.int64)
    return np.take_along_axis(scores, columns, axis=1), columns


_COLUMN = np.uint64(2**32 - 1)
_LAST = np.uint64(2**64 - 1)
_SIGN = np.uint32(2**31)


def _key(score: NDArray[np.float32], column: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Numbers in the order of falling scores, equal ones in that of rising columns.

    The bits of a positive float, read as a number, are in its order; those of a negative one in the
    opposite order.
    """
    bits = (score + np.float32(0)).view(np.uint32)  # -0 and 0 are equal
    falling = np.where(bits & _SIGN, bits, ~(bits | _SIGN))
    return falling.astype(np.uint64) << np.uint64(32) | column.astype(np.uint64)


def _floor(scores: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """(B,) what the k best of each row reach, and not many more.

    The maxima of disjoint groups are as many different scores, so at least k scores reach the k-th
    best maximum. Groups are interleaved, since neighbours in a gallery are often alike.
    """
    groups = GROUPS_PER_PLACE * k
    each = scores.shape[1] // groups
    if each > 1:
        scores = scores[:, : each * groups].reshape(-1, each, groups).max(axis=1)
    floor: NDArray[np.float32] = np.partition(scores, -k, axis=1)[:, -k]
    return floor


def scan_block(scores: Tensor, k: int, low: Tensor, high: Tensor) -> Scan:
    """`scan` on any device."""
    values, columns = best_of_block(scores, k)
    over = scores > high[:, None]
    near_row, near_column = ((scores >= low[:, None]) ^ over).nonzero().T
    found = (values, columns, over.sum(1), near_row, near_column)
    return Scan(*(part.cpu().numpy() for part in found))


def best_of_block(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) values and columns of the best of each row of (B, N), as a stable sort gives them.

    `torch.topk` leaves open which of several equal scores it takes, and in which order. So one more
    is taken: rows where it had a choice at the k-th place are sorted whole, and those where others
    of the k are equal within the k.
    """
    values, items = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    equal = values[:, 1:] == values[:, :-1]
    values, items = values[:, :k].clone(), items[:, :k].clone()
    chose = equal[:, k - 1 :].any(dim=1)
    if chose.any():
        order = scores[chose].sort(dim=1, descending=True, stable=True)
        values[chose], items[chose] = order.values[:, :k], order.indices[:, :k]
    within = equal[:, : k - 1].any(dim=1) & ~chose
    if within.any():
        by_index, place = items[within].sort(dim=1)
        ordered, by_value = (
            values[within].gather(1, place).sort(dim=1, descending=True, stable=True)
        )
        values[within], items[within] = ordered, by_index.gather(1, by_value)
    return values, items
