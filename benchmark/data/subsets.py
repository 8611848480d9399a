"""Parts of a task: its first queries, or what remains where pictures are missing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from cirbench.benchmark.api.values import Query, TaskData


def limit_queries(data: TaskData, limit: int) -> TaskData:
    """The first `limit` queries of each group, over the pictures that these need."""
    taken: dict[str, int] = {}
    queries = []
    for query in data.queries:
        taken[query.group] = taken.get(query.group, 0) + 1
        if taken[query.group] <= limit:
            queries.append(query)
    references = {query.reference.id for query in queries}
    needed = {row for query in queries for row in query.rows}
    kept = [row for row, ref in enumerate(data.gallery) if row in needed or ref.id in references]
    return _select(data, kept, queries)


def remove_pictures(data: TaskData, missing: Collection[str]) -> TaskData:
    """The task without some pictures, and without the queries that these leave unanswerable.

    A query goes with its reference, and with the last of its positives.
    """
    gone = {row for row, ref in enumerate(data.gallery) if ref.id in missing}
    queries = [
        query
        for query in data.queries
        if query.reference.id not in missing
        and (not query.positives or not gone.issuperset(query.positives))
    ]
    return _select(data, [row for row in range(len(data.gallery)) if row not in gone], queries)


def _select(data: TaskData, kept: Sequence[int], queries: Sequence[Query]) -> TaskData:
    """The gallery's rows `kept` and some queries, with every row number made new."""
    new = {row: i for i, row in enumerate(kept)}
    return replace(
        data,
        gallery=tuple(data.gallery[row] for row in kept),
        spans={
            group: range(
                sum(row < span.start for row in kept), sum(row < span.stop for row in kept)
            )
            for group, span in data.spans.items()
        },
        queries=tuple(
            replace(
                query,
                positives=tuple(new[row] for row in query.positives if row in new),
                target=None if query.target is None else new.get(query.target),
                removed=None if query.removed is None else new.get(query.removed),
                members=tuple(new[row] for row in query.members if row in new),
                candidates=tuple(new[row] for row in query.candidates if row in new),
                grades={new[row]: grade for row, grade in query.grades.items() if row in new},
            )
            for query in queries
        ),
    )
