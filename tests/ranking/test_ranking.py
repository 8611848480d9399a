from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cirbench.benchmark.ranking import dot_product as dot_products
from cirbench.benchmark.ranking import parts as ranking_parts
from cirbench.benchmark.ranking import rank as ranking
from cirbench.benchmark.ranking import scan
from cirbench.benchmark.ranking.dot_product import DotProduct, add_halves
from cirbench.benchmark.ranking.equal_vectors import Copies
from cirbench.benchmark.ranking.parts import BestPositives, RankRequest, rank_part
from cirbench.benchmark.ranking.rank import (
    dot_product,
    find_best_positives,
    merge_parts,
    rank,
    rank_vectors,
)
from cirbench.benchmark.runtime.errors import CorruptData


def scores_of(matrix):
    table = torch.tensor(matrix, dtype=torch.float32)
    return lambda rows: table[rows]


def unit(vectors):
    return torch.nn.functional.normalize(vectors, dim=1)


def exact_scores(queries, gallery):
    """By the definition: exact products in float64, added by halves, rounded once."""
    terms = queries.double()[:, None] * gallery.double()[None]
    sums = add_halves(terms.reshape(-1, queries.shape[1])).float().numpy() + np.float32(0)
    return sums.reshape(len(queries), len(gallery))


def brute_force(scores, positives, removed, depth):
    order = [i for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)) if i != removed]
    found = [i for i in order if i in positives]
    first_rank = order.index(found[0]) + 1 if found else 0
    others = [abs(scores[i] - scores[found[0]]) for i in order if i not in positives and found]
    return order[:depth], first_rank, 0 in others, min(others, default=1) <= 1e-6


def same(left, right):
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("top", "similarity", "first_rank", "tied", "fragile", "members")
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
        order, first_rank, tied, _ = brute_force(
            row, case["positives"][q], case["removed"][q], depth
        )
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
    wanted = RankRequest(
        depth=case["depth"],
        positives=case["positives"],
        removed=case["removed"],
        members=[range(0, items, q + 1) for q in range(queries)],
    )
    whole = rank_vectors(vectors, gallery, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "PART_ROWS", part_rows)
        parts = rank_vectors(vectors, gallery, wanted)
    assert same(parts, whole)
    scores = exact_scores(vectors, gallery).tolist()
    for q, row in enumerate(scores):
        asked = case["positives"][q], case["removed"][q], case["depth"]
        order, first_rank, tied, fragile = brute_force(row, *asked)
        assert whole.top[q].tolist() == order + [-1] * (case["depth"] - len(order))
        assert (whole.first_rank[q], whole.tied[q], whole.fragile[q]) == (
            first_rank,
            tied,
            fragile,
        )


def test_positives_within_the_margin_of_others_are_ranked_by_their_exact_scores(monkeypatch):
    # Neighbours closer than the margin on either side, in other parts than the positive.
    steps = torch.arange(-20, 21) * 4e-7
    gallery = torch.stack([0.5 + steps, torch.zeros(41)], dim=1)[torch.randperm(41)]
    queries = torch.tensor([[1.0, 0.0]]).repeat(41, 1)
    wanted = RankRequest(depth=41, positives=[[row] for row in range(41)])
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
    wanted = RankRequest(depth=30, positives=[[400, q] if q % 3 else [] for q in range(20)])
    whole = rank_vectors(queries, gallery, wanted)
    gallery.numpy().tofile(tmp_path / "gallery")
    mapped = torch.from_file(str(tmp_path / "gallery"), size=gallery.numel()).view(500, 32)
    monkeypatch.setattr(ranking, "PART_ROWS", 64)
    found = rank_vectors(queries, mapped, wanted)
    assert np.array_equal(found.top, whole.top)
    assert np.array_equal(found.first_rank, whole.first_rank)
    assert found.tied.tolist() == whole.tied.tolist()
    best = find_best_positives(queries, gallery, wanted)
    shards = [
        rank_part(dot_product(queries, gallery[start:stop]), wanted, range(start, stop), best)
        for start, stop in ((0, 300), (300, 500))
    ]
    assert same(merge_parts(shards, wanted), whole)


class Watched:
    """A gallery that notes how many of its rows are in memory at once."""

    def __init__(self, rows):
        self.rows, self.now, self.most, self.largest = rows, 0, 0, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, wanted):
        part = self.rows[wanted].clone()
        self.now += len(part)
        self.most, self.largest = max(self.most, self.now), max(self.largest, len(part))
        weakref.finalize(part, self._forget, len(part))
        return part

    def _forget(self, count):
        self.now -= count


@pytest.mark.parametrize("parts", [4, 40])
def test_however_large_a_gallery_a_few_parts_of_it_are_in_memory(monkeypatch, parts):
    monkeypatch.setattr(ranking, "PART_ROWS", 64)
    generator = torch.Generator().manual_seed(5)
    gallery = unit(torch.randn(64 * parts, 16, generator=generator))
    queries = unit(torch.randn(9, 16, generator=generator))
    wanted = RankRequest(depth=20, positives=[[7 * q, 64 * parts - 1 - q] for q in range(9)])
    watched = Watched(gallery)
    found = rank_vectors(queries, watched, wanted)
    assert watched.largest == 64
    assert watched.most <= 2 * 64, "what is ranked, and what is read next"
    monkeypatch.setattr(ranking, "PART_ROWS", len(gallery))
    assert same(found, rank_vectors(queries, gallery, wanted))


def test_parts_counted_around_a_wrong_score_are_refused(monkeypatch):
    queries, gallery = torch.eye(2), torch.eye(2)
    wanted = RankRequest(depth=1, positives=[[0], [1]])
    wrong = BestPositives(np.array([1.0, 0.9], dtype=np.float32), np.array([0, 1]))
    with pytest.raises(CorruptData, match="query 1"):
        rank_part(dot_product(queries, gallery), wanted, range(2), wrong)
    monkeypatch.setattr(ranking_parts, "BLOCK_BYTES", 1)
    with pytest.raises(CorruptData, match="query 1"):
        rank_part(dot_product(queries, gallery), wanted, range(2), wrong)


def test_a_positive_that_is_named_twice_hides_no_tie():
    result = rank(scores_of([[0.5, 0.5]]), [[1, 1]], 2, depth=1)
    assert (result.first_rank[0], result.tied[0]) == (2, True)


@pytest.mark.parametrize("floored", [False, True])
@pytest.mark.parametrize("bytes_at_once", [1, 40_000, 2**21])
@pytest.mark.parametrize(
    ("distinct", "items", "k"),
    [(5, 3000, 700), (5, 3001, 20), (2000, 3001, 20), (2**23, 3001, 1), (5, 20, 20), (1, 999, 3)],
)
def test_a_scan_finds_what_a_stable_sort_and_counting_do(
    monkeypatch, bytes_at_once, distinct, items, k, floored
):
    monkeypatch.setattr(scan, "PIECE_BYTES", bytes_at_once)
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(-distinct, distinct, (6, items), generator=generator) * -0.5
    scores[0, ::2] = -torch.inf
    scores[1] = -torch.inf
    low = torch.tensor([0.0, 1.0, 2.0, torch.inf, -1.0, 3.0])
    slack = torch.tensor([0.0, 0.5, 1.0, 0.0, 2.0, 0.25])
    floor = torch.full((6,), -torch.inf)
    if floored:
        floor = torch.tensor([-1.0, 0.0, 1.0, 0.4 * distinct, 0.45 * distinct, 1.0 * distinct])
    worst = (scores.sort(dim=1, descending=True).values[:, k - 1] - slack).maximum(floor)
    nominated = ((scores >= worst[:, None]) & ~scores.isneginf()).nonzero().T
    for way in (scan.scan, scan.scan_block):
        found = way(scores.clone(), k, slack, floor, low, low + 1)
        assert np.array_equal(np.stack([found.row, found.column]), nominated)
        assert np.array_equal(found.score, scores[tuple(nominated)])
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
    assert max(asked) <= queries_per_block
    assert len(asked) == math.ceil(8 / queries_per_block)
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
    gallery = unit(torch.randn(101, 64, generator=generator))
    gallery[[50, 100]] = gallery[7].clone()
    queries = unit(torch.randn(9, 64, generator=generator))
    result = rank(dot_product(queries, gallery), [[50]] * 9, 101, depth=101)
    assert result.tied.all()
    places = [[row.tolist().index(item) for item in (7, 50, 100)] for row in result.top]
    assert all(b == a + 1 and c == b + 1 for a, b, c in places)
    assert result.first_rank.tolist() == [b + 1 for _, b, _ in places]


HARD = {
    "random": lambda g: unit(torch.randn(60, 768, generator=g)),
    "all terms alike": lambda g: torch.full((60, 768), 768**-0.5) * (1 + torch.rand(60, 1) * 1e-6),
    "cancelling": lambda g: unit(torch.tensor([1.0, -1.0]).repeat(60, 384) + torch.rand(60, 768)),
    "large and small": lambda g: unit(torch.randn(60, 768, generator=g) ** 9),
    "one term": lambda g: torch.eye(768)[torch.arange(60) % 7],
    "clustered": lambda g: unit(torch.randn(768, generator=g) + 1e-6 * torch.rand(60, 768)),
    "odd width": lambda g: unit(torch.randn(60, 37, generator=g)),
    "one number": lambda g: torch.randn(60, 1, generator=g).sign(),
}


@pytest.mark.parametrize("kind", HARD)
def test_ranks_are_those_of_the_defined_scores(kind, monkeypatch):
    vectors = HARD[kind](torch.Generator().manual_seed(4))
    queries, gallery = vectors[:20], vectors[20:]
    gallery[[3, 30]] = gallery[11].clone()
    positives = [[q, (7 * q) % 40] if q % 4 else [] for q in range(20)]
    removed = [q + 1 if q % 3 else None for q in range(20)]
    wanted = RankRequest(depth=25, positives=positives, removed=removed)
    found = rank_vectors(queries, gallery, wanted)
    scores = exact_scores(queries, gallery)
    for q in range(20):
        order, *counts = brute_force(scores[q].tolist(), positives[q], removed[q], 25)
        assert found.top[q].tolist() == order
        assert np.array_equal(found.similarity[q], scores[q][order])
        assert [found.first_rank[q], found.tied[q], found.fragile[q]] == counts
    monkeypatch.setattr(ranking, "PART_ROWS", 9)
    assert same(rank_vectors(queries, gallery, wanted), found)


@pytest.mark.parametrize("kind", HARD)
def test_the_fast_product_stays_within_its_margin(kind):
    vectors = HARD[kind](torch.Generator().manual_seed(5))
    scores = DotProduct(vectors[:20], vectors[20:])
    exact = exact_scores(vectors[:20], scores.vectors)
    fast = scores(slice(0, 20))
    assert (np.abs(fast.numpy() - exact) <= scores.margin.numpy()[:, None]).all()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("kind", HARD)
def test_no_kernel_moves_a_ranking(kind, sign, monkeypatch):
    """Whatever a processor makes of a product within the proven bounds, the ranking is the same."""
    vectors = HARD[kind](torch.Generator().manual_seed(6))
    queries, gallery = vectors[:20], vectors[20:].repeat(3, 1)
    gallery[40:80] *= 1 + 1e-7
    wanted = RankRequest(
        depth=30,
        positives=[[q, q + 50] for q in range(20)],
        removed=[0, None] * 10,
        members=[range(q, q + 9) for q in range(20)],
    )
    found = rank_vectors(queries, gallery, wanted)
    fast, wide = DotProduct.__call__, DotProduct._multiply_in_float64
    generator = torch.Generator().manual_seed(7)

    def other_kernel(self, rows):
        scores = fast(self, rows)
        off = 2 * torch.rand(scores.shape, generator=generator) - 1
        off[:, ::2] = sign  # the worst that may be
        # half of the bound is this processor's own
        return scores + 0.5 * off * self.margin[rows, None]

    def other_order(self, query, vector):
        off = np.where(np.arange(len(query)) % 2, sign, -sign) * 0.5 * self._reach[query]
        return wide(self, query, vector) + off

    monkeypatch.setattr(DotProduct, "__call__", other_kernel)
    monkeypatch.setattr(DotProduct, "_multiply_in_float64", other_order)
    assert same(rank_vectors(queries, gallery, wanted), found)


def test_a_product_in_lower_precision_is_refused(monkeypatch):
    vectors = unit(torch.randn(40, 64, generator=torch.Generator().manual_seed(8)))
    fast = DotProduct.__call__
    monkeypatch.setattr(
        DotProduct, "__call__", lambda self, rows: fast(self, rows).bfloat16().float()
    )
    with pytest.raises(CorruptData, match="must be computed in float32"):
        rank(dot_product(vectors, vectors), [[0]] * 40, 40, depth=5)


def test_vectors_that_are_not_finite_are_refused():
    with pytest.raises(CorruptData, match="must be finite"):
        dot_product(torch.eye(2), torch.tensor([[1.0, torch.nan]]))


def test_thousands_of_equal_vectors_are_scored_once(monkeypatch):
    generator = torch.Generator().manual_seed(9)
    gallery = unit(torch.randn(3000, 32, generator=generator))
    gallery[500:2500] = gallery[2999].clone()
    queries = unit(gallery[2999] + 0.1 * torch.randn(30, 32, generator=generator))
    scored, rounded = [], DotProduct._round

    def watched(self, query, vector):
        scored.append(len(query))
        return rounded(self, query, vector)

    monkeypatch.setattr(DotProduct, "_round", watched)
    wanted = RankRequest(depth=50, positives=[[1000 + q] for q in range(30)])
    found = rank_vectors(queries, gallery, wanted)
    assert sum(scored) < 30 * 200
    scores = exact_scores(queries, gallery)
    for q in range(30):
        order, *counts = brute_force(scores[q].tolist(), [1000 + q], None, 50)
        assert found.top[q].tolist() == order
        assert [found.first_rank[q], found.tied[q], found.fragile[q]] == counts


def test_copies_are_numbered_by_their_first_rows():
    copies = Copies.find(np.array([[1, 2], [1, 3], [1, 2], [0, 2], [1, 2]], dtype=np.float32))
    assert copies.vector.tolist() == [0, 1, 0, 2, 0]
    assert (copies.count.tolist(), copies.first_rows.tolist()) == ([3, 1, 1], [0, 1, 3])
    asked = np.array([0, 0, 0, 2]), np.array([0, 3, 5, 3])
    assert copies.count_before(*asked).tolist() == [0, 2, 3, 0]
    rows, place = copies.expand(np.array([1, 0]), 2)
    assert (rows.tolist(), place.tolist()) == ([1, 0, 2], [0, 1, 1])


def test_a_query_is_fragile_where_a_rival_is_within_a_millionth():
    scores = [[0.5, 0.5 - 9e-7, 0.1], [0.5, 0.5 - 3e-6, 0.1], [0.5, 0.5, 0.1], [0.5, 0.4, 0.1]]
    found = rank(scores_of(scores), [[0], [0], [0, 1], []], 3, depth=1)
    assert found.fragile.tolist() == [True, False, False, False]


def test_pairs_are_scored_alike_however_many_at_once(monkeypatch):
    vectors = unit(torch.randn(300, 96, generator=torch.Generator().manual_seed(10)))
    scores = DotProduct(vectors[:50], vectors[50:])
    query, vector = np.divmod(np.arange(50 * 250), 250)
    whole = scores.exact(query, vector)
    assert np.array_equal(whole.reshape(50, 250), exact_scores(vectors[:50], vectors[50:]))
    monkeypatch.setattr(dot_products, "_PAIRS_AT_ONCE", 77)
    monkeypatch.setattr(dot_products, "_SLICE", 40)
    sliced = DotProduct(vectors[:50], vectors[50:])
    assert np.array_equal(sliced.exact(query, vector), whole)
    assert np.array_equal(scores._add_in_fixed_order(query, vector), whole)
