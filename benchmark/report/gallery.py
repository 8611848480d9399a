"""The gallery: a board's queries, and the ten pictures that each method ranks first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cirbench.benchmark.analysis.boards import Board
from cirbench.benchmark.analysis.composition import Pool, find_pool
from cirbench.benchmark.api.per_query import PerQuery
from cirbench.benchmark.api.protocol import EvaluationProtocol
from cirbench.benchmark.api.values import ImageRef, Query, TaskData
from cirbench.benchmark.records.record import label_records
from cirbench.benchmark.report.page import render
from cirbench.benchmark.report.pictures import Album, find_credit
from cirbench.benchmark.runtime.errors import UsageError
from cirbench.benchmark.runtime.kept import keep

QUERIES = 200
METHODS = 8
TOP = 10
TARGETS = 3
"""So many of a query's positives are shown; ImageNet-R's have dozens."""
FACETS = {
    "image": "only the picture finds it",
    "text": "only the text finds it",
    "either": "picture and text each find it",
    "composition nothing": "both fail",
    "composition": "only composition finds it",
    "nothing": "nothing finds it",
}
"""Names of `sort_queries` → what a person calls the queries that have one of them."""
_SEED = 0
_NAMES = TypeAdapter(list[str])


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture's name, and the number of its thumbnail where there is one."""

    name: str
    number: int | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """One of a method's best: what, how similar, and whether it is a target."""

    picture: Picture
    similarity: float
    hit: bool


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one method gives; `rank` is the best-ranked target's, 0 where the query has none."""

    method: str
    rank: int
    found: tuple[Result, ...]


@dataclass(frozen=True, kw_only=True)
class QueryView:
    """A query and every method's answer.

    Attributes:
        more: so many targets are not shown.
        audit: which of `FACETS` it is in, where the board can be audited.
    """

    id: str
    group: str
    texts: tuple[str, ...]
    reference: Picture
    targets: tuple[Picture, ...]
    more: int
    audit: str
    answers: tuple[Answer, ...]


def choose_queries(group: NDArray[np.str_], count: int) -> list[int]:
    """Choose `count` rows of (Q,) groups, equally many a group; always the same ones."""
    rng = np.random.default_rng(_SEED)
    shuffled = [rng.permutation(np.flatnonzero(group == name)) for name in np.unique(group)]
    turns = sorted(
        (turn, number, int(row))
        for number, rows in enumerate(shuffled)
        for turn, row in enumerate(rows)
    )
    return sorted(row for _, _, row in turns[:count])


@dataclass(frozen=True, kw_only=True)
class QueryViews:
    """What a page shows of a board's queries; `data` is None where pictures may not be shown."""

    board: Board
    data: TaskData | None
    album: Album
    protocol: EvaluationProtocol
    audit: NDArray[np.str_] | None

    def view(self, row: int, methods: Sequence[str]) -> QueryView:
        """Make the view of one query with the answers of the first methods."""
        arrays = self.board.per_query[0]
        targets = self._targets(row)
        return QueryView(
            id=str(arrays.query[row]),
            group=str(arrays.group[row]),
            texts=self._texts(row),
            reference=self._reference(row),
            targets=tuple(map(self._gallery, targets[:TARGETS])),
            more=int(arrays.positives[row]) - len(targets[:TARGETS]),
            audit="" if self.audit is None else str(self.audit[row]),
            answers=tuple(
                self._answer(answer, row, name)
                for name, answer in zip(methods, self.board.per_query, strict=False)
            ),
        )

    def _query(self, row: int) -> Query | None:
        return None if self.data is None else self.data.queries[row]

    def _texts(self, row: int) -> tuple[str, ...]:
        """Give the query's text in each family of the protocol; none where it needs a caption."""
        query = self._query(row)
        group = str(self.board.queries.group[row])
        fields = {} if query is None else query.fields
        try:
            texts = [self.protocol.text(f, group, fields) for f in sorted(self.protocol.templates)]
        except UsageError:
            return ()
        return tuple(dict.fromkeys(text.strip() for text in texts))

    def _targets(self, row: int) -> list[int]:
        """Give the rows of all positives or, without annotations, of those that were found."""
        query = self._query(row)
        if query is not None:
            return list(query.positives)
        shown = islice(self.board.per_query, METHODS)
        found = [int(item) for a in shown for item in a.top[row][a.hits[row]]]
        return list(dict.fromkeys(found))

    def _reference(self, row: int) -> Picture:
        query = self._query(row)
        if query is None:
            return Picture(name=str(self.board.queries.reference[row]))
        return self._picture(query.reference)

    def _gallery(self, item: int) -> Picture:
        if self.data is None:
            return Picture(name=str(self.board.per_query[0].gallery[item]))
        return self._picture(self.data.gallery[item])

    def _picture(self, ref: ImageRef) -> Picture:
        return Picture(name=ref.id, number=self.album.number(ref))

    def _answer(self, arrays: PerQuery, row: int, method: str) -> Answer:
        best = zip(
            arrays.top[row, :TOP].tolist(),
            arrays.similarity[row, :TOP].tolist(),
            arrays.hits[row, :TOP].tolist(),
            strict=True,
        )
        return Answer(
            method=method,
            rank=int(arrays.first_rank[row]),
            found=tuple(
                Result(picture=self._gallery(item), similarity=similarity, hit=hit)
                for item, similarity, hit in best
                if item >= 0
            ),
        )


def sort_queries(pool: Pool) -> NDArray[np.str_]:
    """Name for each of (Q,) queries what of it is enough to find a target."""

    def sort() -> list[str]:
        image, text, composed = (pool.found[side] for side in ("image", "text", "composed"))
        found = [image & text, image, text, composed]
        names = ["either", "image", "text", "composition"]
        return list(map(str, np.select(found, names, "nothing")))

    return np.array(keep(_NAMES, ("facets", *pool.identity), sort))


def render_gallery(board: Board, data: TaskData | None) -> str:
    """Render the page; without `data` it names pictures and shows none.

    Raises:
        CorruptData: a picture can't be decoded, or records disagree on their queries.
        MissingData: a picture's file can't be read.
    """
    pool = find_pool(board)
    views = QueryViews(
        board=board,
        data=data,
        album=Album(),
        protocol=board.first.protocol,
        audit=sort_queries(pool) if pool else None,
    )
    names = label_records(board.records)
    methods = names[:METHODS]
    rows = choose_queries(board.queries.group, QUERIES)
    shown = [views.view(row, methods) for row in rows]
    return render(
        "gallery.html",
        board=board,
        asked=shown,
        methods=methods,
        top=TOP,
        left_out=len(names) - len(methods),
        total=len(board.queries.query),
        ks=[k for k in (1, 5, 10, 50) if k <= board.per_query[0].top.shape[1]] or [1],
        groups=[name for name in board.groups if any(a.group == name for a in shown)],
        facets=FACETS if pool else {},
        within=pool and pool.k,
        pictures=data is not None,
        credit=find_credit(board.first.cell.task),
        uris=views.album.thumbnails(),
    )
