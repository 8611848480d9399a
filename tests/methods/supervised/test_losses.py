"""Losses against loops over their formulas, and which triplets are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cirbench.methods.supervised.losses import (
    draw_pair_triplets,
    draw_set_triplets,
    scaled_cosine_loss,
    soft_triplet_loss,
    tempered_score_loss,
)


def make(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mean_cross_entropy(logits):
    rows = [
        math.log(sum(math.exp(x - row[i]) for x in row)) for i, row in enumerate(logits.tolist())
    ]
    return sum(rows) / len(rows)


def test_the_scale_counts_on_both_sides():
    queries, targets, scale = make(3, 5), make(3, 5, seed=1), torch.tensor([4.0]).double()
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], targets[None], dim=2)
    loss = scaled_cosine_loss(queries, targets, scale)
    assert loss.item() == pytest.approx(mean_cross_entropy(16 * cosine))


def test_the_temperature_is_a_logarithm():
    scores = make(4, 4)
    loss = tempered_score_loss(scores, torch.tensor([2.0]))
    assert loss.item() == pytest.approx(mean_cross_entropy(math.exp(2) * scores))


TRIPLETS = torch.tensor([[0, 1, 2], [3, 1, 0], [0, 1, 3]])


def test_the_soft_triplet_loss_is_a_mean_over_triplets():
    x = make(4, 3)
    expected = 0.0
    for a, p, n in TRIPLETS.tolist():
        near, far = ((x[a] - x[other]).square().sum().item() for other in (p, n))
        expected += math.log(1 + math.exp(near - far)) / len(TRIPLETS)
    assert soft_triplet_loss(x, TRIPLETS).item() == pytest.approx(expected)


def test_the_soft_triplet_loss_has_its_own_whole_gradient():
    x = make(4, 3).requires_grad_()
    soft_triplet_loss(x, TRIPLETS).backward()
    expected = torch.zeros_like(x)
    with torch.no_grad():
        for a, p, n in TRIPLETS.tolist():
            gap = (x[a] - x[p]).square().sum() - (x[a] - x[n]).square().sum()
            slope = gap.sigmoid() / len(TRIPLETS)
            expected[a] += slope * 2 * (x[n] - x[p])
            expected[p] += slope * 2 * (x[p] - x[a])
            expected[n] += slope * 2 * (x[a] - x[n])
    torch.testing.assert_close(x.grad, expected)


def test_pair_triplets_take_every_row_as_an_anchor():
    triplets = draw_pair_triplets(4, np.random.default_rng(0)).tolist()
    assert [a for a, _, _ in triplets] == [row for row in range(8) for _ in range(3)]
    assert all(p == (a + 4) % 8 and n % 4 != a % 4 for a, p, n in triplets)
    assert len(set(map(tuple, triplets))) == 24


def test_pair_triplets_of_a_small_batch_are_all_there_are():
    assert len(draw_pair_triplets(2, np.random.default_rng(0))) == 4 * 2
    with pytest.raises(ValueError, match="at least 2 pairs"):
        draw_pair_triplets(1, np.random.default_rng(0))


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: draw_pair_triplets(5, rng),
        lambda rng: draw_set_triplets([[10], [11, 12], [13]], rng),
    ],
)
def test_triplets_are_a_function_of_the_generator(draw):
    first, again, other = (draw(np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_set_triplets_never_have_a_member_or_their_own_target_as_negative():
    positives = [[6, 8], [], [13]]
    seen = set()
    for seed in range(40):
        triplets = draw_set_triplets(positives, np.random.default_rng(seed)).tolist()
        assert len(set(map(tuple, triplets))) == len(triplets)
        assert [a for a, _, _ in triplets] == [0] * 6 + [2] * 4  # 4 is all that query 2 has
        seen |= set(map(tuple, triplets))
    assert {n for a, _, n in seen if a == 0} == {1, 2, 4, 5}
    assert {p for a, p, _ in seen if a == 0} == {6, 8}
    assert {n for a, _, n in seen if a == 2} == {0, 1, 3, 4}


@pytest.mark.parametrize("positives", [[[2]], [[], []]])
def test_set_triplets_need_a_positive_and_a_negative(positives):
    with pytest.raises(ValueError, match="at least 2 queries"):
        draw_set_triplets(positives, np.random.default_rng(0))
