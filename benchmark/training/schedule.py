"""The learning rate over a training."""

from __future__ import annotations

import math


def warm_up_then_cosine(step: int, total: int, *, peak: float, warmup: int) -> float:
    """Rise linearly for `warmup` steps, then fall along half a cosine to zero at `total`.

    Args:
        step: from 0.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, total - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
