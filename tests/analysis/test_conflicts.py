"""Published numbers that do not fit each other are found, and none that do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cirbench.benchmark.analysis.conflicts import (
    DISAGREE,
    MIXED,
    RENAMED,
    SWAPPED,
    find_conflicts,
)
from cirbench.benchmark.analysis.published import Published, read_published

ROW = Published(
    method="ldre",
    variant="",
    backbone="ViT-B-32/openai",
    task="fashion-iq",
    split="val",
    group="dress",
    metric="R@10",
    value="19.97",
    source="one",
    confirmed="no",
)


def change(**fields):
    return replace(ROW, **fields)


def found(*rows):
    return [(conflict.kind, len(conflict.rows)) for conflict in find_conflicts(rows)]


@pytest.mark.parametrize(("value", "kinds"), [("20.0", []), ("20.1", [(DISAGREE, 2)])])
def test_sources_disagree_when_their_rounding_does_not_explain_it(value, kinds):
    assert found(ROW, change(value=value, source="other")) == kinds


@pytest.mark.parametrize("field", ["method", "variant", "backbone", "group", "protocol"])
def test_numbers_of_other_measurements_may_differ(field):
    assert found(ROW, change(value="50.00", source="other", **{field: "another"})) == []


def test_two_columns_the_other_way_round_are_found():
    rows = [
        ROW,
        change(group="shirt", value="27.38"),
        change(value="27.38", source="other"),
        change(group="shirt", source="other"),
    ]
    assert (SWAPPED, 4) in found(*rows)
    assert SWAPPED not in dict(found(*rows[:3], change(group="shirt", value="9", source="other")))


def test_a_number_under_another_metric_is_found_where_it_is_no_accident():
    assert found(ROW, change(metric="R@50", source="other")) == [(RENAMED, 2)]
    assert found(ROW, change(metric="R@50")) == []
    short = change(value="20.0")
    assert found(short, replace(short, metric="R@50", source="other")) == []


def test_a_column_of_several_protocols_is_found():
    removed = change(method="seize", protocol="", gallery="without the reference")
    assert found(change(protocol="searle"), removed) == [(MIXED, 2)]
    assert found(change(protocol="searle"), change(method="x", protocol="")) == []


def test_the_published_record_has_the_conflicts_that_are_known_of_it():
    conflicts = find_conflicts(read_published())
    swapped = [conflict.about for conflict in conflicts if conflict.kind == SWAPPED]
    assert swapped == [
        f"ldre ViT-B-32/openai fashion-iq val, {metric} of dress and shirt"
        for metric in ("R@10", "R@50")
    ]
    circo = next(c for c in conflicts if c.kind == MIXED and c.about == "circo test, mAP@5 of all")
    assert "every unlabeled image of COCO 2017 without the reference (seize)" in circo.reads
    assert any(read.startswith("searle") for read in circo.reads)
