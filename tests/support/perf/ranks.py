"""Ranking, scoring and intervals, on made features of the tasks' real sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.ranking.parts import RankRequest
from cirbench.benchmark.ranking.rank import PART_ROWS, rank_vectors
from cirbench.benchmark.scoring.bootstrap import Design
from cirbench.benchmark.scoring.summary import find_depth, score, summarise
from cirbench.methods.artemis.method import score as artemis_score
from perf.measure import Row, anonymous_memory, medians, seconds, unit_vectors

WIDTH = 768
ARTEMIS_WIDTH = 512
_NARROW = 64
"""Ten million vectors of it are 2.6 GB on disk."""
_QUERIES_AT_ONCE = 512
_MOST_RATIO = 1.15


def bare(queries: Tensor, gallery: Tensor, k: int | None = None) -> None:
    """The least that any ranking does: a matmul, in pieces that fit into memory; and a top-k."""
    for first in range(0, len(gallery), PART_ROWS):
        part = gallery[first : first + PART_ROWS]
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            scores = queries[start : start + _QUERIES_AT_ONCE] @ part.T
            if k:
                scores.topk(k, dim=1)


def wanted(queries: int, gallery: int, k: int) -> RankRequest:
    """One positive a query, anywhere."""
    rows = np.random.default_rng(2).integers(gallery, size=queries)
    return RankRequest(depth=k, positives=[(int(row),) for row in rows])


def ranking_row(queries: int, gallery: Tensor, k: int, *, where: str = "", rounds: int = 3) -> Row:
    """How ranking compares with the multiplication in it."""
    q, asked = unit_vectors(queries, WIDTH, 0), wanted(queries, len(gallery), k)
    with anonymous_memory() as memory:
        least, ours = medians(
            lambda: bare(q, gallery), lambda: rank_vectors(q, gallery, asked), rounds=rounds
        )
    limit = f"≤ {_MOST_RATIO}{', < 2,000 MB' if where else ''}"
    return Row(
        name=f"ranking {queries:,} × {len(gallery):,} × {WIDTH}, k = {k}{where}",
        against="bare matmul",
        ratio=ours / least,
        target=limit,
        ok=ours / least <= _MOST_RATIO and memory.peak < 2000,
        measured=f"{ours:.1f} s, {memory.peak:,.0f} MB above the inputs",
    )


def own_score_row(queries: int, gallery: int, k: int) -> Row:
    """How ranking by ARTEMIS's score, of four products, compares with one product."""
    parts = [unit_vectors(queries, ARTEMIS_WIDTH, seed) for seed in range(4)]
    q = torch.stack([parts[0], parts[1].square(), parts[2], parts[3].square()], dim=1)
    g, asked = unit_vectors(gallery, ARTEMIS_WIDTH, 4), wanted(queries, gallery, k)
    with torch.inference_mode(), anonymous_memory() as memory:
        least, ours = medians(
            lambda: bare(parts[0], g), lambda: rank_vectors(q, g, asked, artemis_score)
        )
    return Row(
        name=f"ranking by ARTEMIS's score, {queries:,} × {gallery:,} × {ARTEMIS_WIDTH}, k = {k}",
        against="bare matmul",
        ratio=ours / least,
        target="≤ 5, < 500 MB",
        ok=ours / least <= 5 and memory.peak < 500,
        measured=f"{ours:.1f} s, {memory.peak:,.0f} MB above the inputs",
    )


def million_row(folder: Path) -> Row:
    """What a million rows of ten millions cost against a million alone, from disk."""
    gallery = mapped_gallery(folder, 10_000_000, _NARROW)
    queries, first = unit_vectors(500, _NARROW, 0), gallery[:1_000_000]
    few, many = (wanted(500, len(rows), 200) for rows in (first, gallery))
    with anonymous_memory() as memory:
        one = seconds(lambda: rank_vectors(queries, first, few))
        ten = seconds(lambda: rank_vectors(queries, gallery, many))
    ratio = ten / one / 10
    return Row(
        name=f"ranking 500 × 10,000,000 × {_NARROW}, k = 200, from disk, a million rows",
        against="the first million alone",
        ratio=ratio,
        target=f"≤ {_MOST_RATIO}, < 2,000 MB",
        ok=ratio <= _MOST_RATIO and memory.peak < 2000,
        measured=f"{ten / 10:.2f} s, {memory.peak:,.0f} MB above the inputs",
    )


def mapped_gallery(folder: Path, rows: int, width: int = WIDTH) -> Tensor:
    """(rows, width) unit vectors in a memory-mapped file."""
    path = folder / "gallery"
    with path.open("wb") as file:
        for start in range(0, rows, PART_ROWS):
            part = unit_vectors(min(PART_ROWS, rows - start), width, start)
            part.numpy().tofile(file)
    return torch.from_file(str(path), size=rows * width).view(rows, width)


PROTOCOL = EvaluationProtocol(
    name="perf",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={},
    metrics=("R@10", "R@50", "R@200"),
    headline="R@10",
)


def made_task(queries: int, gallery: int) -> TaskData:
    """Queries whose one positive is their own reference."""
    refs = tuple(ImageRef(id=str(i), read=bytes) for i in range(gallery))
    places = [i % gallery for i in range(queries)]
    return TaskData(
        gallery=refs,
        annotations={},
        queries=tuple(
            Query(id=str(i), reference=refs[place], positives=(place,))
            for i, place in enumerate(places)
        ),
    )


def to_metrics(data: TaskData, queries: Tensor, gallery: Tensor) -> None:
    """Vectors in, metrics with intervals out."""
    found = score(data, rank_queries(data, queries, gallery, find_depth(PROTOCOL)), PROTOCOL)
    summarise(found, data.groups, PROTOCOL)


def scoring_row(name: str, queries: int, gallery: int) -> Row:
    """A task from vectors to metrics, at its real size."""
    data = made_task(queries, gallery)
    q, g = unit_vectors(queries, WIDTH, 0), unit_vectors(gallery, WIDTH, 1)
    with anonymous_memory() as memory:
        least, taken = medians(
            lambda: bare(q, g, find_depth(PROTOCOL)), lambda: to_metrics(data, q, g)
        )
    return Row(
        name=f"{name}: vectors to metrics, {queries:,} × {gallery:,}",
        against="bare matmul + top-k",
        ratio=taken / least,
        target="≤ 2, < 1,000 MB",
        ok=taken / least <= 2 and memory.peak < 1000,
        measured=f"{taken:.1f} s, {memory.peak:,.0f} MB above the inputs",
    )


def bootstrap_row() -> Row:
    """Intervals for 10,000 queries × 6 metrics × 2,000 resamples."""
    values = np.random.default_rng(0).random((10_000, 6))
    design = Design.of(np.arange(10_000).astype(str), ["all"] * 10_000, ["all"], {})
    with anonymous_memory() as memory:
        taken = seconds(lambda: design.draws(values))
    return Row(
        name="bootstrap, 10,000 queries × 6 metrics × 2,000 resamples",
        against="2 s",
        ratio=taken / 2,
        target="≤ 1, < 500 MB",
        ok=taken < 2 and memory.peak < 500,
        measured=f"{taken:.2f} s, {memory.peak:,.0f} MB",
    )
