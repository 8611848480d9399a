"""Ranking a large gallery from pinned memory, against the product that is in it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from perf.ranks import WIDTH, wanted
from torch import Tensor
from torch.nn.functional import normalize

from cirbench.benchmark.ranking.rank import PART_ROWS, rank_vectors
from cirbench.benchmark.runtime.torch_state import full_float32
from gpu.embedding import reset_peak
from gpu.findings import Finding, Setting

_DEPTH = 200
_FIRST = 1_000
"""So many queries warm up."""


def measure_ranking(setting: Setting) -> Iterator[Finding]:
    """Once with few queries to warm up, then the whole once."""
    sizes = setting.sizes
    gallery = make_gallery(setting, sizes.ranked_gallery)
    generator = torch.Generator(setting.device).manual_seed(0)
    drawn = torch.randn(sizes.ranked_queries, WIDTH, device=setting.device, generator=generator)
    queries = normalize(drawn, dim=1)
    reset_peak(setting)
    product = setting.time(lambda: multiply(queries, gallery), rounds=1)
    name = f"{sizes.ranked_queries:,} × {sizes.ranked_gallery:,} × {WIDTH}"
    flops = 2 * sizes.ranked_queries * sizes.ranked_gallery * WIDTH / product / 1e12
    yield Finding(
        what=f"{name}: copy from pinned memory and float32 product alone",
        value=product,
        shown=f"{product:.2f} s, {flops:.1f} TFLOP/s",
    )
    asked = wanted(sizes.ranked_queries, sizes.ranked_gallery, _DEPTH)
    few, part = queries[:_FIRST], gallery[:PART_ROWS]
    rank_vectors(few, part, wanted(len(few), len(part), _DEPTH))
    reset_peak(setting)
    setting.wait()
    taken = setting.time_once(lambda: rank_vectors(queries, gallery, asked))
    yield Finding(
        what=f"{name}, k = {_DEPTH}: ranking against that",
        value=taken / product,
        shown=f"{taken / product:.1f} times, {taken:.2f} s",
    )
    if setting.on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**20
        yield Finding(what=f"{name}: GPU memory at the peak", value=peak, shown=f"{peak:,.0f} MB")


@full_float32()
def multiply(queries: Tensor, gallery: Tensor) -> None:
    """The least that any ranking does: the gallery's parts to the device, and one product each."""
    for start in range(0, len(gallery), PART_ROWS):
        part = gallery[start : start + PART_ROWS].to(queries.device, non_blocking=True)
        queries @ part.T


def make_gallery(setting: Setting, rows: int) -> Tensor:
    """(rows, WIDTH) unit vectors in pinned memory, drawn on the device."""
    gallery = torch.empty(rows, WIDTH, pin_memory=setting.on_gpu)
    generator = torch.Generator(setting.device).manual_seed(1)
    for start in range(0, rows, PART_ROWS):
        part = gallery[start : start + PART_ROWS]
        drawn = torch.randn(len(part), WIDTH, device=setting.device, generator=generator)
        part.copy_(normalize(drawn, dim=1))
    return gallery
