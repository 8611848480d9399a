"""Ranking by a score that is no dot product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cirbench.benchmark.ranking import parts
from cirbench.benchmark.ranking.parts import RankRequest
from cirbench.benchmark.ranking.rank import rank_vectors
from cirbench.benchmark.runtime.errors import CorruptData

QUERIES, GALLERY, WIDTH, DEPTH = 60, 700, 16, 20


@pytest.fixture
def vectors():
    """(Q, 2, D) queries and (N, D) gallery vectors, some of which are equal."""
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(QUERIES, 2, WIDTH, generator=generator)
    gallery = torch.randn(GALLERY, WIDTH, generator=generator)
    gallery[100:110] = gallery[5]
    gallery[600] = gallery[0]
    return queries, gallery


def attend(queries, gallery):
    """A weighted cosine: each query weighs the channels for itself."""
    wanted, weights = queries[:, 0], queries[:, 1].sigmoid()
    return (wanted * weights) @ gallery.T / (weights.square() @ gallery.square().T).sqrt()


def attend_plainly(queries, gallery):
    """The same, written out for each pair."""
    weighted = queries[:, None, 1].sigmoid() * gallery[None]
    return (queries[:, None, 0] * normalize(weighted, dim=-1)).sum(dim=-1)


@pytest.fixture
def wanted():
    rng = np.random.default_rng(0)
    return RankRequest(
        depth=DEPTH,
        positives=[(int(row), 103) for row in rng.integers(GALLERY, size=QUERIES)],
        removed=[int(row) for row in rng.integers(GALLERY, size=QUERIES)],
        members=[tuple(map(int, rng.choice(GALLERY, 5, replace=False))) for _ in range(QUERIES)],
    )


def order_plainly(scores, wanted):
    """(Q, N) rows, best first, equal ones in their order, without the removed one."""
    orders = np.argsort(-scores, axis=1, kind="stable")
    pairs = zip(orders, wanted.removed, strict=True)
    return [order[order != gone] for order, gone in pairs]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("block_rows", [1, 7, 1000])
def test_parts_and_threads_rank_as_the_whole_written_out(
    vectors, wanted, monkeypatch, threads, block_rows
):
    monkeypatch.setattr(parts, "_choose_block_height", lambda *_: block_rows)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = rank_vectors(*vectors, wanted, attend)
    finally:
        torch.set_num_threads(before)
    scores = attend_plainly(*vectors).numpy()
    orders = order_plainly(scores, wanted)
    assert found.top.tolist() == [order[:DEPTH].tolist() for order in orders]
    assert found.similarity == pytest.approx(
        np.take_along_axis(scores, found.top.astype(np.int64), axis=1), abs=1e-5
    )
    for query, order in enumerate(orders):
        ranks = {int(row): place for place, row in enumerate(order, start=1)}
        positives = [row for row in wanted.positives[query] if row in ranks]
        assert found.first_rank[query] == min(ranks[row] for row in positives)
        own = [row for row in wanted.members[query] if row in ranks]
        assert found.members[query, : len(own)].tolist() == sorted(own, key=ranks.__getitem__)


def test_equal_vectors_tie_and_gallery_order_decides(vectors):
    queries, gallery = vectors
    wanted = RankRequest(depth=1, positives=[(105,)] * QUERIES)
    first = RankRequest(depth=1, positives=[(5,)] * QUERIES)
    late, early = (rank_vectors(queries, gallery, asked, attend) for asked in (wanted, first))
    assert late.tied.all()
    assert early.tied.all()
    assert (late.first_rank - early.first_rank == 6).all()  # rows 5, 100 to 104


def test_a_distance_ranks_the_nearest_first():
    places = torch.tensor([[0.0], [5], [1], [9], [4]])
    wanted = RankRequest(depth=5, positives=[(4,), ()])
    found = rank_vectors(
        torch.tensor([[3.9], [8.0]]), places, wanted, lambda q, g: -torch.cdist(q, g)
    )
    assert found.top.tolist() == [[4, 1, 2, 0, 3], [3, 1, 4, 2, 0]]
    assert found.first_rank.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (lambda q, g: q[:, 0] @ g[1:].T, r"must give \(\d+, 689\)"),
        (lambda q, g: (q[:, 0] @ g.T).log(), "finite"),
        (lambda q, g: q[:, 0] @ g.T / 0, "finite"),
    ],
)
def test_scores_of_another_shape_or_that_are_not_finite_are_refused(vectors, wanted, score, said):
    with pytest.raises(CorruptData, match=said):
        rank_vectors(*vectors, wanted, score)
