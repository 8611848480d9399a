"""Parts of a task keep their rows right."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cirbench.benchmark.api.values import Query, TaskData
from cirbench.benchmark.data.subsets import limit_queries, remove_pictures


@pytest.fixture
def data(picture_refs):
    refs = picture_refs(8)
    queries = (
        Query(id="a", reference=refs[0], positives=(1, 2), group="x", removed=0, members=(1, 3)),
        Query(id="b", reference=refs[3], positives=(2,), group="x"),
        Query(id="c", reference=refs[5], positives=(6,), group="y"),
        Query(id="none", reference=refs[4], positives=(), group="y"),
    )
    spans = {"x": range(4), "y": range(4, 8)}
    return TaskData(gallery=tuple(refs), queries=queries, annotations={}, spans=spans)


def shown(data):
    """Query → names of its positives, what is removed, and its members."""
    names = [ref.id.removeprefix("picture-") for ref in data.gallery]
    return {
        q.id: (
            [names[row] for row in q.positives],
            None if q.removed is None else names[q.removed],
            [names[row] for row in q.members],
        )
        for q in data.queries
    }


def test_a_missing_picture_takes_along_only_what_needs_it(data):
    rest = remove_pictures(data, {"picture-2"})
    assert shown(rest) == {
        "a": (["1"], "0", ["1", "3"]),
        "c": (["6"], None, []),
        "none": ([], None, []),
    }
    assert rest.spans == {"x": range(3), "y": range(3, 7)}


def test_a_missing_reference_takes_its_query(data):
    assert set(shown(remove_pictures(data, {"picture-0", "picture-5"}))) == {"b", "none"}


def test_grades_keep_to_their_pictures(data):
    graded = replace(data.queries[0], positives=(2,), members=(), grades={2: 1.0, 3: -1.0, 1: 0.5})
    data = replace(data, queries=(graded, *data.queries[1:]))
    [query, *_] = remove_pictures(data, {"picture-1"}).queries
    assert query.grades == {1: 1.0, 2: -1.0}
    limited = limit_queries(data, 1)
    names = [ref.id for ref in limited.gallery]
    by_name = {names[row]: grade for row, grade in limited.queries[0].grades.items()}
    assert by_name == {"picture-2": 1.0, "picture-3": -1.0, "picture-1": 0.5}


def test_nothing_missing_changes_nothing(data):
    assert remove_pictures(data, {}) == replace(data)


def test_limited_keeps_what_its_queries_need(data):
    first = limit_queries(data, 1)
    assert shown(first) == {"a": (["1", "2"], "0", ["1", "3"]), "c": (["6"], None, [])}
    assert [ref.id for ref in first.gallery] == [f"picture-{i}" for i in (0, 1, 2, 3, 5, 6)]
    assert first.spans == {"x": range(4), "y": range(4, 6)}
