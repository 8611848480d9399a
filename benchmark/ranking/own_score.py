"""Scores of a method's own, in place of dot products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from cirbench.benchmark.ranking.equal_vectors import Copies
from cirbench.benchmark.runtime.errors import CorruptData


class OwnScore:
    """Scores of Q composed queries against the V distinct ones among (N, D) gallery vectors.

    They are taken as they come. Equal vectors are scored once, so that they tie on every machine;
    the last digits of the rest may depend on the processor, which `Ranking.fragile` counts.

    Args:
        score: (B, …) queries and (V, D) vectors → (B, V) float32.

    Attributes:
        copies: which rows of the gallery hold which of the V.
    """

    def __init__(
        self, score: Callable[[Tensor, Tensor], Tensor], queries: Tensor, gallery: Tensor
    ) -> None:
        self._score, self._queries = score, queries
        self._vectors = gallery.to(queries.device)
        self.copies = Copies.find(gallery.float().cpu().numpy())
        if self.copies.any:
            self._vectors = self._vectors[torch.from_numpy(self.copies.first_rows)]

    @property
    def on_cpu(self) -> bool:
        return self._queries.device.type == "cpu"

    def __call__(self, rows: slice) -> Tensor:
        """(rows, V) float32.

        Raises:
            CorruptData: the function gave another shape, or a score that is not finite.
        """
        queries = self._queries[rows]
        found = self._score(queries, self._vectors).float()
        wanted = (len(queries), len(self._vectors))
        if tuple(found.shape) != wanted:
            raise CorruptData(
                f"a method's score must give {wanted} for so many queries and pictures, got "
                f"{tuple(found.shape)}"
            )
        if not found.sum().isfinite():  # what is not finite stays so in a sum
            raise CorruptData("a method's scores must be finite; check its checkpoint")
        return found
