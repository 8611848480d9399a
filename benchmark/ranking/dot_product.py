"""Scores of unit vectors: a fast product that nominates, and exact scores that decide.

A matrix product in float32 adds its terms in an order that depends on the processor, the number of
threads and the shape, so its last bits do too. Here the score of a query q and a gallery vector g
is what no kernel can move: the products q_i g_i are exact in float64; they are added in a fixed
order (the upper half onto the lower half, again and again), and the sum is rounded once to float32.
The fast product differs from that by at most `margin`, the bound that holds for every order of
summation (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1).

Most exact scores need no fixed order: a float64 product in any order lies so near that both round
to one float32. Only where a rounding boundary is within reach are the terms added as defined.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cirbench.benchmark.ranking.equal_vectors import Copies, Rows
from cirbench.benchmark.runtime.errors import CorruptData

_PAIRS_AT_ONCE = 200_000
_SLICE = 384
_TERMS_AT_ONCE = 2**22
_TERMS_AT_ONCE_ON_GPU = 2**24
"""More, since each portion costs a wait for the GPU."""
_FEW = 8
"""A gallery is widened whole where more than one pair in so many rows is asked for."""

Scored = NDArray[np.float32]


class DotProduct:
    """Scores of (Q, D) unit vectors against the V distinct ones among (N, D) unit vectors.

    They are computed where the queries are; the gallery may lie in the CPU's memory.

    Attributes:
        copies: which rows of the gallery hold which of the V.
        margin: (Q,) float32 on the device; how far a fast score may lie from the exact one.

    Raises:
        CorruptData: a vector is not finite.
    """

    def __init__(self, queries: Tensor, gallery: Tensor) -> None:
        self.queries, gallery = queries.float(), gallery.float()
        # from pinned memory the copy goes on while the CPU looks for equal vectors
        self.vectors = gallery.to(self.queries.device, non_blocking=True)
        self.copies = Copies.find(gallery.cpu().numpy())
        if self.copies.any:
            self.vectors = self.vectors[torch.from_numpy(self.copies.first_rows)]
        self._lock = threading.Lock()
        self._thread = threading.local()
        width = self.queries.shape[1]
        lengths = 1.001 * _compute_norms(self.queries) * _compute_norms(self.vectors).amax()
        if not lengths.isfinite().all():
            raise CorruptData("every vector that is ranked must be finite")
        self.margin = (width + 8) * 2.0**-24 * lengths
        self._reach = (2 * (width + 8) * 2.0**-53 * lengths.double()).cpu().numpy()

    @property
    def on_cpu(self) -> bool:
        return self.queries.device.type == "cpu"

    def __call__(self, rows: slice) -> Tensor:
        """(rows, V) float32 within `margin`; the same thread's next call writes over it."""
        if self.queries.is_cuda:  # a thread's first product finds no context otherwise
            torch.cuda.set_device(self.queries.device)
        # new memory costs a fifth of the product
        block: Tensor = vars(self._thread).setdefault("block", self.queries.new_empty(0))
        block.resize_(len(self.queries[rows]), len(self.vectors))
        return torch.mm(self.queries[rows], self.vectors.T, out=block)

    def exact_of_rows(self, query: Rows, row: Rows) -> Scored:
        """(P,) float32 exact scores of P pairs of a query and a row of the gallery."""
        pair = query * len(self.vectors) + self.copies.vector[row]
        pair, place = np.unique(pair, return_inverse=True)
        return self.exact(*np.divmod(pair, len(self.vectors)))[place]

    def exact(self, query: Rows, vector: Rows) -> Scored:
        """(P,) float32 exact scores of P pairs of a query and a distinct vector, each pair once."""
        if not self.on_cpu:
            return self._add_in_fixed_order(query, vector)
        found = np.empty(len(query), dtype=np.float32)
        for start in range(0, len(query), _PAIRS_AT_ONCE):
            part = slice(start, start + _PAIRS_AT_ONCE)
            found[part] = self._round(query[part], vector[part])
        return found

    def _round(self, query: Rows, row: Rows) -> Scored:
        rough, reach = self._multiply_in_float64(query, row), self._reach[query]
        rounded: Scored = rough.astype(np.float32) + np.float32(0)  # -0 and 0 are one score
        doubtful = (rough - reach).astype(np.float32) != (rough + reach).astype(np.float32)
        rounded[doubtful] = self._add_in_fixed_order(query[doubtful], row[doubtful])
        return rounded

    def _multiply_in_float64(self, query: Rows, row: Rows) -> NDArray[np.float64]:
        """(P,) products of chosen pairs, in whatever order torch adds their terms."""
        gallery, row = self._widen(row)
        size, first, end = len(gallery[0]), int(query.min()), int(query.max()) + 1
        order = np.argsort(row.astype(np.uint16) if size <= 2**16 else row, kind="stable")
        ends = np.zeros(size + 1, dtype=np.int64)
        np.cumsum(np.bincount(row, minlength=size), out=ends[1:])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that torch's sparse tensors are in beta
            sums = torch.sparse_csr_tensor(
                torch.from_numpy(ends),
                torch.from_numpy(query[order] - first),
                torch.zeros(len(row), dtype=torch.float64),
                (size, end - first),
                check_invariants=False,
            )
            for terms, others in zip(gallery, _slice(self.queries[first:end]), strict=True):
                sums = torch.sparse.sampled_addmm(sums, terms, others.T)
        found = np.empty(len(row))
        found[order] = sums.values().numpy()
        return found

    def _widen(self, row: Rows) -> tuple[Sequence[Tensor], Rows]:
        """Gallery vectors in float64, and where the rows are among them."""
        if _FEW * len(row) < len(self.vectors):
            used, place = np.unique(row, return_inverse=True)
            return _slice(self.vectors[torch.from_numpy(used)]), place
        return self._vectors64, row

    @property
    def _vectors64(self) -> Sequence[Tensor]:
        with self._lock:
            return self._widened

    @cached_property
    def _widened(self) -> Sequence[Tensor]:
        return _slice(self.vectors)

    def _add_in_fixed_order(self, query: Rows, row: Rows) -> Scored:
        """(P,) float32 by the definition, term for term."""
        found = np.empty(len(query), dtype=np.float32)
        terms = _TERMS_AT_ONCE if self.on_cpu else _TERMS_AT_ONCE_ON_GPU
        size = max(1, terms // self.queries.shape[1])
        for start in range(0, len(query), size):
            part = slice(start, start + size)
            q = self.queries[torch.from_numpy(query[part]).to(self.queries.device)]
            g = self.vectors[torch.from_numpy(row[part]).to(self.vectors.device)]
            found[part] = add_halves(q.double() * g.double()).float().cpu().numpy()
        return found + np.float32(0)


def _compute_norms(vectors: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(vectors, dim=1)
    return lengths


def _slice(vectors: Tensor) -> Sequence[Tensor]:
    """(N, D) → (N, ≤ _SLICE) each in float64: of a slice more vectors fit into a cache."""
    return [part.double().contiguous() for part in torch.split(vectors, _SLICE, dim=1)]


def add_halves(terms: Tensor) -> Tensor:
    """(P, D) → (P,) sums, in an order that D alone decides; writes into the terms."""
    width = terms.shape[1]
    while width > 1:
        half = (width + 1) // 2
        terms[:, : width - half] += terms[:, half:width]
        width = half
    return terms[:, 0]
