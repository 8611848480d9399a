"""The script behind `make perf`, on small sizes: that it works, not how fast."""

from __future__ import annotations

import json

import pytest
from perf import growth, ranks
from perf.__main__ import as_json, markdown
from perf.measure import Row, anonymous_memory, medians, unit_vectors


def row(*, ok):
    return Row(name="a", against="b", ratio=1.234, target="≤ 1", ok=ok, measured="2 s")


def test_works_take_turns_and_each_has_its_median():
    done = []
    found = medians(lambda: done.append("a"), lambda: done.append("b"), rounds=3)
    assert done == ["a", "b"] * 3
    assert len(found) == 2


def test_memory_is_what_comes_on_top():
    with anonymous_memory() as memory:
        held = bytearray(200 * 2**20)
        held[:: 2**12] = b"x" * len(held[:: 2**12])
    assert 190 < memory.peak < 300


def test_a_mapped_gallery_ranks_as_one_in_memory(tmp_path):
    gallery = ranks.mapped_gallery(tmp_path, 100)
    assert gallery.shape == (100, ranks.WIDTH)
    assert gallery[0].norm() == pytest.approx(1)
    measured = ranks.ranking_row(10, gallery, 5, where=", from disk")
    assert measured.ratio > 0
    assert measured.name == "ranking 10 × 100 × 768, k = 5, from disk"


def test_scoring_goes_from_vectors_to_metrics():
    data = ranks.made_task(20, 10)
    ranks.to_metrics(data, unit_vectors(20, 8, 0), unit_vectors(10, 8, 1))
    row = ranks.scoring_row("made", 20, 250)
    assert row.ratio > 0
    assert "made" in row.name
    assert "MB" in row.measured


def test_a_methods_own_score_is_measured_against_one_product():
    row = ranks.own_score_row(20, 250, 5)
    assert row.ratio > 0
    assert row.name == "ranking by ARTEMIS's score, 20 × 250 × 512, k = 5"


def test_growth_is_the_slope_between_logarithms():
    assert growth.exponent([1, 2, 4, 8]) == pytest.approx(1)
    assert growth.exponent([1, 4, 16, 64]) == pytest.approx(2)


def test_the_page_marks_what_was_missed(tmp_path):
    changes = [("pic2word", "R@1", 20.0, 19.5)]
    page = markdown([row(ok=True), row(ok=False)], changes, {"ranking": [1, 2, 4, 8]})
    assert "| a      | b         | 1.23    | ≤ 1      | ok     | 2 s        |" in page
    assert page.count("MISSED") == 1
    assert "| pic2word | R@1      | 20.00     | 19.50      | -0.50    |" in page
    assert json.loads(as_json([row(ok=False)])) == [
        {"name": "a", "ratio": 1.234, "target": "≤ 1", "ok": False}
    ]
    path = tmp_path / "growth.svg"
    growth.write_plot(path, {"ranking": [0.2, 0.3, 0.6, 0.9]})
    drawn = path.read_text(encoding="utf-8")
    assert drawn.count("<svg") == 1
    assert "$" not in drawn  # a formula that nobody sets
