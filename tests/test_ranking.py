from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cirbench.benchmark import ranking, ranking_parts, scan
from cirbench.benchmark.errors import CorruptData
from cirbench.benchmark.ranking import best_positive, dot_product, merged, rank, rank_vectors
from cirbench.benchmark.ranking_parts import Wanted, rank_part


def scores_of(matrix):
    """The seam's function; each block is a fresh copy, since ranking may write into it."""
    table = torch.tensor(matrix, dtype=torch.float32)
    return lambda rows: table[rows].clone()


def brute_force(scores, positives, removed, depth):
    order = [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if i != removed]
    found = [i for i in order if i in positives]
    first_rank = order.index(found[0]) + 1 if found else 0
    rivals = [i for i in order if i not in positives and found and scores[i] == scores[found[0]]]
    return order[:depth], first_rank, bool(rivals)


def same(left, right):
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("top", "similarity", "first_rank", "tied")
    )


def test_worked_example():
    result = rank(
        scores_of([[0.1, 0.9, 0.5, 0.7], [0.2, 0.8, 0.8, 0.3], [0.4, 0.3, 0.2, 0.1]]),
        [[2], [2, 3], []],
        4,
        depth=3,
        removed=[1, None, 0],
    )
    assert result.top.tolist() == [[3, 2, 0], [1, 2, 3], [1, 2, 3]]
    np.testing.assert_allclose(
        result.similarity, [[0.7, 0.5, 0.1], [0.8, 0.8, 0.3], [0.3, 0.2, 0.1]], rtol=1e-6
    )
    assert result.first_rank.tolist() == [2, 2, 0]
    assert result.tied.tolist() == [False, True, False]
    assert (result.top.dtype, result.similarity.dtype) == (np.int32, np.float32)
    assert (result.first_rank.dtype, result.tied.dtype) == (np.int64, np.bool_)


@pytest.mark.parametrize(
    ("positives", "first_rank", "tied"),
    [
        ([0], 2, True),  # a better item, then itself; row 2 ties and comes after
        ([2], 3, True),  # row 0 ties and comes before
        ([0, 2], 2, False),  # positives that tie among themselves decide nothing
        ([3, 1], 1, False),  # the best-ranked positive counts, in whatever order they are listed
        ([3], 4, False),
    ],
)
def test_first_rank_and_ties_by_hand(positives, first_rank, tied):
    result = rank(scores_of([[0.5, 0.9, 0.5, 0.1]]), [positives], 4, depth=1)
    assert (result.first_rank[0], result.tied[0]) == (first_rank, tied)


def test_a_removed_item_neither_ranks_nor_ties():
    scores = [[0.5, 0.5, 0.1]]
    result = rank(scores_of(scores), [[1]], 3, depth=3, removed=[0])
    assert result.top.tolist() == [[1, 2, -1]]
    assert result.similarity[0, 2] == -np.inf
    assert (result.first_rank[0], result.tied[0]) == (1, False)
    only_positive = rank(scores_of(scores), [[0]], 3, depth=3, removed=[0])
    assert (only_positive.first_rank[0], only_positive.tied[0]) == (0, False)


def test_a_depth_beyond_the_gallery_is_filled_up():
    result = rank(scores_of([[0.1, 0.2]]), [[0]], 2, depth=4)
    assert result.top.tolist() == [[1, 0, -1, -1]]
    assert result.similarity[0, 2:].tolist() == [-np.inf, -np.inf]


@st.composite
def rankings(draw):
    queries, items = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    rows = st.integers(0, items - 1)
    # Few distinct values, so that nearly every example has ties at every place.
    scores = st.lists(st.integers(-1, 1), min_size=items, max_size=items)

    def per_query(strategy):
        return draw(st.lists(strategy, min_size=queries, max_size=queries))

    return {
        "scores": per_query(scores),
        "positives": per_query(st.lists(rows, unique=True, max_size=3)),
        "removed": per_query(st.none() | rows),
        "depth": draw(st.integers(1, items + 2)),
        "block_bytes": draw(st.sampled_from([1, 8 * items, ranking_parts.BLOCK_BYTES])),
    }


@settings(max_examples=300, deadline=None)
@given(case=rankings())
def test_agrees_with_a_stable_sort(case):
    scores, depth = case["scores"], case["depth"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking_parts, "BLOCK_BYTES", case["block_bytes"])
        result = rank(
            scores_of(scores),
            case["positives"],
            len(scores[0]),
            depth=depth,
            removed=case["removed"],
        )
    for q, row in enumerate(scores):
        order, first_rank, tied = brute_force(row, case["positives"][q], case["removed"][q], depth)
        unfilled = depth - len(order)
        assert result.top[q].tolist() == order + [-1] * unfilled
        assert result.similarity[q].tolist() == [row[i] for i in order] + [-np.inf] * unfilled
        assert (result.first_rank[q], result.tied[q]) == (first_rank, tied)


@settings(max_examples=200, deadline=None)
@given(case=rankings(), part_rows=st.integers(1, 4), width=st.integers(1, 3))
def test_a_gallery_in_parts_ranks_as_the_whole(case, part_rows, width):
    queries, items = len(case["scores"]), len(case["scores"][0])
    generator = torch.Generator().manual_seed(items)
    # Whole numbers, so that many scores tie and no computation rounds.
    gallery = torch.randint(-1, 2, (items, width), generator=generator).float()
    vectors = torch.randint(-1, 2, (queries, width), generator=generator).float()
    wanted = Wanted(
        depth=case["depth"], positives=case["positives"], removed=case["removed"],
        members=[range(0, items, q + 1) for q in range(queries)],
    )  # fmt: skip
    whole = rank_vectors(vectors, gallery, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "PART_ROWS", part_rows)
        parts = rank_vectors(vectors, gallery, wanted)
    assert same(parts, whole)
    assert np.array_equal(parts.members, whole.members)


def test_positives_within_the_margin_of_others_are_ranked_by_their_exact_scores(monkeypatch):
    # Neighbours closer than the margin on either side, in other parts than the positive.
    steps = torch.arange(-20, 21) * 4e-7
    gallery = torch.stack([0.5 + steps, torch.zeros(41)], dim=1)[torch.randperm(41)]
    queries = torch.tensor([[1.0, 0.0]]).repeat(41, 1)
    wanted = Wanted(depth=41, positives=[[row] for row in range(41)])
    whole = rank_vectors(queries, gallery, wanted)
    monkeypatch.setattr(ranking, "PART_ROWS", 7)
    parts = rank_vectors(queries, gallery, wanted)
    assert same(parts, whole)
    assert sorted(parts.first_rank.tolist()) == list(range(1, 42))


def test_a_gallery_is_read_from_a_mapped_file_and_shards_merge(monkeypatch, tmp_path):
    generator = torch.Generator().manual_seed(3)
    gallery = torch.nn.functional.normalize(torch.randn(500, 32, generator=generator), dim=1)
    gallery[400] = gallery[7]
    queries = torch.nn.functional.normalize(torch.randn(20, 32, generator=generator), dim=1)
    wanted = Wanted(depth=30, positives=[[400, q] if q % 3 else [] for q in range(20)])
    whole = rank_vectors(queries, gallery, wanted)
    gallery.numpy().tofile(tmp_path / "gallery")
    mapped = torch.from_file(str(tmp_path / "gallery"), size=gallery.numel()).view(500, 32)
    monkeypatch.setattr(ranking, "PART_ROWS", 64)
    found = rank_vectors(queries, mapped, wanted)
    assert np.array_equal(found.top, whole.top)
    assert np.array_equal(found.first_rank, whole.first_rank)
    assert found.tied.tolist() == whole.tied.tolist()
    around = best_positive(queries, gallery, wanted)
    shards = [
        rank_part(dot_product(queries, gallery[start:stop]), wanted, range(start, stop), around)
        for start, stop in ((0, 300), (300, 500))
    ]
    assert np.array_equal(merged(shards, wanted, around).first_rank, whole.first_rank)


def test_parts_counted_around_a_wrong_score_are_refused():
    queries, gallery = torch.eye(2), torch.eye(2)
    wanted = Wanted(depth=1, positives=[[0], [1]])
    wrong = torch.tensor([1.0, 0.9])
    part = rank_part(dot_product(queries, gallery), wanted, range(2), wrong)
    with pytest.raises(CorruptData, match="query 1"):
        merged([part], wanted, wrong)


def test_a_positive_that_is_named_twice_hides_no_tie():
    result = rank(scores_of([[0.5, 0.5]]), [[1, 1]], 2, depth=1)
    assert (result.first_rank[0], result.tied[0]) == (2, True)


@pytest.mark.parametrize("bytes_at_once", [1, 40_000, 2**21])
@pytest.mark.parametrize(
    ("distinct", "items", "k"),
    [(5, 3000, 700), (5, 3001, 20), (2000, 3001, 20), (2**23, 3001, 1), (5, 20, 20), (1, 999, 3)],
)
def test_a_scan_finds_what_a_stable_sort_and_counting_do(
    monkeypatch, bytes_at_once, distinct, items, k
):
    monkeypatch.setattr(scan, "PIECE_BYTES", bytes_at_once)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-distinct, distinct, (6, items), generator=generator) * -0.5
    scores[0, ::2] = -torch.inf
    scores[1] = -torch.inf
    low = torch.tensor([0.0, 1.0, 2.0, torch.inf, -1.0, 3.0])
    expected = scores.sort(dim=1, descending=True, stable=True)
    for way in (scan.scan, scan.scan_block):
        found = way(scores.clone(), k, low, low + 1)
        assert np.array_equal(found.columns, expected.indices[:, :k])
        assert np.array_equal(found.values, expected.values[:, :k])
        assert np.array_equal(found.above, (scores > low[:, None] + 1).sum(1))
        near = (scores >= low[:, None]) & (scores <= low[:, None] + 1)
        assert np.array_equal(np.stack([found.near_row, found.near_column]), near.nonzero().T)


@pytest.mark.parametrize("queries_per_block", [1, 2, 3, 5, 8])
def test_blocks_change_nothing(monkeypatch, queries_per_block):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(-3, 4, (8, 40), generator=generator).tolist()
    positives = [[q, q + 3] if q % 3 else [] for q in range(8)]
    removed = [q if q % 2 else None for q in range(8)]
    asked = []

    def watched(rows):
        asked.append(rows.stop - rows.start)
        return scores_of(scores)(rows)

    whole = rank(scores_of(scores), positives, 40, depth=12, removed=removed)
    monkeypatch.setattr(ranking_parts, "BLOCK_BYTES", queries_per_block * 40 * 4)
    assert same(rank(watched, positives, 40, depth=12, removed=removed), whole)
    assert max(asked) == queries_per_block
    assert sum(asked) == 8


def test_dot_products_are_float32_whatever_comes_in():
    # In half precision both scores are 1, and gallery order would put row 0 first.
    queries = torch.tensor([[1.0, 2.0**-11]], dtype=torch.float16)
    gallery = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float16)
    scores = dot_product(queries, gallery)
    assert scores(slice(0, 1)).dtype == torch.float32
    assert rank(scores, [[1]], 2, depth=2).top.tolist() == [[1, 0]]
    assert dot_product(queries.double(), gallery.double())(slice(0, 1)).dtype == torch.float32


def test_equal_vectors_tie_wherever_they_stand_in_the_gallery():
    generator = torch.Generator().manual_seed(2)
    gallery = torch.nn.functional.normalize(torch.randn(101, 64, generator=generator), dim=1)
    gallery[[50, 100]] = gallery[7].clone()
    queries = torch.nn.functional.normalize(torch.randn(9, 64, generator=generator), dim=1)
    result = rank(dot_product(queries, gallery), [[50]] * 9, 101, depth=101)
    assert result.tied.all()
    places = [[row.tolist().index(item) for item in (7, 50, 100)] for row in result.top]
    assert all(b == a + 1 and c == b + 1 for a, b, c in places)
    assert result.first_rank.tolist() == [b + 1 for _, b, _ in places]
