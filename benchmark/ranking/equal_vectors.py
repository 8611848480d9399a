"""Equal vectors of a gallery: scored once, told apart by their rows alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Copies:
    """The copies among N rows: which of them hold which of V distinct vectors.

    Attributes:
        vector: (N,) number of each row's vector; vectors are numbered by their first rows.
    """

    vector: Rows

    @classmethod
    def single(cls, rows: int) -> Copies:
        """Rows that are taken to be all different."""
        return cls(np.arange(rows))

    @classmethod
    def find(cls, vectors: NDArray[np.float32]) -> Copies:
        """Rows of (N, D) are copies of each other where all their bits are equal."""
        heads = np.ascontiguousarray(vectors[:, :1]).view(np.int32).reshape(-1)
        _, kind, count = np.unique(heads, return_inverse=True, return_counts=True)
        first: dict[bytes, int] = {}
        first_row = np.arange(len(vectors))
        for row in np.flatnonzero(count[kind] > 1).tolist():
            first_row[row] = first.setdefault(vectors[row].tobytes(), row)
        return cls(np.unique(first_row, return_inverse=True)[1])

    @cached_property
    def count(self) -> Rows:
        """(V,) how many rows hold each vector."""
        return np.bincount(self.vector)

    @property
    def any(self) -> bool:
        """Whether two rows are equal."""
        return len(self.count) < len(self.vector)

    @cached_property
    def rows(self) -> Rows:
        """(N,) rows by vector, those of one vector in their order."""
        return np.argsort(self.vector, kind="stable")

    @cached_property
    def start(self) -> Rows:
        """(V,) where each vector's rows begin in `rows`."""
        return np.cumsum(self.count) - self.count

    @property
    def first_rows(self) -> Rows:
        """(V,) the first row of each vector."""
        return self.rows[self.start]

    def count_before(self, vector: Rows, row: Rows) -> Rows:
        """(P,) how many of a vector's rows come before a row."""
        if not self.any:
            return (vector < row).astype(np.int64)
        return np.searchsorted(self._places, vector * len(self.vector) + row) - self.start[vector]

    @cached_property
    def _places(self) -> Rows:
        return self.vector[self.rows] * len(self.vector) + self.rows

    def expand(self, vector: Rows, most: int) -> tuple[Rows, Rows]:
        """The first rows, at most so many each, of P vectors; and each one's place among the P."""
        count = np.minimum(self.count[vector], most)
        place = np.repeat(np.arange(len(vector)), count)
        nth = np.arange(len(place)) - np.repeat(np.cumsum(count) - count, count)
        return self.rows[self.start[vector][place] + nth], place
