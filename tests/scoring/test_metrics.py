from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, R, Success

from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.scoring.metrics import find_grades, find_hits, parse_metric


def per_query(name, hits, positives, epsilon=0.0):
    counts = np.array(positives, dtype=np.int64)
    return parse_metric(name).per_query(np.array(hits, dtype=bool), counts, epsilon)


# Found at ranks 1 and 3 of five, out of three positives.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("R@1", 100 / 3),
        ("R@2", 100 / 3),
        ("R@5", 200 / 3),
        ("HR@1", 100),
        ("HR@5", 100),
        ("mAP@1", 100),  # over min(3, 1)
        ("mAP@2", 50),  # over min(3, 2)
        ("mAP@5", 100 * (1 + 2 / 3) / 3),
    ],
)
def test_worked_example(name, expected):
    assert per_query(name, [[1, 0, 1, 0, 0]], [3]) == pytest.approx([expected])


def test_a_positive_beyond_the_cutoff_does_not_count():
    for name in ("R@2", "HR@2", "mAP@2"):
        assert per_query(name, [[0, 0, 1]], [1]).tolist() == [0]
        assert per_query(name, [[0, 1, 0]], [1])[0] > 0


def test_one_value_per_query():
    hits, positives = [[1, 0], [0, 1], [0, 0]], [1, 2, 4]
    assert per_query("R@2", hits, positives).tolist() == [100, 50, 0]
    assert per_query("HR@2", hits, positives).tolist() == [100, 100, 0]
    assert per_query("mAP@2", hits, positives).tolist() == [100, 25, 0]


@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
@pytest.mark.parametrize("name", ["R@2", "HR@2", "mAP@2"])
def test_a_query_without_positives_counts_as_zero(name, epsilon):
    values = per_query(name, [[0, 0], [1, 0]], [0, 1], epsilon)
    assert values[0] == 0
    assert values.mean() == pytest.approx(50, abs=1e-3)


def test_epsilon_is_added_to_the_positives_of_recall_alone():
    hits, positives = [[1, 1], [1, 0]], [2, 1]
    expected = [200 / (2 + 1e-5), 100 / (1 + 1e-5)]
    np.testing.assert_allclose(per_query("R@2", hits, positives, 1e-5), expected, rtol=1e-12)
    assert per_query("HR@2", hits, positives, 1e-5).tolist() == [100, 100]
    assert per_query("mAP@2", hits, positives, 1e-5).tolist() == [100, 100]


def test_names_are_parsed():
    metric = parse_metric("mAP@25")
    assert (metric.name, metric.kind, metric.k) == ("mAP@25", "mAP", 25)


@pytest.mark.parametrize(
    "name", ["", "R", "R10", "R@", "@10", "R@0", "R@01", "R@-1", "R@1.5", "r@10", "P@10", " R@1"]
)
def test_what_is_no_metric_is_refused(name):
    with pytest.raises(UsageError, match=r"known: R@K, Rs@K, HR@K, mAP@K") as error:
        parse_metric(name)
    assert repr(name) in str(error.value)
    assert error.value.exit_code == 2


def test_recall_of_the_target_has_a_name_of_its_own():
    metric = parse_metric("target R@5")
    assert (metric.kind, metric.k, metric.of_target) == ("target R", 5, True)
    assert not parse_metric("R@5").of_target


def test_hits_by_hand():
    top = np.array([[3, 0, 1], [2, -1, -1], [0, 1, 2]], dtype=np.int32)
    hits = find_hits(top, [[0, 1, 9], [2], []])
    assert hits.tolist() == [[False, True, True], [True, False, False], [False] * 3]


def test_a_graded_recall_is_the_greatest_grade_among_the_first():
    grades = np.array([[-1, 0.5, 1], [0, 0.2, 0.5], [-1, -1, -1]])
    counts = np.ones(3, dtype=np.int64)
    by_cutoff = {k: parse_metric(f"SR@{k}").per_query(grades, counts) for k in (1, 2, 3, 9)}
    assert {k: values.tolist() for k, values in by_cutoff.items()} == {
        1: [0, 0, 0],
        2: [50, 20, 0],
        3: [100, 50, 0],
        9: [100, 50, 0],
    }
    subset = parse_metric("SRs@2")
    assert subset.per_query(grades, counts).tolist() == [50, 20, 0]
    assert (subset.of_members, subset.graded) == (True, True)


def test_grades_by_hand():
    top = np.array([[3, 0, 1], [2, -1, -1]], dtype=np.int32)
    grades = find_grades(top, [{0: 1.0, 3: -1.0, 7: 0.5}, {}])
    assert grades.tolist() == [[-1, 1, 0], [0, 0, 0]]


@st.composite
def retrievals(draw):
    """Ranked gallery rows of up to four queries, some cut short, with their positives."""
    queries, items = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    depth = draw(st.integers(1, items + 1))
    top, positives = [], []
    for _ in range(queries):
        ranked = draw(st.permutations(range(items)))[: draw(st.integers(0, depth))]
        top.append(ranked + [-1] * (depth - len(ranked)))
        positives.append(draw(st.lists(st.integers(0, items - 1), unique=True)))
    return np.array(top, dtype=np.int32), positives


@settings(max_examples=200, deadline=None)
@given(case=retrievals())
def test_hits_agree_with_brute_force(case):
    top, positives = case
    expected = [
        [item in wanted for item in row] for row, wanted in zip(top, positives, strict=True)
    ]
    assert find_hits(top, positives).tolist() == expected


@settings(max_examples=60, deadline=None)
@given(case=retrievals(), k=st.integers(1, 9))
def test_agrees_with_ir_measures(case, k):
    top, positives = case
    hits, counts = find_hits(top, positives), np.array([len(row) for row in positives])
    # A query without positives gets a judgement of 0, or the oracle would leave it out.
    judged = [
        ir_measures.Qrel(str(q), str(item), int(item in row))
        for q, row in enumerate(positives)
        for item in range(9)
    ]
    ranked = [
        ir_measures.ScoredDoc(str(q), str(item), -rank)
        for q, row in enumerate(top)
        for rank, item in enumerate(row)
        if item >= 0
    ]
    oracle = {
        (metric.measure, int(metric.query_id)): 100 * metric.value
        for metric in ir_measures.iter_calc([R @ k, Success @ k, AP @ k], judged, ranked)
    }
    ours = {
        R @ k: per_query(f"R@{k}", hits, counts),
        Success @ k: per_query(f"HR@{k}", hits, counts),
        # CIRCO divides by min(positives, k), trec_eval by all positives.
        AP @ k: per_query(f"mAP@{k}", hits, counts) * np.minimum(counts, k) / counts.clip(1),
    }
    for measure, values in ours.items():
        expected = [oracle[measure, q] for q in range(len(positives))]
        np.testing.assert_allclose(values, expected, atol=1e-9, err_msg=str(measure))
