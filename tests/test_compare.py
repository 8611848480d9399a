"""Paired comparison: by hand, against every combination of signs, and where it must refuse."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from cirbench.benchmark import compare as comparing
from cirbench.benchmark.cli import app
from cirbench.benchmark.compare import compare, holm, p_value, pairs
from cirbench.benchmark.errors import MissingData, UsageError
from cirbench.benchmark.records import Cell, PerQuery, read_record, write_record

GROUPS = ["toy", "cartoon"]


def store(root, method, values, references=None, **changes):
    """A record whose queries alternate between two groups, four queries a reference by default."""
    values = np.asarray(values, dtype=float)
    count = len(values)
    references = references or [f"r{i // 4}" for i in range(count)]
    arrays = PerQuery(
        query=np.array([f"q{i}" for i in range(count)]),
        reference=np.array(references),
        group=np.array([GROUPS[i % 2] for i in range(count)]),
        gallery=np.array(["a"]),
        top=np.zeros((count, 1), dtype=np.int32),
        similarity=np.zeros((count, 1), dtype=np.float32),
        hits=np.zeros((count, 1), dtype=bool),
        positives=np.ones(count, dtype=np.int64),
        first_rank=np.ones(count, dtype=np.int64),
        tied=np.zeros(count, dtype=bool),
        metrics=np.array(["R@1"]),
        values=values[:, None],
    )
    data = {
        "method": {"zero_shot": True, "remarks": []},
        "metrics": {"average": {"R@1": {"value": 1.0}}},
        "groups": GROUPS,
        "protocol": {"name": "p", "hash": "h", "headline": "R@1", "averages": {}},
        "counts": {"queries": count},
        "fingerprints": {"annotations": "a", "gallery": "g", "references": "r"},
        "annotations": {"released": True},
        "run": {"partial": False},
        "environment": {},
    }
    for part, fields in changes.items():
        data[part] = {**data[part], **fields}
    cell = Cell(
        method=method, trained_on=None, task="t", split="s", protocol="p@h", backbone="b",
        checkpoint=None, seed=0,
    )  # fmt: skip
    return write_record(root, cell, data, arrays)


def by_group(cells):
    return {cell.group: cell for cell in cells}


def test_a_worked_example(tmp_path):
    a = store(tmp_path, "a", [100, 100, 0, 100, 100, 0, 0, 0])
    b = store(tmp_path, "b", [0, 100, 0, 0, 100, 0, 0, 100])
    cells = by_group(compare(a, b, ["R@1"]))
    toy, cartoon, average = (cells[name] for name in (*GROUPS, "average"))
    assert (toy.a, toy.b, toy.difference.value) == (50, 25, 25)
    assert (cartoon.a, cartoon.b, cartoon.difference.value) == (50, 50, 0)
    assert average.difference.value == 12.5
    assert (toy.wins, toy.ties, toy.losses) == (1, 3, 0)
    assert (cartoon.wins, cartoon.ties, cartoon.losses) == (1, 2, 1)
    # two references: toy's sums are 100 and 0, so all four combinations are as large
    assert toy.p == 1.0
    # the average's sums per reference are +200 and -100, of 8 queries: ±12.5 and ±37.5
    assert average.p == 1.0


def every_sign(delta, references, sizes, groups):
    """The randomisation test by five lines of brute force over an average of group means."""
    names = sorted(set(references))

    def mean_of(signs):
        flipped = [signs[names.index(r)] * d for r, d in zip(references, delta, strict=True)]
        return np.mean([sum(f for f, g in zip(flipped, groups, strict=True) if g == name) / size
                        for name, size in sizes.items()])  # fmt: skip

    observed = abs(mean_of([1] * len(names)))
    all_means = [abs(mean_of(s)) for s in itertools.product((1, -1), repeat=len(names))]
    return np.mean([mean >= observed - 1e-9 for mean in all_means])


@pytest.mark.parametrize("seed", range(5))
def test_few_references_are_tested_exactly(tmp_path, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 2, (2, 24)) * 100.0
    references = [f"r{i}" for i in rng.integers(0, 8, 24)]
    a, b = (store(tmp_path, n, v, references) for n, v in (("a", x), ("b", y)))
    cells = by_group(compare(a, b, ["R@1"]))
    groups = [GROUPS[i % 2] for i in range(24)]
    wanted = every_sign(x - y, references, dict.fromkeys(GROUPS, 12), groups)
    assert cells["average"].p == pytest.approx(wanted)


def test_many_references_agree_with_the_exact_test(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 2, (2, 48)) * 100.0
    a, b = (store(tmp_path, n, v) for n, v in (("a", x), ("b", y)))
    exact = by_group(compare(a, b, ["R@1"]))["average"].p
    monkeypatch.setattr(comparing, "EXACT_CLUSTERS", 3)
    drawn = by_group(compare(a, b, ["R@1"]))["average"].p
    assert drawn == pytest.approx(exact, abs=0.02)


def test_swapping_turns_signs_only(tmp_path):
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 2, (2, 80)) * 100.0
    a, b = (store(tmp_path, n, v) for n, v in (("a", x), ("b", y)))
    for one, other in zip(compare(a, b, ["R@1"]), compare(b, a, ["R@1"]), strict=True):
        assert one.difference.value == pytest.approx(-other.difference.value)
        assert one.difference.low == pytest.approx(-other.difference.high)
        assert (one.wins, one.losses, one.p) == (other.losses, other.wins, other.p)


def test_no_difference_is_found_where_there_is_none(tmp_path):
    rng = np.random.default_rng(3)
    found = 0
    for i in range(40):
        x, y = rng.integers(0, 2, (2, 160)) * 100.0
        a, b = (store(tmp_path / str(i), n, v) for n, v in (("a", x), ("b", y)))
        found += by_group(compare(a, b, ["R@1"]))["average"].p < 0.05
    assert found <= 6


def test_a_plain_difference_is_found_and_the_detectable_one_is_smaller(tmp_path):
    rng = np.random.default_rng(4)
    a = store(tmp_path, "a", 100.0 * (rng.random(400) < 0.8))
    b = store(tmp_path, "b", 100.0 * (rng.random(400) < 0.4))
    average = by_group(compare(a, b, ["R@1"]))["average"]
    assert average.p == pytest.approx(1 / 10_001)
    assert average.difference.low > 0
    assert 0 < average.detectable < average.difference.value
    width = average.difference.high - average.difference.low
    assert average.detectable == pytest.approx(2.80 * width / (2 * 1.96), rel=0.1)


def test_a_drawn_p_counts_the_observed_one_in():
    flipped = np.array([0.0, 1.0, -2.0])
    assert p_value(1.5, flipped, exact=False) == 2 / 4
    assert p_value(1.5, flipped, exact=True) == 1 / 3
    assert p_value(9.0, flipped, exact=False) == 1 / 4


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]


@pytest.mark.parametrize(
    ("part", "field"),
    [("protocol", "hash"), ("fingerprints", "gallery"), ("fingerprints", "references"),
     ("fingerprints", "annotations")],
)  # fmt: skip
def test_records_of_other_data_are_refused_with_the_field(tmp_path, part, field):
    a = store(tmp_path, "a", [0.0] * 8)
    b = store(tmp_path, "b", [0.0] * 8, **{part: {field: "other"}})
    with pytest.raises(UsageError, match=rf"{part}\.{field} \w+ and other"):
        pairs([a], [b])


def test_a_metric_that_is_not_there_and_a_record_with_itself(tmp_path):
    a, b = (store(tmp_path, n, [0.0] * 8) for n in "ab")
    with pytest.raises(UsageError, match=r"R@7.*known: R@1"):
        compare(a, b, ["R@7"])
    with pytest.raises(UsageError, match="the same record"):
        pairs([a], [replace(a)])


def bench(root, *arguments):
    return CliRunner().invoke(app, ["compare", *arguments, "-o", str(root)])


def test_the_command_takes_names_globs_and_files(tmp_path):
    a = store(tmp_path, "pic2word", [100.0] * 8)
    store(tmp_path, "image-only", [0.0] * 8)
    store(tmp_path, "image-text", [0.0] * 8)
    told = bench(tmp_path, "pic2word", "image-text")
    assert told.exit_code == 0
    assert "pic2word minus image-text" in told.stdout
    listed = json.loads(bench(tmp_path, str(a.path), "image-*", "--json").stdout)
    assert len(listed) == 6
    assert {cell["difference"]["value"] for cell in listed} == {100.0}
    assert all(cell["p_holm"] >= cell["p"] for cell in listed)
    assert isinstance(bench(tmp_path, "pic2wrod", "image-text").exception, MissingData)
    assert read_record(a.path).data["cell"]["method"] == "pic2word"
