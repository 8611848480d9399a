from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.ranking.rank import Ranking
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.scoring.bootstrap import Design, make_intervals
from cirbench.benchmark.scoring.summary import check_averages, find_depth, score, summarise


def one_group(references):
    return Design.of([f"{r:05d}" for r in references], ["all"] * len(references), ["all"], {})


def interval(values, references, resamples=2000):
    """The interval of the mean of one metric over one group."""
    design, column = one_group(references), np.asarray(values, dtype=float)[:, None]
    draws = design.draws(column, resamples)[:, 0]
    return make_intervals(design.means(column)[0], draws, [len(values)])[0]


def width(found):
    return found.high - found.low


def test_group_means_by_hand():
    design = Design.of(["r1", "r1", "r2", "r2"], ["b", "a", "b", "b"], ["a", "b"], {})
    values = np.array([[30.0, 1.0], [10.0, 2.0], [60.0, 3.0], [90.0, 8.0]])
    assert design.means(values).tolist() == [[10, 2], [60, 4]]
    assert design.sizes.tolist() == [1, 3]
    assert (design.clusters, design.groups) == (2, ("a", "b"))


def test_aspects_overlap_and_are_groups_beside_their_own():
    has = {"long": np.array([True, False, True]), "red": np.array([True, True, False])}
    groups, averages = ["all", "long", "red"], {"average": ["all"]}
    design = Design.of(["r1", "r2", "r2"], ["all"] * 3, groups, averages, has)
    values = np.array([[30.0], [60.0], [90.0]])
    assert design.rows == ("average", "all", "long", "red")
    assert design.means(values).tolist() == [[60], [60], [60], [45]]
    assert design.row_sizes == [3, 3, 2, 2]
    draws = design.draws(values, 200)[:, :, 0]
    # r1 alone, r2 alone, or both: rows of one draw see the same references
    wanted = [[30, 30, 30, 30], [75, 75, 90, 60], [60, 60, 60, 45]]
    assert np.unique(draws, axis=0).tolist() == sorted(wanted)


def test_draws_are_means_under_resampled_references():
    # Two references with 0 and 100: a draw has the second one 0, 1 or 2 times.
    draws = one_group([0, 1]).draws(np.array([[0.0], [100.0]]), 4000)[:, 0, 0]
    values, counts = np.unique(draws, return_counts=True)
    assert values.tolist() == [0, 50, 100]
    np.testing.assert_allclose(counts / 4000, [0.25, 0.5, 0.25], atol=0.03)


def test_groups_are_resampled_jointly():
    # Each reference is right in exactly one of two groups: their average can't vary.
    right = np.random.default_rng(0).integers(0, 2, 40)
    references = [f"{r:02d}" for r in range(40)] * 2
    design = Design.of(references, ["a"] * 40 + ["b"] * 40, ["a", "b"], {})
    draws = design.draws(100.0 * np.concatenate([right, 1 - right])[:, None], 500)
    assert draws.shape == (500, 2, 1)
    assert draws[:, 0].std() > 5
    np.testing.assert_allclose(draws.mean(axis=1), 50, atol=1e-9)


def test_metrics_are_resampled_jointly():
    values = np.random.default_rng(1).random((30, 1))
    draws = one_group(range(30)).draws(np.hstack([values, 2 * values + 1]), 200)
    assert draws[:, 0, 0].std() > 0
    np.testing.assert_allclose(draws[:, 0, 1], 2 * draws[:, 0, 0] + 1)


def test_repeated_queries_of_a_reference_do_not_narrow_the_interval():
    values = np.random.default_rng(2).integers(0, 2, 50) * 100.0
    once = interval(values, np.arange(50))
    four_times = interval(np.tile(values, 4), np.tile(np.arange(50), 4))
    assert (four_times.n, once.n) == (200, 50)
    assert (four_times.low, four_times.high) == pytest.approx((once.low, once.high))
    as_if_independent = interval(np.tile(values, 4), np.arange(200))
    assert width(as_if_independent) == pytest.approx(width(once) / 2, rel=0.15)


def test_same_data_same_draws():
    values, design = np.random.default_rng(3).random((20, 2)), one_group(range(20))
    draws = design.draws(values, 300)
    assert np.array_equal(draws, design.draws(values, 300))
    assert len(np.unique(draws[:, 0, 0])) > 250
    # More resamples go on where fewer stopped.
    np.testing.assert_allclose(design.draws(values, 200), draws[:200])


@pytest.mark.parametrize("constant", [0.0, 37.3, 100.0])
def test_a_constant_metric_has_no_width(constant):
    found = interval(np.full(60, constant), np.arange(60) // 3)
    assert (found.value, found.low, found.high) == pytest.approx((constant,) * 3)


def test_width_agrees_with_the_normal_approximation():
    values = 100.0 * (np.random.default_rng(4).random(600) < 0.3)
    found = interval(values, np.arange(600))
    half = 1.96 * values.std() / np.sqrt(600)
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.06 * half * 2)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06 * half * 2)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(5)
    references = np.repeat(np.arange(60), 3)
    covered = 0
    for _ in range(200):
        # Queries of one reference are alike; the truth is 50.
        values = 50 + np.repeat(rng.normal(0, 10, 60), 3) + rng.normal(0, 5, 180)
        found = interval(values, references, resamples=400)
        covered += found.low <= 50 <= found.high
    assert 0.89 <= covered / 200 <= 0.985


def test_an_interval_holds_the_middle_95_percent():
    draws = np.linspace(0, 100, 1001)[:, None]
    (found,) = make_intervals(np.array([42.0]), draws, [7])
    assert (found.value, found.n) == (42, 7)
    assert (found.low, found.high) == pytest.approx((2.5, 97.5))


def test_draws_that_miss_a_group_are_left_out():
    design = Design.of(["r1", "r2", "r3"], ["a", "a", "b"], ["a", "b"], {})
    draws = design.draws(np.array([[0.0], [10.0], [70.0]]), 200)
    assert np.isnan(draws[:, 1]).any()
    (found,) = make_intervals(np.array([70.0]), draws[:, 1], [1])
    assert (found.low, found.high) == (70, 70)


def test_averages_are_plain_means_over_groups():
    means = np.array([[10.0, 1.0], [20.0, 2.0], [60.0, 6.0]])
    averages = {"average": ("a", "b", "c"), "without b": ("a", "c")}
    design = Design.of(["r"] * 3, ["a", "b", "c"], ["a", "b", "c"], averages)
    expected = [[30, 3], [35, 3.5], [10, 1], [20, 2], [60, 6]]
    assert design.add_averages(means).tolist() == expected
    stacked = design.add_averages(np.stack([means, 2 * means]))
    assert stacked[1].tolist() == (2 * np.array(expected)).tolist()


PROTOCOL = EvaluationProtocol(
    name="p",
    version=1,
    gallery="all",
    reference_removed=False,
    preprocess="clip",
    templates={},
    metrics=("R@1", "HR@2"),
    headline="R@1",
    averages={"without c": ("a", "b")},
)


def test_recall_of_the_target_is_not_that_of_all_positives():
    top = np.array([[3, 1, 2], [3, 1, 2], [0, 1, 2]], dtype=np.int32)
    refs = tuple(ImageRef(id=str(row), read=bytes) for row in range(4))
    queries = [
        Query(id=str(i), reference=refs[0], positives=(1, 2), target=target)
        for i, target in enumerate((1, 2, None))
    ]
    found = score(
        TaskData(gallery=refs, queries=tuple(queries), annotations={}),
        Ranking(
            top=top,
            similarity=np.zeros((3, 3), dtype=np.float32),
            first_rank=np.array([2, 2, 2]),
            tied=np.zeros(3, dtype=bool),
            fragile=np.zeros(3, dtype=bool),
        ),
        replace(PROTOCOL, metrics=("target R@1", "target R@2", "target R@3", "R@3", "mAP@3")),
    )
    half = 100 * (1 / 2 + 2 / 3) / 2
    wanted = [[0, 100, 100, 100, half], [0, 0, 100, 100, half], [0, 0, 0, 100, half]]
    np.testing.assert_allclose(found.values, wanted)


def test_the_ranking_goes_as_deep_as_the_deepest_metric():
    assert find_depth(PROTOCOL) == 2


def scored():
    """Five queries in groups a, b and c over a gallery of four; two references."""
    refs = {name: ImageRef(id=name, read=bytes) for name in ("r1", "r2")}
    rows = [
        ("r1", "a", (0, 1)),
        ("r2", "a", (3,)),
        ("r1", "b", (1,)),
        ("r2", "b", ()),
        ("r2", "c", (0,)),
    ]
    data = TaskData(
        gallery=tuple(ImageRef(id=f"g{i}", read=bytes) for i in range(4)),
        queries=tuple(
            Query(id=f"q{i}", reference=refs[reference], positives=positives, group=group)
            for i, (reference, group, positives) in enumerate(rows)
        ),
        annotations={},
    )
    ranking = Ranking(
        top=np.array([[0, 1], [2, 3], [0, 2], [0, 1], [0, 1]], dtype=np.int32),
        similarity=np.zeros((5, 2), dtype=np.float32),
        first_rank=np.array([1, 2, 3, 0, 1]),
        tied=np.array([False, True, False, False, False]),
        fragile=np.zeros(5, dtype=bool),
    )
    return data, score(data, ranking, PROTOCOL)


def test_scores_per_query_by_hand():
    _, found = scored()
    assert isinstance(found, PerQuery)
    assert found.hits.tolist() == [
        [True, True],
        [False, True],
        [False, False],
        [False, False],
        [True, False],
    ]
    assert found.positives.tolist() == [2, 1, 1, 0, 1]
    assert found.metrics.tolist() == ["R@1", "HR@2"]
    assert found.values.tolist() == [[50, 100], [0, 100], [0, 0], [0, 0], [100, 100]]
    assert found.query.tolist() == ["q0", "q1", "q2", "q3", "q4"]
    assert found.reference.tolist() == ["r1", "r2", "r1", "r2", "r2"]
    assert found.gallery.tolist() == ["g0", "g1", "g2", "g3"]


def test_summary_by_hand():
    data, found = scored()
    summary = summarise(found, data.groups, PROTOCOL)
    assert list(summary) == ["average", "without c", "a", "b", "c"]
    values = {name: [m["R@1"].value, m["HR@2"].value] for name, m in summary.items()}
    assert values["a"] == [25, 100]
    assert values["b"] == [0, 0]
    assert values["c"] == [100, 100]
    # Plain means over groups, not over queries.
    assert values["average"] == pytest.approx([125 / 3, 200 / 3])
    assert values["without c"] == pytest.approx([12.5, 50])
    sizes = {name: m["R@1"].n for name, m in summary.items()}
    assert sizes == {"average": 5, "without c": 4, "a": 2, "b": 2, "c": 1}
    # r1 has 50 and r2 has 0 in group a, so its draws are 0, 25 or 50; all else is constant.
    assert (summary["a"]["R@1"].low, summary["a"]["R@1"].high) == (0, 50)
    assert (summary["a"]["HR@2"].low, summary["a"]["HR@2"].high) == (100, 100)
    assert (summary["c"]["R@1"].low, summary["c"]["R@1"].high) == (100, 100)


def test_an_average_may_not_be_called_like_a_group():
    with pytest.raises(UsageError, match="must not have the name of a group"):
        check_averages(("average", "toy"), PROTOCOL)
