"""Rankings that were made elsewhere: a TREC run, or a server's answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cirbench.benchmark.api.values import Query
from cirbench.benchmark.data.answers import CIRR, CIRR_SUBSET, TREC, AnswerFile, read_answers
from cirbench.benchmark.evaluation.imports.ids import check_ids, describe_ids
from cirbench.benchmark.evaluation.imports.record import ImportOutcome, limit_metrics
from cirbench.benchmark.evaluation.plan import Plan, Request, plan_import
from cirbench.benchmark.evaluation.record import Clock
from cirbench.benchmark.ranking.rank import Ranking
from cirbench.benchmark.records.fields import Imported
from cirbench.benchmark.records.record import Record, check_writable
from cirbench.benchmark.runtime.errors import CirbenchError, CorruptData, UsageError
from cirbench.benchmark.runtime.paths import to_text
from cirbench.benchmark.runtime.progress import Reporter
from cirbench.benchmark.scoring.metrics import Metric, parse_metrics
from cirbench.benchmark.scoring.summary import find_depth

_CLOSE = 1e-6
"""As `Ranking.fragile` has it."""


def import_answers(
    request: Request, paths: Sequence[Path], producer: str, reporter: Reporter
) -> Record:
    """Score a file of answers, or CIRR's two files, and store the record.

    Metrics that look deeper than the answers go are left out, with which the protocol is another.

    Args:
        producer: who or what made them, in a person's words.

    Raises:
        UsageError: two files are not a main and a subset file, or no metric can be taken.
        MissingData, CorruptData: as `plan_import` and `read_answers`; or queries or pictures are
            not the task's, a name is given twice, or a reference is answered that the protocol
            removes. Nothing is written then.
    """
    plan, clock = plan_import(request), Clock()
    check_writable(plan.output)
    with clock.stage("read"):
        main, subset = _choose_files([read_answers(path) for path in paths])
        read = {file.path.name: file.sha256 for file in (main, subset) if file}
        for file in filter(None, (main, subset)):
            _check_queries(plan, file, request)
    lists = _Lists(plan=plan, main=main, subset=subset)
    with clock.stage("rank"):
        ranking, kept = lists.rank(), lists.choose_metrics()
    dropped = [name for name in plan.protocol.metrics if name not in kept]
    remarks = []
    if dropped:
        remarks.append(f"the answers are {lists.depth:,} deep, too few for {', '.join(dropped)}")
    for remark in remarks:
        reporter.say(remark)
    return ImportOutcome(
        plan=limit_metrics(plan, kept),
        method="ranking" if main.kind == TREC else "answers",
        source=Imported(
            kind="ranking" if main.kind == TREC else "answers",
            files={to_text(name): sha256 for name, sha256 in read.items()},
            producer=producer,
        ),
        ranking=ranking,
        remarks=tuple(remarks),
        clock=clock,
    ).write(reporter)


def _choose_files(found: Sequence[AnswerFile]) -> tuple[AnswerFile, AnswerFile | None]:
    """The main file, and that of the subsets where there is one."""
    main = [file for file in found if file.kind != CIRR_SUBSET]
    subset = [file for file in found if file.kind == CIRR_SUBSET]
    if len(main) != 1 or len(subset) > 1 or (subset and main[0].kind != CIRR):
        kinds = ", ".join(f"{to_text(file.path)} ({file.kind})" for file in found)
        raise UsageError(
            f"there must be one file of answers, to which CIRR's of the subsets may be added, got "
            f"{kinds}"
        )
    return main[0], subset[0] if subset else None


def _check_queries(plan: Plan, file: AnswerFile, request: Request) -> None:
    """The file must answer each query of the split, and no other."""
    wanted = {query.id: None for query in plan.data.queries}
    if wanted.keys() == file.answers.keys():
        return
    hint = ""
    for split in plan.task.splits:
        try:
            other = plan.task.load(protocol=plan.protocol, split=split, data_root=request.data_root)
        except CirbenchError:  # that split is not here, and can't be told from others
            continue
        if {query.id for query in other.queries} == set(file.answers):
            hint = f"; these are the queries of the split {split}: --split {split}"
    check_ids(file.answers, wanted, f"{to_text(file.path)}, queries of {plan.split}", hint)


@dataclass(frozen=True, kw_only=True)
class _Lists:
    """A split's queries and what is answered to each."""

    plan: Plan
    main: AnswerFile
    subset: AnswerFile | None

    @cached_property
    def rows(self) -> Sequence[NDArray[np.int64]]:
        """Each query's answers as rows of the gallery, best first.

        Raises:
            CorruptData: a name is foreign to the gallery, given twice, or removed by the protocol.
        """
        return self._find_rows(self.main, self._list_candidates, "pictures of its gallery")

    @cached_property
    def members(self) -> Sequence[NDArray[np.int64]]:
        """The same of each query's members: of their own file, else of the answers, if all are
        among these; none where a query's are not told."""
        queries = self.plan.data.queries
        if self.subset:
            return self._find_rows(self.subset, lambda query: query.members, "members of its query")
        found = [
            rows[np.isin(rows, query.members)]
            for rows, query in zip(self.rows, queries, strict=True)
        ]
        told = all(len(own) == len(q.members) for own, q in zip(found, queries, strict=True))
        return found if told else [np.zeros(0, dtype=np.int64)] * len(queries)

    @cached_property
    def depth(self) -> int:
        """How many answers each query has at least, of those that do not rank all there is."""
        queries = self.plan.data.queries
        short = [
            len(rows)
            for rows, query in zip(self.rows, queries, strict=True)
            if len(rows) < len(self._list_candidates(query)) - (query.removed is not None)
        ]
        return min(short, default=find_depth(self.plan.protocol))

    def _list_candidates(self, query: Query) -> Sequence[int]:
        data = self.plan.data
        return query.candidates or data.spans.get(query.group, range(len(data.gallery)))

    def _find_rows(
        self, file: AnswerFile, allowed: Callable[[Query], Sequence[int]], what: str
    ) -> list[NDArray[np.int64]]:
        data, origin = self.plan.data, to_text(file.path)
        names = [ref.id for ref in data.gallery]
        places: dict[Sequence[int], Mapping[str, int]] = {}
        foreign: dict[str, None] = {}
        found = []
        for query in data.queries:
            among = allowed(query)
            if among not in places:
                places[among] = {names[row]: row for row in among}
            place, answers = places[among], file.answers[query.id]
            foreign |= {name: None for name in answers if name not in place}
            rows = [place[name] for name in answers if name in place]
            if len(set(rows)) < len(rows):
                twice = next(name for name in answers if answers.count(name) > 1)
                raise CorruptData(f"{origin}, query {query.id}: {twice} must be answered once")
            if query.removed in rows:
                raise CorruptData(
                    f"{origin}, query {query.id}: its own reference, {query.reference.id}, must "
                    f"not be answered, as protocol {self.plan.protocol.name} removes it; choose "
                    f"another --protocol"
                )
            found.append(self._order(np.array(rows, dtype=np.int64), file, query))
        if foreign:
            raise CorruptData(
                f"{origin}: each answer must be of the {what}, got "
                f"{describe_ids('foreign', foreign)}; the gallery has {len(set(names)):,} pictures"
            )
        return found

    def _order(self, rows: NDArray[np.int64], file: AnswerFile, query: Query) -> NDArray[np.int64]:
        """A run's equal scores go by the gallery's order, as everywhere."""
        if not file.scores or len(rows) < len(file.answers[query.id]):
            return rows
        return rows[np.lexsort((rows, -np.array(file.scores[query.id])))]

    def choose_metrics(self) -> tuple[str, ...]:
        """The protocol's metrics that the answers are deep enough for.

        Raises:
            UsageError: there is none.
        """
        kept = tuple(
            name
            for name in self.plan.protocol.metrics
            if all(map(self._can_take, parse_metrics(name)))
        )
        if all(metric.of_members for name in kept for metric in parse_metrics(name)):
            raise UsageError(
                f"{to_text(self.main.path)} answers {self.depth:,} pictures a query, too few for "
                f"any metric of protocol {self.plan.protocol.name}"
            )
        return kept

    def _can_take(self, metric: Metric) -> bool:
        if not metric.of_members:
            return metric.k <= self.depth
        pairs = zip(self.members, self.plan.data.queries, strict=True)
        return all(len(own) >= min(metric.k, len(query.members)) for own, query in pairs)

    def rank(self) -> Ranking:
        """The answers as a ranking; without scores, minus the rank stands for one."""
        queries = self.plan.data.queries
        depth = find_depth(self.plan.protocol)
        first_rank = np.zeros(len(queries), dtype=np.int64)
        tied, fragile = (np.zeros(len(queries), dtype=bool) for _ in range(2))
        top = np.full((len(queries), depth), -1, dtype=np.int32)
        similarity = np.full((len(queries), depth), -np.inf, dtype=np.float32)
        for i, (rows, query) in enumerate(zip(self.rows, queries, strict=True)):
            scores = -np.arange(1.0, len(rows) + 1)
            if self.main.scores:
                scores = np.sort(np.array(self.main.scores[query.id]))[::-1]
            top[i, : len(rows)] = rows[:depth]
            similarity[i, : len(rows)] = scores[:depth]
            hits = np.isin(rows, query.positives)
            if hits.any():
                best = int(hits.argmax())
                gaps = np.abs(scores[~hits] - scores[best])
                first_rank[i] = best + 1
                tied[i], fragile[i] = (gaps == 0).any(), (gaps <= _CLOSE).any()
        return Ranking(
            top=top,
            similarity=similarity,
            first_rank=first_rank,
            tied=tied,
            fragile=fragile,
            members=_stack(self.members),
        )


def _stack(rows: Sequence[NDArray[np.int64]]) -> NDArray[np.int32]:
    stacked = np.full((len(rows), max(map(len, rows))), -1, dtype=np.int32)
    for i, own in enumerate(rows):
        stacked[i, : len(own)] = own
    return stacked
