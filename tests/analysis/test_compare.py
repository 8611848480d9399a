"""Paired comparisons: the statistics by hand and against an oracle, and what may be compared."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from making import make_body, make_cell, make_counts, make_fingerprints
from scipy.stats import permutation_test

from cirbench.benchmark.analysis.compare import compare, find_pairs, find_records
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.records.record import write_record
from cirbench.benchmark.runtime.errors import CorruptData, MissingData, UsageError
from cirbench.benchmark.scoring import paired
from cirbench.benchmark.scoring.bootstrap import Design, make_intervals
from cirbench.benchmark.scoring.paired import adjust_by_holm, find_differences, find_p
from cirbench.benchmark.scoring.summary import summarise

GROUPS = ("cartoon", "toy")
PROTOCOL = EvaluationProtocol(
    name="plain",
    version=1,
    gallery="everything",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "a {x}"},
    metrics=("R@1", "R@2"),
    headline="R@2",
)


def store(
    root, method, values, protocol=PROTOCOL, order=None, fingerprints=(), groups=GROUPS, **cell
):
    """A record over references × groups, whose per-query `values` are (groups * references,) or
    (groups * references, 2) percent, the first group's queries first."""
    values = np.asarray(values, dtype=float)
    values = np.column_stack([values, values]) if values.ndim == 1 else values
    count, references = len(values), len(values) // len(groups)
    of_query = np.repeat(groups, references)
    order = np.arange(count) if order is None else order
    nothing = np.zeros((count, 1), dtype=np.int32)
    arrays = PerQuery(
        query=np.array([f"{g}/{i % references}" for i, g in enumerate(of_query)])[order],
        reference=np.array([f"r{i % references}" for i in range(count)])[order],
        group=of_query[order],
        gallery=np.array(["a"]),
        top=nothing,
        similarity=nothing.astype(np.float32),
        hits=nothing.astype(bool),
        positives=np.ones(count, dtype=np.int64),
        first_rank=np.ones(count, dtype=np.int64),
        tied=np.zeros(count, dtype=bool),
        metrics=np.array(protocol.metrics),
        values=values[order],
    )
    metrics = summarise(arrays, groups, protocol)
    identity = make_cell(protocol, method=method, **cell)
    parts = {
        "counts": make_counts(count, references, 1),
        "fingerprints": make_fingerprints(**dict(fingerprints)),
    }
    return write_record(root, make_body(identity, protocol, metrics, groups, **parts), arrays)


A = [100, 100, 100, 100, 0, 100]
B = [0, 0, 100, 0, 0, 100]


def one_group(values, references=None):
    values = np.asarray(values, dtype=float)[:, None]
    references = [f"r{i}" for i in range(len(values))] if references is None else references
    return values, Design.of(references, ["all"] * len(values), ["all"], {})


def test_a_worked_example(tmp_path):
    """Three references, two groups. Differences: cartoon 100, 100, 0; toy 100, 0, 0.

    By reference: r0 gives (100, 100), r1 (100, 0), r2 nothing. Signs (r0, r1) in {++, +-, -+, --}:
    cartoon's sums are 200, 0, 0, -200, so p = 2/4; toy's are 100, 100, -100, -100, so p = 4/4; the
    average adds the two groups' means (100/3) * (2 + 1, 0 + 1, 0 - 1, -2 - 1), so p = 2/4.
    """
    store(tmp_path, "a", A)
    store(tmp_path, "b", B)
    [pair] = compare(find_pairs("a", "b", tmp_path))
    cells = {cell.group: cell for cell in pair.cells}
    assert list(cells) == ["average", *GROUPS]
    assert {name: cell.difference.p for name, cell in cells.items()} == {
        "average": 0.5,
        "cartoon": 0.5,
        "toy": 1.0,
    }
    values = {name: cell.difference.interval.value for name, cell in cells.items()}
    assert values == pytest.approx({"average": 50, "cartoon": 200 / 3, "toy": 100 / 3})
    outcomes = {
        n: (c.difference.wins, c.difference.ties, c.difference.losses) for n, c in cells.items()
    }
    assert outcomes == {"average": (3, 3, 0), "cartoon": (2, 1, 0), "toy": (1, 2, 0)}
    assert [cell.p_holm for cell in pair.cells] == [1.0, 1.0, 1.0]
    assert (cells["toy"].a, cells["toy"].b) == pytest.approx((200 / 3, 100 / 3))


def test_the_interval_and_what_can_be_shown_come_from_the_bootstrap_of_the_differences():
    rng = np.random.default_rng(1)
    values, design = one_group(rng.normal(3, 10, 60), [f"r{i % 30}" for i in range(60)])
    [[found]] = find_differences(values, design).values()
    draws = design.draws(values)[:, 0]
    assert found.interval == make_intervals(design.means(values)[0], draws, [60])[0]
    assert found.detectable == pytest.approx((1.959964 + 0.841621) * draws.std(ddof=1), rel=1e-5)


def test_a_difference_of_the_detectable_size_is_found_four_times_in_five():
    """The claim itself: samples with that true difference reject at 5 % in about 80 %."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (400, 100))
    [[pilot]] = find_differences(*one_group(rng.normal(0, 1, 100))).values()
    p = [find_p(*one_group(row + pilot.detectable))[0, 0] for row in noise[:150]]
    assert 0.7 < np.mean(np.array(p) < 0.05) < 0.92


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=2, max_size=9))
def test_exact_p_is_scipys(values):
    ours = find_p(*one_group(values))[0, 0]
    theirs = permutation_test(
        (np.array(values, dtype=float), np.zeros(len(values))),
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    assert ours == pytest.approx(theirs)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-3, 3), st.integers(0, 4), st.booleans()), min_size=3, max_size=14
    )
)
def test_exact_p_of_clusters_and_groups_is_that_of_brute_force(rows):
    rows += [(1, 0, True), (1, 1, False)]
    names = ["x" if first else "y" for *_, first in rows]
    design = Design.of([f"r{r}" for _, r, _ in rows], names, ["x", "y"], {"both": ["x", "y"]})
    values = np.array([[v] for v, *_ in rows], dtype=float)
    ours = find_p(values, design)[:, 0]

    def means(signs):
        signed = [v * signs[r] for v, r, _ in rows]
        by_group = [
            np.mean([s for s, n in zip(signed, names, strict=True) if n == g]) for g in "xy"
        ]
        return np.array([np.mean(by_group), *by_group])

    observed = np.abs(means([1] * 5)) - 1e-9
    every = [np.abs(means(s)) >= observed for s in itertools.product((1, -1), repeat=5)]
    assert ours == pytest.approx(np.mean(every, axis=0))


def test_drawn_signs_come_near_the_exact_p(monkeypatch):
    case = one_group([3, 1, -1, 2, 2, -2, 1, 0.5, 1.5, -0.5])
    exact = find_p(*case)[0, 0]
    monkeypatch.setattr(paired, "EXACT_CLUSTERS", 0)
    assert find_p(*case)[0, 0] == pytest.approx(exact, abs=0.02)
    assert 0.01 < exact < 0.5


def test_p_is_uniform_where_there_is_no_difference():
    rng = np.random.default_rng(0)
    p = [find_p(*one_group(row))[0, 0] for row in rng.normal(0, 1, (300, 14))]
    counts, _ = np.histogram(p, bins=5, range=(0, 1))
    assert counts.sum() == 300
    assert (np.abs(counts - 60) < 25).all()


def test_queries_of_one_reference_are_no_independent_evidence():
    values = np.repeat([1.0, 1, 1, -1, 1, 1], 20)
    apart = find_p(*one_group(values))[0, 0]
    together = find_p(*one_group(values, np.repeat(list("abcdef"), 20)))[0, 0]
    assert together == 14 / 64
    assert apart < 0.001


def test_no_difference_at_all_is_p_1_and_nothing_can_be_shown():
    [[found]] = find_differences(*one_group([0.0] * 30)).values()
    assert (found.p, found.detectable, found.ties) == (1.0, None, 30)


@pytest.mark.parametrize("references", [8, 40])
def test_a_swap_turns_signs_and_keeps_p(tmp_path, references):
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 2, (2, 2 * references, 2)) * 100
    store(tmp_path, "a", a)
    store(tmp_path, "b", b)
    [there] = compare(find_pairs("a", "b", tmp_path), metrics=["R@1", "R@2"])
    [back] = compare(find_pairs("b", "a", tmp_path), metrics=["R@1", "R@2"])
    for one, other in zip(there.cells, back.cells, strict=True):
        x, y = one.difference, other.difference
        assert (x.p, x.wins, x.losses) == (y.p, y.losses, y.wins)
        assert one.p_holm == other.p_holm
        assert x.interval.value == pytest.approx(-y.interval.value)
        assert x.interval.low == pytest.approx(-y.interval.high)
        assert x.detectable == pytest.approx(y.detectable)


def test_the_order_of_the_queries_moves_nothing(tmp_path):
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 2, (2, 40)) * 100
    store(tmp_path / "one", "a", a)
    store(tmp_path / "one", "b", b)
    store(tmp_path / "other", "a", a, order=rng.permutation(40))
    store(tmp_path / "other", "b", b, order=rng.permutation(40))
    [one] = compare(find_pairs("a", "b", tmp_path / "one"))
    [other] = compare(find_pairs("a", "b", tmp_path / "other"))
    assert one.cells == other.cells
    assert any(cell.difference.losses for cell in one.cells)


def test_holm_by_hand():
    assert adjust_by_holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_by_holm([0.6, 0.5]) == [1.0, 1.0]
    assert adjust_by_holm([]) == []


def test_holm_is_over_every_cell_that_is_shown(tmp_path):
    store(tmp_path, "a", [100] * 20)
    store(tmp_path, "b", [0] * 20)
    store(tmp_path, "c", [0] * 19 + [100])
    [one] = compare(find_pairs("a", "b", tmp_path), groups=["average"])
    both = compare(find_pairs("a", "*", tmp_path), groups=["average", "toy"])
    assert one.cells[0].difference.p == one.cells[0].p_holm == 2 / 2**10
    assert len(both) == 2
    assert {cell.p_holm for cell in both[0].cells} == {4 * 2 / 2**10}


def test_a_task_of_one_group_has_one_row_and_may_be_asked_for_its_average(tmp_path):
    for name, values in (("a", A), ("b", B)):
        store(tmp_path, name, values, groups=("all",))
    [[cell]] = [pair.cells for pair in compare(find_pairs("a", "b", tmp_path))]
    asked = compare(find_pairs("a", "b", tmp_path), groups=["average"])
    [[average]] = [pair.cells for pair in asked]
    assert cell.group == "all"
    assert average == replace(cell, group="average")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"protocol": replace(PROTOCOL, recall_epsilon=0.1)}, "epsilon differs, 0.0 and 0.1"),
        ({"protocol": replace(PROTOCOL, version=2)}, "protocol version differs, 1 and 2"),
        ({"task": "others"}, "task differs, 'shapes' and 'others'"),
        ({"split": "val"}, "split differs, 'test' and 'val'"),
        ({"fingerprints": {"gallery": "h"}}, "gallery differs, 'g' and 'h'"),
        ({"fingerprints": {"references": "s"}}, "references differs, 'r' and 's'"),
        ({"fingerprints": {"annotations": "b"}}, "annotations differs, 'a' and 'b'"),
    ],
)
def test_what_differs_in_kind_is_refused_by_name(tmp_path, change, named):
    a = store(tmp_path, "a", A)
    b = store(tmp_path, "b", B, **change)
    with pytest.raises(UsageError, match=named):
        compare(find_pairs(str(a.path), str(b.path), tmp_path))


def test_other_queries_are_refused(tmp_path):
    a, b = store(tmp_path, "a", A), store(tmp_path, "b", B + B)
    with pytest.raises(UsageError, match="number of queries differs, 6 and 12"):
        compare([(a, b)])
    with pytest.raises(CorruptData, match="as many queries as their counts say"):
        compare([(a, replace(b, counts=a.counts))])
    renamed = a.read_per_query()
    renamed = replace(renamed, reference=np.array(["r9", *renamed.reference[1:]]))
    cell = replace(a.cell, method="renamed")
    body = make_body(cell, a.protocol, a.metrics, a.groups, counts=a.counts)
    with pytest.raises(UsageError, match="1 in their reference, the first r0 and r9"):
        compare([(a, write_record(tmp_path, body, renamed))])


def test_names_labels_globs_and_files_find_records(tmp_path):
    trained = store(tmp_path, "a", A, trained_on="CC3M")
    store(tmp_path, "b", B)
    for name in ("a", "a (CC3M)", "a*", "shapes/a--*", str(trained.path)):
        [found] = find_records(name, root=tmp_path)
        assert [record.path for record in found] == [trained.path]
    with pytest.raises(MissingData, match=r"no record 'c'.*a \(CC3M\), b"):
        find_records("c", root=tmp_path)


def test_names_pair_only_what_shares_a_backbone_and_files_pair_as_given(tmp_path):
    a = store(tmp_path, "a", A)
    b = store(tmp_path, "b", B, backbone="large")
    with pytest.raises(UsageError, match="shapes test plain tiny / shapes test plain large"):
        find_pairs("a", "b", tmp_path)
    store(tmp_path, "a", A, backbone="large")
    [(one, _)] = find_pairs("a", "b", tmp_path)
    assert one.cell.backbone == "large"
    [(one, other)] = find_pairs(str(a.path), str(b.path), tmp_path)
    assert (one.path, other.path) == (a.path, b.path)


def test_a_record_is_not_compared_with_itself_nor_twice(tmp_path):
    for method, values in (("a", A), ("b", B), ("c", A)):
        store(tmp_path, method, values)
    with pytest.raises(UsageError, match="two different records"):
        find_pairs("a", "a", tmp_path)
    assert len(find_pairs("*", "*", tmp_path)) == 3


def test_damaged_and_unlabelled_records_are_refused(tmp_path):
    a, b = store(tmp_path, "a", A), store(tmp_path, "b", B)
    with pytest.raises(UsageError, match="no public labels"):
        compare([(a, replace(b, metrics={}))])
    b.path.with_suffix(".npz").unlink()
    with pytest.raises(CorruptData, match="npz"):
        compare([(a, b)])


@pytest.fixture
def bench(bench, tmp_path):
    """Runs bench compare on the records of tmp_path."""
    return partial(bench, "compare", "--output", tmp_path)


def test_the_table_and_the_json_hold_the_same(bench, tmp_path):
    store(tmp_path, "a[b]", A)
    store(tmp_path, "b", B)
    code, out, err = bench("a[[]b]", "b")
    assert (code, err) == (0, "")
    assert "A: a[b], tiny" in out
    assert "+66.7" in out
    assert "2/1/0" in out
    code, out, _ = bench("a[[]b]", "b", "--json")
    [pair] = json.loads(out)["pairs"]
    assert pair["cells"][1]["difference"]["interval"]["value"] == pytest.approx(200 / 3)
    assert pair["a"]["method"] == "a[b]"


def test_mistakes_end_in_their_exit_codes(bench, tmp_path):
    store(tmp_path, "a", A)
    store(tmp_path, "b", B)
    assert bench("a", "nonesuch")[0] == 3
    code, _, err = bench("a", "b", "--metric", "R@3")
    assert code == 2
    assert "known: R@1, R@2" in err
    assert bench("a", "b", "--group", "nonesuch")[0] == 2
