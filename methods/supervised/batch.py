"""What a step of a supervised training sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cirbench.methods.supervised.towers import Texts


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B triplets.

    Attributes:
        references, targets: (B, 3, S, S) pixels, or (B, C) frozen features.
        equals: (M, …) other pictures that answer as well as the targets.
        positives: of each triplet the rows of [B queries; B targets; M equals] that answer it.
        rng: for what a loss draws.
    """

    references: Tensor
    texts: Texts
    targets: Tensor
    equals: Tensor
    positives: Sequence[Sequence[int]]
    rng: np.random.Generator
