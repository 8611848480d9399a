"""The page on scale has the table that its rates give, and names rows that are there."""

from __future__ import annotations

import pytest
import scale
from places import ROOT


def test_the_table_is_what_the_rates_give():
    text = scale.PAGE.read_text(encoding="utf-8")
    assert scale.with_table(text) == text, "python tests/support/scale.py writes it anew"


@pytest.mark.parametrize("page", scale.ROWS)
def test_every_rate_is_from_a_row_of_the_results(page):
    rows = (ROOT / "results" / page).read_text(encoding="utf-8").splitlines()
    for name in scale.ROWS[page]:
        assert any(row.startswith(f"| {name} ") for row in rows), name


def test_durations_and_sizes_are_rounded_for_a_person():
    assert [scale.write_duration(s) for s in (0.234, 89, 90, 5400, 2e6)] == [
        "0.23 s",
        "89 s",
        "1.5 min",
        "1.5 h",
        "23.1 d",
    ]
    assert [scale.write_size(n) for n in (7.2e6, 3.14e9, 3.139e11)] == [
        "0.0072 GB",
        "3.1 GB",
        "314 GB",
    ]
