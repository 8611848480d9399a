from __future__ import annotations

from dataclasses import fields, replace

import pytest

from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.runtime.errors import UsageError

PROTOCOL = EvaluationProtocol(
    name="emoji",
    version=1,
    gallery="all styles",
    reference_removed=False,
    preprocess="clip",
    templates={"text": "a {style} of {name}", "pseudo-word": "a {style} of *"},
    group_fields={"flat": {"style": "flat icon"}},
    metrics=("R@1", "R@5"),
    headline="R@1",
    averages={"without flat": ("mono", "noto")},
)
OTHER = {
    "name": "emoji2",
    "version": 2,
    "gallery": "all  styles",
    "reference_removed": True,
    "preprocess": "squash",
    "reference_preprocess": "stretch",
    "reference": "its left half",
    "caption_orders": "both",
    "templates": {**PROTOCOL.templates, "text": "a {style} of {name}."},
    "wording": "name alone",
    "group_fields": {"flat": {"style": "flat icons"}},
    "image_text_sum": "raw",
    "overlong_text": "truncate",
    "metrics": ("R@5", "R@1"),
    "headline": "R@5",
    "group_metric": "R@5",
    "recall_epsilon": 1e-5,
    "averages": {"without flat": ("mono",)},
}


def test_every_field_has_another_value():
    assert OTHER.keys() == {field.name for field in fields(EvaluationProtocol)}


@pytest.mark.parametrize("name", OTHER)
def test_any_field_changes_the_hash(name):
    other = replace(PROTOCOL, **{name: OTHER[name]})
    assert other.hash != PROTOCOL.hash
    assert replace(other, **{name: getattr(PROTOCOL, name)}).hash == PROTOCOL.hash


def test_a_default_is_not_hashed_so_that_a_new_field_renames_no_protocol():
    said = replace(PROTOCOL, overlong_text="error", recall_epsilon=0.0)
    assert said.hash == PROTOCOL.hash == "62f82a418e4b"


def test_the_hash_is_twelve_digits_and_of_values_only():
    assert len(PROTOCOL.hash) == 12
    assert int(PROTOCOL.hash, 16) >= 0
    turned = replace(PROTOCOL, templates=dict(reversed(PROTOCOL.templates.items())))
    assert turned.hash == PROTOCOL.hash


def test_a_title_says_which_text_went_in_where_that_is_told():
    assert PROTOCOL.title == "emoji v1"
    assert replace(PROTOCOL, wording="name alone").title == "emoji v1 · text: name alone"


def test_text_is_filled_from_the_group_and_the_query():
    assert PROTOCOL.text("text", "flat", {"name": "cat"}) == "a flat icon of cat"
    assert PROTOCOL.text("pseudo-word", "flat", {}) == "a flat icon of *"
    assert PROTOCOL.text("pseudo-word", "other", {"style": "photo"}) == "a photo of *"


def test_a_querys_own_field_wins_over_its_groups():
    assert PROTOCOL.text("pseudo-word", "flat", {"style": "photo"}) == "a photo of *"


def test_braces_in_a_field_are_text():
    text = PROTOCOL.text("text", "flat", {"name": "{style} {} {0}"})
    assert text == "a flat icon of {style} {} {0}"


def test_an_unknown_family_is_refused_with_those_there_are():
    with pytest.raises(UsageError, match="'caption'") as error:
        PROTOCOL.text("caption", "flat", {})
    for part in ("emoji", "pseudo-word, text", "--protocol"):
        assert part in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("group", "values", "missing"),
    [("flat", {}, "wants name,"), ("mono", {}, "wants style, name,")],
)
def test_missing_fields_are_named(group, values, missing):
    with pytest.raises(UsageError, match=missing) as error:
        PROTOCOL.text("text", group, values)
    assert "a {style} of {name}" in str(error.value)
    assert repr(group) in str(error.value)
