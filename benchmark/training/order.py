"""Which rows of what is trained on a step sees."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=2)
def _draw_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng((seed, epoch)).permutation(count)


def choose_rows(step: int, count: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """Choose the (B,) rows of a step; each epoch sees each once, without incomplete batches."""
    epoch, place = divmod(step, count // batch_size)
    return _draw_order(seed, epoch, count)[place * batch_size : (place + 1) * batch_size]
