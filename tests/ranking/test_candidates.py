"""A gallery a query: each rank against a plain sort of that query's own candidates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.data.subsets import limit_queries, remove_pictures
from cirbench.benchmark.ranking.candidates import rank_candidates
from cirbench.benchmark.ranking.groups import rank_queries
from cirbench.benchmark.ranking.parts import FRAGILE
from cirbench.benchmark.runtime.errors import CorruptData

QUERIES, GALLERY, WIDTH = 40, 200, 16


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    gallery = normalize(torch.randn(GALLERY, WIDTH, generator=generator), dim=1)
    gallery[20:30] = gallery[5]
    return normalize(torch.randn(QUERIES, WIDTH, generator=generator), dim=1), gallery


@pytest.fixture
def asked():
    """Candidates of several numbers, each query's positives the last one or two of them."""
    rng = np.random.default_rng(0)
    chosen = [
        rng.choice(40, int(rng.integers(2, 15)), replace=False).tolist() for _ in range(QUERIES)
    ]
    return chosen, [own[-1 - number % 2 :] for number, own in enumerate(chosen)]


def halved(queries, gallery):
    """A score of a method's own."""
    return (queries @ gallery.T) / 2


@pytest.mark.parametrize("score", [None, halved])
@pytest.mark.parametrize("depth", [1, 3, 20])
def test_every_rank_is_that_of_a_plain_sort(vectors, asked, score, depth, monkeypatch):
    monkeypatch.setattr("cirbench.benchmark.ranking.candidates.BLOCK_BYTES", 7 * 4 * GALLERY)
    queries, gallery = vectors
    candidates, positives = asked
    found = rank_candidates(queries, gallery, candidates, positives, depth=depth, score=score)
    products = (queries.double() @ gallery.double().T).numpy() / (2 if score else 1)
    products[:, 20:30] = products[:, [5]]
    for i, own in enumerate(candidates):
        order = sorted(
            range(len(own)), key=lambda place: (-np.float32(products[i, own[place]]), place)
        )
        rows = [own[place] for place in order]
        padding = [-1] * (depth - len(rows))
        assert found.top[i].tolist() == (rows + padding)[:depth]
        assert np.isneginf(found.similarity[i, len(rows) :]).all()
        hits = [row in positives[i] for row in rows]
        assert found.first_rank[i] == 1 + hits.index(True)
        best = products[i, rows[hits.index(True)]]
        others = [products[i, row] for row in own if row not in positives[i]]
        assert found.tied[i] == any(np.float32(one) == np.float32(best) for one in others)
        assert found.fragile[i] == any(abs(one - best) <= FRAGILE for one in others)
    assert found.tied.any()


def test_equal_scores_go_by_the_candidates_order_and_not_the_gallerys():
    gallery = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    found = rank_candidates(gallery[:1], gallery, [(2, 1, 0)], [(0,)], depth=3)
    assert found.top.tolist() == [[1, 0, 2]]
    assert found.first_rank.tolist() == [2]
    assert found.tied.tolist() == [True]


def test_a_constant_scorer_finds_a_target_that_stands_last_only_last():
    gallery = torch.ones(15, 1)
    found = rank_candidates(torch.ones(1, 1), gallery, [range(15)], [(14,)], depth=3)
    assert found.first_rank.tolist() == [15]
    assert found.tied.tolist() == [True]


def test_a_row_that_stands_twice_takes_two_ranks():
    gallery = torch.eye(3)
    found = rank_candidates(gallery[:1], gallery, [(0, 0, 1)], [(1,)], depth=3)
    assert found.top.tolist() == [[0, 0, 1]]
    assert found.first_rank.tolist() == [3]


def test_a_query_without_positives_has_no_rank():
    found = rank_candidates(torch.ones(1, 1), torch.ones(2, 1), [(0, 1)], [()], depth=1)
    assert found.first_rank.tolist() == [0]
    assert found.tied.tolist() == [False]


def test_a_vector_that_is_not_finite_is_refused():
    gallery = torch.tensor([[1.0], [float("nan")]])
    with pytest.raises(CorruptData, match="finite"):
        rank_candidates(torch.ones(1, 1), gallery, [(0,)], [(0,)], depth=1)


def make_task(*queries):
    refs = tuple(ImageRef(id=f"g{row}", read=bytes) for row in range(6))
    reference = ImageRef(id="asked", read=bytes)
    asked = [Query(id=str(i), reference=reference, **parts) for i, parts in enumerate(queries)]
    return TaskData(gallery=refs, queries=tuple(asked), annotations={}, spans={"b": range(2, 6)})


def test_queries_with_and_without_candidates_are_ranked_in_one_task():
    data = make_task(
        {"positives": (5,), "group": "b"},
        {"positives": (4,), "candidates": (1, 4)},
        {"positives": (0,)},
    )
    vectors = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    gallery = normalize(torch.tensor([[6.0, 1], [5, 2], [4, 3], [3, 4], [2, 5], [1, 6]]), dim=1)
    found = rank_queries(data, vectors, gallery, 3)
    assert found.top.tolist() == [[5, 4, 3], [4, 1, -1], [0, 1, 2]]
    assert found.first_rank.tolist() == [1, 1, 1]


def test_parts_of_a_task_keep_the_candidates_and_the_target_in_its_new_gallery():
    parts = {"positives": (5, 2), "target": 5, "candidates": (4, 2, 5)}
    data = make_task(parts, parts)
    [query] = limit_queries(data, 1).queries
    assert (query.candidates, query.positives, query.target) == ((1, 0, 2), (2, 0), 2)
    first, _ = remove_pictures(data, ["g5"]).queries
    assert (first.candidates, first.positives, first.target) == ((4, 2), (2,), None)
